//! Figures beside their targets.

use serde::{Deserialize, Serialize};

use super::Runs;
use super::figure::{Figure, Shown, Unit};
use super::outcome::Outcome;
use super::scenario::Scenario;

/// One figure of one scenario. Shares are fractions of 1, bytes are bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Title of the scenario.
    pub scenario: String,
    /// Title of the figure.
    pub figure: String,
    /// The median of all seeds, which is what counts.
    pub median: f64,
    /// The worst of all seeds.
    pub worst: f64,
    /// What the median must not exceed; none if nothing is promised.
    pub target: Option<f64>,
    /// Whether it does not.
    pub met: bool,
    /// Number of seeds.
    pub seeds: usize,
    /// How it is shown.
    #[serde(skip)]
    pub shown: Shown,
    /// Whether the target itself is too much.
    #[serde(skip)]
    pub is_strict: bool,
}

/// The rows of one scenario.
pub fn rows(scenario: &Scenario, runs: &[Runs]) -> Vec<Row> {
    scenario.figures.iter().map(|figure| row(scenario, figure, runs)).collect()
}

fn row(scenario: &Scenario, figure: &Figure, runs: &[Runs]) -> Row {
    let minus = figure.minus.as_ref().and_then(|name| runs.iter().find(|runs| runs.name == *name));
    let counted: Vec<&Runs> = runs
        .iter()
        .filter(|runs| figure.variant.as_ref().is_none_or(|name| runs.name == *name))
        .filter(|runs| figure.minus.as_ref() != Some(&runs.name))
        .collect();
    let seeds = counted.first().map_or(0, |runs| runs.outcomes.len());
    let of = |runs: &Runs, seed: usize| runs.outcomes.get(seed).map_or(f64::NAN, |outcome| outcome.measure(figure));
    let values: Vec<f64> = (0..seeds)
        .map(|seed| {
            let taken_off = minus.map_or(0.0, |runs| of(runs, seed));
            counted.iter().map(|runs| of(runs, seed)).fold(f64::NEG_INFINITY, f64::max) - taken_off
        })
        .collect();
    let (median, worst) = (median(&values), values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    let unit = match figure.times {
        None => 1.0,
        Some(Unit::SeedNoise) => minus.map_or(0.0, |runs| spread(&runs.outcomes, figure)),
        Some(unit) => {
            let units: Vec<f64> =
                counted.iter().flat_map(|runs| &runs.outcomes).map(|outcome| outcome.unit(unit)).collect();
            self::median(&units)
        }
    };
    let target = figure.below.or(figure.at_most).map(|target| target * unit);
    let is_strict = figure.below.is_some();
    let met = target.is_none_or(|target| if is_strict { median < target } else { median <= target });
    let (scenario, figure, shown) = (scenario.title.clone(), figure.title.clone(), figure.shown);
    Row { scenario, figure, median, worst, target, met, seeds, shown, is_strict }
}

impl Row {
    /// A figure of this row as tables have it.
    pub fn show(&self, figure: f64) -> String {
        match self.shown {
            Shown::Percent => format!("{} %", significant(figure * 100.0)),
            Shown::Number => significant(figure),
            Shown::Kilobytes => format!("{:.2} kB/s", figure / 1000.0),
            Shown::Mebibytes => format!("{:.1} MiB", figure / f64::from(1 << 20)),
            Shown::Hours => format!("{figure:.0} h"),
        }
    }

    /// The target as tables have it.
    pub fn show_target(&self) -> String {
        let sign = if self.is_strict { "<" } else { "<=" };
        self.target.map_or_else(String::new, |target| format!("{sign} {}", self.show(target)))
    }
}

/// The rows as a table in Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = "| scenario | figure | median | worst | target | met |\n|---|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let (median, worst, target) = (row.show(row.median), row.show(row.worst), row.show_target());
        let met = if row.met { "yes" } else { "**no**" };
        text.push_str(&format!("| {} | {} | {median} | {worst} | {target} | {met} |\n", row.scenario, row.figure));
    }
    text
}

fn significant(figure: f64) -> String {
    match figure.abs() {
        0.0 => "0".to_owned(),
        small if small < 0.1 => format!("{figure:.4}"),
        small if small < 10.0 => format!("{figure:.2}"),
        _ => format!("{figure:.1}"),
    }
}

/// How far the seeds of the figure are apart.
fn spread(outcomes: &[Outcome], figure: &Figure) -> f64 {
    let values = || outcomes.iter().map(|outcome| outcome.measure(figure));
    values().fold(f64::NEG_INFINITY, f64::max) - values().fold(f64::INFINITY, f64::min)
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.as_slice() {
        [] => f64::NAN,
        sorted if sorted.len() % 2 == 1 => sorted[sorted.len() / 2],
        sorted => f64::midpoint(sorted[sorted.len() / 2 - 1], sorted[sorted.len() / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12 && (median(&[1.0, 2.0]) - 1.5).abs() < 1e-12);
        assert!(median(&[]).is_nan());
    }
}
