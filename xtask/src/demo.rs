//! `cargo xtask demo`: three real sites on loopback, one of them under more load than it wants to carry.

mod content;
mod figures;
mod keep;
mod play;
mod report;
mod screen;

use std::{io, path::PathBuf, process::ExitCode};

use p2pcdn_tests::{Dist, Lab, Nginx};
use tokio::signal::unix::{SignalKind, signal};

use crate::{TaskError, dist, layout::Layout, setup};

#[derive(clap::Args)]
pub(crate) struct DemoArgs {
    /// Leave the sites running afterwards, with alpha under load, until Ctrl-C; prints what to try by hand.
    #[arg(long)]
    keep: bool,

    /// Write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// What stands in front of the sites.
    #[arg(long, value_enum, default_value = "envoy")]
    proxy: Proxy,

    /// Serve the images, media, fonts and archives of 8 KiB to 1 MiB in this directory (at most 100 of them).
    ///
    /// Otherwise: crates from Cargo's own cache, and fonts and images of the Rust documentation that rustup installs.
    #[arg(long, value_name = "DIR")]
    content: Option<PathBuf>,
}

/// A site's proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Proxy {
    /// Envoy with the filter.
    Envoy,
    /// Stock nginx, which asks the agent.
    Nginx,
}

impl Proxy {
    fn name(self) -> &'static str {
        match self {
            Self::Envoy => "Envoy",
            Self::Nginx => "nginx",
        }
    }
}

/// Why the demo did not come to a good end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error(transparent)]
    Lab(#[from] p2pcdn_tests::Error),
    #[error("nothing to serve: no image, font, media or archive of {from} to {to} bytes in {}", places.join(", "))]
    NoContent { from: u64, to: u64, places: Vec<String> },
    #[error("{failed} of {all} expectations were not met")]
    Expectations { failed: usize, all: usize },
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("interrupted; everything is stopped")]
    Interrupted,
}

impl DemoError {
    pub(crate) fn exit_code(&self) -> ExitCode {
        // What a shell reports for a program that SIGINT ended.
        if matches!(self, Self::Interrupted) { ExitCode::from(130) } else { ExitCode::FAILURE }
    }
}

pub(crate) fn run(layout: &Layout, args: &DemoArgs) -> Result<(), TaskError> {
    let tools = setup::everything(layout)?;
    dist::build_shipped(layout, tools.wasm)?;
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|source| DemoError::Io { what: "start the load generator".into(), source })?;
    Ok(runtime.block_on(with_lab(Dist::at(&tools.envoy, &layout.dist()), args))?)
}

/// Whatever happens, nothing keeps running; the directory with logs and state stays only if something went wrong.
async fn with_lab(dist: Result<Dist, p2pcdn_tests::Error>, args: &DemoArgs) -> Result<(), DemoError> {
    let mut lab = Lab::with(dist?)?;
    let site = |name| match args.proxy {
        Proxy::Envoy => lab.site(name),
        Proxy::Nginx => lab.nginx_site(name, Nginx::AuthRequest),
    };
    let mut sites = [site("alpha")?, site("beta")?, site("gamma")?];
    let mut outcome = tokio::select! {
        outcome = play::everything(&lab, &mut sites, args) => outcome,
        interrupted = interruption() => Err(interrupted),
    };
    if args.keep && matches!(outcome, Ok(()) | Err(DemoError::Expectations { .. })) {
        outcome = outcome.and(keep::until_interrupted(&lab, &mut sites).await);
    }
    for site in &mut sites {
        outcome = outcome.and(site.stop().await.map_err(DemoError::from));
    }
    if matches!(outcome, Err(DemoError::Lab(_) | DemoError::Expectations { .. })) {
        lab.keep();
        println!("configuration, logs and state of each site are kept in {}", lab.directory().display());
    }
    outcome
}

/// Waits for Ctrl-C or SIGTERM.
async fn interruption() -> DemoError {
    let listen = || Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?));
    match listen() {
        Ok((mut interrupt, mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => DemoError::Interrupted,
                _ = terminate.recv() => DemoError::Interrupted,
            }
        }
        Err(source) => DemoError::Io { what: "listen for Ctrl-C".into(), source },
    }
}
