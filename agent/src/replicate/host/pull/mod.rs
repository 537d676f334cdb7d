//! The host's side: takes offers in, pulls what was admitted, and acknowledges what it has verified and committed.
//!
//! What is admitted waits in a `queue` that is fair between origins; `work` takes it from there, several objects at a time. An
//! object is asked for at its `sources` in turn and `receive`d from the first chunk that is missing, for as long as a source
//! makes `progress`.

mod queue;
mod receive;
mod sources;
mod work;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use p2pcdn_core::object::{MAX_RECORD_LIFE_S, ObjectRecord, Sha256};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::terms::Terms;
use crate::clock::expiry_now_s;
use crate::gossip::proof::{Proof, contradiction};
use crate::identity::sequence::is_in_time;
use crate::identity::{Membership, NodeKey, Peer, PeerClient, Signed, sign};
use crate::rate_limit::takes;
use crate::replicate::bandwidth::FairBandwidth;
use crate::replicate::batch::MAX_SMALL_BYTES;
use crate::replicate::messages::{Acknowledgement, Decline, MAX_SOURCES, Offered, Room, Verdict};
use crate::store::{ReplicaStore, Reservation};
use crate::telemetry::Metrics;
use queue::Queue;
use receive::Patience;

/// Takes in replicas for other origins.
pub struct Puller {
    domain: String,
    key: Arc<NodeKey>,
    terms: Arc<Terms>,
    store: Arc<ReplicaStore>,
    membership: Arc<Membership>,
    client: Arc<PeerClient>,
    metrics: Arc<Metrics>,
    bandwidth: FairBandwidth,
    patience: Patience,
    /// An object that takes longer makes way for another origin's while all jobs are taken.
    turn: Duration,
    offers: DefaultKeyedRateLimiter<String>,
    /// Takes what convicts an origin.
    proofs: Option<mpsc::Sender<Proof>>,
    state: Mutex<State>,
    /// Something waits, or may be begun now.
    wake: Notify,
}

/// What waits and what is under way.
#[derive(Default)]
struct State {
    waiting: Queue<Pull>,
    /// By origin and path.
    running: HashMap<String, HashMap<String, Running>>,
    /// Jobs under way, by origin.
    jobs: HashMap<String, usize>,
}

/// An object under way.
struct Running {
    sha256: Sha256,
    sequence: u64,
    begun: Instant,
    /// None for one that comes in a batch, which is over soon.
    ends: Option<Ends>,
}

/// How an object under way is ended.
#[derive(Clone)]
struct Ends {
    /// It is not wanted any more.
    cancel: CancellationToken,
    /// Another origin's turn has come, and this goes on later; also cancelled with the other.
    turn: CancellationToken,
}

/// One admitted object.
struct Pull {
    origin: Arc<Peer>,
    record: ObjectRecord,
    signed: Signed,
    reservation: Reservation,
    /// Whom to ask before the origin.
    sources: Vec<Arc<Peer>>,
}

/// Offered records that are looked at from one origin, per second and at once: each costs a signature to verify. Beyond that it is
/// told that this host is busy.
const OFFERED_PER_S: NonZeroU32 = NonZeroU32::new(5_000).unwrap();
const OFFERED_AT_ONCE: NonZeroU32 = NonZeroU32::new(20_000).unwrap();

impl Puller {
    /// A puller that does nothing before [`Puller::run`].
    pub fn new(
        domain: String,
        key: Arc<NodeKey>,
        terms: Arc<Terms>,
        store: Arc<ReplicaStore>,
        membership: Arc<Membership>,
        client: Arc<PeerClient>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let bandwidth = FairBandwidth::new(terms.host.pull_bytes_per_s, terms.host.pull_per_origin_bytes_per_s);
        let offers = RateLimiter::keyed(Quota::per_second(OFFERED_PER_S).allow_burst(OFFERED_AT_ONCE));
        let (state, wake) = (Mutex::default(), Notify::new());
        let patience = Patience::default();
        let proofs = None;
        Self {
            domain,
            key,
            terms,
            store,
            membership,
            client,
            metrics,
            bandwidth,
            patience,
            turn: work::TURN,
            offers,
            proofs,
            state,
            wake,
        }
    }

    /// The same, which tells of origins that contradict themselves.
    pub fn reporting_to(self, proofs: mpsc::Sender<Proof>) -> Self {
        Self { proofs: Some(proofs), ..self }
    }

    /// What becomes of an object that a peer offers.
    pub async fn consider(&self, origin: &Arc<Peer>, offered: Offered) -> Verdict {
        // Offers come in hundreds, and others are to have their turn in between.
        tokio::task::yield_now().await;
        self.admit(origin, offered).await.unwrap_or_else(|reason| Verdict::Declined { reason })
    }

    /// The operator has changed the terms: what no longer agrees with them neither waits nor is pulled any further, and of bytes that
    /// are denied nothing is kept for another attempt.
    pub async fn reconsider(&self) {
        self.end_refused();
        let terms = self.terms.clone();
        self.store.forget_unfinished(move |sha256| terms.deny.covers_digest(sha256)).await;
    }

    fn end_refused(&self) {
        let refuses =
            |origin: &str, path: &str, sha256: &Sha256| self.terms.refuses_version(origin, path, sha256).is_some();
        let mut state = self.state();
        let left = state.waiting.sift(|pull| refuses(&pull.record.origin, &pull.record.path, &pull.record.sha256));
        for (origin, paths) in &state.running {
            let unwanted = paths.iter().filter(|(path, running)| refuses(origin, path, &running.sha256));
            // What comes in a batch is looked at once more before it is committed.
            unwanted.flat_map(|(_, running)| &running.ends).for_each(|ends| ends.cancel.cancel());
        }
        drop(state);
        // Reservations are given back after the lock.
        drop(left);
    }

