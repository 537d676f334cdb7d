//! Who can be redirected to now: leases and first-hand health of every host, from which the weights in the table follow.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pcdn_core::object::Sha256;
use p2pcdn_core::peer::PeerRecord;
use serde::{Deserialize, Serialize};

use super::debt::Debt;
use crate::evidence::judge;
use crate::publish::{Board, Exposure};
use crate::replicate::messages::{Decline, LeaseGrant, WithdrawalReason};
use crate::reputation::book::{Book, Trust};

/// Weight of a host in good health, in thousandths.
pub const FULL_WEIGHT: u16 = 1000;
/// Weight of a host that has just recovered; it doubles with every good probe.
const RECOVERING_WEIGHT: u16 = 125;

/// What is known first-hand of a host's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Not probed yet.
    #[default]
    Unproven,
    /// Answers; the weight is below full after a failure.
    Up {
        /// Thousandths.
        weight: u16,
    },
    /// The last probe failed.
    Down,
}

impl Health {
    /// Health after one more probe.
    pub fn after(self, good: bool) -> Self {
        match (good, self) {
            (false, _) => Self::Down,
            (true, Self::Unproven) => Self::Up { weight: FULL_WEIGHT },
            (true, Self::Down) => Self::Up { weight: RECOVERING_WEIGHT },
            (true, Self::Up { weight }) => Self::Up { weight: weight.saturating_mul(2).min(FULL_WEIGHT) },
        }
    }

    /// Weight in the table.
    pub fn weight(self) -> u16 {
        match self {
            Self::Up { weight } => weight,
            Self::Unproven | Self::Down => 0,
        }
    }
}

/// Every host that has granted a lease.
pub struct Holders {
    board: Arc<Board>,
    book: Arc<Book>,
    by_domain: Mutex<BTreeMap<String, Holder>>,
    refusals: Mutex<BTreeMap<String, Refusals>>,
    /// Whether there are redirects, or soon may be.
    is_needed: AtomicBool,
}

/// What a host did not take or did not keep, since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusals {
    /// Offers declined, by reason.
    pub declined: BTreeMap<Decline, u64>,
    /// Replicas withdrawn, by reason.
    pub withdrawn: BTreeMap<WithdrawalReason, u64>,
}

/// One host.
#[derive(Debug, Clone, Default)]
pub struct Holder {
    /// Its replica name.
    pub replica_name: String,
    /// Whether that name has proven to be its own; until then it gets no redirects, or it would be judged by what another one serves.
    pub is_named: bool,
    /// Bytes per second that it grants; 0 once the grant has run out.
    pub lease_bytes_per_s: u64,
    /// First-hand health.
    pub health: Health,
    /// Redirects since the start.
    pub redirects: u64,
    /// Bytes per second that are redirected to it, over about a minute.
    pub redirected_bytes_per_s: f64,
    lease_until_ms: u64,
    redirected_ms: Option<u64>,
    /// When the rate last faded.
    faded_ms: Option<u64>,
    probed_ms: Option<u64>,
    /// What was redirected beyond the lease.
    debt: Debt,
    /// What of the lease the workers share now.
    granted_bytes_per_s: u64,
    /// The last good probe.
    proven_ms: Option<u64>,
    /// Redirects have begun, and it was last proven too long before that; until the next probe it gets none.
    is_doubtful: bool,
    suspect: Option<Copy>,
}

/// One version of one own object, as a host should have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Path of the object.
    pub path: String,
    /// Digest of the version.
    pub sha256: Sha256,
}

/// A host that is to be probed now.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    /// Its domain.
    pub domain: String,
    /// Whether its replica name is yet to be proven.
    pub is_unnamed: bool,
    /// Its replica name.
    pub replica_name: String,
    /// The copy to ask for, if clients came back for it.
    pub suspect: Option<Copy>,
}

/// A host that has just received redirects is probed this often, and so is one that is not in full health, and everybody who may get
/// redirects at any moment. With the time that a probe may
/// take (0.7 s) and a default tick of the filter (0.25 s) a dead host is out of redirects within 2 s of its last good probe.
const PROBE_MS: u64 = 900;
/// Any other one this often.
const IDLE_PROBE_MS: u64 = 10_000;
/// Who was not proven for longer than this gets no redirects once there are any again: it is probed first.
const PROVEN_MS: u64 = 2_000;
/// Hints lead to a probe at most this often.
const HINT_MS: u64 = 250;
/// Half-life of [`Holder::redirected_bytes_per_s`].
const RATE_HALF_LIFE_S: f64 = 30.0;
/// A host receives redirects if the last one is not longer ago than this.
const ACTIVE_MS: u64 = 10_000;

impl Holders {
    /// Nobody yet.
    pub fn new(board: Arc<Board>, book: Arc<Book>) -> Self {
        let is_needed = AtomicBool::new(false);
        Self { board, book, by_domain: Mutex::default(), refusals: Mutex::default(), is_needed }
    }

