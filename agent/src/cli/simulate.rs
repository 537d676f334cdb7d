//! `p2pcdn simulate`.

use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::thread::available_parallelism;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::CliError;
use super::show::{print, print_json, table};
use crate::simulate::report::{Row, markdown, rows};
use crate::simulate::scenario::{STANDARD, Scenario, WITH_TARGETS};
use crate::simulate::{Progress, Runs, plots, run};

#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    /// Names of scenarios, or files of your own; without any, all those that have the targets that p2pcdn promises.
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Say what scenarios there are.
    #[arg(long)]
    list: bool,
    /// Print the file of a scenario, to make another one of it.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["scenarios", "list"])]
    show: Option<String>,
    /// How many seeds each world runs with; figures are the median and the worst of them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Threads; as many as there are cores by default.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Draw what happened day by day into this directory, as SVG, and put the table beside, as Markdown.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

/// What is printed with `--json`.
#[derive(Serialize)]
struct Figures {
    rows: Vec<Row>,
}

/// Runs the scenarios, shows their figures, and fails if a target is missed.
pub(super) fn simulate(args: &SimulateArgs) -> Result<(), CliError> {
    if let Some(name) = &args.show {
        let Some((_, text)) = STANDARD.iter().find(|(known, _)| known == name) else {
            return Err(crate::simulate::scenario::ScenarioError::Unknown(name.clone()).into());
        };
        print!("{text}");
        return Ok(());
    }
    if args.list {
        return list();
    }
    let names: Vec<&str> = match args.scenarios.as_slice() {
        [] => STANDARD.iter().take(WITH_TARGETS).map(|(name, _)| *name).collect(),
        named => named.iter().map(String::as_str).collect(),
    };
    let scenarios = names.iter().map(|name| Scenario::load(name)).collect::<Result<Vec<_>, _>>()?;
    let threads = args.threads.map_or_else(|| available_parallelism().map_or(1, usize::from), usize::from);
    let bar = progress_bar();
    let runs = run(&scenarios, args.seeds, threads, &|Progress { days, of }| {
        bar.set_length(of);
        bar.set_position(days);
    });
    bar.finish_and_clear();
    let rows: Vec<Row> = scenarios.iter().zip(&runs).flat_map(|(scenario, runs)| rows(scenario, runs)).collect();
    if let Some(directory) = &args.plots {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("figures.md"), markdown(&rows))?;
        for ((name, scenario), runs) in names.iter().zip(&scenarios).zip(&runs) {
            let name =
                PathBuf::from(name).file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
            draw(directory, &name, scenario, runs)?;
        }
    }
    let missed = rows.iter().filter(|row| !row.met).count();
    if args.json {
        print_json(&Figures { rows })?;
    } else {
        let mut table = table();
        table.set_header(["scenario", "figure", "median", "worst", "target", ""]);
        for row in rows {
            let verdict = if row.met { "" } else { "MISSED" };
            let (median, worst, target) = (row.show(row.median), row.show(row.worst), row.show_target());
            table.add_row([row.scenario.as_str(), &row.figure, &median, &worst, &target, verdict]);
        }
        print(&table)?;
    }
    if missed == 0 { Ok(()) } else { Err(CliError::Targets(missed)) }
}

fn draw(directory: &std::path::Path, name: &str, scenario: &Scenario, runs: &[Runs]) -> Result<(), CliError> {
    let title = |runs: &Runs| if runs.name.is_empty() { scenario.title.clone() } else { runs.name.clone() };
    let titled: Vec<(String, &Runs)> = runs.iter().map(|runs| (title(runs), runs)).collect();
    for plot in plots::draw(name, &titled)? {
        fs::write(directory.join(format!("{}.svg", plot.name)), plot.svg)?;
    }
    Ok(())
}

fn list() -> Result<(), CliError> {
    let mut table = table();
    for (name, text) in STANDARD {
        let scenario = Scenario::read(name, text)?;
        table.add_row([name, &scenario.about]);
    }
    print(&table)
}

/// Shown on a terminal only.
fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} virtual days, {eta} left");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
