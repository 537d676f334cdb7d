//! How many audits of each holder are due: by the redirects it gets, with a floor, within a budget of bytes.
//!
//! Audits fall as a Poisson process, so that nobody can tell when the next one comes from when the last one came.

use p2pcdn_core::object::CHUNK_BYTES;

use super::pick::HINTED_BYTES;
use crate::reputation::Need;
use crate::reputation::formulas::Formulas;

/// What an origin sends to one holder, and what audits are owed for it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Traffic {
    /// Redirects that count, fading with a half-life of a day.
    redirects: f64,
    /// Audits that the floor asks for beyond those that redirects brought, at most a day's worth saved up either way.
    floor_owed: f64,
    at_ms: u64,
}

/// What audits may cost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Budget {
    balance: f64,
    first_ms: Option<u64>,
    is_late: bool,
}

/// What audits may cost that clients' hints lead to: apart from [`Budget`], or whoever makes up hints would have none left for the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HintBudget {
    balance: f64,
    at_ms: u64,
}

/// Audits that are due at most in one step; more than one step's redirects would be a clock that jumped.
const MAX_DUE: u32 = 64;
/// Bytes that a new budget starts with: the first audits must not wait for the first redirects.
const ADVANCE_BYTES: f64 = 64.0 * 1024.0 * 1024.0;
/// What is kept back, since several audits may be due at once, and none ends before it has begun.
const RESERVE_BYTES: f64 = 512.0 * 1024.0;
/// Bytes that an audit by a hint has set aside while it is under way: all that it may read, but for a coded body.
const HINT_RESERVE_BYTES: f64 = (HINTED_BYTES + CHUNK_BYTES) as f64;
/// Most that audits by hints may cost at once, in bytes, so that eight of them are under way at most,
const HINT_BURST_BYTES: f64 = 8.0 * HINT_RESERVE_BYTES;
/// and what they may cost in a second, in the long run.
const HINT_BYTES_PER_S: f64 = 16.0 * 1024.0;
/// Bytes that any audit costs, however short the object is: the connection's own.
const CONNECTION_BYTES: u64 = 8 * 1024;

impl Traffic {
    /// Takes in the redirects since the last step, and says how many audits that makes due on average.
    ///
    /// `typical_redirects` is what a holder of this site gets on average in a day: what audits of one that rests go by. Without a budget
    /// only the floor counts, and at busy sites a lower one.
    pub fn step(
        &mut self,
        need: Need,
        redirects: u32,
        typical_redirects: f64,
        has_budget: bool,
        formulas: &Formulas,
        now_ms: u64,
    ) -> f64 {
        let day = formulas.day_ms.max(1) as f64;
        let passed = if self.at_ms == 0 { 0.0 } else { (now_ms.saturating_sub(self.at_ms) as f64 / day).min(1.0) };
        self.at_ms = now_ms;
        self.redirects = self.redirects * (-passed).exp2() + f64::from(redirects);
        if need.factor <= 0.0 {
            self.floor_owed = 0.0;
            return 0.0;
        }
        let per_day = if need.rests { typical_redirects } else { self.per_day() };
        let most = if has_budget { formulas.floor_per_day } else { formulas.floor_without_budget };
        let floor = most.min(formulas.floor_share * per_day) * passed;
        let by_redirects = f64::from(redirects) * formulas.audits_per_redirect(need.clean);
        let extra = if has_budget { by_redirects } else { 0.0 };
        self.floor_owed = (self.floor_owed + floor - extra).clamp(-formulas.floor_per_day, formulas.floor_per_day);
        let owed = self.floor_owed.max(0.0);
        self.floor_owed -= owed;
        // More often than every redirect there is nothing to learn from.
        let most = if need.rests { f64::INFINITY } else { f64::from(redirects).max(owed * need.factor) };
        ((extra + owed) * need.factor).min(most)
    }

    /// Redirects a day, at the present rate.
    pub fn per_day(&self) -> f64 {
        self.redirects * std::f64::consts::LN_2
    }
}

