//! Taking replicas back: the origin hears first and its redirects stop, then the bytes go.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::messages::{Done, MAX_MESSAGE_BYTES, WITHDRAWALS_PATH, Withdrawal, Withdrawals};
use crate::clock::now_s;
use crate::identity::{Membership, Peer, PeerClient, PeerClientError};
use crate::serve::is_carried;
use crate::store::{ReadError, Replica, ReplicaStore, StoreError};

/// Gives up replicas that this host can no longer vouch for.
pub struct Withdrawer {
    /// Where they are.
    pub store: Arc<ReplicaStore>,
    /// Whose they are.
    pub membership: Arc<Membership>,
    /// The way to their origins.
    pub client: Arc<PeerClient>,
}

/// Replicas on their way out; if there are more, the scrub finds them again.
pub const MAX_WAITING: usize = 1024;
/// Replicas given up at the same time, so that one origin that does not answer holds up few others.
const MAX_GOING: usize = 16;
/// An origin that cannot be told finds out by its own probes; bytes go after so many tries.
const TRIES: u32 = 3;
/// Bytes per second that the background scrub reads on average; it pauses after each replica for so long as that takes.
const SCRUB_BYTES_PER_S: u64 = 16 << 20;
/// And for so long at least, since many small files are work, too.
const SCRUB_PAUSE: Duration = Duration::from_millis(20);
/// Pause between two passes of the scrub.
const SCRUB_PERIOD: Duration = Duration::from_secs(3600);

impl Withdrawer {
    /// Gives up whatever is sent here, until cancelled.
    pub async fn run(self: Arc<Self>, mut doomed: mpsc::Receiver<Arc<Replica>>, cancel: CancellationToken) {
        let mut going = JoinSet::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(_) = going.join_next(), if !going.is_empty() => {}
                Some(replica) = doomed.recv(), if going.len() < MAX_GOING => {
                    let withdrawer = self.clone();
                    going.spawn(async move { withdrawer.give_up_and_report(&replica).await });
                }
            }
        }
    }

    /// Reads every replica now and then, and gives up what is damaged or has expired.
    pub async fn scrub(self: Arc<Self>, doomed: mpsc::Sender<Arc<Replica>>, cancel: CancellationToken) {
        loop {
            for replica in self.store.list() {
                let pause =
                    SCRUB_PAUSE + Duration::from_secs_f64(replica.record.size as f64 / SCRUB_BYTES_PER_S as f64);
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                let is_lost = tokio::select! {
                    () = cancel.cancelled() => return,
                    is_lost = self.is_lost(&replica) => is_lost,
                };
                if is_lost {
                    // Full means that many are going already.
                    let _ = doomed.try_send(replica);
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(SCRUB_PERIOD) => {}
            }
        }
    }

    async fn is_lost(&self, replica: &Replica) -> bool {
        match self.store.scrub(&replica.record).await {
            _ if replica.record.expires_s <= now_s() => true,
            _ if !is_carried(&self.membership, &replica.record.origin) => true,
            Ok(()) => false,
            Err(ReadError::Store(error)) => {
                tracing::error!(%error, "scrubbing");
                false
            }
            Err(ReadError::Missing | ReadError::Corrupt) => true,
        }
    }

    async fn give_up_and_report(&self, replica: &Replica) {
        if let Err(error) = self.give_up(replica).await {
            let record = &replica.record;
            tracing::error!(origin = %record.origin, path = %record.path, %error, "withdrawing a replica");
        }
    }

    async fn give_up(&self, replica: &Replica) -> Result<(), StoreError> {
        let record = &replica.record;
        if !self.store.retire(replica).await? {
            return Ok(());
        }
        tracing::warn!(origin = %record.origin, path = %record.path, "withdrawing a replica");
        if let Some(origin) = self.membership.by_domain(&record.origin) {
            let withdrawal =
                Withdrawal { origin: record.origin.clone(), path: record.path.clone(), sha256: record.sha256 };
            for attempt in 0..TRIES {
                match send_withdrawals(&self.client, &origin, vec![withdrawal.clone()]).await {
                    Ok(()) => break,
                    Err(error) => tracing::info!(origin = %record.origin, %error, "telling of a withdrawal"),
                }
                tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
            }
        }
        self.store.remove_unused(&record.sha256).await
    }
}

/// Tells a peer of copies that are no more or shall be no more.
pub async fn send_withdrawals(
    client: &PeerClient,
    peer: &Peer,
    withdrawals: Vec<Withdrawal>,
) -> Result<(), PeerClientError> {
    let message = Withdrawals { withdrawals };
    let _: Done = client.json(&peer.record, WITHDRAWALS_PATH, &message, MAX_MESSAGE_BYTES).await?;
    Ok(())
}
