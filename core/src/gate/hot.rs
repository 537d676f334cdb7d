//! What is asked for most, in bounded space.

/// SpaceSaving (Metwally and others 2005) over at most `N` keys: a key that is asked for more often than one in `N` times is never
/// missed, and counts are overstated by at most what the displaced key had.
#[derive(Debug)]
pub struct Hot<L, const N: usize> {
    seen: Vec<Seen<L>>,
}

#[derive(Debug)]
struct Seen<L> {
    key: u64,
    label: L,
    count: u32,
    inherited: u32,
}

impl<L, const N: usize> Default for Hot<L, N> {
    fn default() -> Self {
        Self { seen: Vec::new() }
    }
}

impl<L, const N: usize> Hot<L, N> {
    /// Counts `n` requests for a key; `label` is called if the key was not there.
    pub fn count(&mut self, key: u64, n: u32, label: impl FnOnce() -> L) {
        if let Some(seen) = self.seen.iter_mut().find(|seen| seen.key == key) {
            seen.count = seen.count.saturating_add(n);
        } else if self.seen.len() < N {
            self.seen.push(Seen { key, label: label(), count: n, inherited: 0 });
        } else if let Some(lowest) = self.seen.iter_mut().min_by_key(|seen| seen.count) {
            let inherited = lowest.count;
            *lowest = Seen { key, label: label(), count: inherited.saturating_add(n), inherited };
        }
    }

    /// Each key with its label and the number of requests that it certainly had.
    pub fn counts(&self) -> impl Iterator<Item = (u64, &L, u32)> {
        self.seen.iter().map(|seen| (seen.key, &seen.label, seen.count.saturating_sub(seen.inherited)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_hot_object_is_found_among_many_cold_ones() {
        let mut hot = Hot::<u64, 64>::default();
        for cold in 0..10_000 {
            hot.count(1_000_000 + cold, 1, || cold);
            if cold % 4 == 0 {
                hot.count(7, 1, || 7);
            }
        }
        let (key, label, count) = hot.counts().max_by_key(|(_, _, count)| *count).unwrap();
        assert_eq!((key, *label), (7, 7));
        assert!((2000..=2500).contains(&count), "{count}");
    }

    proptest! {
        #[test]
        fn space_is_bounded_and_nothing_is_overstated(keys in prop::collection::vec(0..200u64, 0..2000)) {
            let (mut hot, mut exact) = (Hot::<(), 32>::default(), HashMap::<u64, u32>::new());
            for key in keys {
                hot.count(key, 1, || ());
                *exact.entry(key).or_default() += 1;
            }
            prop_assert!(hot.counts().count() <= 32);
            for (key, (), count) in hot.counts() {
                prop_assert!(count <= exact[&key]);
            }
        }
    }
}
