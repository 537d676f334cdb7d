//! Whole sites on loopback for tests and for the demo: real Envoy, real agents, real TLS, and a load generator that counts for itself.
//!
//! A [`Lab`] holds what its sites share: a directory, a throw-away CA, the built programs and an HTTPS client. A [`Site`] is one
//! Envoy (or nginx) and one agent; [`load`] offers requests to it and [`tally`] sums up what became of them. All names end in `.localhost` and
//! all addresses are 127.0.0.1, on ports that no outgoing connection can take, unless the sites are in a [`network::Network`] of their
//! own. Whatever a site started dies with it.

pub mod access;
pub mod ca;
pub mod client;
mod config;
pub mod content;
mod lab;
pub mod load;
pub mod network;
mod nginx;
mod ports;
pub mod process;
mod site;
pub mod stalls;
pub mod tally;
pub mod tunnel;

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

pub use lab::{Dist, Lab};
pub use nginx::Nginx;
pub use rustix::process::Signal;
pub use site::{Site, invite_each_other};

/// Why a lab or a site could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that the tests run is missing.
    #[error("{} is missing: run `cargo xtask build` first", .0.display())]
    NotBuilt(PathBuf),
    /// The proxy's shipped configuration has no such value to replace.
    #[error("the shipped configuration no longer has `{0}`")]
    Marker(&'static str),
    /// A file or process of the harness itself.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The throw-away CA could not be made.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A network namespace could not be made or changed.
    #[error("{0}")]
    Network(String),
    /// A program ended by itself.
    #[error("{name} ended with {status}; the end of its log:\n{tail}")]
    Ended {
        /// Which program.
        name: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// Last lines of its log.
        tail: String,
    },
    /// A deadline passed.
    #[error("no {what} within {deadline:?}; last: {last}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        deadline: Duration,
        /// Why the last attempt was not it.
        last: String,
    },
    /// A request of the harness failed.
    #[error(transparent)]
    Client(#[from] client::ClientError),
    /// An answer was not the JSON that was expected.
    #[error("answer is not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Error {
    pub(crate) fn io(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{what} {}", path.display());
        move |source| Self::Io { what, source }
    }
}

/// Repeats `attempt` until it succeeds, at most until `deadline` has passed.
///
/// # Errors
/// [`Error::Deadline`] with what the last attempt said.
pub async fn poll<T, E: Display>(
    deadline: Duration,
    what: impl Display,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, Error> {
    let end = Instant::now() + deadline;
    let mut last = String::from("no attempt finished");
    loop {
        match tokio::time::timeout_at(end, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => {}
        }
        if Instant::now() >= end {
            return Err(Error::Deadline { what: what.to_string(), deadline, last });
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
