//! How copies come to be: the origin offers, a host admits, pulls, verifies, commits and acknowledges, and only then is redirected to.
//!
//! [`messages`] are what both sides say. On the origin's side [`share`] offers what peers lack, [`holders`] judges who can be
//! redirected to now, and [`probe`] asks them; on the host's side [`admit`] decides by the operator's [`terms`] (settings, the [`deny`]
//! list, the [`ledger`] of who carried how much for whom) what is taken in, and [`pull`] fetches it. [`withdraw`] takes replicas back, in
//! the order that never leaves a redirect without bytes: what was [`evict`]ed, denied or damaged, and all when the host leaves; the
//! [`outbox`] remembers whom that is yet to be told. [`peer_api`] is the door for all of it.

pub mod admit;
pub mod bookkeeper;
pub mod deny;
pub mod evict;
pub mod holders;
pub mod ledger;
pub mod messages;
pub mod outbox;
pub mod peer_api;
pub mod probe;
pub mod pull;
pub mod share;
pub mod terms;
pub mod withdraw;

#[cfg(test)]
mod tests;

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
