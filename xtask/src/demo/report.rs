//! The closing table, the verdicts and the JSON file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use comfy_table::{CellAlignment, Table, presets};
use p2pcdn_tests::tally::Tally;
use serde::Serialize;
use tokio::time::Duration;

use super::{
    DemoError,
    figures::{Figures, Growth},
    screen::site_of,
};

/// Prints the table and the verdicts.
///
/// Fails if an expectation was not met.
pub(super) fn print(figures: &Figures) -> Result<(), DemoError> {
    println!("\n{}\n", table(figures));
    let expectations = figures.expectations();
    for (text, met) in &expectations {
        println!("{} {text}", if *met { "pass" } else { "FAIL" });
    }
    for (reason, count) in reasons(figures) {
        println!("     {count} requests failed because: {reason}");
    }
    match expectations.iter().filter(|(_, met)| !met).count() {
        0 => Ok(()),
        failed => Err(DemoError::Expectations { failed, all: expectations.len() }),
    }
}

fn table(figures: &Figures) -> Table {
    let hosts: BTreeSet<_> = figures.phases.iter().flat_map(|(_, tally)| tally.by_host.keys()).collect();
    let mut table = Table::new();
    let counts = ["offered/s", "requests", "failed", "corrupt", "stale", "local", "redirected"];
    let sites = hosts.iter().map(|host| format!("by {}", site_of(host)));
    let header = ["phase"].into_iter().chain(counts).map(str::to_owned).chain(sites);
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header.chain(["copies", "offloaded MB", "offload", "p50 ms", "p99 ms"].map(str::to_owned)));
    let mut row = |name: &str, offered: String, copies: Option<f64>, tally: &Tally| {
        let counts = [tally.requests, tally.failed, tally.corrupt, tally.stale, tally.local, tally.redirected];
        let by_host = hosts.iter().map(|host| tally.by_host.get(*host).copied().unwrap_or(0));
        let counts = counts.into_iter().chain(by_host).map(|count| count.to_string());
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let share = 100.0 * tally.bytes_offloaded as f64 / tally.bytes_total.max(1) as f64;
        let rest = [
            copies.map_or_else(String::new, |copies| format!("{copies:.1}")),
            format!("{:.1} of {:.1}", megabytes(tally.bytes_offloaded), megabytes(tally.bytes_total)),
            format!("{share:.0} %"),
            format!("{:.1}", millis(tally.p50)),
            format!("{:.1}", millis(tally.p99)),
        ];
        table.add_row([name.to_owned(), offered].into_iter().chain(counts).chain(rest));
    };
    for (phase, tally) in &figures.phases {
        row(phase.name, format!("{:.0}", phase.offered_rps), figures.replicas_per_object(phase), tally);
    }
    row("in between", String::new(), None, &figures.between);
    table.column_iter_mut().skip(1).for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    table
}

fn reasons(figures: &Figures) -> BTreeMap<&str, u64> {
    let mut reasons = BTreeMap::new();
    for tally in figures.phases.iter().map(|(_, tally)| tally).chain([&figures.between]) {
        for (reason, count) in &tally.failed_why {
            *reasons.entry(reason.as_str()).or_default() += count;
        }
    }
    reasons
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// What the file holds.
#[derive(Serialize)]
struct Document<'a> {
    phases: Vec<PhaseFigures<'a>>,
    last_redirect_to_dead_s: f64,
    redirected_last_5s: u64,
    growth: &'a [Growth],
}

#[derive(Serialize)]
struct PhaseFigures<'a> {
    name: &'a str,
    offered_rps: f64,
    requests: u64,
    failed: u64,
    corrupt: u64,
    stale: u64,
    local: u64,
    redirected: u64,
    by_host: &'a BTreeMap<String, u64>,
    bytes_total: u64,
    bytes_offloaded: u64,
    replicas_per_object: Option<f64>,
    p50_ms: f64,
    p99_ms: f64,
}

/// Writes the figures as JSON.
pub(super) fn write(figures: &Figures, path: &Path) -> Result<(), DemoError> {
    let phases = figures.phases.iter().map(|(phase, tally)| PhaseFigures {
        name: phase.name,
        offered_rps: phase.offered_rps,
        requests: tally.requests,
        failed: tally.failed,
        corrupt: tally.corrupt,
        stale: tally.stale,
        local: tally.local,
        redirected: tally.redirected,
        by_host: &tally.by_host,
        bytes_total: tally.bytes_total,
        bytes_offloaded: tally.bytes_offloaded,
        replicas_per_object: figures.replicas_per_object(phase),
        p50_ms: millis(tally.p50),
        p99_ms: millis(tally.p99),
    });
    let document = Document {
        phases: phases.collect(),
        last_redirect_to_dead_s: millis(figures.last_redirect_to_dead) / 1e3,
        redirected_last_5s: figures.redirected_last,
        growth: &figures.growth,
    };
    let json = serde_json::to_string_pretty(&document).map_err(p2pcdn_tests::Error::from)?;
    fs::write(path, json + "\n").map_err(|source| DemoError::Io { what: format!("write {}", path.display()), source })
}
