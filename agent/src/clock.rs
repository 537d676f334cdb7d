//! The time, for those who do I/O anyway; pure code takes it as an argument.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static STEADY: Mutex<Option<SteadyClock>> = Mutex::new(None);

/// Seconds since the Unix epoch.
pub fn now_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Milliseconds since the first call; never goes back, whatever the clock does.
pub fn monotonic_ms() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since the Unix epoch as the clock was when this was first asked, and as time has passed since: what was done to the
/// clock meanwhile makes nobody trusted or distrusted.
pub fn judging_now_ms() -> u64 {
    static FIRST: LazyLock<(u64, u64)> = LazyLock::new(|| {
        let wall = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis());
        (u64::try_from(wall).unwrap_or(u64::MAX), monotonic_ms())
    });
    let (wall_ms, at_ms) = *FIRST;
    wall_ms.saturating_add(monotonic_ms().saturating_sub(at_ms))
}

/// Seconds since the Unix epoch, for deciding whether what somebody else signed has expired: a clock that jumps is not believed
/// at once, see [`SteadyClock`].
pub fn expiry_now_s() -> u64 {
    let (wall_s, at_ms) = (now_s(), monotonic_ms());
    let mut steady = STEADY.lock().unwrap_or_else(PoisonError::into_inner);
    steady.get_or_insert_with(|| SteadyClock::new(wall_s, at_ms)).now_s(wall_s, at_ms)
}

/// Has [`expiry_now_s`] go on from `believed_s`, the last time that was believed before this start, where the machine's clock is more than a
/// day away from that; whether it is.
pub fn doubt_from_the_start(believed_s: u64) -> bool {
    let clock = SteadyClock::after_rest(believed_s, now_s(), monotonic_ms());
    let is_doubted = clock.doubted_ms.is_some();
    *STEADY.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock);
    is_doubted
}

/// A wall clock that goes on as it went when the machine's is set to another time, until that has lasted for an hour.
///
/// So a jump by hours that is soon undone neither has everything expire, which would delete it, nor keeps what has expired.
#[derive(Debug, Clone, Copy)]
pub struct SteadyClock {
    wall_s: u64,
    at_ms: u64,
    doubted_ms: Option<u64>,
}

/// Clocks are put right by less than this all the time.
const SLACK_S: u64 = 300;
/// Who was at rest for longer has to wait for an hour, too, until it is believed that so much time has passed.
const REST_S: u64 = 24 * 3600;
/// A jump that has lasted for so long is believed.
const BELIEVED_MS: u64 = 3_600_000;

impl SteadyClock {
    /// A clock that shows `wall_s` seconds since the Unix epoch at `at_ms` of the monotonic clock.
    pub fn new(wall_s: u64, at_ms: u64) -> Self {
        Self { wall_s, at_ms, doubted_ms: None }
    }

    /// The clock of who last believed in `believed_s`.
    pub fn after_rest(believed_s: u64, wall_s: u64, at_ms: u64) -> Self {
        if wall_s.abs_diff(believed_s) <= REST_S {
            return Self::new(wall_s, at_ms);
        }
        Self { wall_s: believed_s, at_ms, doubted_ms: Some(at_ms) }
    }

    /// What it shows at `at_ms`, when the machine's clock shows `wall_s`.
    pub fn now_s(&mut self, wall_s: u64, at_ms: u64) -> u64 {
        let expected_s = self.wall_s.saturating_add(at_ms.saturating_sub(self.at_ms) / 1000);
        if wall_s.abs_diff(expected_s) > SLACK_S {
            let since_ms = *self.doubted_ms.get_or_insert(at_ms);
            if at_ms.saturating_sub(since_ms) < BELIEVED_MS {
                return expected_s;
            }
        }
        *self = Self::new(wall_s, at_ms);
        wall_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3600;
    const NOW: u64 = 1_800_000_000;

    /// What is shown after each step, given in (seconds that really pass, what is added to the machine's clock).
    fn shown<const N: usize>(steps: [(u64, i64); N]) -> [i64; N] {
        let mut clock = SteadyClock::new(NOW, 0);
        let (mut elapsed, mut offset) = (0, 0);
        steps.map(|(seconds, jump)| {
            elapsed += seconds;
            offset += jump;
            let wall = (NOW + elapsed).checked_add_signed(offset).unwrap();
            clock.now_s(wall, elapsed * 1000) as i64 - (NOW + elapsed) as i64
        })
    }

    #[test]
    fn small_corrections_are_followed() {
        assert_eq!(shown([(10, 0), (10, 200), (10, 200), (10, -300)]), [0, 200, 400, 100]);
    }

    #[test]
    fn a_jump_that_is_soon_undone_is_never_seen() {
        let far = 30 * 24 * HOUR as i64;
        assert_eq!(shown([(10, far), (HOUR / 2, 0), (10, -far), (HOUR, 0)]), [0; 4]);
        assert_eq!(shown([(10, -far), (HOUR / 2, 0), (10, far), (HOUR, 0)]), [0; 4]);
    }

    #[test]
    fn a_jump_that_lasts_is_believed_after_an_hour() {
        for jump in [5 * HOUR as i64, -5 * HOUR as i64, 1_000_000_000, -1_000_000_000] {
            assert_eq!(shown([(10, jump), (HOUR - 1, 0), (1, 0), (10, 0)]), [0, 0, jump, jump]);
        }
    }

    #[test]
    fn a_clock_that_is_far_off_from_the_start_is_believed_after_an_hour() {
        for wrong in [NOW + 40 * 24 * HOUR, NOW - 40 * 24 * HOUR, 0] {
            let mut clock = SteadyClock::after_rest(NOW, wrong, 5000);
            assert_eq!(clock.now_s(wrong + 10, 15_000), NOW + 10);
            assert_eq!(clock.now_s(wrong + HOUR, 5000 + HOUR * 1000), wrong + HOUR);
        }
        let mut rested = SteadyClock::after_rest(NOW, NOW + 20 * HOUR, 0);
        assert_eq!(rested.now_s(NOW + 20 * HOUR + 1, 1000), NOW + 20 * HOUR + 1);
        // Put right in time, nothing has happened.
        let mut mended = SteadyClock::after_rest(NOW, NOW + 40 * 24 * HOUR, 0);
        assert_eq!(mended.now_s(NOW + 60, 60_000), NOW + 60);
        assert_eq!(mended.now_s(NOW + 2 * HOUR, 2 * HOUR * 1000), NOW + 2 * HOUR);
    }

    proptest! {
        #[test]
        fn nothing_holds_for_ever_and_an_hour_of_a_right_clock_is_enough(
            jumps in prop::collection::vec((1..7200u64, -100_000_000..100_000_000i64), 0..20),
        ) {
            let mut clock = SteadyClock::new(NOW, 0);
            let mut elapsed = 0;
            for (seconds, offset) in jumps {
                elapsed += seconds;
                clock.now_s((NOW + elapsed).checked_add_signed(offset).unwrap(), elapsed * 1000);
            }
            clock.now_s(NOW + elapsed, elapsed * 1000);
            elapsed += HOUR;
            prop_assert_eq!(clock.now_s(NOW + elapsed, elapsed * 1000), NOW + elapsed);
        }
    }
}
