//! What this host grants each origin, enforced here too: anybody can call a replica's URL.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use p2pcdn_core::decide::Lease;

/// One bucket of bytes per origin.
pub(super) struct Leases {
    bytes_per_s: u64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

struct Bucket {
    lease: Lease,
    at_ms: u64,
}

/// An origin spreads its redirects with knowledge that is a few ticks old, so a host tolerates this much more than it grants.
const TOLERANCE: u64 = 2;

impl Leases {
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.saturating_mul(TOLERANCE), buckets: Mutex::default() }
    }

    /// Whether the origin has anything left. Only origins of held replicas are asked about, so their number is bounded.
    pub(super) fn is_open(&self, origin: &str, now_ms: u64) -> bool {
        self.with(origin, now_ms, |lease| lease.is_open())
    }

    /// Takes what is being sent.
    pub(super) fn draw(&self, origin: &str, bytes: u64, now_ms: u64) {
        self.with(origin, now_ms, |lease| lease.draw(bytes));
    }

    fn with<T>(&self, origin: &str, now_ms: u64, act: impl FnOnce(&mut Lease) -> T) -> T {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full = || Bucket { lease: Lease::full(self.bytes_per_s), at_ms: now_ms };
        let bucket = buckets.entry(origin.to_owned()).or_insert_with(full);
        bucket.lease.refill(self.bytes_per_s, now_ms.saturating_sub(bucket.at_ms));
        bucket.at_ms = now_ms;
        act(&mut bucket.lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_that_has_used_up_its_lease_waits_and_others_do_not() {
        let leases = Leases::new(50);
        leases.draw("a.test", 150, 0);
        assert!(!leases.is_open("a.test", 400));
        assert!(leases.is_open("b.test", 400));
        assert!(leases.is_open("a.test", 600));
    }
}