    /// A host has granted or renewed a lease; `now_ms` is monotonic, here and below.
    pub fn granted(&self, peer: &PeerRecord, grant: LeaseGrant, now_ms: u64) {
        let mut holders = self.holders();
        let holder = holders.entry(peer.domain.clone()).or_default();
        if holder.replica_name != peer.replica_name {
            holder.replica_name.clone_from(&peer.replica_name);
            holder.is_named = false;
        }
        holder.lease_bytes_per_s = grant.bytes_per_s;
        holder.lease_until_ms = now_ms.saturating_add(u64::from(grant.valid_s) * 1000);
        holder.settle(now_ms);
        self.publish(&peer.domain, holder);
    }

    /// A host has declined an object.
    pub fn declined(&self, domain: &str, reason: Decline) {
        *self.refusals().entry(domain.to_owned()).or_default().declined.entry(reason).or_default() += 1;
    }

    /// A host has withdrawn so many replicas.
    pub fn withdrawn(&self, domain: &str, reason: WithdrawalReason, replicas: usize) {
        *self.refusals().entry(domain.to_owned()).or_default().withdrawn.entry(reason).or_default() += replicas as u64;
    }

    /// What a host did not take or did not keep.
    pub fn refusals_of(&self, domain: &str) -> Refusals {
        self.refusals().get(domain).cloned().unwrap_or_default()
    }

    /// Whether the site redirects, or is so near its target that it soon may; it is said before every answer to a gate. Once it is so,
    /// everybody is probed every second, and whoever has not been for long is left out until then.
    pub fn needed(&self, is_needed: bool, now_ms: u64) {
        if self.is_needed.swap(is_needed, Ordering::Relaxed) || !is_needed {
            return;
        }
        for (domain, holder) in self.holders().iter_mut() {
            let is_proven = holder.proven_ms.is_some_and(|at| now_ms.saturating_sub(at) <= PROVEN_MS);
            if holder.health.weight() > 0 && !is_proven {
                holder.is_doubtful = true;
                self.publish(domain, holder);
            }
        }
    }

    /// There is nothing that a host could be asked for: it has to prove itself once it holds something again.
    pub fn holds_nothing(&self, domain: &str) {
        if let Some(holder) = self.holders().get_mut(domain)
            && matches!(holder.health, Health::Up { .. })
        {
            holder.health = Health::Unproven;
            self.publish(domain, holder);
        }
    }

    /// A host has shown that its replica name is its own.
    pub fn named(&self, domain: &str, replica_name: &str) {
        if let Some(holder) = self.holders().get_mut(domain).filter(|holder| holder.replica_name == replica_name) {
            holder.is_named = true;
            self.publish(domain, holder);
        }
    }

    /// A probe has come to its end.
    pub fn probed(&self, domain: &str, good: bool, now_ms: u64) {
        if let Some(holder) = self.holders().get_mut(domain) {
            holder.is_doubtful = false;
            holder.proven_ms = if good { Some(now_ms) } else { holder.proven_ms };
            let health = holder.health.after(good);
            match (holder.health, health) {
                (Health::Down, Health::Up { .. }) => tracing::warn!(peer = %domain, "host answers again"),
                (Health::Unproven | Health::Up { .. }, Health::Down) => {
                    tracing::warn!(peer = %domain, "host does not answer: no more redirects");
                }
                _ => {}
            }
            holder.health = health;
            self.publish(domain, holder);
        }
    }

    /// Gates have redirected to a host: so many requests, for objects of so many bytes.
    pub fn redirected(&self, domain: &str, requests: u32, bytes: u64, now_ms: u64) {
        if let Some(holder) = self.holders().get_mut(domain) {
            holder.redirects = holder.redirects.saturating_add(u64::from(requests));
            holder.fade(now_ms);
            holder.redirected_bytes_per_s += bytes as f64 * std::f64::consts::LN_2 / RATE_HALF_LIFE_S;
            holder.redirected_ms = Some(now_ms);
            holder.debt.draw(bytes);
            if holder.settle(now_ms) {
                self.publish(domain, holder);
            }
        }
    }

    /// A client came back for an object that this host should have: a hint to look there at once, but at most every 250 ms, since
    /// clients can lie.
    pub fn doubted(&self, domain: &str, suspect: Copy, now_ms: u64) {
        if let Some(holder) = self.holders().get_mut(domain)
            && holder.probed_ms.is_none_or(|at| now_ms.saturating_sub(at) >= HINT_MS)
        {
            holder.probed_ms = None;
            holder.suspect = Some(suspect);
        }
    }

    /// Has every host probed at once whose replica name is found to be in trouble.
    pub fn hurry(&self, is_in_trouble: impl Fn(&str) -> bool) {
        for holder in self.holders().values_mut().filter(|holder| is_in_trouble(&holder.replica_name)) {
            holder.probed_ms = None;
        }
    }

