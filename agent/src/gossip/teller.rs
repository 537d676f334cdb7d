//! What this site knows by gossip, tells, and makes of what it is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pcdn_core::peer::NodeKey as PublicKey;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};

use super::Bounds;
use super::hearsay::{Hearsay, OwnView};
use super::limits::Limits;
use super::partner::Seed;
use super::proof::{Accused, Proof};
use super::reconcile::Taken;
use super::record::{About, Record, View};
use super::statements::{Observation, Observations};
use super::table::{Check, Claim, Outcome, Table};
use crate::clock::{monotonic_ms, now_s};
use crate::identity::introduction::check;
use crate::identity::once_per::OncePerMinute;
use crate::identity::signed::holds;
use crate::identity::{
    Counter, CounterError, Introducer, Introduction, Membership, NodeKey, OwnRecord, PeerClient, Signed, Statement,
    plain, sign,
};
use crate::reputation::formulas::Formulas;
use crate::state_db::StateDb;
use crate::telemetry::Metrics;

/// What own audits have found at a domain, if there were any.
pub type OwnViews = Box<dyn Fn(&str) -> Option<OwnView> + Send + Sync>;

/// What gossip brings up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Credible reporters warn of a host: look there.
    Suspected {
        /// The host's domain.
        domain: String,
    },
    /// A peer's own statements contradict each other, as anybody can check.
    Convicted {
        /// The peer's domain.
        domain: String,
        /// What it did, for people.
        text: String,
    },
}

/// Events that wait to be taken; further ones are dropped, and what they were about comes up again.
pub const MAX_EVENTS: usize = 256;
/// Proofs that wait to be told; further ones are dropped.
pub const MAX_PROOFS: usize = 64;
/// Domains that wait to be asked; further ones are dropped.
const MAX_WISHES: usize = 256;
/// Of these, after one message.
const MAX_WISHES_AT_ONCE: usize = 4;

/// Tells and listens.
pub struct Gossip {
    pub(super) key: Arc<NodeKey>,
    pub(super) own: Arc<OwnRecord>,
    pub(super) membership: Arc<Membership>,
    pub(super) introducer: Arc<Introducer>,
    pub(super) client: Arc<PeerClient>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) time_scale: f64,
    pub(super) seed: Seed,
    pub(super) limits: Limits,
    pub(super) log: OncePerMinute,
    pub(super) wake: Notify,
    open: bool,
    counter: Counter,
    views: OwnViews,
    events: mpsc::Sender<Event>,
    table: Mutex<Table>,
    hearsay: Mutex<Hearsay>,
    wishes: Mutex<VecDeque<String>>,
    convicted: Mutex<BTreeMap<PublicKey, String>>,
}

/// What gossip works with.
pub struct Parts {
    /// Signs what this site says.
    pub key: Arc<NodeKey>,
    /// What this site says of itself.
    pub own: Arc<OwnRecord>,
    /// Who is a peer.
    pub membership: Arc<Membership>,
    /// Asks domains for their record.
    pub introducer: Arc<Introducer>,
    /// The way to peers.
    pub client: Arc<PeerClient>,
    /// Where the counter of lists is.
    pub db: Arc<StateDb>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What own audits have found.
    pub views: OwnViews,
}

/// What is known by gossip, for people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GossipStatus {
    /// Number of records.
    pub records: usize,
    /// Bytes that they take.
    pub bytes: usize,
    /// Domains that are heard.
    pub members: Vec<MemberStatus>,
    /// Keys that were convicted, and of what.
    pub convicted: BTreeMap<PublicKey, String>,
}

/// One domain that is heard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its domain.
    pub domain: String,
    /// Its key.
    pub key: PublicKey,
    /// Sequence of its record.
    pub sequence: u64,
    /// How much its word counts, from 0 to 1.
    pub credit: f64,
    /// Its present list.
    pub observations: Option<Observations>,
}

