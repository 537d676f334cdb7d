//! Every number that the judgement goes by.

use crate::reputation::formulas::Formulas;

/// What the judgement goes by. Periods are in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    /// No trace of a network is kept for longer, and networks are distinct within this time.
    pub memory_ms: u64,
    /// The time over which reports of one network are limited.
    pub limited_ms: u64,
    /// Reports of one network that count in that time.
    pub reports_of_a_network: u32,
    /// Distinct networks that it takes, once for a suspicion and once more for a suspension.
    pub networks: usize,
    /// What lies at least between a suspicion and the first network that counts towards a suspension, and between each such network and
    /// the next. So it takes hours, in which the host is audited and others look at it too, whoever reports.
    pub apart_ms: u64,
    /// Counts of reports fade by half in this time.
    pub half_life_ms: u64,
    /// A suspicion that has not come to anything by then is over.
    pub suspicion_ms: u64,
    /// How long the first suspension of a host lasts, as in [`Formulas::suspension_ms`]; each further one lasts twice as long.
    pub suspension_ms: u64,
    /// Clean audits between a suspicion and a suspension.
    pub clean_audits: u32,
    /// Standard deviations on either side of "clearly": 4 are a one-sided confidence of 99.997 % for the host's rate, and for that of
    /// the others. Far more than for one test, since every report is another one.
    pub deviations: f64,
    /// Reports that the rate of the other hosts begins with when it is about suspicion, one of which is taken for bad.
    pub assumed_checks: f64,
    /// Reports on other hosts without which nobody is suspended: below that there is nothing to compare with.
    pub compared_checks: f64,
    /// At most one in so many hosts is suspended, those that are worst.
    pub one_in: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        const HOUR_MS: u64 = 3_600_000;
        const DAY_MS: u64 = 24 * HOUR_MS;
        Self {
            memory_ms: DAY_MS,
            limited_ms: HOUR_MS,
            reports_of_a_network: 20,
            networks: 3,
            apart_ms: 2 * HOUR_MS,
            half_life_ms: 14 * DAY_MS,
            suspicion_ms: 7 * DAY_MS,
            suspension_ms: Formulas::default().suspension_ms,
            clean_audits: 3,
            deviations: 4.0,
            assumed_checks: 50.0,
            compared_checks: 20.0,
            one_in: 3,
        }
    }
}

impl Bounds {
    /// With every period multiplied.
    #[must_use]
    pub fn scaled(self, time_scale: f64) -> Self {
        let scale = |period_ms: u64| ((period_ms as f64 * time_scale) as u64).max(1);
        Self {
            memory_ms: scale(self.memory_ms),
            limited_ms: scale(self.limited_ms),
            apart_ms: scale(self.apart_ms),
            half_life_ms: scale(self.half_life_ms),
            suspicion_ms: scale(self.suspicion_ms),
            suspension_ms: scale(self.suspension_ms),
            ..self
        }
    }
}
