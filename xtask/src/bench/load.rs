//! Load from wrk.

use std::{fs, process::Command};

use serde::Deserialize;

use super::{Bed, BenchError};
use crate::process;

/// Connections that take turns: enough to keep one worker busy, few enough for latencies to mean something.
const CONNECTIONS: u32 = 16;
const SCRIPT: &str = include_str!("load.lua");

/// What wrk counted.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Counted {
    pub(super) requests: u64,
    pub(super) duration_us: u64,
    /// Connections and requests that came to nothing.
    pub(super) failed: u64,
    pub(super) p99_us: u64,
}

/// Asks `url` for random ones out of so many objects below `prefix` for some seconds.
pub(super) fn offer(bed: &Bed, url: &str, prefix: &str, objects: u32, seconds: u32) -> Result<Counted, BenchError> {
    let script = bed.lab.directory().join("load.lua");
    fs::write(&script, SCRIPT).map_err(BenchError::io(format!("write {}", script.display())))?;
    let (connections, duration, objects) = (CONNECTIONS.to_string(), format!("{seconds}s"), objects.to_string());
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads", "1", "--connections", &connections, "--duration", &duration, "--script"]).arg(&script);
    wrk.args([url, "--", prefix, &objects]);
    counted(&process::read(&mut wrk)?)
}

/// What wrk's script has printed at the end.
pub(super) fn counted(said: &str) -> Result<Counted, BenchError> {
    let counted = said.lines().rev().find(|line| line.starts_with('{'));
    let counted: Counted = serde_json::from_str(counted.ok_or_else(|| BenchError::Load(said.to_owned()))?)?;
    if counted.requests == 0 || counted.failed > 0 { Err(BenchError::Load(said.to_owned())) } else { Ok(counted) }
}
