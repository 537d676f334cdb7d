//! Whether the other side is worth waiting for: judged by what it has moved lately, not over the whole object. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// Parts of the window; what is older than a part is forgotten with it.
const PARTS: u32 = 10;

/// What one side has sent or taken in the last window of waiting for it.
///
/// Time that this side takes, to read, to write or to keep its own limits, is not the other's fault and not counted.
#[derive(Debug)]
pub(super) struct Progress {
    window: Duration,
    least_bytes_per_s: u64,
    parts: VecDeque<(Duration, u64)>,
}

impl Progress {
    /// Judged by so much waiting; less than `least_bytes_per_s` over it is too slow.
    pub(super) fn new(window: Duration, least_bytes_per_s: u64) -> Self {
        Self { window, least_bytes_per_s, parts: VecDeque::new() }
    }

    /// Notes that `bytes` moved after another `waited`; `false` once that is too slow.
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
        time < self.window || sum as f64 >= self.least_bytes_per_s as f64 * time.as_secs_f64()
    }

    fn time(&self) -> Duration {
        self.parts.iter().map(|(time, _)| *time).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEAST_BYTES_PER_S: u64 = 16 * 1024;

    fn progress() -> Progress {
        Progress::new(Duration::from_secs(10), LEAST_BYTES_PER_S)
    }

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
            let mut progress = progress();
            assert!(progress.goes_on(began_with, Duration::from_millis(900)));
            let ended = patience(&mut progress, 1, Duration::from_secs(1), 60).unwrap();
            assert!((9.0..=12.0).contains(&ended), "{ended}");
        }
    }

    #[test]
    fn what_is_fast_enough_goes_on_for_ever_in_bounded_memory() {
        let mut progress = progress();
        assert_eq!(patience(&mut progress, 17 << 10, Duration::from_secs(1), 3600), None);
        assert_eq!(patience(&mut progress, 64 << 10, Duration::from_micros(10), 1), None);
        assert!(progress.parts.len() <= PARTS as usize + 2, "{}", progress.parts.len());
    }

    proptest! {
        #[test]
        fn whoever_keeps_the_floor_is_kept(steps in proptest::collection::vec(1..4000u64, 1..200)) {
            let mut progress = progress();
            for ms in steps {
                let bytes = (LEAST_BYTES_PER_S * ms).div_ceil(1000);
                prop_assert!(progress.goes_on(bytes, Duration::from_millis(ms)));
            }
        }
    }
}
