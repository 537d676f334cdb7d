//! Rankings side by side: `agent/examples/policy.rs`, which replays traces through the agent's own code.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::report::{Line, Required};
use super::{BenchError, report, write_json};
use crate::{layout::Layout, process};

const EXAMPLE: &str = "policy";

#[derive(clap::Args)]
pub(crate) struct PolicyArgs {
    /// Write the figures to this file, as JSON, with the raw rounds.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Replay this access log, too (common log format); may be given several times.
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Figures {
    /// Bytes offloaded for each byte of room by LRU; the mean of all rounds.
    lru: f64,
    /// The same of the other policy.
    other: f64,
    /// Which of them is the default.
    default: String,
    rounds: Vec<Round>,
}

#[derive(Serialize, Deserialize)]
struct Round {
    trace: String,
    seed: u64,
    budget: f64,
    policy: String,
    offloaded_per_byte: f64,
    copied_per_byte: f64,
}

/// What the example prints.
#[derive(Deserialize)]
struct Outcome {
    default: String,
    rounds: Vec<Round>,
}

pub(super) fn run(layout: &Layout, args: &PolicyArgs) -> Result<(), BenchError> {
    let example = ["--release", "--locked", "--package", "p2pcdn-agent", "--example", EXAMPLE];
    process::show(process::cargo(layout, "build").args(example))?;
    let mut replay = Command::new(layout.target().join("release/examples").join(EXAMPLE));
    let output = replay.args(&args.log).stderr(Stdio::inherit()).output();
    let output = output.map_err(BenchError::io("replay the traces"))?;
    if !output.status.success() {
        return Err(BenchError::Replay(output.status));
    }
    let Outcome { default, rounds } = serde_json::from_slice(&output.stdout)?;
    let mean = |policy: &str| {
        let of_policy = rounds.iter().filter(|round| round.policy == policy).map(|round| round.offloaded_per_byte);
        of_policy.clone().sum::<f64>() / of_policy.count() as f64
    };
    let (lru, other) = (mean("lru"), mean("gdsf"));
    for pair in rounds.chunks(2) {
        if let [lru, gdsf] = pair {
            println!(
                "{:<10} seed {} room {:>4.0} %: lru {:>8.1} bytes offloaded per byte ({:>6.1} copied), gdsf {:>8.1} ({:>6.1})",
                lru.trace,
                lru.seed,
                lru.budget * 100.0,
                lru.offloaded_per_byte,
                lru.copied_per_byte,
                gdsf.offloaded_per_byte,
                gdsf.copied_per_byte,
            );
        }
    }
    report::print(&[Line { name: "gdsf over lru", reached: other / lru, required: Required::AtLeast(1.0) }]);
    let figures = Figures { lru, other, default, rounds };
    args.json.as_ref().map_or(Ok(()), |path| write_json(path, &figures))
}
