//! What a site has redirected to a host beyond its lease, over all workers of its proxy. Pure; time is monotonic, in milliseconds.
//!
//! A worker that sends a large object overdraws its share once. The others know nothing of that: so the agent, who hears of all
//! redirects, ends the lease for everybody until the site as a whole has paid it back.

use p2pcdn_core::decide::Lease;

/// The account of one host.
#[derive(Debug, Clone, Copy, Default)]
pub struct Debt {
    balance: Lease,
    refilled_ms: Option<u64>,
    is_closed: bool,
}

impl Debt {
    /// Counts what workers have redirected.
    pub fn draw(&mut self, bytes: u64) {
        self.balance.draw(bytes);
    }

    /// What workers may share of a lease of `bytes_per_s`: all of it, or nothing from a debt of more than a second's worth on until
    /// that is paid back. Less than that comes about in the ordinary way, since what is heard is a few ticks old.
    pub fn granted(&mut self, bytes_per_s: u64, now_ms: u64) -> u64 {
        let elapsed_ms = self.refilled_ms.map_or(1000, |at| now_ms.saturating_sub(at));
        self.refilled_ms = Some(now_ms);
        self.balance.refill(bytes_per_s, elapsed_ms);
        self.is_closed = if self.is_closed { !self.balance.is_open() } else { self.balance.debt() > bytes_per_s };
        if self.is_closed { 0 } else { bytes_per_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overdraft_ends_the_lease_until_it_is_paid_back() {
        let mut debt = Debt::default();
        assert_eq!(debt.granted(100, 0), 100);
        debt.draw(200);
        assert_eq!(debt.granted(100, 0), 100, "a debt of one second's worth");
        debt.draw(500);
        assert_eq!([0, 3000, 6000].map(|now_ms| debt.granted(100, now_ms)), [0, 0, 0]);
        assert_eq!(debt.granted(100, 6010), 100);
    }

    #[test]
    fn who_keeps_to_the_lease_never_loses_it() {
        let mut debt = Debt::default();
        for tick in 0..1000 {
            assert_eq!(debt.granted(1000, tick * 250), 1000, "tick {tick}");
            // As uneven as workers with buckets of a second make it.
            debt.draw([0, 0, 0, 1000][tick as usize % 4]);
        }
    }
}
