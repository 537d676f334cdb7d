//! Working off what was admitted: several jobs at a time, few for any one origin.

use std::collections::hash_map::Entry;
use std::time::Duration;

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::receive::{Blame, PullError};
use super::sources::Rounds;
use super::{Pull, Puller, Running, State};
use crate::identity::Peer;
use crate::replicate::batch::MAX_BATCH_BYTES;
use crate::replicate::messages::{ACKNOWLEDGEMENTS_PATH, Acknowledgements, Done, MAX_BATCH, MAX_MESSAGE_BYTES};
use crate::store::{Incoming, Small};

/// Jobs under way at the same time: an object each, or a batch of small ones.
const MAX_JOBS: usize = 16;
/// Of these, for one origin: sources that are only just fast enough hold up no other origin.
const MAX_JOBS_PER_ORIGIN: usize = 4;
/// Time that jobs have to put away what they have when the agent stops.
const PUT_AWAY: Duration = Duration::from_secs(3);

/// What one task does.
struct Job {
    origin: String,
    /// One object, or several small ones.
    pulls: Vec<Pull>,
    /// Ends everything.
    stop: CancellationToken,
    /// One for each of `pulls`: a newer version of it has been offered.
    outdated: Vec<CancellationToken>,
}

impl Puller {
    /// Pulls whatever was admitted until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut jobs = JoinSet::new();
        loop {
            while jobs.len() < MAX_JOBS
                && let Some(job) = self.state().next_job(&cancel)
            {
                let puller = self.clone();
                jobs.spawn(async move { puller.work(job).await });
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(_) = jobs.join_next(), if !jobs.is_empty() => {}
                () = self.wake.notified() => {}
            }
        }
        // Whoever is late is cut off, as by a crash.
        let _ = timeout(PUT_AWAY, async { while jobs.join_next().await.is_some() {} }).await;
    }
}
