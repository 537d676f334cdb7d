//! Agents' replica tables for the filters to load: `agent/examples/publisher.rs`, as processes of their own.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use p2pcdn_tests::{
    client::{Client, ClientError},
    poll,
    process::Program,
};

use super::{Bed, BenchError, machine};
use crate::{layout::Layout, process, process::CommandError};

const EXAMPLE: &str = "publisher";
/// How long it may take to make up a million objects.
const START: Duration = Duration::from_secs(60);
/// How long a filter may take to load them.
const LOADING: Duration = Duration::from_secs(120);

/// Everything eligible is redirected.
pub(super) const ALL: u32 = 1_000_000;

/// Builds it like the agent, optimised.
pub(super) fn build(layout: &Layout) -> Result<PathBuf, CommandError> {
    let example = ["--release", "--locked", "--package", "p2pcdn-agent", "--example", EXAMPLE];
    process::show(process::cargo(layout, "build").args(example))?;
    Ok(layout.target().join("release/examples").join(EXAMPLE))
}

/// One table.
pub(super) struct Publisher {
    program: Program,
    client: Client,
    pub(super) address: String,
    pub(super) objects: u32,
}

impl Publisher {
    /// Starts one with so many objects, which tells filters to redirect this fraction in millionths.
    pub(super) async fn start(bed: &Bed, name: &str, objects: u32, fraction_ppm: u32) -> Result<Self, BenchError> {
        Self::with(bed, name, objects, fraction_ppm, Vec::new()).await
    }

    /// Starts one that decides for stock nginx as well, and writes a map file for it.
    pub(super) async fn for_nginx(bed: &Bed, name: &str, objects: u32, map: &Path) -> Result<Self, BenchError> {
        Self::with(bed, name, objects, ALL, vec![map.into()]).await
    }

    async fn with(
        bed: &Bed,
        name: &str,
        objects: u32,
        fraction_ppm: u32,
        more: Vec<OsString>,
    ) -> Result<Self, BenchError> {
        let directory = bed.lab.directory();
        let numbers = [objects, fraction_ppm].map(|number| number.to_string().into());
        let mut program = Program::new(name, &bed.publisher, numbers.into_iter().chain(more).collect(), directory);
        program.start()?;
        let address = poll(START, format!("address of the table {name}"), async || match program.check() {
            Ok(_) => printed(program.log(), "listening on ").ok_or("not said yet").map(Ok),
            Err(ended) => Ok(Err(ended)),
        });
        let address = address.await??;
        Ok(Self { program, client: bed.lab.client.clone(), address, objects })
    }

    /// Waits until so many VMs have everything.
    pub(super) async fn loaded_by(&self, vms: usize) -> Result<(), BenchError> {
        let loaded =
            poll(LOADING, format!("{} objects in {vms} VMs", self.objects), async || match self.ask("/loaded").await {
                Ok(answer) if answer == vms.to_string() => Ok(()),
                Ok(answer) => Err(format!("in {answer}")),
                Err(error) => Err(error.to_string()),
            });
        Ok(loaded.await?)
    }

    /// From now on, the holders of so many objects change in every second.
    pub(super) async fn change(&self, per_s: u32) -> Result<(), BenchError> {
        Ok(self.ask(&format!("/changes/{per_s}")).await.map(drop)?)
    }

    /// Gives the first holder another name.
    pub(super) async fn rename(&self, name: &str) -> Result<(), BenchError> {
        Ok(self.ask(&format!("/rename/{name}")).await.map(drop)?)
    }

    /// Where it takes nginx's log.
    pub(super) fn log_address(&self) -> Option<String> {
        printed(self.program.log(), "log on ")
    }

    /// Seconds of CPU time so far.
    pub(super) fn cpu_s(&self) -> Result<f64, BenchError> {
        machine::cpu_s(self.id()).map_err(BenchError::io("read the publisher's CPU time"))
    }

    /// Most bytes that it has had in memory.
    pub(super) fn peak_bytes(&self) -> Result<u64, BenchError> {
        machine::resident_bytes(self.id(), "VmHWM").map_err(BenchError::io("read the publisher's memory"))
    }

    fn id(&self) -> u32 {
        self.program.id().unwrap_or_default()
    }

    async fn ask(&self, path: &str) -> Result<String, ClientError> {
        let answer = self.client.get(&format!("http://{}{path}", self.address)).await?;
        Ok(String::from_utf8_lossy(answer.body()).into_owned())
    }
}

fn printed(log: &Path, what: &str) -> Option<String> {
    let log = fs::read_to_string(log).ok()?;
    log.lines().find_map(|line| line.strip_prefix(what)).map(str::to_owned)
}
