//! How much of what is reported counts.

use std::collections::{HashMap, HashSet};

use super::Bounds;

/// Networks whose reports count within the limited time; those of further ones do not.
const MAX_NETWORKS: usize = 16_384;
/// Reports that are remembered so as not to count them twice, in each of two halves of the time; beyond, the older half is forgotten early.
const MAX_SEEN: usize = 32_768;

/// Reports of each network within the limited time.
#[derive(Default)]
pub(super) struct Visits {
    since_ms: u64,
    reports: HashMap<u64, u32>,
}

impl Visits {
    pub(super) fn admits(&mut self, network: u64, bounds: &Bounds, now_ms: u64) -> bool {
        self.expire(bounds.limited_ms, now_ms);
        if self.reports.len() >= MAX_NETWORKS && !self.reports.contains_key(&network) {
            return false;
        }
        let reports = self.reports.entry(network).or_default();
        *reports = reports.saturating_add(1);
        *reports <= bounds.reports_of_a_network
    }

    pub(super) fn expire(&mut self, limited_ms: u64, now_ms: u64) {
        if now_ms.saturating_sub(self.since_ms) >= limited_ms {
            self.reports.clear();
            self.since_ms = now_ms;
        }
    }
}

/// What has counted, and is not to count again.
#[derive(Default)]
pub(in crate::evidence) struct Seen {
    since_ms: u64,
    current: HashSet<u64>,
    former: HashSet<u64>,
}

impl Seen {
    pub(in crate::evidence) fn contains(&mut self, key: u64, memory_ms: u64, now_ms: u64) -> bool {
        self.expire(memory_ms, now_ms);
        self.current.contains(&key) || self.former.contains(&key)
    }

    pub(in crate::evidence) fn expire(&mut self, memory_ms: u64, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.since_ms);
        if elapsed_ms >= memory_ms / 2 || self.current.len() >= MAX_SEEN {
            // After a long silence, what is current is as old.
            self.former = if elapsed_ms >= memory_ms { HashSet::new() } else { std::mem::take(&mut self.current) };
            self.current.clear();
            self.since_ms = now_ms;
        }
    }

    pub(in crate::evidence) fn insert(&mut self, key: u64) {
        self.current.insert(key);
    }
}
