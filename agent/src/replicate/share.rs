//! The origin's side: offers every peer what it lacks, and keeps the leases alive.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2pcdn_core::object::Sha256;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::holders::Holders;
use super::messages::{
    Acknowledgement, MAX_BATCH, MAX_MESSAGE_BYTES, MAX_SOURCES, OFFERS_PATH, Offer, OfferAnswer, Offered, Verdict,
    Withdrawal, WithdrawalReason,
};
use super::withdraw::send_withdrawals;
use crate::catalogue::{Catalogue, OwnObject};
use crate::clock::monotonic_ms;
use crate::identity::{Membership, Peer, PeerClient, PeerClientError, Signed};
use crate::publish::Board;

/// Offers this site's objects to its peers.
pub struct Sharer {
    /// What there is to offer.
    pub catalogue: Arc<Catalogue>,
    /// Whom to offer it to.
    pub membership: Arc<Membership>,
    /// The way to them.
    pub client: Arc<PeerClient>,
    /// Who holds what.
    pub board: Arc<Board>,
    /// Leases and health.
    pub holders: Arc<Holders>,
    /// Factor on every period.
    pub time_scale: f64,
    /// What each peer was told and may be asked again only later.
    pub talks: Mutex<HashMap<String, Talk>>,
}

/// The talk with one peer.
#[derive(Debug, Default)]
pub struct Talk {
    running: bool,
    begun_ms: u64,
    next_ms: u64,
    failures: u32,
    answered: HashMap<String, Answered>,
}

/// What a peer has answered to the offer of one path.
#[derive(Debug)]
struct Answered {
    sequence: u64,
    sha256: Sha256,
    again_ms: u64,
    gone_since_ms: Option<u64>,
}

/// Leases are renewed this often.
const RENEW_MS: u64 = 10_000;
/// A host that answers without having granted a lease is asked for one this often.
const RETRY_IDLE_MS: u64 = 1_000;
/// What a host has accepted and not acknowledged by then is offered again.
const ACCEPTED_AGAIN_MS: u64 = 30_000;
/// What a host has declined is offered again after this time.
const DECLINED_AGAIN_MS: u64 = 300_000;
/// A file that is away for so long is taken for deleted.
const GONE_MS: u64 = 5_000;
/// Longest pause after failures.
const MAX_PAUSE_MS: u64 = 30_000;
/// Talks at the same time.
const MAX_TALKS: usize = 8;
/// Files that change in one go are offered together.
const GATHER: Duration = Duration::from_millis(100);

