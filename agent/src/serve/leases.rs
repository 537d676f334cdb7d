//! What this host grants each origin: shares of what its own visitors leave over. Enforced here too, since anybody can call a
//! replica's URL.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pcdn_core::decide::Lease;

use crate::replicate::host::terms::Terms;

/// Shares of the bandwidth, and one bucket of bytes per origin and one for all.
pub struct Leases {
    /// The terms under which they are granted.
    pub(super) terms: Arc<Terms>,
    recovery_ms: f64,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Bytes per second for all origins together.
    available: u64,
    adjusted_ms: u64,
    all: Bucket,
    tenants: HashMap<String, Tenant>,
}

/// An origin that holds a lease.
struct Tenant {
    until_ms: u64,
    visited_ms: Option<u64>,
    share: u64,
    bucket: Bucket,
    sent: u64,
}

struct Bucket {
    lease: Lease,
    at_ms: u64,
}

/// What one answer may send: a part of it is drawn in advance, so that answers which begin at the same time know of each other. What of
/// that is not sent is given back when this is dropped.
pub struct Draw {
    leases: Arc<Leases>,
    origin: String,
    ahead: u64,
}

/// Seconds for which a lease holds: three renewals.
pub const LEASE_VALID_S: u32 = 30;
/// An origin spreads its redirects with knowledge that is a few ticks old, so a host tolerates this much more than it grants.
const TOLERANCE: u64 = 2;
/// An origin whose visitors came within this time is busy.
const BUSY_MS: u64 = 60_000;
/// What is scarce is shared out so that a busy origin gets this many times as much as an idle one.
const BUSY_WEIGHT: u64 = 8;
/// What own visitors took comes back to the origins in steps that add up to everything in this time, so that it does not swing.
const RECOVERY_MS: f64 = 60_000.0;

impl Leases {
    /// Nobody holds a lease yet. `time_scale` is a factor on the recovery after a load of the host's own.
    pub fn new(terms: Arc<Terms>, time_scale: f64, now_ms: u64) -> Self {
        let available = terms.host.lease_total_bytes_per_s;
        let inner =
            Inner { available, adjusted_ms: now_ms, all: Bucket::full(available, now_ms), tenants: HashMap::new() };
        Self { terms, recovery_ms: RECOVERY_MS * time_scale, inner: Mutex::new(inner) }
    }

    /// Grants or renews an origin's lease, for [`LEASE_VALID_S`]; in bytes per second.
    pub fn grant(&self, origin: &str, now_ms: u64) -> u64 {
        let mut inner = self.inner();
        if !self.terms.grants(origin) {
            return 0;
        }
        inner.tenant(origin, now_ms).until_ms = now_ms + u64::from(LEASE_VALID_S) * 1000;
        inner.share_out(&self.terms, now_ms);
        inner.tenants.get(origin).map_or(0, |tenant| tenant.share)
    }

    /// Takes in what this site's own visitors take, in bytes per second, if that is known: what they need is theirs at once, and
    /// what they no longer need is given out again little by little.
    pub fn observe(&self, own_visitors: Option<f64>, now_ms: u64) {
        let mut inner = self.inner();
        let host = &self.terms.host;
        let most = host.lease_total_bytes_per_s;
        let elapsed_ms = now_ms.saturating_sub(inner.adjusted_ms);
        inner.adjusted_ms = now_ms;
        if let Some((uplink, own)) = host.uplink_bytes_per_s.zip(own_visitors) {
            let left = uplink.saturating_sub(own as u64).min(most);
            inner.available = towards(inner.available, left, most, elapsed_ms as f64 / self.recovery_ms);
        }
        inner.share_out(&self.terms, now_ms);
    }

    /// Begins to send up to `bytes`, if the origin has anything left. They are drawn at once, as far as they are no more than one second's
    /// share; the rest as it is sent. Only origins of held replicas are asked about, so their number is bounded.
    pub fn begin(self: &Arc<Self>, origin: &str, bytes: u64, now_ms: u64) -> Option<Draw> {
        let mut inner = self.inner();
        if !self.is_open(&mut inner, origin, now_ms) {
            return None;
        }
        let ahead = bytes.min(inner.tenant(origin, now_ms).share);
        inner.draw(origin, ahead, now_ms);
        Some(Draw { leases: self.clone(), origin: origin.to_owned(), ahead })
    }

    fn is_open(&self, inner: &mut Inner, origin: &str, now_ms: u64) -> bool {
        let available = inner.available;
        if !inner.tenants.contains_key(origin) {
            // After a restart visitors may come before their origin renews its lease.
            inner.tenant(origin, now_ms);
            inner.share_out(&self.terms, now_ms);
        }
        let all_open = inner.all.refilled(available, now_ms).is_open();
        let tenant = inner.tenant(origin, now_ms);
        tenant.visited_ms = Some(now_ms);
        tenant.bucket.refilled(tenant.share, now_ms).is_open() && all_open
    }

    /// Bytes sent for each origin since the last call.
    pub fn take_sent(&self) -> Vec<(String, u64)> {
        let mut inner = self.inner();
        let sent = inner.tenants.iter_mut().map(|(origin, tenant)| (origin.clone(), std::mem::take(&mut tenant.sent)));
        sent.filter(|(_, bytes)| *bytes > 0).collect()
    }

