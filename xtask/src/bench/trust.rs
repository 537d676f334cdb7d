//! What the rules of trust are worth: `p2pcdn simulate`, which runs the agent's own code in virtual time.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

use super::{BenchError, write_json};
use crate::{layout::Layout, process};

#[derive(clap::Args)]
pub(crate) struct TrustArgs {
    /// Write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Seeds of each world.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,

    /// Threads; as many as there are cores by default.
    #[arg(long)]
    threads: Option<u16>,

    /// Put the table and the plots into docs/trust.md and docs/trust.
    #[arg(long)]
    docs: bool,
}

#[derive(Serialize, Deserialize)]
struct Figures {
    rows: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    scenario: String,
    figure: String,
    median: f64,
    worst: f64,
    target: f64,
    met: bool,
    seeds: u32,
}

/// Exit status of `p2pcdn simulate` where a target is missed, which is a figure like any other here.
const MISSED: i32 = 5;
/// Between these, docs/trust.md has the table.
const MARKS: [&str; 2] = ["<!-- figures -->\n", "<!-- end of figures -->\n"];
/// The plots that docs/trust.md shows.
const SHOWN: [&str; 6] = [
    "constant-dishonest.svg",
    "rare-corrupted.svg",
    "on-off-corrupted.svg",
    "discriminating-95-corrupted.svg",
    "discriminating-100-corrupted.svg",
    "audit-cost-audits.svg",
];

pub(super) fn run(layout: &Layout, args: &TrustArgs) -> Result<(), BenchError> {
    process::show(process::cargo(layout, "build").args([
        "--release",
        "--locked",
        "--package",
        "p2pcdn-agent",
        "--bin",
        "p2pcdn",
    ]))?;
    let plots = layout.target().join("trust");
    let mut simulate = Command::new(layout.target().join("release/p2pcdn"));
    simulate.args(["simulate", "--json", "--seeds", &args.seeds.to_string(), "--plots"]).arg(&plots);
    if let Some(threads) = args.threads {
        simulate.args(["--threads", &threads.to_string()]);
    }
    let output = simulate.stderr(Stdio::inherit()).output().map_err(BenchError::io("run p2pcdn simulate"))?;
    if !output.status.success() && output.status.code() != Some(MISSED) {
        return Err(BenchError::Replay(output.status));
    }
    let figures: Figures = serde_json::from_slice(&output.stdout)?;
    let table = fs::read_to_string(plots.join("figures.md")).map_err(BenchError::io("read the table"))?;
    println!("\n{table}");
    if args.docs {
        let page = layout.root().join("docs/trust.md");
        let text = fs::read_to_string(&page).map_err(BenchError::io("read docs/trust.md"))?;
        fs::write(&page, with_table(&text, &table)?).map_err(BenchError::io("write docs/trust.md"))?;
        let directory = layout.root().join("docs/trust");
        fs::create_dir_all(&directory).map_err(BenchError::io("make docs/trust"))?;
        for name in SHOWN {
            fs::copy(plots.join(name), directory.join(name)).map_err(BenchError::io(format!("copy {name}")))?;
        }
    }
    args.json.as_ref().map_or(Ok(()), |path| write_json(path, &figures))
}

fn with_table(text: &str, table: &str) -> Result<String, BenchError> {
    let [begin, end] = MARKS;
    let (before, rest) = text.split_once(begin).ok_or(BenchError::Marks)?;
    let (_, after) = rest.split_once(end).ok_or(BenchError::Marks)?;
    Ok(format!("{before}{begin}{table}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_takes_the_place_of_the_one_before() {
        let [begin, end] = MARKS;
        let page = format!("a\n{begin}old\n{end}b\n");
        assert_eq!(with_table(&page, "new\n").unwrap(), format!("a\n{begin}new\n{end}b\n"));
        assert!(with_table("a", "new").is_err());
    }
}