impl Sharer {
    /// Talks to every peer that has something to hear until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut changed = self.catalogue.changed();
        let mut talks = JoinSet::new();
        loop {
            self.forget_strangers();
            for peer in self.due(monotonic_ms(), MAX_TALKS - talks.len()) {
                let sharer = self.clone();
                talks.spawn(async move { sharer.talk(&peer).await });
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                Ok(()) = changed.changed() => {
                    tokio::time::sleep(GATHER).await;
                    self.hurry();
                }
                Some(_) = talks.join_next() => {}
                () = tokio::time::sleep(Duration::from_millis(self.scaled(500).max(20))) => {}
            }
        }
    }

    fn due(&self, now_ms: u64, room: usize) -> Vec<Arc<Peer>> {
        let holders = self.holders.list();
        // A host that answers again but whose grant ran out meanwhile need not wait for its turn.
        let is_idle =
            |domain: &str| holders.get(domain).is_some_and(|h| h.health.weight() > 0 && h.lease_bytes_per_s == 0);
        let mut talks = self.talks();
        let mut due = Vec::new();
        for peer in self.membership.peers() {
            let domain = &peer.record.domain;
            let talk = talks.entry(domain.clone()).or_default();
            let is_due = talk.next_ms <= now_ms || (is_idle(domain) && talk.begun_ms + RETRY_IDLE_MS <= now_ms);
            if !talk.running && is_due && due.len() < room {
                talk.running = true;
                talk.begun_ms = now_ms;
                due.push(peer);
            }
        }
        due
    }

    fn hurry(&self) {
        for talk in self.talks().values_mut().filter(|talk| talk.failures == 0) {
            talk.next_ms = 0;
        }
    }

    fn forget_strangers(&self) {
        let peers: HashSet<String> = self.membership.peers().iter().map(|peer| peer.record.domain.clone()).collect();
        self.talks().retain(|domain, _| peers.contains(domain));
        for domain in self.holders.list().into_keys().filter(|domain| !peers.contains(domain)) {
            self.holders.removed(&domain);
        }
    }

    async fn talk(&self, peer: &Peer) {
        let domain = &peer.record.domain;
        let result = self.offer_all(peer).await;
        let mut talks = self.talks();
        let Some(talk) = talks.get_mut(domain) else { return };
        talk.running = false;
        let pause = match result {
            Ok(()) => {
                talk.failures = 0;
                RENEW_MS
            }
            Err(error) => {
                tracing::debug!(peer = %domain, %error, "offering");
                talk.failures = talk.failures.saturating_add(1);
                (500 << talk.failures.min(6)).min(MAX_PAUSE_MS)
            }
        };
        talk.next_ms = monotonic_ms() + self.scaled(pause);
    }

    async fn offer_all(&self, peer: &Peer) -> Result<(), PeerClientError> {
        let domain = &peer.record.domain;
        for batch in self.gone(domain).chunks(MAX_BATCH) {
            send_withdrawals(&self.client, peer, batch.to_vec(), WithdrawalReason::Unwanted).await?;
            self.forget(domain, batch);
        }
        // The table has to know the host before its first acknowledgement can arrive.
        let mut is_known = self.holders.list().contains_key(domain);
        // A peer that was removed meanwhile has no talk any more.
        while self.talks().contains_key(domain) {
            let batch = if is_known { self.batch_for(domain) } else { Vec::new() };
            let offer = Offer { records: batch.iter().map(|object| self.offered(object)).collect() };
            let answer: OfferAnswer = self.client.json(&peer.record, OFFERS_PATH, &offer, MAX_MESSAGE_BYTES).await?;
            self.holders.granted(&peer.record, answer.lease, monotonic_ms());
            if answer.verdicts.len() != batch.len() {
                tracing::warn!(peer = %peer.record.domain, "malformed answer to an offer");
                return Ok(());
            }
            for (object, verdict) in batch.iter().zip(answer.verdicts) {
                self.note(peer, object, verdict);
            }
            if is_known && batch.is_empty() {
                return Ok(());
            }
            is_known = true;
        }
        Ok(())
    }

    fn offered(&self, object: &OwnObject) -> Offered {
        let mut sources = self.board.holders_of(&object.record.path);
        sources.truncate(MAX_SOURCES);
        Offered { record: object.signed.clone(), sources }
    }

    /// Copies that were asked for and have been of no use for a while: a file that is only being rewritten is soon back.
    fn gone(&self, domain: &str) -> Vec<Withdrawal> {
        let now_ms = monotonic_ms();
        let mut talks = self.talks();
        let Some(talk) = talks.get_mut(domain) else { return Vec::new() };
        let origin = &self.catalogue.site().domain;
        let mut gone = Vec::new();
        for (path, answered) in &mut talk.answered {
            if self.catalogue.find(path).is_some() {
                answered.gone_since_ms = None;
            } else if now_ms.saturating_sub(*answered.gone_since_ms.get_or_insert(now_ms)) >= self.scaled(GONE_MS) {
                gone.push(Withdrawal { origin: origin.clone(), path: path.clone(), sha256: answered.sha256 });
            }
        }
        gone
    }

    fn forget(&self, domain: &str, withdrawals: &[Withdrawal]) {
        if let Some(talk) = self.talks().get_mut(domain) {
            talk.answered.retain(|path, _| !withdrawals.iter().any(|withdrawal| withdrawal.path == *path));
        }
    }

    /// What the peer neither holds nor was asked about lately.
    fn batch_for(&self, domain: &str) -> Vec<Arc<OwnObject>> {
        let now_ms = monotonic_ms();
        let talks = self.talks();
        let answered = talks.get(domain).map(|talk| &talk.answered);
        let mut bytes = 0;
        let wanted = |object: &Arc<OwnObject>| {
            let record = &object.record;
            let asked = answered.and_then(|answered| answered.get(&record.path));
            // A renewed record of the same bytes has to reach the host before its old one expires.
            let is_renewed = asked.is_some_and(|asked| asked.sequence != record.sequence);
            let is_due = asked.is_none_or(|asked| asked.again_ms <= now_ms);
            is_renewed || (is_due && !self.board.holds(&record.path, &record.sha256, domain))
        };
        let fits = |object: &Arc<OwnObject>| {
            let first = bytes == 0;
            bytes += object.signed.payload.len();
            first || bytes <= MAX_MESSAGE_BYTES / 2
        };
        self.catalogue.list().into_iter().filter(wanted).take_while(fits).take(MAX_BATCH).collect()
    }

    fn note(&self, peer: &Peer, object: &OwnObject, verdict: Verdict) {
        let record = &object.record;
        let pause = match verdict {
            Verdict::Held { acknowledgement } => {
                if self.acknowledged(peer, &acknowledgement) {
                    ACCEPTED_AGAIN_MS
                } else {
                    tracing::warn!(peer = %peer.record.domain, path = %record.path, "malformed acknowledgement");
                    DECLINED_AGAIN_MS
                }
            }
            Verdict::Accepted => ACCEPTED_AGAIN_MS,
            Verdict::Declined { reason } => {
                self.holders.declined(&peer.record.domain, reason);
                tracing::info!(peer = %peer.record.domain, path = %record.path, %reason, "declined");
                DECLINED_AGAIN_MS
            }
        };
        let mut talks = self.talks();
        if let Some(talk) = talks.get_mut(&peer.record.domain) {
            let again_ms = monotonic_ms() + self.scaled(pause);
            let answered = Answered { sequence: record.sequence, sha256: record.sha256, again_ms, gone_since_ms: None };
            talk.answered.insert(record.path.clone(), answered);
        }
    }

    /// Takes a host's signed word for a copy; `false` if it is not about a present object of ours, or not that host's.
    pub fn acknowledged(&self, host: &Peer, signed: &Signed) -> bool {
        let Ok(acknowledgement) = signed.open::<Acknowledgement>() else { return false };
        let object = self.catalogue.find(&acknowledgement.path);
        let matches = |object: &Arc<OwnObject>| {
            object.record.sha256 == acknowledgement.sha256 && object.signed.digest() == acknowledgement.record
        };
        let valid = signed.key == host.key()
            && acknowledgement.host == host.record.domain
            && acknowledgement.origin == self.catalogue.site().domain
            && object.as_ref().is_some_and(matches);
        if valid {
            self.board.set_holder(&acknowledgement.path, &acknowledgement.sha256, &host.record.domain, true);
        }
        valid
    }

    /// A host gives a copy up: no more redirects for it.
    pub fn withdrawn(&self, host: &Peer, withdrawal: &Withdrawal) -> bool {
        let held = self.board.holds(&withdrawal.path, &withdrawal.sha256, &host.record.domain);
        self.board.set_holder(&withdrawal.path, &withdrawal.sha256, &host.record.domain, false);
        if let Some(talk) = self.talks().get_mut(&host.record.domain) {
            talk.answered.remove(&withdrawal.path);
        }
        held
    }

    fn scaled(&self, ms: u64) -> u64 {
        (ms as f64 * self.time_scale) as u64
    }

    fn talks(&self) -> MutexGuard<'_, HashMap<String, Talk>> {
        self.talks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
