//! What a set of requests came to.

use std::collections::BTreeMap;
use std::time::Duration;

use http::uri::Authority;

use crate::content::Verdict;
use crate::load::{Outcome, Sample};

/// Counts over some requests. Each is failed, local or redirected: the three add up to `requests`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// All of them.
    pub requests: u64,
    /// Ended without a whole 200 answer.
    pub failed: u64,
    /// Answered with bytes that the object never had.
    pub corrupt: u64,
    /// Answered with a former version of the object.
    pub stale: u64,
    /// Answered by the origin, including those that a host sent back.
    pub local: u64,
    /// Of the local ones, those that a host sent back.
    pub returned: u64,
    /// Answered by another site.
    pub redirected: u64,
    /// Redirected ones by who answered.
    pub by_host: BTreeMap<String, u64>,
    /// Failed ones by whom they were sent to last.
    pub failed_at: BTreeMap<String, u64>,
    /// Failed ones by reason.
    pub failed_why: BTreeMap<String, u64>,
    /// Bytes of all bodies.
    pub bytes_total: u64,
    /// Bytes of the bodies that another site sent.
    pub bytes_offloaded: u64,
    /// Median time from when a request was due to its last byte; of answered requests only, zero without any.
    pub p50: Duration,
    /// The same for 99 of 100.
    pub p99: Duration,
}

/// Sums up the requests for objects of `origin`.
pub fn tally<'a>(origin: &Authority, samples: impl IntoIterator<Item = &'a Sample>) -> Tally {
    let mut tally = Tally::default();
    let mut times = Vec::new();
    for sample in samples {
        tally.requests += 1;
        match &sample.outcome {
            Outcome::Failed { at, why } => {
                tally.failed += 1;
                *tally.failed_at.entry(at.to_string()).or_default() += 1;
                *tally.failed_why.entry(why.to_string()).or_default() += 1;
            }
            Outcome::Answered { by, bytes, verdict } => {
                times.push(sample.took);
                tally.bytes_total += bytes;
                tally.corrupt += u64::from(*verdict == Verdict::Corrupt);
                tally.stale += u64::from(*verdict == Verdict::Stale);
                if by == origin {
                    tally.local += 1;
                    tally.returned += u64::from(!sample.redirects.is_empty());
                } else {
                    tally.redirected += 1;
                    tally.bytes_offloaded += bytes;
                    *tally.by_host.entry(by.to_string()).or_default() += 1;
                }
            }
        }
    }
    times.sort_unstable();
    tally.p50 = quantile(&times, 0.50);
    tally.p99 = quantile(&times, 0.99);
    tally
}

/// The least of the sorted times that at least this share of them does not exceed.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_occurred() {
        let times: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 0.50), Duration::from_millis(50));
        assert_eq!(quantile(&times, 0.99), Duration::from_millis(99));
        assert_eq!(quantile(&times[..1], 0.99), Duration::from_millis(1));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