    /// A peer is no longer one.
    pub fn removed(&self, domain: &str) {
        self.refusals().remove(domain);
        if let Some(mut holder) = self.holders().remove(domain) {
            holder.granted_bytes_per_s = 0;
            holder.health = Health::Down;
            self.publish(domain, &holder);
            self.board.forget_holder(domain);
        }
    }

    /// Ends grants that were not renewed, and returns the hosts that are to be probed now, at most so many: the others stay due. Those
    /// that answered last come first, and among them those that have waited longest.
    pub fn due(&self, now_ms: u64, most: usize) -> Vec<Due> {
        let is_needed = self.is_needed.load(Ordering::Relaxed);
        let mut due = Vec::new();
        let mut holders = self.holders();
        for (domain, holder) in holders.iter_mut() {
            if holder.lease_bytes_per_s > 0 && holder.lease_until_ms <= now_ms {
                holder.lease_bytes_per_s = 0;
            }
            // What is published follows, or a host would be thought too slow for what it got long ago.
            holder.fade(now_ms);
            if holder.settle(now_ms) {
                self.publish(domain, holder);
            }
            let is_active = holder.redirected_ms.is_some_and(|at| now_ms.saturating_sub(at) <= ACTIVE_MS);
            let is_steady = holder.health == Health::Up { weight: FULL_WEIGHT };
            let may_be_next = is_needed && holder.lease_bytes_per_s > 0;
            let period = if is_active || !is_steady || may_be_next { PROBE_MS } else { IDLE_PROBE_MS };
            if holder.probed_ms.is_none_or(|at| now_ms.saturating_sub(at) >= period) {
                due.push((holder.health == Health::Down, domain, holder));
            }
        }
        due.sort_by_key(|(is_down, _, holder)| (*is_down, holder.probed_ms));
        due.truncate(most);
        let probe = |(_, domain, holder): (bool, &String, &mut Holder)| {
            holder.probed_ms = Some(now_ms);
            Due {
                domain: domain.clone(),
                is_unnamed: !holder.is_named,
                replica_name: holder.replica_name.clone(),
                suspect: holder.suspect.take(),
            }
        };
        due.into_iter().map(probe).collect()
    }

    /// Whether a peer gets redirects at all, as far as its reputation goes.
    pub fn gets_redirects(&self, domain: &str) -> bool {
        self.book.trust(domain, 0.0).weight > 0.0
    }

    /// Publishes what has come to be thought of every host since it was last published.
    pub fn review(&self) {
        self.holders().iter().for_each(|(domain, holder)| self.publish(domain, holder));
    }

    /// How many peers hold something or could; see [`judge::possible`].
    pub fn possible(&self) -> usize {
        let holders = self.holders();
        let (proven, strangers) = self.book.judge(|reputation, now_ms| {
            let is_other = |domain: &&String| !holders.contains_key(*domain);
            let (all, proven) =
                (reputation.domains().filter(is_other), reputation.proven(now_ms).filter(is_other).count());
            (proven, all.count() - proven)
        });
        judge::possible(holders.len() + proven, strangers)
    }

    /// One of them.
    pub fn get(&self, domain: &str) -> Option<Holder> {
        self.holders().get(domain).cloned()
    }

    /// All of them, by domain.
    pub fn list(&self) -> BTreeMap<String, Holder> {
        self.holders().clone()
    }

    fn publish(&self, domain: &str, holder: &Holder) {
        let lease_bytes_per_s = holder.granted_bytes_per_s;
        let Trust { weight, newcomer } = self.book.trust(domain, holder.redirected_bytes_per_s);
        let health = if holder.is_doubtful || !holder.is_named { 0 } else { holder.health.weight() };
        // Whoever may get redirects at all gets some, or there would be nothing to audit.
        let weight = (f64::from(health) * weight).ceil() as u16;
        let exposure = Exposure { weight, newcomer, lease_bytes_per_s };
        if !self.board.set_peer(domain, &holder.replica_name, exposure) {
            tracing::warn!(peer = %domain, "too many holders, leaving this one out of redirects");
        }
    }

    fn refusals(&self) -> MutexGuard<'_, BTreeMap<String, Refusals>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holders(&self) -> MutexGuard<'_, BTreeMap<String, Holder>> {
        self.by_domain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder {
    fn fade(&mut self, now_ms: u64) {
        let faded_ms = self.faded_ms.replace(now_ms);
        let passed_s = faded_ms.map_or(0.0, |at| now_ms.saturating_sub(at) as f64 / 1000.0);
        self.redirected_bytes_per_s *= (-passed_s / RATE_HALF_LIFE_S).exp2();
    }

    /// Whether what the workers share of the lease has changed.
    fn settle(&mut self, now_ms: u64) -> bool {
        let granted = self.debt.granted(self.lease_bytes_per_s, now_ms);
        std::mem::replace(&mut self.granted_bytes_per_s, granted) != granted
    }
}

#[cfg(test)]
mod tests;
