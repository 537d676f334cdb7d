//! How copies come to be: the origin offers, a host admits, pulls, verifies, commits and acknowledges, and only then is redirected to.
//!
//! [`messages`] are what both sides say. On the origin's side [`share`] offers what [`plan`] finds lacking by [`wanted`] and [`rank`],
//! [`holders`] judges who can be redirected to now, and [`probe`] asks them; on the host's side [`admit`] decides what is taken in and [`pull`] fetches it.
//! [`withdraw`] takes replicas back, in the order that never leaves a redirect without bytes. [`peer_api`] is the door for all of it.

pub mod admit;
pub mod holders;
pub mod messages;
pub mod peer_api;
pub mod plan;
pub mod probe;
pub mod pull;
pub mod rank;
pub mod share;
pub mod wanted;
pub mod withdraw;

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// A limit on bytes per second, counted in KiB begun, since the limiter counts in whole nanoseconds per unit.
pub struct Bandwidth {
    limiter: DefaultDirectRateLimiter,
    burst_kib: u32,
}

/// What may pass at once however low the limit is: one read of a file.
const MIN_BURST_KIB: u32 = 64;

impl Bandwidth {
    /// At most `bytes_per_s`, and at least 1 KiB.
    pub fn new(bytes_per_s: u64) -> Self {
        let rate = NonZeroU32::new(u32::try_from(bytes_per_s / 1024).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let burst = rate.max(NonZeroU32::new(MIN_BURST_KIB).unwrap_or(rate));
        Self { limiter: RateLimiter::direct(Quota::per_second(rate).allow_burst(burst)), burst_kib: burst.get() }
    }

    /// Waits until `bytes` may pass.
    pub async fn take(&self, bytes: usize) {
        let mut left = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        while let Some(part) = NonZeroU32::new(left.min(self.burst_kib)) {
            // Never above the burst, so there is nothing to refuse.
            let _ = self.limiter.until_n_ready(part).await;
            left -= part.get();
        }
    }
}
