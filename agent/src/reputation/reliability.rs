//! Whether a peer answers at all and fast enough: two memories of good and bad audits that fade at different speeds.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF};

use super::formulas::Formulas;

/// What own audits say of a peer's answers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Reliability {
    memories: [Memory; 2],
    at_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Memory {
    good: f64,
    bad: f64,
}

impl Reliability {
    /// Counts one audit.
    pub fn note(&mut self, good: bool, formulas: &Formulas, now_ms: u64) {
        self.memories = self.at(formulas, now_ms);
        self.at_ms = self.at_ms.max(now_ms);
        for memory in &mut self.memories {
            *(if good { &mut memory.good } else { &mut memory.bad }) += 1.0;
        }
    }

    /// The share of good answers that can be relied upon: the smaller of the two memories' quantiles of Beta(1 + prior + good, 1 + bad).
    pub fn score(&self, prior: u32, formulas: &Formulas, now_ms: u64) -> f64 {
        let quantile = |memory: Memory| quantile(f64::from(prior) + memory.good, memory.bad, formulas.quantile);
        self.at(formulas, now_ms).into_iter().map(quantile).fold(1.0, f64::min)
    }

    /// Good and bad answers as they count now, in the short and in the long memory.
    pub fn counts(&self, formulas: &Formulas, now_ms: u64) -> [(f64, f64); 2] {
        self.at(formulas, now_ms).map(|memory| (memory.good, memory.bad))
    }

    fn at(&self, formulas: &Formulas, now_ms: u64) -> [Memory; 2] {
        let passed = now_ms.saturating_sub(self.at_ms) as f64;
        let mut memories = self.memories;
        for (memory, half_life) in memories.iter_mut().zip(formulas.half_lives_ms) {
            let kept = (-passed / half_life.max(1) as f64).exp2();
            *memory = Memory { good: memory.good * kept, bad: memory.bad * kept };
        }
        memories
    }
}

/// The quantile `p` of Beta(1 + good, 1 + bad).
fn quantile(good: f64, bad: f64, p: f64) -> f64 {
    // Without failures, and below what rounding can tell from that, it has a closed form.
    if bad < 1e-9 {
        return p.powf(1.0 / (1.0 + good));
    }
    Beta::new(1.0 + good, 1.0 + bad).map_or(0.0, |beta| beta.inverse_cdf(p))
}

#[cfg(test)]
mod tests {
    use super::super::formulas::DAY_MS;
    use super::*;
    use proptest::prelude::*;

    fn after(audits: &[bool], prior: u32) -> f64 {
        let (formulas, mut reliability) = (Formulas::default(), Reliability::default());
        audits.iter().for_each(|good| reliability.note(*good, &formulas, 0));
        reliability.score(prior, &formulas, 0)
    }

    #[test]
    fn the_unknown_is_not_relied_upon_and_an_invitation_counts() {
        assert!((after(&[], 0) - 0.05).abs() < 1e-9);
        assert!((after(&[], 10) - 0.7616).abs() < 1e-3);
        assert!(after(&[true; 200], 0) > 0.98);
        assert!(after(&[true, true, false], 0) < 0.3);
    }

    #[test]
    fn the_closed_form_agrees_with_the_general_one() {
        for good in [0.0, 1.0, 12.5, 300.0] {
            let general = Beta::new(1.0 + good, 1.0).unwrap().inverse_cdf(0.05);
            assert!((quantile(good, 0.0, 0.05) - general).abs() < 1e-6, "{good}");
        }
    }

    #[test]
    fn a_bad_night_is_forgotten_in_days_and_a_bad_month_is_not() {
        let (formulas, mut reliability) = (Formulas::default(), Reliability::default());
        for day in 0..30 {
            (0..8).for_each(|_| reliability.note(true, &formulas, day * DAY_MS));
        }
        let before = reliability.score(0, &formulas, 30 * DAY_MS);
        (0..8).for_each(|_| reliability.note(false, &formulas, 30 * DAY_MS));
        let bad_night = reliability.score(0, &formulas, 30 * DAY_MS);
        for day in 31..36 {
            (0..8).for_each(|_| reliability.note(true, &formulas, day * DAY_MS));
        }
        let later = reliability.score(0, &formulas, 36 * DAY_MS);
        assert!(bad_night < before / 1.5 && later > bad_night * 1.3, "{before} {bad_night} {later}");
    }

    proptest! {
        #[test]
        fn scores_are_shares_and_more_good_answers_never_lower_them(
            good in 0..500u32, bad in 0..500u32, prior in 0..20u32, days in 0..60u64
        ) {
            let (formulas, mut reliability) = (Formulas::default(), Reliability::default());
            (0..good).for_each(|_| reliability.note(true, &formulas, 0));
            (0..bad).for_each(|_| reliability.note(false, &formulas, 0));
            let now = days * DAY_MS;
            let before = reliability.score(prior, &formulas, now);
            reliability.note(true, &formulas, now);
            let after = reliability.score(prior, &formulas, now);
            prop_assert!((0.0..=1.0).contains(&before) && after >= before - 1e-9, "{} {}", before, after);
        }
    }
}
