//! The origin's side: offers hosts what the plan finds lacking, takes back what it finds too much, and keeps the leases alive.

mod talk;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2pcdn_core::decide::ONE_PPM;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::holders::{Health, Holders};
use super::plan::{Periods, Plan, Version, Whereabouts};
use crate::catalogue::{Catalogue, OwnObject};
use crate::clock::monotonic_ms;
use crate::gossip::Gossip;
use crate::gossip::proof::{Proof, false_acknowledgement};
use crate::identity::{Membership, Peer, PeerClient, Signed};
use crate::load::LoadMeter;
use crate::publish::Board;
use crate::replicate::messages::{Acknowledgement, Withdrawal};
use crate::settings::Share;
use crate::telemetry::Metrics;
use talk::{MAX_PAUSE_MS, Talk, in_turn};

/// Offers this site's objects to its peers.
pub struct Sharer {
    /// What there is to offer.
    pub catalogue: Arc<Catalogue>,
    membership: Arc<Membership>,
    client: Arc<PeerClient>,
    board: Arc<Board>,
    /// Leases, health and refusals of every host.
    pub holders: Arc<Holders>,
    gossip: Arc<Gossip>,
    load: Arc<Mutex<LoadMeter>>,
    metrics: Arc<Metrics>,
    proofs: mpsc::Sender<Proof>,
    time_scale: f64,
    plan: Mutex<Plan>,
    talks: Mutex<HashMap<String, Talk>>,
}

/// What a sharer works with.
pub struct Parts {
    /// What there is to offer, and how much it is asked for.
    pub catalogue: Arc<Catalogue>,
    /// Whom to offer it to.
    pub membership: Arc<Membership>,
    /// The way to them.
    pub client: Arc<PeerClient>,
    /// Who holds what.
    pub board: Arc<Board>,
    /// Leases and health.
    pub holders: Arc<Holders>,
    /// What good was heard of them.
    pub gossip: Arc<Gossip>,
    /// How far the site is beyond its target.
    pub load: Arc<Mutex<LoadMeter>>,
    /// Where refusals are counted.
    pub metrics: Arc<Metrics>,
    /// Takes what convicts a host.
    pub proofs: mpsc::Sender<Proof>,
}

/// A host that answers without having granted a lease is asked for one this often.
const RETRY_IDLE_MS: u64 = 1_000;
/// The copies of a host that has not been reached for so long are made elsewhere.
const DEAD_MS: u64 = 60_000;
/// How much is asked for, and how loaded the site is, is looked at this often.
const WEIGH_MS: u64 = 1_000;
/// Talks at the same time.
const MAX_TALKS: usize = 8;
/// Of these, with peers that failed or were slow the last time: however many there are, two places are left for those that are well. No
/// fewer, for after an outage of this site all have failed.
const MAX_STRUGGLING_TALKS: usize = MAX_TALKS - 2;
/// What changes in one go is offered together.
const GATHER: Duration = Duration::from_millis(20);

/// Periods before scaling; see [`Periods`].
const PERIODS: Periods = Periods {
    accepted: 30_000,
    declined: 300_000,
    busy: 2_000,
    gone: 5_000,
    former: 60_000,
    // Workers hear within a tick, whose length has nothing to do with the scale.
    withdraw: 1_000,
    churn: 60_000,
    keep: 0,
};

impl Sharer {
    /// A sharer that has offered nothing yet.
    pub fn new(parts: Parts, share: &Share, time_scale: f64) -> Self {
        let scaled = |ms: u64| (ms as f64 * time_scale) as u64;
        let periods = Periods {
            accepted: scaled(PERIODS.accepted),
            declined: scaled(PERIODS.declined),
            busy: scaled(PERIODS.busy),
            gone: scaled(PERIODS.gone),
            former: scaled(PERIODS.former),
            withdraw: PERIODS.withdraw,
            churn: scaled(PERIODS.churn),
            keep: scaled(share.keep.as_millis() as u64),
        };
        let half_life_ms = parts.catalogue.demand().half_life_ms();
        let Parts { catalogue, membership, client, board, holders, gossip, load, metrics, proofs } = parts;
        Self {
            catalogue,
            membership,
            client,
            board,
            holders,
            gossip,
            load,
            metrics,
            proofs,
            time_scale,
            plan: Mutex::new(Plan::new(share.policy, share.replicas, periods, half_life_ms)),
            talks: Mutex::default(),
        }
    }

