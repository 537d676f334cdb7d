//! What is worth most at a host, and what has to go there for something better: pure, and the same code that
//! `cargo xtask bench policy` replays traces through.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::demand::Heat;

/// By what objects are ranked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// What was asked for last comes first.
    Lru,
    /// What saves most bytes for each byte of room: GreedyDual-Size with Frequency (Cherkasova 1998), aged by the half-life of demand
    /// instead of by what was displaced last, since requests are counted for what a host does not hold, too.
    #[default]
    Gdsf,
}

/// What an object is worth, comparable whenever it was worked out: as long as nobody asks, all fall alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Worth(i64);

/// A redirect costs the site about as many bytes itself.
const REDIRECT_BYTES: f64 = 512.0;
/// Units of [`Worth`] for each doubling.
const PER_DOUBLING: f64 = 1024.0;
/// What displaces something has to be worth this much more, in doublings, or close ranks would change places for ever.
const MARGIN_DOUBLINGS: f64 = 0.5;
/// Objects that one other displaces at most.
const MAX_DISPLACED: usize = 16;

impl Worth {
    /// That of what nobody has asked for.
    pub const NONE: Self = Self(i64::MIN);
}

impl Policy {
    /// What an object of `bytes` is worth; `half_life_ms` is that of the counts.
    pub fn worth(self, heat: &Heat, bytes: u64, half_life_ms: f64) -> Worth {
        match self {
            Self::Lru => Worth(heat.at_ms as i64),
            Self::Gdsf => {
                let bytes = (bytes as f64).max(REDIRECT_BYTES + 1.0);
                let saved = heat.requests * (bytes - REDIRECT_BYTES) / bytes;
                // Decay is linear in the logarithm, so the time of the count takes the place of decaying all the time.
                Worth(((saved.log2() + heat.at_ms as f64 / half_life_ms) * PER_DOUBLING) as i64)
            }
        }
    }

    /// Whether one is worth so much more than another one that moving bytes for it pays.
    fn is_clearly_above(self, one: Worth, other: Worth) -> bool {
        match self {
            Self::Lru => one > other,
            Self::Gdsf => one.0 > other.0.saturating_add((MARGIN_DOUBLINGS * PER_DOUBLING) as i64),
        }
    }
}

/// What one host holds of this site's objects, by worth.
#[derive(Debug, Default)]
pub struct Shelf {
    by_worth: BTreeSet<(Worth, Arc<str>)>,
    bytes: u64,
}

impl Shelf {
    /// Puts an object there.
    pub fn put(&mut self, path: &Arc<str>, worth: Worth, bytes: u64) {
        if self.by_worth.insert((worth, path.clone())) {
            self.bytes += bytes;
        }
    }

    /// Takes an object away, which was put there with the same worth and size.
    pub fn take(&mut self, path: &Arc<str>, worth: Worth, bytes: u64) {
        if self.by_worth.remove(&(worth, path.clone())) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    /// Bytes of what is there.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What has to go so that `lacking` bytes become free for something of this worth: the least first, each clearly worth less than
    /// that; none if that is not enough.
    pub fn displaced_by(
        &self,
        policy: Policy,
        worth: Worth,
        lacking: u64,
        bytes_of: impl Fn(&str) -> u64,
    ) -> Option<Vec<Arc<str>>> {
        let (mut displaced, mut freed) = (Vec::new(), 0);
        for (other, path) in self.by_worth.iter().take(MAX_DISPLACED) {
            if freed >= lacking || !policy.is_clearly_above(worth, *other) {
                break;
            }
            freed += bytes_of(path);
            displaced.push(path.clone());
        }
        (freed >= lacking).then_some(displaced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HALF_LIFE_MS: f64 = 60_000.0;

    fn heat(requests: f64, at_ms: u64) -> Heat {
        Heat { requests, bytes: 0.0, at_ms }
    }

    fn worth(policy: Policy, requests: f64, at_ms: u64) -> Worth {
        policy.worth(&heat(requests, at_ms), 100_000, HALF_LIFE_MS)
    }

    #[test]
    fn frequency_outlasts_a_scan_and_recency_does_not() {
        let (often, once) = ((50.0, 0), (1.0, 120_000));
        for (policy, keeps) in [(Policy::Gdsf, true), (Policy::Lru, false)] {
            let (often, once) = (worth(policy, often.0, often.1), worth(policy, once.0, once.1));
            assert_eq!(often > once, keeps, "{policy:?}");
            assert!(once > Worth::NONE);
        }
        assert!(worth(Policy::Gdsf, 50.0, 0) < worth(Policy::Gdsf, 1.0, 600_000), "what is long past is worth little");
    }

    #[test]
    fn bytes_that_a_redirect_does_not_save_count_for_nothing() {
        let of = |bytes| Policy::Gdsf.worth(&heat(8.0, 0), bytes, HALF_LIFE_MS);
        assert!(of(1000) < of(8_000));
        assert!(of(8_000) < of(1 << 30));
        assert!(of(0) > Worth::NONE);
    }

    #[test]
    fn only_what_is_clearly_better_displaces_and_only_as_much_as_it_needs() {
        let (policy, mut shelf) = (Policy::Gdsf, Shelf::default());
        let paths: Vec<Arc<str>> = ["/a", "/b", "/c"].map(Arc::from).into();
        for (path, requests) in paths.iter().zip([1.0, 2.0, 100.0]) {
            shelf.put(path, worth(policy, requests, 0), 10);
        }
        let displaced = |requests, lacking| shelf.displaced_by(policy, worth(policy, requests, 0), lacking, |_| 10);
        assert_eq!(displaced(1.1, 10), None, "hardly better");
        assert_eq!(displaced(10.0, 10), Some(vec![paths[0].clone()]));
        assert_eq!(displaced(10.0, 11), Some(paths[..2].to_vec()));
        assert_eq!(displaced(10.0, 21), None, "what is hotter stays");
        assert_eq!(displaced(10.0, 0), Some(vec![]));
        shelf.take(&paths[0], worth(policy, 1.0, 0), 10);
        assert_eq!(shelf.bytes(), 20);
    }

    proptest! {
        #[test]
        fn ranks_do_not_depend_on_when_they_are_worked_out(
            a in 0.01..1e6f64, b in 0.01..1e6f64, at_ms in 0..10_000_000u64, later_ms in 0..600_000u64,
        ) {
            let now_ms = at_ms + later_ms;
            let decayed = heat(a, at_ms).at(now_ms, HALF_LIFE_MS).requests;
            prop_assume!((decayed / b).log2().abs() > 0.01);
            prop_assert_eq!(worth(Policy::Gdsf, a, at_ms) > worth(Policy::Gdsf, b, now_ms), decayed > b);
        }
    }
}
