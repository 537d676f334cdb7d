//! Whether a peer serves the right bytes: strikes, which any wrong body earns, and a sum over all audits, which isolates.

use serde::{Deserialize, Serialize};

use super::formulas::Formulas;

/// Strikes that are remembered; the clean audits owed grow beyond any use long before.
const MAX_STRIKES: usize = 16;

/// What own audits say of a peer's bytes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Integrity {
    /// When strikes fell that still count.
    pub strikes: Vec<u64>,
    /// Clean audits that are owed before redirects resume.
    pub owed: u32,
    /// One-sided CUSUM of the log-likelihood ratio; isolates at [`Formulas::isolate_at`].
    pub cusum: f64,
    /// How often the peer was isolated.
    pub isolations: u32,
    /// Until when it is isolated; 0 for not at all.
    pub isolated_until_ms: u64,
}

impl Integrity {
    /// Whether a strike has fallen since `begun_ms`: what began before that and ends now shows no more than that the same is still wrong.
    pub fn has_struck_since(&self, begun_ms: u64, now_ms: u64) -> bool {
        // One that is said to be yet to come was noted by another clock.
        self.strikes.last().is_some_and(|last_ms| begun_ms < *last_ms && *last_ms <= now_ms)
    }

    /// A wrong body. Returns whether it isolates.
    pub fn wrong(&mut self, formulas: &Formulas, now_ms: u64) -> bool {
        self.strikes.retain(|at| now_ms.saturating_sub(*at) < formulas.strike_ms);
        if self.strikes.len() >= MAX_STRIKES {
            self.strikes.remove(0);
        }
        self.strikes.push(now_ms);
        self.owed = formulas.clean_owed(self.strikes.len() as u32);
        self.cusum += formulas.wrong_step();
        let isolates = self.cusum >= formulas.isolate_at;
        if isolates {
            self.cusum = 0.0;
            self.isolations = self.isolations.saturating_add(1);
            self.isolated_until_ms = now_ms.saturating_add(formulas.isolation(self.isolations));
        }
        isolates
    }

    /// A right body.
    pub fn good(&mut self, formulas: &Formulas) {
        self.owed = self.owed.saturating_sub(1);
        self.cusum = (self.cusum + formulas.good_step()).max(0.0);
    }

    /// Clean audits that are owed, as long as any strike counts: who gets no redirects gets few audits to pay with.
    pub fn owes(&self, formulas: &Formulas, now_ms: u64) -> u32 {
        if self.is_marked(formulas, now_ms) { self.owed } else { 0 }
    }

    /// Whether any strike still counts.
    pub fn is_marked(&self, formulas: &Formulas, now_ms: u64) -> bool {
        self.strikes.iter().any(|at| now_ms.saturating_sub(*at) < formulas.strike_ms)
    }

    /// Whether it is isolated now.
    pub fn is_isolated(&self, now_ms: u64) -> bool {
        now_ms < self.isolated_until_ms
    }
}

#[cfg(test)]
mod tests {
    use super::super::formulas::DAY_MS;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_strike_is_made_good_by_clean_audits_and_a_second_one_costs_more() {
        let (formulas, mut integrity) = (Formulas::default(), Integrity::default());
        assert!(!integrity.wrong(&formulas, 0));
        assert_eq!(integrity.owed, 20);
        (0..20).for_each(|_| integrity.good(&formulas));
        assert_eq!(integrity.owed, 0);
        assert!(!integrity.wrong(&formulas, DAY_MS));
        assert_eq!(integrity.owed, 80);
        let mut later = integrity.clone();
        later.wrong(&formulas, 30 * DAY_MS);
        assert_eq!(later.owed, 20, "old strikes do not count");
    }

    #[test]
    fn the_third_wrong_body_isolates_and_each_time_for_twice_as_long() {
        let (formulas, mut integrity) = (Formulas::default(), Integrity::default());
        assert_eq!([0, 1, 2].map(|at| integrity.wrong(&formulas, at)), [false, false, true]);
        assert!(integrity.is_isolated(7 * DAY_MS + 1) && !integrity.is_isolated(7 * DAY_MS + 2));
        assert_eq!([10, 11, 12].map(|at| integrity.wrong(&formulas, at * DAY_MS)), [false, false, true]);
        assert!(integrity.is_isolated(25 * DAY_MS));
    }

    proptest! {
        #[test]
        fn the_sum_is_never_negative_and_strikes_are_bounded(bodies in prop::collection::vec(any::<bool>(), 0..2000)) {
            let (formulas, mut integrity) = (Formulas::default(), Integrity::default());
            for (at, good) in bodies.into_iter().enumerate() {
                if good { integrity.good(&formulas) } else { integrity.wrong(&formulas, at as u64); }
                prop_assert!(integrity.cusum >= 0.0 && integrity.cusum < formulas.isolate_at);
                prop_assert!(integrity.strikes.len() <= MAX_STRIKES);
            }
        }
    }
}
