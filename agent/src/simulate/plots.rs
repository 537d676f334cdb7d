//! Pictures of runs, as SVG, without any font or library of the system.

use std::fmt::Display;

use plotters::prelude::*;

use super::Runs;
use super::outcome::Day;

/// One picture.
#[derive(Debug, Clone)]
pub struct Plot {
    /// Name of its file, without the ending.
    pub name: String,
    /// The picture.
    pub svg: String,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
#[error("a plot cannot be drawn: {0}")]
pub struct PlotError(String);

/// What is drawn of every day, with the ending of the file's name and a caption.
type Curve = (&'static str, &'static str, fn(&Day) -> f64);

const CURVES: [Curve; 3] = [
    ("corrupted", "corrupted share of redirected responses, %", |day| share(day.corrupted, day.redirects)),
    ("dishonest", "dishonest share of redirects, %", |day| share(day.dishonest, day.redirects)),
    ("audits", "bytes of audits over bytes redirected, %", |day| share(day.audited_bytes, day.redirected_bytes)),
];
const SIZE: (u32, u32) = (760, 360);

/// Draws what each of `runs` came to day by day, the median of all seeds; one picture for each of the curves that is not 0 everywhere.
pub fn draw(name: &str, runs: &[(String, &Runs)]) -> Result<Vec<Plot>, PlotError> {
    let mut plots = Vec::new();
    for (ending, caption, figure) in CURVES {
        let lines: Vec<(&str, Vec<f64>)> =
            runs.iter().map(|(title, runs)| (title.as_str(), by_day(runs, figure))).collect();
        let most = lines.iter().flat_map(|(_, line)| line).copied().fold(0.0, f64::max);
        if most > 0.0 {
            plots.push(Plot { name: format!("{name}-{ending}"), svg: picture(caption, &lines, most)? });
        }
    }
    Ok(plots)
}

fn picture(caption: &str, lines: &[(&str, Vec<f64>)], most: f64) -> Result<String, PlotError> {
    let failed = |error: &dyn Display| PlotError(error.to_string());
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(|error| failed(&error))?;
        let days = lines.iter().map(|(_, line)| line.len()).max().unwrap_or(1);
        let mut chart = ChartBuilder::on(&area)
            .caption(caption, ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(32)
            .y_label_area_size(56)
            .build_cartesian_2d(0.5..days as f64 + 0.5, 0.0..most * 1.05)
            .map_err(|error| failed(&error))?;
        chart.configure_mesh().x_desc("day").light_line_style(WHITE).draw().map_err(|error| failed(&error))?;
        for (number, (title, line)) in lines.iter().enumerate() {
            let colour = Palette99::pick(number).stroke_width(2);
            let points = line.iter().enumerate().map(|(day, value)| (day as f64 + 1.0, *value));
            chart
                .draw_series(LineSeries::new(points, colour))
                .map_err(|error| failed(&error))?
                .label(*title)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour));
        }
        let mut labels = chart.configure_series_labels();
        let labels = labels.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3));
        labels.position(SeriesLabelPosition::UpperRight).draw().map_err(|error| failed(&error))?;
        area.present().map_err(|error| failed(&error))?;
    }
    Ok(svg)
}

/// The median of all seeds, in percent, day by day.
fn by_day(runs: &Runs, figure: fn(&Day) -> f64) -> Vec<f64> {
    let days = runs.outcomes.iter().map(|outcome| outcome.days.len()).min().unwrap_or(0);
    let median = |day: usize| {
        let mut values: Vec<f64> = runs.outcomes.iter().map(|outcome| figure(&outcome.days[day])).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2] * 100.0
    };
    (0..days).map(median).collect()
}

fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}