impl Budget {
    /// Takes in bytes that were redirected and bytes that audits took.
    pub fn note(&mut self, redirected_bytes: u64, audited_bytes: u64, formulas: &Formulas, now_ms: u64) {
        if redirected_bytes > 0 && self.first_ms.is_none() {
            self.first_ms = Some(now_ms);
            self.balance += ADVANCE_BYTES;
        }
        let is_early = self.first_ms.is_none_or(|first| now_ms.saturating_sub(first) < formulas.early_ms);
        if !is_early && !self.is_late {
            // What was saved up under the larger share is not for the steady state.
            self.is_late = true;
            self.balance = self.balance.min(0.0);
        }
        let share = if is_early { formulas.early_budget } else { formulas.budget };
        let balance = self.balance + redirected_bytes as f64 * share - audited_bytes as f64;
        // Whoever makes audits expensive starves them for a while and not for good.
        self.balance = balance.clamp(-ADVANCE_BYTES, 1e12);
    }

    /// Whether audits beyond the floor may be made, while some are under way that will take so many bytes at most.
    pub fn has_room(&self, under_way_bytes: u64) -> bool {
        self.first_ms.is_none() || self.balance - under_way_bytes as f64 > RESERVE_BYTES
    }
}

impl Default for HintBudget {
    fn default() -> Self {
        Self { balance: HINT_BURST_BYTES, at_ms: 0 }
    }
}

impl HintBudget {
    /// Whether one more audit may begin; if so, bytes are set aside until [`Self::took`] says what it cost.
    pub fn takes(&mut self, now_ms: u64) -> bool {
        let earned = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0 * HINT_BYTES_PER_S;
        self.balance = (self.balance + earned).min(HINT_BURST_BYTES);
        self.at_ms = now_ms;
        let takes = self.balance >= HINT_RESERVE_BYTES;
        if takes {
            self.balance -= HINT_RESERVE_BYTES;
        }
        takes
    }

    /// An audit for which bytes were set aside took so many.
    pub fn took(&mut self, bytes: u64) {
        self.balance += HINT_RESERVE_BYTES - bytes.max(CONNECTION_BYTES) as f64;
    }
}