    /// Talks to every peer that has something to hear until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut talks = JoinSet::new();
        let mut weighed_ms = 0;
        loop {
            let now_ms = monotonic_ms();
            self.meet_peers(now_ms);
            self.absorb_changes(now_ms);
            if now_ms.saturating_sub(weighed_ms) >= self.scaled(WEIGH_MS).max(100) {
                weighed_ms = now_ms;
                self.weigh(now_ms);
            }
            let is_settled = self.plan().tick(now_ms);
            self.drop_copies();
            for peer in self.due(now_ms, MAX_TALKS - talks.len()) {
                let sharer = self.clone();
                talks.spawn(async move { sharer.talk(&peer).await });
            }
            if !is_settled {
                // Others want the plan, too.
                tokio::task::yield_now().await;
                if cancel.is_cancelled() {
                    return;
                }
                continue;
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.board.touched() => tokio::time::sleep(GATHER).await,
                Some(_) = talks.join_next() => {}
                () = tokio::time::sleep(Duration::from_millis(self.scaled(500).max(20))) => {}
            }
        }
    }

    /// Copies that an object should have by now.
    pub fn wanted(&self, path: &str) -> usize {
        self.plan().wanted(path)
    }

    /// Whether objects that are asked for much have fewer copies than they should have, and hosts that could take them.
    pub fn lacks_replicas(&self) -> bool {
        self.plan().lacks_replicas()
    }

    fn due(&self, now_ms: u64, room: usize) -> Vec<Arc<Peer>> {
        let holders = self.holders.list();
        // A host that answers again but whose grant ran out meanwhile need not wait for its turn.
        let is_idle =
            |domain: &str| holders.get(domain).is_some_and(|h| h.health.weight() > 0 && h.lease_bytes_per_s == 0);
        let max_pause_ms = self.scaled(MAX_PAUSE_MS);
        let plan = self.plan();
        let mut talks = self.talks();
        let mut due = Vec::new();
        for peer in self.membership.peers() {
            let domain = &peer.record.domain;
            let talk = talks.entry(domain.clone()).or_default();
            let is_due = talk.next_ms <= now_ms
                || (is_idle(domain) && talk.begun_ms + RETRY_IDLE_MS <= now_ms)
                || (talk.failures == 0 && plan.has_work(domain, now_ms));
            if !talk.running && is_due {
                due.push((talk.place(max_pause_ms), peer));
            }
        }
        let struggling = talks.values().filter(|talk| talk.running && talk.place(max_pause_ms).struggles).count();
        let begun = in_turn(due, room, MAX_STRUGGLING_TALKS.saturating_sub(struggling));
        for peer in &begun {
            if let Some(talk) = talks.get_mut(&peer.record.domain) {
                talk.running = true;
                talk.begun_ms = now_ms;
            }
        }
        begun
    }

    fn meet_peers(&self, now_ms: u64) {
        let peers = self.membership.peers();
        let holders = self.holders.list();
        let is_peer = |domain: &str| peers.iter().any(|peer| peer.record.domain == *domain);
        for domain in holders.keys().filter(|domain| !is_peer(domain)) {
            self.holders.removed(domain);
        }
        let mut plan = self.plan();
        plan.set_peers(peers.iter().map(|peer| &*peer.record.domain));
        let mut talks = self.talks();
        talks.retain(|domain, _| is_peer(domain));
        for (domain, holder) in holders.iter().filter(|(domain, _)| is_peer(domain)) {
            let failing_since_ms = talks.get(domain).and_then(|talk| talk.failing_since_ms);
            let is_dead = failing_since_ms.is_some_and(|at| now_ms.saturating_sub(at) >= self.scaled(DEAD_MS));
            let lends = if holder.health == Health::Down { 0 } else { holder.lease_bytes_per_s };
            // Copies where nobody is sent are none.
            plan.set_host(domain, !is_dead && self.holders.gets_redirects(domain), lends);
            plan.set_praise(domain, self.gossip.praise(domain));
        }
    }

    fn absorb_changes(&self, now_ms: u64) {
        for path in self.board.take_touched() {
            let whereabouts = match self.catalogue.find(&path) {
                Some(object) if self.board.has_object(&path) => Whereabouts::Present(version_of(&object)),
                Some(_) => Whereabouts::Questioned,
                None => Whereabouts::Away,
            };
            let holders = self.board.holders_of(&path);
            self.plan().sync(&path, whereabouts, &holders, now_ms);
        }
    }

    fn weigh(&self, now_ms: u64) {
        let steering = self.load.lock().unwrap_or_else(PoisonError::into_inner).steering(now_ms);
        let leaving = f64::from(steering.fraction_ppm) / f64::from(ONE_PPM);
        let demand = self.catalogue.demand();
        let mut plan = self.plan();
        plan.weigh(leaving, demand.iter(), now_ms);
    }

    fn drop_copies(&self) {
        for dropped in self.plan().take_dropped() {
            self.board.set_holder(&dropped.path, &dropped.sha256, &dropped.host, false);
        }
    }

    /// Takes a host's signed word for a copy; `false` if it is not about a present object of ours, or not that host's.
    pub fn acknowledged(&self, host: &Peer, signed: &Signed) -> bool {
        let Ok(acknowledgement) = signed.open::<Acknowledgement>() else { return false };
        let Acknowledgement { path, sha256, .. } = &acknowledgement;
        let object = self.catalogue.find(path);
        let matches = |object: &Arc<OwnObject>| {
            object.record.sha256 == *sha256 && object.signed.digest() == acknowledgement.record
        };
        let domain = &host.record.domain;
        let valid = signed.key == host.key()
            && acknowledgement.host == *domain
            && acknowledgement.origin == self.catalogue.site().domain
            && object.as_ref().is_some_and(matches);
        if signed.key == host.key()
            && let Some(object) = object.filter(|object| object.signed.digest() == acknowledgement.record)
            && let Some(proof) = false_acknowledgement(&object.signed, signed)
        {
            // Full means that many are being told already.
            let _ = self.proofs.try_send(proof);
        }
        if valid {
            self.board.set_holder(path, sha256, domain, true);
            self.plan().acknowledged(domain, path, *sha256, acknowledgement.sequence, monotonic_ms());
        }
        valid
    }

    /// A host gives a copy up: no more redirects for it.
    pub fn withdrawn(&self, host: &Peer, withdrawal: &Withdrawal) -> bool {
        let (domain, path) = (&host.record.domain, &withdrawal.path);
        let held = self.board.holds(path, &withdrawal.sha256, domain);
        self.board.set_holder(path, &withdrawal.sha256, domain, false);
        self.plan().given_up(domain, path, withdrawal.sha256, monotonic_ms());
        held
    }

    fn scaled(&self, ms: u64) -> u64 {
        (ms as f64 * self.time_scale) as u64
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn talks(&self) -> MutexGuard<'_, HashMap<String, Talk>> {
        self.talks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn version_of(object: &OwnObject) -> Version {
    let record = &object.record;
    Version { sha256: record.sha256, sequence: record.sequence, size: record.size }
}
