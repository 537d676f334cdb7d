//! Every constant by which peers are judged, and the formulas that are nothing but these constants.
//!
//! Periods are milliseconds. Whoever makes time pass faster scales all of them at once, with [`Formulas::scaled`].

use serde::{Deserialize, Serialize};

/// Milliseconds of a day.
pub const DAY_MS: u64 = 24 * 3_600_000;

/// The constants; each can be set by the operator under `trust.formulas`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Formulas {
    /// Share of wrong answers that an honest peer may have: memory faults on both sides, and nothing else, since TLS excludes transit.
    pub wrong_if_honest: f64,
    /// Share of wrong answers that is not to be tolerated. Together with the former, the two hypotheses of the CUSUM (Page 1954).
    pub wrong_if_corrupt: f64,
    /// Sum of log-likelihood ratios at which a peer is isolated: 6.0 is passed by the third wrong audit with few good ones between.
    pub isolate_at: f64,
    /// First isolation; each further one is twice as long.
    #[serde(rename = "isolation", with = "period")]
    pub isolation_ms: u64,
    /// How long a strike counts.
    #[serde(rename = "strike", with = "period")]
    pub strike_ms: u64,
    /// Clean audits after the first strike before redirects resume.
    pub clean_after_strike: u32,
    /// How many times as many after each further strike.
    pub strike_factor: u32,
    /// How much more often a peer is audited that has a strike to make good.
    pub strike_audits: f64,
    /// Half-lives of the two memories of reliability: what was lately, and what has been all along. The
    /// second goes for what reporters got right as well.
    #[serde(rename = "half_lives", with = "periods")]
    pub half_lives_ms: [u64; 2],
    /// Quantile of the Beta distribution that stands for what can be relied upon.
    pub quantile: f64,
    /// Good audits that a peer invited by name counts from the start.
    pub invited_prior: u32,
    /// Audits that an invited peer gets at once when it first announces a replica.
    pub first_audits: u32,
    /// Clean audits that a newcomer of an open membership needs.
    pub probation_clean: u32,
    /// How long it is a newcomer at least.
    #[serde(rename = "probation", with = "period")]
    pub probation_ms: u64,
    /// Clean audits until its weight is no longer lowered for being new.
    pub ramp_clean: u32,
    /// Audits per redirect: this over (clean audits + 1), between the next two.
    pub audits_numerator: f64,
    /// Fewest audits per redirect.
    pub audits_least: f64,
    /// Most audits per redirect.
    pub audits_most: f64,
    /// Audits a day that every holder gets, redirects or not,
    pub floor_per_day: f64,
    /// but not more than this share of its redirects.
    pub floor_share: f64,
    /// Instead of `floor_per_day` while audits have cost more than they may, so that the budget holds at busy sites even where many peers
    /// have strikes to make good. Small sites keep their floor, which is a share.
    pub floor_without_budget: f64,
    /// How much more often a suspected peer is audited.
    pub suspicion_audits: f64,
    /// Clean audits that end a suspicion, and disprove whoever warned.
    pub suspicion_clean: u32,
    /// What is left of the weight of a peer that credible others speak ill of.
    pub suspicion_exposure: f64,
    /// How long hearsay lowers a weight at most.
    #[serde(rename = "suspicion", with = "period")]
    pub suspicion_ms: u64,
    /// How long a peer that own audits have cleared cannot be suspected by hearsay again.
    #[serde(rename = "immunity", with = "period")]
    pub immunity_ms: u64,
    /// How long redirects rest once visitors fail where audits do not; each further time is twice as long.
    #[serde(rename = "suspension", with = "period")]
    pub suspension_ms: u64,
    /// Bytes of audits over bytes redirected, in the steady state,
    pub budget: f64,
    /// and while most peers are still unknown,
    pub early_budget: f64,
    /// which is so long after the first redirect.
    #[serde(rename = "early", with = "period")]
    pub early_ms: u64,
    /// Share of audits that choose among all objects alike, whatever they are asked for.
    pub uniform_share: f64,
    /// A version that was replaced may be served for so long.
    #[serde(rename = "grace", with = "period")]
    pub grace_ms: u64,
    /// Length of a day for the rates that are per day.
    #[serde(rename = "day", with = "period")]
    pub day_ms: u64,
}