/// Why nothing was told; this side's fault.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    /// The sequence could not be made durable.
    #[error(transparent)]
    Sequence(#[from] CounterError),
    /// It could not be written as JSON.
    #[error("writing a statement: {0}")]
    Json(#[from] serde_json::Error),
}

impl Gossip {
    /// One that knows nobody yet, and where its events come out; `seed` is random and secret. Where membership is `open`, domains that are
    /// heard of are asked for their record. All periods but those of `formulas` are multiplied by `time_scale`.
    pub fn new(
        parts: Parts,
        open: bool,
        formulas: &Formulas,
        seed: Seed,
        time_scale: f64,
    ) -> (Self, mpsc::Receiver<Event>) {
        let Parts { key, own, membership, introducer, client, db, metrics, views } = parts;
        let (events, receiver) = mpsc::channel(MAX_EVENTS);
        let gossip = Self {
            key,
            own,
            membership,
            introducer,
            client,
            metrics,
            time_scale,
            seed,
            limits: Limits::new(time_scale),
            log: OncePerMinute::default(),
            wake: Notify::new(),
            open,
            counter: Counter::new(db, "observations"),
            views,
            events,
            table: Mutex::new(Table::new(Bounds::default(), seed[0] ^ seed[1])),
            hearsay: Mutex::new(Hearsay::new(formulas)),
            wishes: Mutex::default(),
            convicted: Mutex::default(),
        };
        (gossip, receiver)
    }

    /// Tells others what this site has seen. To be called every [`super::statements::LIST_PERIOD_S`]; blocks for one durable write.
    pub fn publish_observations(&self, seen: Vec<Observation>) -> Result<(), TellError> {
        let now_s = now_s();
        self.publish(&Observations::of(seen, self.counter.next(now_s)?, now_s), now_s)?;
        Ok(())
    }

    /// Takes a proof that this site has found: convicts, and tells others if it is not too long for that. Two signatures are verified.
    pub fn accuse(&self, proof: &Proof) {
        let Ok(accused) = proof.verify() else { return };
        if self.convict(&accused)
            && let Err(error) = self.publish(proof, now_s())
        {
            tracing::error!(%error, "a proof could not be told");
        }
    }

    /// Whether the domain of that key was admitted to the table.
    pub fn knows(&self, key: &PublicKey) -> bool {
        self.table().knows(key)
    }

    /// How much good was heard of a host, from 0 to 1: for the order of candidates, and nothing else.
    pub fn praise(&self, domain: &str) -> f64 {
        self.hearsay().praise(domain)
    }

    /// Keys that were convicted, and of what.
    pub fn convicted(&self) -> BTreeMap<PublicKey, String> {
        self.convicted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known by gossip.
    pub fn status(&self) -> GossipStatus {
        let (table, hearsay) = (self.table(), self.hearsay());
        let member = |key: PublicKey| {
            let record = table.peer(&key)?;
            let (credit, observations) = (hearsay.credit(&record.domain), table.observations(&key));
            Some(MemberStatus { domain: record.domain, key, sequence: record.sequence, credit, observations })
        };
        let mut members: Vec<_> = table.candidates().filter_map(|candidate| member(candidate.key)).collect();
        members.sort_by(|a, b| a.domain.cmp(&b.domain));
        GossipStatus { records: table.len(), bytes: table.bytes(), members, convicted: self.convicted() }
    }

    pub(super) fn publish<T: Statement>(&self, statement: &T, now_s: u64) -> Result<(), serde_json::Error> {
        self.publish_signed(&sign(&self.key, statement)?, now_s);
        Ok(())
    }

    /// What does not fit into gossip stays here.
    pub(super) fn publish_signed(&self, signed: &Signed, now_s: u64) {
        let record = Record::of(signed).map(|blob| Record::read(blob, now_s));
        if let Some(Ok(record)) = record {
            self.table().publish(&record);
        }
    }

    /// Verifies signatures of what `peer` sent, as long as it has not sent too many.
    pub(super) fn checker<'a>(&'a self, peer: &'a PublicKey) -> impl FnMut(&Claim<'_>) -> Check + 'a {
        move |claim| {
            if !self.limits.verifies_for(peer) {
                Check::Later
            } else if holds(claim.kind, claim.payload, claim.key, claim.signature) {
                Check::Good
            } else {
                Check::Bad
            }
        }
    }

    /// What follows from records that a peer sent.
    pub(super) async fn note(&self, taken: Vec<Taken>) {
        let (mut wishes, mut unfit, mut renewed) = (0, 0, Vec::new());
        for outcome in taken {
            let Ok((record, outcome)) = outcome else {
                unfit += 1;
                continue;
            };
            match outcome {
                Outcome::Accepted => renewed.extend(self.accepted(&record)),
                Outcome::Contradiction(proof) => {
                    tracing::warn!(key = %proof.1.key, text = plain(&proof.1.text), "a contradiction by gossip");
                    self.accuse(&proof.0);
                }
                Outcome::Stranger(Some(domain)) | Outcome::OtherKey(domain) => {
                    if wishes < MAX_WISHES_AT_ONCE && (self.open || self.membership.carries(&domain)) {
                        wishes += 1;
                        self.wish(&domain);
                    }
                }
                Outcome::BadSignature => unfit += 1,
                Outcome::Known | Outcome::Stranger(None) | Outcome::Later | Outcome::Full => {}
            }
        }
        self.metrics.gossip_unfit.inc_by(unfit);
        // Last, for whoever sent them may hang up while the disk is waited for.
        self.claim(renewed).await;
    }

    /// Takes in newer records of this site's peers.
    async fn claim(&self, renewed: Vec<Introduction>) {
        if renewed.is_empty() {
            return;
        }
        let claim = move |membership: &Membership| {
            let claims = renewed.iter().map(|introduction| membership.claim(introduction, now_s()).map(drop));
            // One that fails keeps no other from being taken in.
            claims.filter(Result::is_err).last().unwrap_or(Ok(()))
        };
        if let Err(error) = self.membership.blocking(claim).await {
            tracing::error!(%error, "a peer's record could not be stored");
        }
    }

    /// The record of a peer of this site, to be taken in there, too: one whose endpoint has changed is found there.
    fn accepted(&self, record: &Record) -> Option<Introduction> {
        match &record.about {
            About::Peer { .. } => {
                let introduction = check(View::of(&record.blob)?.signed(), now_s()).ok()?;
                let is_peer = self.membership.by_key(&introduction.record.node_key).is_some();
                return is_peer.then_some(introduction);
            }
            About::Observations => self.heard(record),
            About::Proof(proof) => drop(self.convict(&proof.1)),
            About::Rotation { .. } => {}
        }
        None
    }

    fn heard(&self, record: &Record) {
        let Some((list, reporter)) = record.observations().zip(self.table().peer(&record.key())) else { return };
        let suspected = self.hearsay().hear(&reporter.domain, &list, &self.views, monotonic_ms());
        for domain in suspected {
            tracing::info!(host = plain(&domain), reporter = plain(&reporter.domain), "hearsay warns of a host");
            self.raise(Event::Suspected { domain });
        }
    }

    /// True if that is news.
    fn convict(&self, accused: &Accused) -> bool {
        let mut convicted = self.convicted.lock().unwrap_or_else(PoisonError::into_inner);
        if convicted.contains_key(&accused.key) {
            return false;
        }
        // As many as there can be proofs in the table.
        if convicted.len() >= Bounds::default().proofs {
            convicted.pop_first();
        }
        convicted.insert(accused.key, accused.text.clone());
        drop(convicted);
        // By its pin, whatever names are in its statements.
        if let Some(peer) = self.membership.by_key(&accused.key) {
            let (domain, text) = (peer.record.domain.clone(), plain(&accused.text));
            tracing::warn!(%domain, text, "convicted by a proof");
            self.raise(Event::Convicted { domain, text });
        }
        true
    }

    fn raise(&self, event: Event) {
        if let Err(error) = self.events.try_send(event)
            && let Some(suppressed) = self.log.due("events")
        {
            tracing::warn!(%error, suppressed, "what gossip brings up is not taken");
        }
    }

    fn wish(&self, domain: &str) {
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        if wishes.len() < MAX_WISHES && !wishes.iter().any(|wish| wish == domain) && domain != self.own.domain() {
            wishes.push_back(domain.to_owned());
            self.wake.notify_one();
        }
    }

    /// The next domain to ask.
    pub(super) fn next_wish(&self) -> Option<String> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Compares warnings with what own audits have found since.
    pub(super) fn review(&self) {
        self.hearsay().review(&self.views, monotonic_ms());
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hearsay(&self) -> MutexGuard<'_, Hearsay> {
        self.hearsay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
