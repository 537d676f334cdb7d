//! The host's side: takes offers in, pulls what was admitted, and acknowledges what it has verified and committed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http_body_util::BodyExt;
use p2pcdn_core::object::{ObjectRecord, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Bandwidth;
use super::admit::admit;
use super::messages::{
    ACKNOWLEDGEMENTS_PATH, Acknowledgement, Acknowledgements, Decline, Done, MAX_MESSAGE_BYTES, OBJECTS_PATH, Room,
    Verdict,
};
use crate::clock::now_s;
use crate::identity::{NodeKey, Peer, PeerClient, PeerClientError, Signed, sign};
use crate::settings::Host;
use crate::store::{Incoming, IncomingError, ReplicaStore, Reservation};

/// Takes in replicas for other origins.
pub struct Puller {
    domain: String,
    key: Arc<NodeKey>,
    host: Host,
    store: Arc<ReplicaStore>,
    client: Arc<PeerClient>,
    bandwidth: Bandwidth,
    /// Signed records by their digest, with their origin.
    waiting: Mutex<HashMap<Sha256, String>>,
    queue: mpsc::Sender<Pull>,
}

/// One admitted object.
pub struct Pull {
    origin: Arc<Peer>,
    record: ObjectRecord,
    signed: Signed,
    reservation: Reservation,
}

/// Why a pull came to nothing.
#[derive(Debug, thiserror::Error)]
enum PullError {
    #[error(transparent)]
    Peer(#[from] PeerClientError),
    #[error("the body broke off: {0}")]
    Body(#[from] hyper::Error),
    #[error("the source sends nothing, or too slowly")]
    Stalled,
    #[error(transparent)]
    Incoming(#[from] IncomingError),
    #[error("signing the acknowledgement: {0}")]
    Json(#[from] serde_json::Error),
}

/// Objects that wait to be pulled.
const MAX_WAITING: usize = 8192;
/// Of these, for one origin.
const MAX_WAITING_PER_ORIGIN: usize = 1024;
/// Objects pulled at the same time.
const MAX_PULLS: usize = 4;
/// A source from which nothing has come for so long is given up.
const STALLED: Duration = Duration::from_secs(10);
/// And so is one that is slower than this over a whole object, which gets so much time on top.
const SLOWEST_BYTES_PER_S: u64 = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(30);
/// An object is tried so often before its origin has to offer it again.
const TRIES: u32 = 4;

impl Puller {
    /// The puller and the queue that [`Puller::run`] works off.
    pub fn new(
        domain: String,
        key: Arc<NodeKey>,
        host: Host,
        store: Arc<ReplicaStore>,
        client: Arc<PeerClient>,
    ) -> (Arc<Self>, mpsc::Receiver<Pull>) {
        let (queue, pulls) = mpsc::channel(MAX_WAITING);
        let bandwidth = Bandwidth::new(host.pull_bytes_per_s);
        (Arc::new(Self { domain, key, host, store, client, bandwidth, waiting: Mutex::default(), queue }), pulls)
    }

    /// What becomes of an object that a peer offers.
    pub async fn consider(&self, origin: &Arc<Peer>, signed: Signed) -> Verdict {
        self.admit(origin, signed).await.unwrap_or_else(|reason| Verdict::Declined { reason })
    }

    /// What there is room for by this host's quotas.
    pub fn room_for(&self, origin: &str) -> Room {
        let usage = self.store.usage();
        let used_bytes = usage.by_origin.get(origin).copied().unwrap_or(0);
        let in_total = self.host.quota_bytes.saturating_sub(usage.total_bytes);
        let for_origin = self.host.quota_per_origin_bytes.saturating_sub(used_bytes);
        Room { used_bytes, free_bytes: in_total.min(for_origin) }
    }

    async fn admit(&self, origin: &Arc<Peer>, signed: Signed) -> Result<Verdict, Decline> {
        let record: ObjectRecord = signed.open().map_err(|_| Decline::BadRecord)?;
        let class = record.validate().map_err(|_| Decline::BadRecord)?;
        if signed.key != origin.key() || record.origin != origin.record.domain {
            return Err(Decline::BadRecord);
        }
        if record.expires_s <= now_s() {
            return Err(Decline::Expired);
        }
        if let Some(held) = self.store.find(&record.origin, &record.path) {
            if held.record.sequence > record.sequence {
                return Err(Decline::Outdated);
            }
            let is_current = held.record.sha256 == record.sha256;
            if is_current && (held.record.size != record.size || held.record.chunks != record.chunks) {
                return Err(Decline::BadRecord);
            }
            if is_current && (held.signed == signed || self.renew(signed.clone()).await?) {
                let acknowledgement = self.acknowledge(&record, &signed).map_err(|_| Decline::Store)?;
                return Ok(Verdict::Held { acknowledgement });
            }
        }
        let name = signed.digest();
        {
            let mut waiting = self.waiting();
            if waiting.contains_key(&name) {
                return Ok(Verdict::Accepted);
            }
            if waiting.values().filter(|other| **other == record.origin).count() >= MAX_WAITING_PER_ORIGIN {
                return Err(Decline::Busy);
            }
            waiting.insert(name, record.origin.clone());
        }
        let reserved = self.store.reserve(&record, |usage| admit(&self.host, usage, &record, class));
        let queued = reserved.and_then(|reservation| {
            let pull = Pull { origin: origin.clone(), record, signed, reservation };
            self.queue.try_send(pull).map_err(|_| Decline::Busy)
        });
        if queued.is_err() {
            self.waiting().remove(&name);
        }
        queued.map(|()| Verdict::Accepted)
    }

    /// Notes a newer record for bytes that are here already; `false` if they are just being given up.
    async fn renew(&self, signed: Signed) -> Result<bool, Decline> {
        self.store.renew(signed).await.map_err(|error| {
            tracing::error!(%error, "renewing a record");
            Decline::Store
        })
    }

    /// Pulls whatever was admitted until cancelled.
    pub async fn run(self: Arc<Self>, mut pulls: mpsc::Receiver<Pull>, cancel: CancellationToken) {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(_) = running.join_next(), if !running.is_empty() => {}
                Some(pull) = pulls.recv(), if running.len() < MAX_PULLS => {
                    let puller = self.clone();
                    running.spawn(async move { puller.pull_and_report(pull).await });
                }
            }
        }
    }

    async fn pull_and_report(&self, pull: Pull) {
        let Pull { origin, record, signed, reservation } = pull;
        let result = self.pull(&origin, &record, &signed, reservation).await;
        self.waiting().remove(&signed.digest());
        match result {
            Ok(()) => tracing::debug!(origin = %record.origin, path = %record.path, "replica committed"),
            Err(error) => {
                tracing::warn!(origin = %record.origin, path = %record.path, %error, "replica not taken in");
            }
        }
    }

    async fn pull(
        &self,
        origin: &Peer,
        record: &ObjectRecord,
        signed: &Signed,
        reservation: Reservation,
    ) -> Result<(), PullError> {
        let mut attempt = 0;
        let incoming = loop {
            match self.receive(origin, record).await {
                Ok(incoming) => break incoming,
                Err(error) if attempt + 1 == TRIES || !error.is_passing() => return Err(error),
                Err(error) => tracing::debug!(origin = %record.origin, path = %record.path, %error, "pulling again"),
            }
            sleep(Duration::from_millis(250 << attempt)).await;
            attempt += 1;
        };
        self.store.commit(incoming, signed.clone(), reservation).await?;
        let message = Acknowledgements { acknowledgements: vec![self.acknowledge(record, signed)?] };
        // If this is lost, the origin offers the object again and learns that it is held.
        let _: Done = self.client.json(&origin.record, ACKNOWLEDGEMENTS_PATH, &message, MAX_MESSAGE_BYTES).await?;
        Ok(())
    }

    async fn receive(&self, origin: &Peer, record: &ObjectRecord) -> Result<Incoming, PullError> {
        let path = format!("{OBJECTS_PATH}{}", record.sha256);
        let mut body = self.client.get(&origin.record, &path, HeaderMap::new()).await?.into_body();
        let mut incoming = self.store.begin(record).await.map_err(IncomingError::from)?;
        let received = async {
            while let Some(frame) = timeout(STALLED, body.frame()).await.map_err(|_| PullError::Stalled)? {
                if let Ok(bytes) = frame?.into_data() {
                    self.bandwidth.take(bytes.len()).await;
                    incoming.push(bytes).await?;
                }
            }
            Ok::<_, PullError>(())
        };
        let slowest = PATIENCE + Duration::from_secs(record.size / SLOWEST_BYTES_PER_S);
        match timeout(slowest, received).await.unwrap_or(Err(PullError::Stalled)) {
            Ok(()) => Ok(incoming),
            Err(error) => {
                incoming.discard().await;
                Err(error)
            }
        }
    }

    fn acknowledge(&self, record: &ObjectRecord, signed: &Signed) -> Result<Signed, serde_json::Error> {
        let acknowledgement = Acknowledgement {
            record: signed.digest(),
            origin: record.origin.clone(),
            path: record.path.clone(),
            sha256: record.sha256,
            sequence: record.sequence,
            host: self.domain.clone(),
        };
        sign(&self.key, &acknowledgement)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Sha256, String>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PullError {
    /// Whether another try could go better: wrong bytes stay wrong, and a full disk stays full.
    fn is_passing(&self) -> bool {
        match self {
            Self::Peer(PeerClientError::Refused { .. }) | Self::Incoming(_) | Self::Json(_) => false,
            Self::Peer(_) | Self::Body(_) | Self::Stalled => true,
        }
    }
}
