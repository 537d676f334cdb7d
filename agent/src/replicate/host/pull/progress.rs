//! Whether a source is worth waiting for: judged by what it has sent lately, not over the whole object.

use std::collections::VecDeque;
use std::time::Duration;

/// How long a source is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the head of an answer, connecting included.
    pub(super) head: Duration,
    /// For the next bytes.
    pub(super) silence: Duration,
    /// A source is judged by so much waiting for it.
    pub(super) window: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self { head: s(8), silence: s(5), window: s(10) }
    }
}

/// Slower than this over the window, it is given up.
const SLOWEST_BYTES_PER_S: u64 = 16 * 1024;
/// Parts of the window; what is older than a part is forgotten with it.
const PARTS: u32 = 10;

/// What one source has sent in the last [`Patience::window`] of waiting for it.
///
/// Time that this side takes, to write or to keep its own limits, is not the source's fault and not counted.
#[derive(Debug)]
pub(super) struct Progress {
    window: Duration,
    parts: VecDeque<(Duration, u64)>,
}

impl Progress {
    pub(super) fn new(patience: &Patience) -> Self {
        Self { window: patience.window, parts: VecDeque::new() }
    }

    /// Notes that `bytes` came after another `waited`; `false` once the source is too slow.
    pub(super) fn goes_on(&mut self, bytes: u64, waited: Duration) -> bool {
        match self.parts.back_mut() {
            Some((time, sum)) if *time < self.window / PARTS => {
                *time += waited;
                *sum += bytes;
            }
            _ => self.parts.push_back((waited, bytes)),
        }
        while self.time() - self.parts.front().map_or(Duration::ZERO, |(time, _)| *time) >= self.window {
            self.parts.pop_front();
        }
        let (time, sum) = (self.time(), self.parts.iter().map(|(_, bytes)| bytes).sum::<u64>());
        time < self.window || sum as f64 >= SLOWEST_BYTES_PER_S as f64 * time.as_secs_f64()
    }

    fn time(&self) -> Duration {
        self.parts.iter().map(|(time, _)| *time).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Seconds of waiting after which a source is given up that sends `bytes` every `pause`.
    fn patience(progress: &mut Progress, bytes: u64, pause: Duration, limit: u32) -> Option<f64> {
        let mut waited = Duration::ZERO;
        while waited < Duration::from_secs(u64::from(limit)) {
            waited += pause;
            if !progress.goes_on(bytes, pause) {
                return Some(waited.as_secs_f64());
            }
        }
        None
    }

    #[test]
    fn a_trickle_ends_after_one_window_however_well_the_source_began() {
        for began_with in [0, 100 << 20] {
            let mut progress = Progress::new(&Patience::default());
            assert!(progress.goes_on(began_with, Duration::from_millis(900)));
            let ended = patience(&mut progress, 1, Duration::from_secs(1), 60).unwrap();
            assert!((9.0..=12.0).contains(&ended), "{ended}");
        }
    }

    #[test]
    fn what_is_fast_enough_goes_on_for_ever_in_bounded_memory() {
        let mut progress = Progress::new(&Patience::default());
        assert_eq!(patience(&mut progress, 17 << 10, Duration::from_secs(1), 3600), None);
        assert_eq!(patience(&mut progress, 64 << 10, Duration::from_micros(10), 1), None);
        assert!(progress.parts.len() <= PARTS as usize + 2, "{}", progress.parts.len());
    }

    proptest! {
        #[test]
        fn whoever_keeps_the_floor_is_kept(steps in proptest::collection::vec(1..4000u64, 1..200)) {
            let mut progress = Progress::new(&Patience::default());
            for ms in steps {
                let bytes = (SLOWEST_BYTES_PER_S * ms).div_ceil(1000);
                prop_assert!(progress.goes_on(bytes, Duration::from_millis(ms)));
            }
        }
    }
}