    /// What there is room for by this host's quotas.
    pub fn room_for(&self, origin: &str) -> Room {
        let (host, usage) = (&self.terms.host, self.store.usage());
        let used_bytes = usage.by_origin.get(origin).copied().unwrap_or(0);
        let in_total = host.quota_bytes.saturating_sub(usage.total_bytes);
        let for_origin = host.quota_of(origin).saturating_sub(used_bytes);
        Room { used_bytes, free_bytes: in_total.min(for_origin) }
    }

    async fn admit(&self, origin: &Arc<Peer>, offered: Offered) -> Result<Verdict, Decline> {
        let Offered { record: signed, sources } = offered;
        // What costs nothing comes first.
        if signed.key != origin.key() {
            return Err(Decline::BadRecord);
        }
        let bytes = waiting_bytes(&signed);
        if self.state().waiting.is_full(&origin.record.domain, bytes) || !takes(&self.offers, &origin.record.domain) {
            return Err(Decline::Busy);
        }
        let record: ObjectRecord = signed.open().map_err(|_| Decline::BadRecord)?;
        let class = record.validate().map_err(|_| Decline::BadRecord)?;
        if record.origin != origin.record.domain {
            return Err(Decline::BadRecord);
        }
        if let Some(reason) = self.terms.refuses(&record) {
            return Err(reason);
        }
        let now_s = expiry_now_s();
        if record.expires_s <= now_s {
            return Err(Decline::Expired);
        }
        if record.expires_s > now_s.saturating_add(MAX_RECORD_LIFE_S) || !is_in_time(record.sequence, now_s) {
            return Err(Decline::BadRecord);
        }
        if let Some(held) = self.store.find(&record.origin, &record.path) {
            self.compare(&held.signed, held.record.sequence, &signed, record.sequence);
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
        if self.store.declines() {
            return Err(Decline::Store);
        }
        if let Some(verdict) = self.make_way(&record, &signed)? {
            return Ok(verdict);
        }
        let reservation = self.store.reserve(&record, |usage| self.terms.admit(usage, &record, class))?;
        let (domain, path) = (record.origin.clone(), record.path.clone());
        let sources = self.sources_of(&record, &sources);
        let pull = Pull { origin: origin.clone(), record, signed, reservation, sources };
        // Reservations are given back after the lock.
        let mut left = Vec::new();
        let queued = self.state().waiting.push(&domain, &path, bytes, pull, &mut left);
        drop(left);
        queued.map_err(|_| Decline::Busy)?;
        self.wake.notify_one();
        Ok(Verdict::Accepted)
    }

    /// Ends what an offered record makes pointless; the verdict, if the very same is waiting or under way already.
    fn make_way(&self, record: &ObjectRecord, signed: &Signed) -> Result<Option<Verdict>, Decline> {
        let mut state = self.state();
        if let Some(running) = state.running.get(&record.origin).and_then(|paths| paths.get(&record.path)) {
            if running.sequence > record.sequence {
                return Err(Decline::Outdated);
            }
            // A renewed record of the same bytes is taken in when it is offered again.
            if running.sha256 == record.sha256 {
                return Ok(Some(Verdict::Accepted));
            }
            running.ends.iter().for_each(|ends| ends.cancel.cancel());
        }
        let outdated = match state.waiting.find(&record.origin, &record.path) {
            Some(waiting) if waiting.record.sequence > record.sequence => return Err(Decline::Outdated),
            Some(waiting) if waiting.signed == *signed => return Ok(Some(Verdict::Accepted)),
            Some(waiting) if waiting.record.sequence == record.sequence => {
                self.compare(&waiting.signed, record.sequence, signed, record.sequence);
                state.waiting.remove(&record.origin, &record.path)
            }
            // Its reservation may be what the newer version needs.
            Some(_) => state.waiting.remove(&record.origin, &record.path),
            None => None,
        };
        drop(state);
        drop(outdated);
        Ok(None)
    }

    /// Tells of an origin that has signed two records as the same version.
    fn compare(&self, held: &Signed, held_sequence: u64, offered: &Signed, sequence: u64) {
        if held_sequence == sequence
            && let Some(proofs) = &self.proofs
            && let Some(proof) = contradiction(held, offered)
        {
            // Full means that many are being told already.
            let _ = proofs.try_send(proof);
        }
    }

    /// Those of the named hosts that are this site's own peers.
    fn sources_of(&self, record: &ObjectRecord, named: &[String]) -> Vec<Arc<Peer>> {
        let named = &named[..named.len().min(MAX_SOURCES)];
        sources::in_order(&self.domain, &record.origin, named, |domain| self.membership.by_domain(domain))
    }

    /// Notes a newer record for bytes that are here already; `false` if they are just being given up.
    async fn renew(&self, signed: Signed) -> Result<bool, Decline> {
        self.store.renew(signed).await.map_err(|error| {
            tracing::error!(%error, "renewing a record");
            Decline::Store
        })
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a record takes while it waits, signed and opened.
fn waiting_bytes(signed: &Signed) -> usize {
    signed.payload.len().saturating_mul(2)
}

impl Pull {
    fn is_small(&self) -> bool {
        self.record.size <= MAX_SMALL_BYTES
    }

    /// Hosts to ask, the origin last.
    fn all_sources(&self) -> Vec<Arc<Peer>> {
        self.sources.iter().chain([&self.origin]).cloned().collect()
    }
}

#[cfg(test)]
mod tests;