    /// Bytes per second for all origins together, now.
    pub fn available(&self) -> u64 {
        self.inner().available
    }

    /// Bytes per second granted to an origin that holds a lease now.
    pub fn share_of(&self, origin: &str) -> u64 {
        if self.terms.grants(origin) { self.inner().tenants.get(origin).map_or(0, |tenant| tenant.share) } else { 0 }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tenant(&mut self, origin: &str, now_ms: u64) -> &mut Tenant {
        let available = self.available;
        self.tenants.entry(origin.to_owned()).or_insert_with(|| Tenant {
            until_ms: now_ms + u64::from(LEASE_VALID_S) * 1000,
            visited_ms: None,
            share: 0,
            bucket: Bucket::full(available, now_ms),
            sent: 0,
        })
    }

    fn draw(&mut self, origin: &str, bytes: u64, now_ms: u64) {
        let available = self.available;
        self.all.refilled(available, now_ms).draw(bytes);
        let tenant = self.tenant(origin, now_ms);
        tenant.bucket.refilled(tenant.share, now_ms).draw(bytes);
    }

    fn share_out(&mut self, terms: &Terms, now_ms: u64) {
        self.tenants.retain(|_, tenant| tenant.until_ms > now_ms || tenant.is_busy(now_ms) || tenant.sent > 0);
        let mut tenants: Vec<(&String, &mut Tenant)> = self.tenants.iter_mut().collect();
        // Equal in every run, whatever the order of the map.
        tenants.sort_unstable_by_key(|(origin, _)| *origin);
        let claim = |(origin, tenant): &(&String, &mut Tenant)| Claim {
            most: if terms.deny.covers_origin(origin) { 0 } else { terms.host.lease_of(origin) },
            weight: if tenant.is_busy(now_ms) { BUSY_WEIGHT } else { 1 },
        };
        let claims: Vec<Claim> = tenants.iter().map(claim).collect();
        for ((_, tenant), share) in tenants.into_iter().zip(shares(self.available, &claims)) {
            tenant.share = share;
        }
    }
}

impl Draw {
    /// Counts what is being sent.
    pub fn send(&mut self, bytes: u64, now_ms: u64) {
        let from_ahead = self.ahead.min(bytes);
        self.ahead -= from_ahead;
        let mut inner = self.leases.inner();
        let tenant = inner.tenant(&self.origin, now_ms);
        tenant.sent = tenant.sent.saturating_add(bytes);
        inner.draw(&self.origin, bytes - from_ahead, now_ms);
    }
}

impl Drop for Draw {
    fn drop(&mut self) {
        if self.ahead > 0 {
            let mut inner = self.leases.inner();
            inner.all.lease.give_back(self.ahead);
            if let Some(tenant) = inner.tenants.get_mut(&self.origin) {
                tenant.bucket.lease.give_back(self.ahead);
            }
        }
    }
}

impl Tenant {
    fn is_busy(&self, now_ms: u64) -> bool {
        self.visited_ms.is_some_and(|at| now_ms.saturating_sub(at) <= BUSY_MS)
    }
}

impl Bucket {
    fn full(rate: u64, now_ms: u64) -> Self {
        Self { lease: Lease::full(rate.saturating_mul(TOLERANCE)), at_ms: now_ms }
    }

    fn refilled(&mut self, rate: u64, now_ms: u64) -> &mut Lease {
        self.lease.refill(rate.saturating_mul(TOLERANCE), now_ms.saturating_sub(self.at_ms));
        self.at_ms = now_ms;
        &mut self.lease
    }
}

/// What an origin may have at most, and how much it counts where there is not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claim {
    most: u64,
    weight: u64,
}

/// Shares out what is available by weight; what one does not need is for the others (max-min fairness).
fn shares(available: u64, claims: &[Claim]) -> Vec<u64> {
    let mut order: Vec<usize> = (0..claims.len()).collect();
    // Whoever needs least for its weight first: it is satisfied, and the rest is shared by those that are not.
    order.sort_by(|a, b| {
        let of = |at: usize| (u128::from(claims[at].most), u128::from(claims[at].weight.max(1)));
        let ((a, a_weight), (b, b_weight)) = (of(*a), of(*b));
        (a * b_weight).cmp(&(b * a_weight))
    });
    let mut shares = vec![0; claims.len()];
    let mut left = u128::from(available);
    let mut weights: u128 = claims.iter().map(|claim| u128::from(claim.weight.max(1))).sum();
    for at in order {
        let weight = u128::from(claims[at].weight.max(1));
        let share = (left * weight / weights).min(claims[at].most.into());
        shares[at] = u64::try_from(share).unwrap_or(u64::MAX);
        left -= share;
        weights -= weight;
    }
    shares
}

/// Down at once, up by at most the `elapsed` part of the recovery.
fn towards(current: u64, target: u64, most: u64, elapsed: f64) -> u64 {
    let step = (most as f64 * elapsed.clamp(0.0, 1.0)) as u64;
    if target <= current { target } else { current.saturating_add(step).min(target) }
}

#[cfg(test)]
mod tests;
