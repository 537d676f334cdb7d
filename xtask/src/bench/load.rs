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
    let head = [&format!("GET {prefix}"), ".png HTTP/1.1\r\nHost: www.example.org\r\nConnection: keep-alive\r\n"];
    ask(bed, url, head, objects, Pace { connections: CONNECTIONS, delay_ms: 0 }, seconds)
}

/// How fast is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) connections: u32,
    /// How long each connection waits before each request.
    pub(super) delay_ms: u32,
}

/// Sends for some seconds what begins with `before`, the number of a random one out of so many objects, and `after`, and goes on with what
/// a browser says of itself.
pub(super) fn ask(
    bed: &Bed,
    url: &str,
    [before, after]: [&str; 2],
    objects: u32,
    pace: Pace,
    seconds: u32,
) -> Result<Counted, BenchError> {
    let script = bed.lab.directory().join("load.lua");
    fs::write(&script, SCRIPT).map_err(BenchError::io(format!("write {}", script.display())))?;
    let (connections, duration) = (pace.connections.to_string(), format!("{seconds}s"));
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads", "1", "--connections", &connections, "--duration", &duration, "--script"]).arg(&script);
    wrk.args([url, "--", before, after, &objects.to_string(), &pace.delay_ms.to_string()]);
    let said = process::read(&mut wrk)?;
    let counted = said.lines().rev().find(|line| line.starts_with('{'));
    let counted: Counted = serde_json::from_str(counted.ok_or_else(|| BenchError::Load(said.clone()))?)?;
    if counted.requests == 0 || counted.failed > 0 { Err(BenchError::Load(said)) } else { Ok(counted) }
}
