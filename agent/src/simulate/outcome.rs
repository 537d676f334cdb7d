//! What came of one run, and the figures that are read off it.

use super::figure::{Figure, Measure, Unit};

/// Everything that is counted in one run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// By day.
    pub days: Vec<Day>,
    /// Honest peers that hold something for somebody at some time.
    pub honest_holders: u32,
    /// Of these, how many some site isolated.
    pub honest_isolated: u32,
    /// Largest part of its weight that an honest peer lost at a site by hearsay.
    pub weight_lost: f64,
    /// For how long at most, in hours.
    pub hours_lost: f64,
    /// Partners drawn for gossip,
    pub partners: u64,
    /// and how many of them belong to a group with few networks.
    pub partners_of_swarm: u64,
    /// The share of all networks that such groups have.
    pub prefix_share: f64,
    /// Terms as a holder of identities that had come back under another domain,
    pub returned_terms: u64,
    /// and what they corrupted.
    pub returned_corrupted: u64,
    /// Probations of honest peers that joined later,
    pub probations: u64,
    /// and what was redirected to them in these.
    pub probation_redirects: u64,
    /// Honest members that are missing from tables at the end, or have another key.
    pub members_evicted: u64,
    /// Payload bytes of gossip that one peer sends in a second.
    pub gossip_bytes_per_s: f64,
    /// Bytes of memory that one table takes.
    pub table_bytes: f64,
}

/// What was counted in one day, at all sites together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Day {
    /// Redirected responses.
    pub redirects: u64,
    /// Of these, from dishonest peers.
    pub dishonest: u64,
    /// Of these, with wrong bytes.
    pub corrupted: u64,
    /// Of these, slower than promised.
    pub slow: u64,
    /// Requests that caps left at home, or that there was no holder for.
    pub stayed: u64,
    /// Bytes that were redirected.
    pub redirected_bytes: u64,
    /// Audits.
    pub audits: u64,
    /// Bytes of audits.
    pub audited_bytes: u64,
}

impl Outcome {
    /// The figure in this run alone.
    pub fn measure(&self, figure: &Figure) -> f64 {
        let days = self.sum(figure.from_day, figure.until_day.unwrap_or(f64::INFINITY));
        let ratio = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
        match figure.measure {
            Measure::DishonestShare => ratio(days.dishonest, days.redirects),
            Measure::CorruptedShare => ratio(days.corrupted, days.redirects),
            Measure::HonestIsolated => f64::from(self.honest_isolated),
            Measure::HonestIsolatedShare => ratio(self.honest_isolated.into(), self.honest_holders.into()),
            Measure::WeightLost => self.weight_lost,
            Measure::HoursLost => self.hours_lost,
            Measure::PartnerShare => ratio(self.partners_of_swarm, self.partners),
            Measure::GainPerRejoin => ratio(self.returned_corrupted, self.returned_terms),
            Measure::MembersEvicted => self.members_evicted as f64,
            Measure::AuditShare => ratio(days.audited_bytes, days.redirected_bytes),
            Measure::SlowShare => ratio(days.slow, days.redirects),
            Measure::GossipBytesPerS => self.gossip_bytes_per_s,
            Measure::TableBytes => self.table_bytes,
        }
    }

    /// What the target of a figure is a multiple of, in this run alone.
    pub fn unit(&self, unit: Unit) -> f64 {
        match unit {
            Unit::PrefixShare => self.prefix_share,
            Unit::ProbationExposure => self.probation_redirects as f64 / (self.probations as f64).max(1.0),
            Unit::SeedNoise => 1.0,
        }
    }

    /// All that was counted from a day on until another one.
    pub fn sum(&self, from_day: f64, until_day: f64) -> Day {
        let within =
            self.days.iter().enumerate().filter(|(day, _)| (*day as f64) >= from_day && (*day as f64) < until_day);
        within.fold(Day::default(), |sum, (_, day)| Day {
            redirects: sum.redirects + day.redirects,
            dishonest: sum.dishonest + day.dishonest,
            corrupted: sum.corrupted + day.corrupted,
            slow: sum.slow + day.slow,
            stayed: sum.stayed + day.stayed,
            redirected_bytes: sum.redirected_bytes + day.redirected_bytes,
            audits: sum.audits + day.audits,
            audited_bytes: sum.audited_bytes + day.audited_bytes,
        })
    }
}