impl Default for Formulas {
    fn default() -> Self {
        Self {
            wrong_if_honest: 1e-3,
            wrong_if_corrupt: 1e-2,
            isolate_at: 6.0,
            isolation_ms: 7 * DAY_MS,
            strike_ms: 14 * DAY_MS,
            clean_after_strike: 20,
            strike_factor: 4,
            strike_audits: 4.0,
            half_lives_ms: [DAY_MS, 14 * DAY_MS],
            quantile: 0.05,
            invited_prior: 10,
            first_audits: 5,
            probation_clean: 20,
            probation_ms: DAY_MS,
            ramp_clean: 200,
            audits_numerator: 10.0,
            audits_least: 0.01,
            audits_most: 0.5,
            floor_per_day: 8.0,
            floor_share: 0.2,
            floor_without_budget: 4.0,
            suspicion_audits: 5.0,
            suspicion_clean: 10,
            suspicion_exposure: 0.5,
            suspicion_ms: DAY_MS,
            immunity_ms: 7 * DAY_MS,
            suspension_ms: 30 * DAY_MS,
            budget: 0.02,
            early_budget: 0.06,
            early_ms: 14 * DAY_MS,
            uniform_share: 0.1,
            grace_ms: 60_000,
            day_ms: DAY_MS,
        }
    }
}

impl Formulas {
    /// The same with every period multiplied by `time_scale` but `grace_ms`, which goes by connections that no lab scales; none falls below
    /// a millisecond.
    pub fn scaled(mut self, time_scale: f64) -> Self {
        let [short, long] = &mut self.half_lives_ms;
        for period in [
            &mut self.isolation_ms,
            &mut self.strike_ms,
            short,
            long,
            &mut self.probation_ms,
            &mut self.suspicion_ms,
            &mut self.immunity_ms,
            &mut self.suspension_ms,
            &mut self.early_ms,
            &mut self.day_ms,
        ] {
            *period = ((*period as f64 * time_scale) as u64).max(1);
        }
        self
    }

    /// What is wrong with the constants, if anything, as the key and what it must be.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let is_share = |x: f64| (0.0..=1.0).contains(&x);
        let rules = [
            ("wrong_if_honest", self.wrong_if_honest > 0.0 && self.wrong_if_honest < 1.0, "must lie between 0 and 1"),
            (
                "wrong_if_corrupt",
                self.wrong_if_corrupt > self.wrong_if_honest && self.wrong_if_corrupt < 1.0,
                "must lie between wrong_if_honest and 1",
            ),
            ("isolate_at", self.isolate_at > 0.0 && self.isolate_at.is_finite(), "must be above 0"),
            ("quantile", self.quantile > 0.0 && self.quantile < 1.0, "must lie between 0 and 1"),
            ("audits_most", is_share(self.audits_most), "must lie between 0 and 1"),
            (
                "audits_least",
                is_share(self.audits_least) && self.audits_least <= self.audits_most,
                "must not exceed audits_most",
            ),
            (
                "audits_numerator",
                self.audits_numerator.is_finite() && self.audits_numerator >= 0.0,
                "must not be negative",
            ),
            ("floor_per_day", (0.0..=1e6).contains(&self.floor_per_day), "must lie between 0 and a million"),
            ("floor_share", is_share(self.floor_share), "must lie between 0 and 1"),
            ("strike_audits", (0.0..=1e3).contains(&self.strike_audits), "must lie between 0 and 1000"),
            ("suspicion_audits", (0.0..=1e3).contains(&self.suspicion_audits), "must lie between 0 and 1000"),
            (
                "floor_without_budget",
                (0.0..=self.floor_per_day).contains(&self.floor_without_budget),
                "must not exceed floor_per_day",
            ),
            ("suspicion_exposure", is_share(self.suspicion_exposure), "must lie between 0 and 1"),
            ("budget", is_share(self.budget), "must lie between 0 and 1"),
            ("early_budget", is_share(self.early_budget), "must lie between 0 and 1"),
            ("uniform_share", is_share(self.uniform_share), "must lie between 0 and 1"),
        ];
        rules.into_iter().find(|(_, holds, _)| !holds).map_or(Ok(()), |(key, _, remedy)| Err((key, remedy)))
    }

    /// What a wrong audit adds to the CUSUM: ln(p1/p0), +2.303 by default.
    pub fn wrong_step(&self) -> f64 {
        (self.wrong_if_corrupt / self.wrong_if_honest).ln()
    }

    /// What a good audit adds: ln((1-p1)/(1-p0)), -0.00905 by default.
    pub fn good_step(&self) -> f64 {
        ((1.0 - self.wrong_if_corrupt) / (1.0 - self.wrong_if_honest)).ln()
    }

    /// Clean audits that the `k`-th strike within [`Self::strike_ms`] costs, `k` from 1: 20, 80, 320 and so on.
    pub fn clean_owed(&self, k: u32) -> u32 {
        self.clean_after_strike.saturating_mul(self.strike_factor.saturating_pow(k.saturating_sub(1)))
    }

    /// How long the `n`-th isolation lasts, `n` from 1; at most 64 times the first.
    pub fn isolation(&self, n: u32) -> u64 {
        self.isolation_ms.saturating_mul(1 << n.saturating_sub(1).min(6))
    }

    /// How long the `n`-th suspension lasts, `n` from 1; at most 64 times the first.
    pub fn suspension(&self, n: u32) -> u64 {
        self.suspension_ms.saturating_mul(1 << n.saturating_sub(1).min(6))
    }

    /// Audits per redirect of a peer with so many clean ones.
    pub fn audits_per_redirect(&self, clean: u32) -> f64 {
        (self.audits_numerator / (f64::from(clean) + 1.0)).clamp(self.audits_least, self.audits_most)
    }
}

