//! How much is taken from each network, whatever the others send.

/// Counts by network in windows of time.
///
/// Takes 32 KiB however many networks there are: those whose keyed hashes fall on one place share it, so whoever sends too much takes
/// from one in 16,384 others, and nobody can choose from whom.
pub(super) struct Meter {
    counts: Vec<u16>,
    most: u16,
    window_ms: u64,
    since_ms: u64,
}

const PLACES: usize = 16_384;

impl Meter {
    /// At most so many for each network in each window.
    pub(super) fn new(most: u16, window_ms: u64) -> Self {
        Self { counts: vec![0; PLACES], most, window_ms, since_ms: 0 }
    }

    /// Counts one more; false if that is too many. `network` is a keyed hash, so it is uniform.
    pub(super) fn admits(&mut self, network: u64, now_ms: u64) -> bool {
        if now_ms.saturating_sub(self.since_ms) >= self.window_ms {
            self.counts.fill(0);
            self.since_ms = now_ms;
        }
        let Some(count) = self.counts.get_mut(network as usize % PLACES) else { return false };
        let is_admitted = *count < self.most;
        *count = count.saturating_add(1);
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_a_share_of_its_own_that_comes_back() {
        let mut meter = Meter::new(2, 1000);
        let mut admitted = |network, now_ms| meter.admits(network, now_ms);
        let mut turns = |now_ms| [1, 1, 1, 2, 1].map(|network| admitted(network, now_ms));
        assert_eq!(turns(0), [true, true, false, true, false]);
        assert!(!turns(999)[0]);
        assert_eq!(turns(1000), [true, true, false, true, false]);
    }
}
