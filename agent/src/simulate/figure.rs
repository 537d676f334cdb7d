//! What can be asked of a run, and what of it is promised.

use serde::{Deserialize, Serialize};

/// A figure that is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// In tables.
    pub title: String,
    /// What is measured.
    pub measure: Measure,
    /// From which day on.
    #[serde(default)]
    pub from_day: f64,
    /// Until the end of which day.
    pub until_day: Option<f64>,
    /// The variant it is measured in; if there is none, the largest of all.
    #[serde(rename = "in")]
    pub variant: Option<String>,
    /// From which that of this other variant is taken off.
    pub minus: Option<String>,
    /// The target: not more than this.
    pub at_most: Option<f64>,
    /// The target: less than this.
    pub below: Option<f64>,
    /// What `at_most` and `below` are multiples of, if not of 1.
    pub times: Option<Unit>,
    /// How it is shown.
    #[serde(default)]
    pub shown: Shown,
}

/// How a figure is shown in tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// In percent.
    #[default]
    Percent,
    /// As a number.
    Number,
    /// In kB.
    Kilobytes,
    /// In MiB.
    Mebibytes,
    /// In hours.
    Hours,
}

/// What can be measured; shares are fractions of 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Share of redirects that go to dishonest peers.
    DishonestShare,
    /// Share of redirected responses that have wrong bytes.
    CorruptedShare,
    /// Honest peers that some site isolates, strikes suspended or not.
    HonestIsolated,
    /// Their share of all honest peers that hold something.
    HonestIsolatedShare,
    /// The largest part of its weight that an honest peer loses at a site by what others say.
    WeightLost,
    /// For how many hours on end at most.
    HoursLost,
    /// Share of the partners drawn for gossip that belong to a group with few networks.
    PartnerShare,
    /// Corrupted responses of one identity at one site, of those that have left and come back under another domain.
    GainPerRejoin,
    /// Honest members of a site's table that are missing at the end, or have another key.
    MembersEvicted,
    /// Bytes of audits over bytes redirected.
    AuditShare,
    /// Share of redirected responses that come slower than promised.
    SlowShare,
    /// Payload bytes per second that one peer sends in gossip; what it receives is the same on average.
    GossipBytesPerS,
    /// Bytes of memory that one table takes.
    TableBytes,
}

/// What a target is a multiple of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// The share of all address prefixes that groups with few networks have.
    PrefixShare,
    /// What one honest newcomer is redirected to during its probation.
    ProbationExposure,
    /// How far the seeds are apart in the variant that is taken off.
    SeedNoise,
}
