//! The time, for those who do I/O anyway; pure code takes it as an argument.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Seconds since the Unix epoch.
pub fn now_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

/// Milliseconds since the first call; never goes back, whatever the clock does.
pub fn monotonic_ms() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}
