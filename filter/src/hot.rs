//! The objects asked for most, in bounded space (space-saving, Metwally and others 2005).

use p2pcdn_core::sync::MAX_HOT;

/// Counts the keys seen most often; keeps at most [`MAX_HOT`].
#[derive(Debug, Default)]
pub struct Hot {
    seen: Vec<Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    key: u64,
    count: u32,
    /// What the count took over from the key it displaced.
    inherited: u32,
}

impl Hot {
    /// Counts `n` requests for `key`; when full, it takes the place of the key with the lowest count.
    pub fn count(&mut self, key: u64, n: u32) {
        if let Some(seen) = self.seen.iter_mut().find(|seen| seen.key == key) {
            seen.count = seen.count.saturating_add(n);
        } else if self.seen.len() < MAX_HOT {
            self.seen.push(Seen { key, count: n, inherited: 0 });
        } else if let Some(lowest) = self.seen.iter_mut().min_by_key(|seen| seen.count) {
            *lowest = Seen { key, count: lowest.count.saturating_add(n), inherited: lowest.count };
        }
    }

    /// Each key with the number of requests that it certainly had.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u32)> {
        self.seen.iter().map(|seen| (seen.key, seen.count.saturating_sub(seen.inherited)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_hot_object_is_found_among_many_cold_ones() {
        let mut hot = Hot::default();
        for cold in 0..10_000 {
            hot.count(1_000_000 + cold, 1);
            if cold % 4 == 0 {
                hot.count(7, 1);
            }
        }
        let (key, count) = hot.counts().max_by_key(|(_, count)| *count).unwrap();
        assert_eq!(key, 7);
        assert!((2000..=2500).contains(&count), "{count}");
    }

    proptest! {
        #[test]
        fn space_is_bounded_and_nothing_is_overstated(keys in prop::collection::vec(0..200u64, 0..2000)) {
            let (mut hot, mut exact) = (Hot::default(), HashMap::<u64, u32>::new());
            for key in keys {
                hot.count(key, 1);
                *exact.entry(key).or_default() += 1;
            }
            prop_assert!(hot.counts().count() <= MAX_HOT);
            for (key, count) in hot.counts() {
                prop_assert!(count <= exact[&key]);
            }
        }
    }
}