/// A draw from the Poisson distribution, by Knuth's method; `draw` is uniform in 0..1. At most 64.
pub fn poisson(mean: f64, draw: &mut impl FnMut() -> f64) -> u32 {
    if mean.is_nan() || mean <= 0.0 {
        return 0;
    }
    let limit = (-mean.min(f64::from(MAX_DUE))).exp();
    let (mut events, mut product) = (0, draw());
    while product > limit && events < MAX_DUE {
        events += 1;
        product *= draw();
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reputation::formulas::DAY_MS;
    use proptest::prelude::*;

    const TRUSTED: Need = Need { clean: 5000, factor: 1.0, rests: false, first: 0 };

    /// Audits of one holder over `days`, with `redirects` a day in steps of a minute.
    fn audits(need: Need, redirects: u32, typical: f64, has_budget: bool, days: u64) -> f64 {
        let (formulas, mut traffic) = (Formulas::default(), Traffic::default());
        let steps = days * 1440;
        let mut sent = 0;
        let mut due = 0.0;
        for step in 0..steps {
            let until = (step + 1) * u64::from(redirects) / 1440;
            due += traffic.step(need, (until - sent) as u32, typical, has_budget, &formulas, 1 + step * 60_000);
            sent = until;
        }
        due / days as f64
    }

    #[test]
    fn busy_holders_are_audited_by_their_redirects_and_others_by_the_floor() {
        assert!((audits(TRUSTED, 5000, 0.0, true, 10) - 50.0).abs() < 1.0);
        assert!((audits(TRUSTED, 417, 0.0, true, 20) - 8.0).abs() < 0.5);
        assert!((audits(TRUSTED, 15, 0.0, true, 20) - 3.0).abs() < 0.5);
        assert_eq!(audits(TRUSTED, 0, 0.0, true, 5), 0.0);
        let unknown = Need { clean: 0, ..TRUSTED };
        assert!((audits(unknown, 400, 0.0, true, 10) - 200.0).abs() < 5.0);
    }

    #[test]
    fn whoever_makes_good_a_strike_is_audited_by_what_others_get() {
        let struck = Need { clean: 0, factor: 4.0, rests: true, first: 0 };
        assert!((audits(struck, 0, 400.0, true, 5) - 32.0).abs() < 0.5);
        assert!((audits(struck, 0, 15.0, true, 5) - 12.0).abs() < 0.5);
    }

    #[test]
    fn without_a_budget_a_lower_floor_remains_and_the_isolated_are_left_alone() {
        let unknown = Need { clean: 0, ..TRUSTED };
        assert!((audits(unknown, 400, 0.0, false, 10) - 4.0).abs() < 0.5);
        assert_eq!(audits(Need { factor: 0.0, ..TRUSTED }, 400, 0.0, true, 2), 0.0);
    }

    #[test]
    fn suspicion_multiplies_but_never_beyond_the_redirects() {
        let suspected = Need { factor: 5.0, ..TRUSTED };
        assert!((audits(suspected, 5000, 0.0, true, 10) - 250.0).abs() < 5.0);
        let unknown = Need { clean: 0, factor: 5.0, ..TRUSTED };
        assert!(audits(unknown, 400, 0.0, true, 10) <= 401.0);
    }

    #[test]
    fn a_budget_is_spent_and_earned_and_shrinks_once_peers_are_known() {
        let formulas = Formulas::default();
        let mut budget = Budget::default();
        assert!(budget.has_room(0), "before the first redirect");
        budget.note(1 << 30, 0, &formulas, 0);
        let share = (1u64 << 30) as f64 * 0.06 + ADVANCE_BYTES;
        budget.note(0, share as u64 + 1, &formulas, 1);
        assert!(!budget.has_room(0));
        budget.note(1 << 30, (1 << 30) / 25, &formulas, 2);
        assert!(budget.has_room(0), "4 % is below 6 %");
        assert!(!budget.has_room(1 << 30), "long audits are under way");
        budget.note(1 << 30, (1 << 30) / 25, &formulas, 15 * DAY_MS);
        assert!(!budget.has_room(0), "4 % is above 2 %");
    }

    #[test]
    fn hints_lead_to_a_few_audits_at_once_and_to_more_in_time() {
        let mut budget = HintBudget::default();
        let begun = |budget: &mut HintBudget, now_ms| (0..20).filter(|_| budget.takes(now_ms)).count();
        assert_eq!(begun(&mut budget, 5000), 8);
        (0..8).for_each(|_| budget.took(HINTED_BYTES));
        assert_eq!(begun(&mut budget, 5000), 2, "what was not read is left");
        assert_eq!(begun(&mut budget, 5000 + 48_000), 1);
        let mut budget = HintBudget::default();
        let mut is_short = || {
            let takes = budget.takes(1);
            if takes {
                budget.took(0);
            }
            takes
        };
        let short = (0..2000).filter(|_| is_short()).count();
        assert!((600..800).contains(&short), "connections cost something: {short}");
    }

    proptest! {
        #[test]
        fn draws_have_the_mean_that_was_asked_for(tenths in 1..200u32, seed: u64) {
            let mut state = seed | 1;
            let mut draw = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 11) as f64 / (1u64 << 53) as f64
            };
            let mean = f64::from(tenths) / 10.0;
            let total: u32 = (0..4000).map(|_| poisson(mean, &mut draw)).sum();
            let error = (f64::from(total) / 4000.0 - mean).abs();
            prop_assert!(error < 6.0 * (mean / 4000.0).sqrt(), "{} {}", mean, error);
        }

        #[test]
        fn no_step_makes_endless_or_negative_audits_due(
            redirects in any::<u32>(), clean in any::<u32>(), factor in 0.0..1e3, typical in 0.0..1e9, rests: bool, now in any::<u64>()
        ) {
            let mut traffic = Traffic::default();
            let formulas = Formulas::default();
            let need = Need { clean, factor, rests, first: 0 };
            traffic.step(need, 0, typical, true, &formulas, 1);
            let due = traffic.step(need, redirects, typical, true, &formulas, now);
            prop_assert!(due >= 0.0 && due.is_finite());
            prop_assert!(poisson(due, &mut || 0.5) <= MAX_DUE);
            prop_assert_eq!(poisson(f64::NAN, &mut || 0.5), 0);
        }
    }
}