/// Periods are written as people write them, as in "7d".
mod period {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(Duration::from_millis(*ms)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        parse(&String::deserialize(deserializer)?)
    }

    pub(super) fn parse<E: Error>(text: &str) -> Result<u64, E> {
        let period = humantime::parse_duration(text);
        let period = period.map_err(|_| E::custom("must be a duration, as in \"7d\" or \"1h 30m\""))?;
        u64::try_from(period.as_millis()).map_err(|_| E::custom("is too long"))
    }
}

mod periods {
    use std::time::Duration;

    use serde::ser::SerializeTuple;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(ms: &[u64; 2], serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(2)?;
        for ms in ms {
            tuple.serialize_element(&humantime::format_duration(Duration::from_millis(*ms)).to_string())?;
        }
        tuple.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u64; 2], D::Error> {
        let [short, long] = <[String; 2]>::deserialize(deserializer)?;
        Ok([super::period::parse(&short)?, super::period::parse(&long)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_are_those_that_were_published() {
        let formulas = Formulas::default();
        assert!((formulas.wrong_step() - 2.303).abs() < 1e-3 && (formulas.good_step() + 0.00905).abs() < 1e-5);
        assert_eq!([1, 2, 3].map(|k| formulas.clean_owed(k)), [20, 80, 320]);
        assert_eq!([1, 2, 3].map(|n| formulas.isolation(n) / DAY_MS), [7, 14, 28]);
        assert_eq!([0, 19, 99, 5000].map(|clean| formulas.audits_per_redirect(clean)), [0.5, 0.5, 0.1, 0.01]);
        formulas.check().unwrap();
    }

    #[test]
    fn nothing_overflows_however_often_a_peer_fails() {
        let formulas = Formulas::default();
        assert_eq!(formulas.clean_owed(u32::MAX), u32::MAX);
        assert_eq!(formulas.isolation(u32::MAX), 64 * formulas.isolation_ms);
    }

    #[test]
    fn one_factor_scales_every_period_and_no_rate() {
        let day = Formulas::default().scaled(1e-3);
        assert_eq!((day.isolation_ms, day.half_lives_ms, day.day_ms), (604_800, [86_400, 1_209_600], 86_400));
        assert_eq!(day.floor_per_day, 8.0);
        assert!(Formulas::default().scaled(0.0).half_lives_ms[0] > 0);
    }

    #[test]
    fn constants_can_be_written_and_read() {
        let written = serde_json::to_value(Formulas::default()).unwrap();
        assert_eq!((&written["isolation"], &written["half_lives"][1]), (&"7days".into(), &"14days".into()));
        assert_eq!(serde_json::from_value::<Formulas>(written).unwrap(), Formulas::default());
        let some: Formulas = serde_json::from_str(r#"{"isolation": "2d", "budget": 0.05}"#).unwrap();
        assert_eq!((some.isolation_ms, some.budget, some.quantile), (2 * DAY_MS, 0.05, 0.05));
        assert!(serde_json::from_str::<Formulas>(r#"{"isolation": "soon"}"#).is_err());
        assert!(serde_json::from_str::<Formulas>(r#"{"isolatoin": "2d"}"#).is_err());
    }

    #[test]
    fn senseless_constants_are_named() {
        let formulas = Formulas { wrong_if_corrupt: 1e-4, ..Formulas::default() };
        assert_eq!(formulas.check().unwrap_err().0, "wrong_if_corrupt");
        let formulas = Formulas { quantile: f64::NAN, ..Formulas::default() };
        assert_eq!(formulas.check().unwrap_err().0, "quantile");
    }
}
