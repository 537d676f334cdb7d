//! What all token buckets by key have in common, so that none of them remembers whoever has ever come.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota};

/// Above so many keys, those that have long been silent are forgotten.
const REMEMBERED: usize = 1024;

/// One in this period, which is multiplied by `time_scale`.
pub fn one_in(period: Duration, time_scale: f64) -> Quota {
    let period = period.mul_f64(time_scale).max(Duration::from_nanos(1));
    Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MIN))
}

/// Takes a token of `key`; `false` if it has none.
pub fn takes<K: Clone + Eq + Hash>(buckets: &DefaultKeyedRateLimiter<K>, key: &K) -> bool {
    forget_silent(buckets);
    buckets.check_key(key).is_ok()
}

/// Makes room for others where there are many keys.
pub fn forget_silent<K: Clone + Eq + Hash>(buckets: &DefaultKeyedRateLimiter<K>) {
    if buckets.len() > REMEMBERED {
        buckets.retain_recent();
    }
}
