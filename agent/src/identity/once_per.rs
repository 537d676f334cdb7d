//! Lines in the log that strangers can cause, at most one per cause and minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets the first event of each cause in a minute through and counts the rest.
#[derive(Default)]
pub struct OncePerMinute(Mutex<HashMap<&'static str, Recent>>);

struct Recent {
    since: Instant,
    suppressed: u64,
}

const PERIOD: Duration = Duration::from_secs(60);

impl OncePerMinute {
    /// `Some(events kept back since the last line)` if this one is to be logged.
    ///
    /// Causes are fixed words of the program, so their number is bounded.
    pub fn due(&self, cause: &'static str) -> Option<u64> {
        self.due_at(cause, Instant::now())
    }

    fn due_at(&self, cause: &'static str, now: Instant) -> Option<u64> {
        let mut causes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match causes.get_mut(cause) {
            Some(recent) if now.saturating_duration_since(recent.since) < PERIOD => {
                recent.suppressed = recent.suppressed.saturating_add(1);
                None
            }
            known => {
                let suppressed = known.map_or(0, |recent| recent.suppressed);
                causes.insert(cause, Recent { since: now, suppressed: 0 });
                Some(suppressed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_cause_and_minute_tells_how_many_were_kept_back() {
        let once = OncePerMinute::default();
        let start = Instant::now();
        assert_eq!(once.due_at("a", start), Some(0));
        assert_eq!(once.due_at("a", start + PERIOD / 2), None);
        assert_eq!(once.due_at("b", start + PERIOD / 2), Some(0));
        assert_eq!(once.due_at("a", start + PERIOD), Some(1));
        assert_eq!(once.due_at("a", start + PERIOD * 2), Some(0));
    }
}
