//! Limits on bytes per second: in total, for each peer, and how the uplink is shared with visitors.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::rate_limit::forget_silent;

/// A limit on bytes per second, counted in KiB begun, since the limiter counts in whole nanoseconds per unit.
pub struct Bandwidth {
    limiter: DefaultDirectRateLimiter,
    most_kib: u32,
    burst_kib: u32,
    /// KiB per second that are granted now.
    granted_kib: AtomicU32,
}

/// What may pass at once however low the limit is: one read of a file.
const MIN_BURST_KIB: u32 = 64;

impl Bandwidth {
    /// At most `bytes_per_s`, and at least 1 KiB.
    pub fn new(bytes_per_s: u64) -> Self {
        let (quota, most_kib) = quota(bytes_per_s);
        let (burst_kib, granted_kib) = (quota.burst_size().get(), AtomicU32::new(most_kib));
        Self { limiter: RateLimiter::direct(quota), most_kib, burst_kib, granted_kib }
    }

    /// From now on `bytes_per_s`, within what was set at first.
    pub fn grant(&self, bytes_per_s: u64) {
        let kib = u32::try_from(bytes_per_s / 1024).unwrap_or(u32::MAX).clamp(1, self.most_kib);
        self.granted_kib.store(kib, Ordering::Relaxed);
    }

    /// Bytes per second that are granted now.
    pub fn granted_bytes_per_s(&self) -> u64 {
        u64::from(self.granted_kib.load(Ordering::Relaxed)) * 1024
    }

    /// Waits until `bytes` may pass.
    pub async fn take(&self, bytes: usize) {
        // As long as less than everything is granted, each KiB counts for more.
        let granted = u64::from(self.granted_kib.load(Ordering::Relaxed));
        let mut left = (bytes.div_ceil(1024) as u64 * u64::from(self.most_kib)).div_ceil(granted);
        while let Some(part) = part_of(left, self.burst_kib) {
            // Never above the burst, so there is nothing to refuse.
            let _ = self.limiter.until_n_ready(part).await;
            left -= u64::from(part.get());
        }
    }
}

/// A limit for all together, and one for each.
pub struct FairBandwidth {
    /// For all together.
    pub total: Bandwidth,
    each: DefaultKeyedRateLimiter<String>,
    burst_kib: u32,
}

impl FairBandwidth {
    /// At most `total` bytes per second, and at most `each` for any one; both at least 1 KiB.
    pub fn new(total: u64, each: u64) -> Self {
        let (quota, _) = quota(each);
        Self { total: Bandwidth::new(total), each: RateLimiter::keyed(quota), burst_kib: quota.burst_size().get() }
    }

    /// Waits until `bytes` from or for `who` may pass.
    pub async fn take(&self, who: &String, bytes: usize) {
        forget_silent(&self.each);
        let mut left = bytes.div_ceil(1024) as u64;
        while let Some(part) = part_of(left, self.burst_kib) {
            let _ = self.each.until_key_n_ready(who, part).await;
            left -= u64::from(part.get());
        }
        self.total.take(bytes).await;
    }
}

/// With its KiB per second.
fn quota(bytes_per_s: u64) -> (Quota, u32) {
    let rate = NonZeroU32::new(u32::try_from(bytes_per_s / 1024).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
    let burst = rate.max(NonZeroU32::new(MIN_BURST_KIB).unwrap_or(rate));
    (Quota::per_second(rate).allow_burst(burst), rate.get())
}

fn part_of(left: u64, most: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(left).unwrap_or(u32::MAX).min(most))
}

/// How the uplink is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uplink {
    /// Bytes per second that pulls by others may take at most.
    pub upload: u64,
    /// Bytes per second that the line carries, if the operator has said so.
    pub line: Option<u64>,
}

/// Of an uplink that visitors fill, this part stays for pulls all the same, so that none of them stands still.
const LEAST_PART: u64 = 20;

impl Uplink {
    /// Bytes per second for pulls by others while visitors take `visitors`.
    ///
    /// Pulls give way to visitors, except that half of the line stays theirs as long as hot objects have fewer copies than they
    /// should: copies are what relieves the line.
    pub fn for_pulls(self, visitors: u64, lacks_replicas: bool) -> u64 {
        let Some(line) = self.line else { return self.upload };
        let least = if lacks_replicas { line / 2 } else { line / LEAST_PART };
        line.saturating_sub(visitors).max(least).min(self.upload)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pulls_give_way_to_visitors_but_not_while_copies_are_the_cure() {
        let uplink = |upload, line| Uplink { upload, line };
        let table = [
            // The operator has not said what the line carries.
            (uplink(20, None), 1000, false, 20),
            (uplink(20, None), 1000, true, 20),
            // Calm, busy, overloaded.
            (uplink(100, Some(100)), 0, false, 100),
            (uplink(100, Some(100)), 70, false, 30),
            (uplink(100, Some(100)), 70, true, 50),
            (uplink(100, Some(100)), 500, false, 5),
            (uplink(100, Some(100)), 500, true, 50),
            // The operator's limit on pulls holds in any case.
            (uplink(30, Some(100)), 0, true, 30),
            (uplink(30, Some(100)), 90, false, 10),
        ];
        for (uplink, visitors, lacks_replicas, expected) in table {
            assert_eq!(uplink.for_pulls(visitors, lacks_replicas), expected, "{uplink:?} {visitors} {lacks_replicas}");
        }
    }

    proptest! {
        #[test]
        fn half_of_the_line_stays_for_copies_that_are_lacking(upload: u64, line: u64, visitors: u64) {
            let uplink = Uplink { upload, line: Some(line) };
            prop_assert!(uplink.for_pulls(visitors, true) >= (line / 2).min(upload));
            prop_assert!(uplink.for_pulls(visitors, false) <= uplink.for_pulls(visitors, true));
            prop_assert!(uplink.for_pulls(visitors, true) <= upload);
        }
    }

    /// Bytes per second that `who` gets in what is left of a burst and beyond.
    async fn rate(bandwidth: &FairBandwidth, who: &str, kib: usize) -> f64 {
        let who = who.to_owned();
        let begun = Instant::now();
        bandwidth.take(&who, kib << 10).await;
        (kib << 10) as f64 / begun.elapsed().as_secs_f64()
    }

    #[tokio::test]
    async fn one_of_many_leaves_room_for_the_others_and_less_can_be_granted() {
        let bandwidth = FairBandwidth::new(2 << 20, 1 << 20);
        // Bursts of a second are spent first.
        rate(&bandwidth, "a", 1 << 10).await;
        let limited = rate(&bandwidth, "a", 256).await;
        assert!(limited < 1.2 * f64::from(1 << 20), "{limited}");
        let begun = Instant::now();
        rate(&bandwidth, "b", 512).await;
        assert!(begun.elapsed() < Duration::from_millis(450), "in the room that a has left, it would be half a second");

        let bandwidth = FairBandwidth::new(1 << 20, 1 << 30);
        rate(&bandwidth, "a", 1 << 10).await;
        bandwidth.total.grant(1 << 18);
        let granted = rate(&bandwidth, "a", 64).await;
        assert!(granted < 1.2 * f64::from(1 << 18), "{granted}");
        bandwidth.total.grant(u64::MAX);
        let mut whole = rate(&bandwidth, "a", 256).await;
        for _ in 0..10 {
            if whole >= 0.4 * f64::from(1 << 20) {
                break;
            }
            // The machine was busy.
            whole = rate(&bandwidth, "a", 256).await;
        }
        assert!((0.4 * f64::from(1 << 20)..1.2 * f64::from(1 << 20)).contains(&whole), "{whole}");
    }
}
