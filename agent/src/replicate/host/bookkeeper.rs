//! Keeps the ledger and the leases up to date with what was counted elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::terms::Terms;
use crate::clock::{monotonic_ms, now_s};
use crate::identity::Membership;
use crate::load::LoadMeter;
use crate::serve::leases::Leases;
use crate::telemetry::Metrics;

/// Carries counts to where they matter.
pub struct Bookkeeper {
    /// Where the ledger is.
    pub terms: Arc<Terms>,
    /// What origins are granted, and what was sent for each.
    pub leases: Arc<Leases>,
    /// What this site's own visitors take.
    pub load: Arc<Mutex<LoadMeter>>,
    /// Whose accounts are kept.
    pub membership: Arc<Membership>,
    /// What was redirected to each peer.
    pub metrics: Arc<Metrics>,
}

/// Own visitors are felt by others within this time.
const PERIOD: Duration = Duration::from_secs(1);
/// The ledger is written down so often; a crash forgets less than this.
const SAVE_MS: u64 = 60_000;

impl Bookkeeper {
    /// Goes on until cancelled, and then writes the ledger down.
    pub async fn run(self, cancel: CancellationToken) {
        let mut redirected = HashMap::new();
        let mut saved_ms = monotonic_ms();
        let mut tick = tokio::time::interval(PERIOD);
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = tick.tick() => {}
            }
            let now_ms = monotonic_ms();
            let own = self.load.lock().unwrap_or_else(PoisonError::into_inner).status(now_ms).sent_bytes_per_s;
            self.leases.observe(own, now_ms);
            self.count(&mut redirected);
            if now_ms.saturating_sub(saved_ms) >= SAVE_MS {
                saved_ms = now_ms;
                self.save();
            }
        }
        self.count(&mut redirected);
        self.save();
    }

    /// `redirected` is what was counted before, by peer.
    fn count(&self, redirected: &mut HashMap<String, u64>) {
        for (origin, bytes) in self.leases.take_sent() {
            self.metrics.served_for(&origin, bytes);
            self.terms.ledger.note(&origin, bytes, 0);
        }
        for peer in self.membership.peers() {
            let domain = &peer.record.domain;
            let total = self.metrics.redirected_bytes_to(domain);
            let before = redirected.insert(domain.clone(), total).unwrap_or(0);
            self.terms.ledger.note(domain, 0, total.saturating_sub(before));
        }
    }

    fn save(&self) {
        let is_peer = |domain: &str| self.membership.by_domain(domain).is_some();
        if let Err(error) = self.terms.ledger.save(now_s(), monotonic_ms(), is_peer) {
            tracing::error!(%error, "writing the ledger down");
        }
    }
}
