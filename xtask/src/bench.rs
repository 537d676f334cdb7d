//! `cargo xtask bench`: what the filter and its table cost, beside what the proxy's own machinery costs in the same run; what redirects
//! cost a browser; what replication costs the agents; what serving replicas costs a host; and what the rules of trust
//! are worth.

mod caching;
mod load;
mod machine;
mod nginx;
mod policy;
mod proxy;
mod publisher;
mod redirect;
mod replicate;
mod report;
mod serve;
mod table;
mod trust;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use p2pcdn_tests::{Dist, Lab, client};
use serde::Serialize;

use crate::{TaskError, dist, layout::Layout, process::CommandError, setup};

#[derive(clap::Subcommand)]
pub(crate) enum Bench {
    /// Throughput, and CPU time of the proxy's worker per request, for redirects and for requests that stay.
    ///
    /// One Envoy with one worker, alone on one core; wrk and everything else share another one. Plain HTTP/1.1, with the headers of a
    /// current Chrome asking for images, each a random one out of as many as the table has. The variants take turns in every round.
    /// Ratios are the reference's CPU time over the filter's: 1 is level, more is better. Takes about three minutes after the build.
    Redirect(redirect::RedirectArgs),

    /// The table of a million objects: loading it, and 10 000 changes a second under load.
    ///
    /// Real Envoys, with the agent's own table behind them. Takes about two minutes after the build.
    Table(table::TableArgs),

    /// What redirects cost a page whose images a browser would have kept, and what a dead holder breaks, under each policy for redirects.
    ///
    /// A headless Chromium visits five pages of the same twenty images, then the holder dies that served most. Takes about ten minutes
    /// after the build.
    Caching(caching::CachingArgs),

    /// What replication costs: one object of 64 MiB to eight hosts, and 10 000 objects of 4 KiB to one.
    ///
    /// Real agents behind real Envoys, all on loopback. Takes about two minutes after the build.
    Replicate(replicate::ReplicateArgs),

    /// Serving replicas beside nginx serving the same files, and the agent's memory with a thousand slow readers.
    ///
    /// Agent and nginx are alone on one core in turn; Envoy with one worker and wrk share another one, on the way through Envoy and
    /// past it. Ratios are the agent's throughput over nginx's, and nginx's CPU time per answer over the agent's. Takes about three
    /// minutes after the build.
    Serve(serve::ServeArgs),

    /// What deciding costs stock nginx, by asking the agent and by its map file, and how fast the agent decides.
    ///
    /// nginx with one worker, alone on one core; wrk and the agent share another one. Plain HTTP/1.1, with the headers of a current Chrome
    /// asking for images, each a random one out of 100 000; all of them are redirected. The variants take turns in every round. Ratios are
    /// CPU time of nginx alone, which redirects everything to one place, over nginx's with a decision: 1 is level, more is better. Then the
    /// agent is alone on that core. Takes about two minutes after the build.
    Nginx(nginx::NginxArgs),

    /// Which ranking of objects makes most of a host's room: bytes offloaded for each byte of it, by recency (LRU) and by frequency and
    /// size (GDSF).
    ///
    /// Replays made-up traces (Zipf popularity of three exponents, each with a flash crowd and a scan; and everything alike, as the load
    /// generator of the demo asks), and access logs if there are any, through the agent's own ranking. Takes about a minute after
    /// the build.
    Policy(policy::PolicyArgs),

    /// What the rules of trust are worth against dishonest peers, and what audits and gossip cost, in virtual time.
    ///
    /// Runs the agent's own code for three virtual weeks in made-up worlds, each with five seeds. Misses of targets are figures, not
    /// failures. Takes about a quarter of an hour on two cores after the build.
    Trust(trust::TrustArgs),
}

/// Why a benchmark has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error(transparent)]
    Lab(#[from] p2pcdn_tests::Error),
    #[error(transparent)]
    Client(#[from] client::ClientError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("a benchmark needs two cores: one for the proxy's worker, one for everything else")]
    OneCore,
    #[error("the shipped configuration no longer has `{0}`")]
    Marker(&'static str),
    #[error("{variant}: {wrong} of {all} answers were not {expected}xx")]
    Answers { variant: &'static str, wrong: u64, all: u64, expected: char },
    #[error("wrk did not say what it measured: {0}")]
    Load(String),
    #[error("Envoy has no {0}")]
    Stat(String),
    #[error("all connections ended up with one worker")]
    OneWorker,
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("docs/trust.md no longer says where its figures are")]
    Marks,
    #[error("the run ended with {0}")]
    Replay(std::process::ExitStatus),
    #[error("the figures cannot be written or read: {0}")]
    Json(#[from] serde_json::Error),
}

impl BenchError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

pub(crate) fn run(layout: &Layout, bench: &Bench) -> Result<(), TaskError> {
    let envoy = || {
        let tools = setup::everything(layout)?;
        dist::build_shipped(layout, tools.wasm)?;
        Ok::<_, TaskError>(tools.envoy)
    };
    let programs = |publisher| Ok::<_, TaskError>(Programs { dist: Dist::at(&envoy()?, &layout.dist()), publisher });
    match bench {
        Bench::Redirect(args) => {
            Ok(measure(programs(publisher::build(layout)?)?, async |bed| redirect::run(bed, args).await)?)
        }
        Bench::Table(args) => {
            Ok(measure(programs(publisher::build(layout)?)?, async |bed| table::run(bed, args).await)?)
        }
        Bench::Replicate(args) => Ok(replicate::run(layout, &envoy()?, args)?),
        Bench::Caching(args) => Ok(caching::run(layout, &envoy()?, args)?),
        Bench::Serve(args) => Ok(measure(programs(PathBuf::new())?, async |bed| serve::run(bed, args).await)?),
        Bench::Nginx(args) => {
            Ok(measure(programs(publisher::build(layout)?)?, async |bed| nginx::run(bed, args).await)?)
        }
        Bench::Policy(args) => Ok(policy::run(layout, args)?),
        Bench::Trust(args) => Ok(trust::run(layout, args)?),
    }
}

struct Programs {
    dist: Result<Dist, p2pcdn_tests::Error>,
    publisher: PathBuf,
}

fn measure(programs: Programs, run: impl AsyncFnOnce(&Bed) -> Result<(), BenchError>) -> Result<(), BenchError> {
    // Before anything is started, since whatever is started inherits it.
    let cores = machine::Cores::claim()?;
    let lab = Lab::with(programs.dist?)?;
    // One thread, which all programs die with, and which leaves the core to them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(BenchError::io("start the runtime"))?;
    runtime.block_on(run(&Bed { lab, publisher: programs.publisher, cores }))
}

/// What every measurement needs.
struct Bed {
    lab: Lab,
    publisher: PathBuf,
    cores: machine::Cores,
}

fn write_json<T: Serialize>(path: &Path, figures: &T) -> Result<(), BenchError> {
    let json = serde_json::to_vec_pretty(figures)?;
    fs::write(path, json).map_err(BenchError::io(format!("write {}", path.display())))
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn one_noisy_round_does_not_move_the_median() {
        assert!((median([0.7, 99.0, 0.6]) - 0.7).abs() < f64::EPSILON);
    }
}
