//! What is simulated: a world, who in it does what and when, and which figures are asked for. Written as TOML.

use std::path::Path;

use figment::Figment;
use figment::providers::{Data, Format, Toml};
use serde::{Deserialize, Serialize};

use super::figure::Figure;

/// One scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// In tables.
    pub title: String,
    /// What it is about, for whoever reads a list of them.
    pub about: String,
    /// Where it happens.
    #[serde(default)]
    pub world: World,
    /// Who does not do as everybody should.
    #[serde(default, rename = "group")]
    pub groups: Vec<Group>,
    /// Several worlds, where the figures are the largest of all or a difference; just one if empty.
    #[serde(default, rename = "variant")]
    pub variants: Vec<Variant>,
    /// What is asked for.
    #[serde(rename = "figure")]
    pub figures: Vec<Figure>,
}

/// One of several worlds of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// By which figures and messages call it.
    pub name: String,
    /// Instead of the scenario's.
    pub world: Option<World>,
    /// Beside the scenario's.
    #[serde(default, rename = "group")]
    pub groups: Vec<Group>,
}

/// How large the world is, and how long it is looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct World {
    /// Peers whose visitors are redirected; they are honest towards others.
    pub sites: u32,
    /// All peers at the beginning, sites among them; 0 for none beyond what the groups say.
    pub peers: u32,
    /// Hosts with copies of one site's objects.
    pub holders: u32,
    /// Redirects of one site in a day, before caps leave some of them at home.
    pub redirects_per_day: u32,
    /// Objects of one site.
    pub objects: u32,
    /// Virtual days.
    pub days: f64,
    /// Minutes from one look at what audits are due to the next; verdicts take effect by then.
    pub step_minutes: u32,
    /// Whether peers were invited by name or joined an open membership.
    pub invited: bool,
    /// Whether sites tell each other what they saw.
    pub gossip: bool,
    /// Share of redirected resources that browsers verify and report on; 0 for none.
    pub evidence: f64,
    /// Networks that a site's visitors come from.
    pub visitor_networks: u32,
    /// Instead of all of the above but `peers` and `days`: tables of so many peers exchange statements of their full size.
    pub full_tables: u32,
}

impl Default for World {
    fn default() -> Self {
        Self {
            sites: 60,
            peers: 600,
            holders: 12,
            redirects_per_day: 5000,
            objects: 200,
            days: 21.0,
            step_minutes: 5,
            invited: false,
            gossip: true,
            evidence: 0.0,
            visitor_networks: 3000,
            full_tables: 0,
        }
    }
}

/// Peers with something in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// By which messages call it.
    pub name: String,
    /// How many of the world's peers belong to it.
    #[serde(default)]
    pub share: f64,
    /// So many more, beside the world's peers.
    #[serde(default)]
    pub extra: u32,
    /// In the figures they count as honest.
    #[serde(default)]
    pub honest: bool,
    /// Address prefixes that they all come from; 0 for one each.
    #[serde(default)]
    pub networks: u32,
    /// What they do.
    #[serde(default)]
    pub does: Behaviour,
    /// What they do from some day on instead, in the order of days.
    #[serde(default)]
    pub later: Vec<Later>,
}

/// A change of mind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Later {
    /// From when on.
    pub from_day: f64,
    /// What they do then.
    pub does: Behaviour,
}

/// What a peer does. All of it can be combined; nothing of it is what an honest peer does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behaviour {
    /// Share of answers with wrong bytes, each drawn by itself.
    pub corrupt: f64,
    /// Hours of doing so,
    pub on_hours: f64,
    /// followed by hours of being good; each peer begins at its own time. 0 for always on.
    pub off_hours: f64,
    /// Share of audits that it recognises and serves well.
    pub spares_audits: f64,
    /// Share of answers that send clients back.
    pub missing: f64,
    /// What it delivers of the bandwidth that it claims.
    pub bandwidth: f64,
    /// Says of honest peers that they serve wrong bytes, between true words that make it credible.
    pub slander: bool,
    /// Says of others of its kind that they are good.
    pub praise: bool,
    /// Once it is found out, it leaves and joins anew under another domain.
    pub whitewash: bool,
    /// Sends peer records in others' names, with its own key and with theirs.
    pub forge: bool,
    /// Talks to every site in every round of gossip, to be the only one that does.
    pub crowd: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            corrupt: 0.0,
            on_hours: 0.0,
            off_hours: 0.0,
            spares_audits: 0.0,
            missing: 0.0,
            bandwidth: 1.0,
            slander: false,
            praise: false,
            whitewash: false,
            forge: false,
            crowd: false,
        }
    }
}

/// Why there is no scenario; always the fault of whoever wrote it.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// There is no such file, and no scenario of that name.
    #[error("there is no file {0}, and no scenario of that name (p2pcdn simulate --list)")]
    Unknown(String),
    /// The file cannot be understood.
    #[error("{file}: {key}{problem}")]
    Malformed {
        /// Which file.
        file: String,
        /// Which key, followed by a colon; empty if that cannot be said.
        key: String,
        /// What is wrong.
        problem: String,
    },
}

/// The scenarios that are always at hand, by name.
pub const STANDARD: [(&str, &str); 19] = [
    ("constant", include_str!("../../scenarios/constant.toml")),
    ("rare", include_str!("../../scenarios/rare.toml")),
    ("on-off", include_str!("../../scenarios/on-off.toml")),
    ("discriminating-95", include_str!("../../scenarios/discriminating-95.toml")),
    ("discriminating-100", include_str!("../../scenarios/discriminating-100.toml")),
    ("slander", include_str!("../../scenarios/slander.toml")),
    ("clique", include_str!("../../scenarios/clique.toml")),
    ("sybil", include_str!("../../scenarios/sybil.toml")),
    ("whitewash", include_str!("../../scenarios/whitewash.toml")),
    ("forged-membership", include_str!("../../scenarios/forged-membership.toml")),
    ("flaky-4", include_str!("../../scenarios/flaky-4.toml")),
    ("flaky-3", include_str!("../../scenarios/flaky-3.toml")),
    ("audit-cost", include_str!("../../scenarios/audit-cost.toml")),
    ("small-site", include_str!("../../scenarios/small-site.toml")),
    ("gossip-cost", include_str!("../../scenarios/gossip-cost.toml")),
    ("honest", include_str!("../../scenarios/honest.toml")),
    ("capability", include_str!("../../scenarios/capability.toml")),
    ("discriminating-100-unseen", include_str!("../../scenarios/discriminating-100-unseen.toml")),
    ("sleepers", include_str!("../../scenarios/sleepers.toml")),
];
/// So many of them, from the first, have the targets that p2pcdn promises.
pub const WITH_TARGETS: usize = 15;

impl Scenario {
    /// The scenario of that name or in that file.
    pub fn load(name: &str) -> Result<Self, ScenarioError> {
        if let Some((name, text)) = STANDARD.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, Toml::string(text));
        }
        if !Path::new(name).is_file() {
            return Err(ScenarioError::Unknown(name.to_owned()));
        }
        Self::parse(name, Toml::file_exact(name))
    }

    /// A scenario as it is written; `file` is for messages.
    pub fn read(file: &str, text: &str) -> Result<Self, ScenarioError> {
        Self::parse(file, Toml::string(text))
    }

    fn parse(file: &str, source: Data<Toml>) -> Result<Self, ScenarioError> {
        let malformed = |key: String, problem: String| {
            let key = if key.is_empty() { key } else { format!("{key}: ") };
            ScenarioError::Malformed { file: file.to_owned(), key, problem }
        };
        let scenario: Self =
            Figment::from(source).extract().map_err(|error| malformed(error.path.join("."), error.kind.to_string()))?;
        scenario.check().map_err(|(key, problem)| malformed(key, problem.to_owned()))?;
        Ok(scenario)
    }

    /// Every world of it, with all groups, by name.
    pub fn worlds(&self) -> Vec<(String, World, Vec<Group>)> {
        if self.variants.is_empty() {
            return vec![(String::new(), self.world.clone(), self.groups.clone())];
        }
        let world = |variant: &Variant| {
            let groups = self.groups.iter().chain(&variant.groups).cloned().collect();
            (variant.name.clone(), variant.world.as_ref().unwrap_or(&self.world).clone(), groups)
        };
        self.variants.iter().map(world).collect()
    }

    fn check(&self) -> Result<(), (String, &'static str)> {
        let worlds = self.worlds();
        for (name, world, groups) in &worlds {
            let at = |key: &str| if name.is_empty() { key.to_owned() } else { format!("variant {name}: {key}") };
            for (key, holds, problem) in world.rules() {
                if !holds {
                    return Err((at(&format!("world.{key}")), problem));
                }
            }
            if groups.iter().map(|group| group.share).sum::<f64>()
                > 1.0 - f64::from(world.sites) / f64::from(world.peers.max(1))
            {
                return Err((at("group.share"), "the groups are more than all peers that are no sites"));
            }
            for group in groups {
                for (key, holds, problem) in group.rules() {
                    if !holds {
                        return Err((at(&format!("group {}: {key}", group.name)), problem));
                    }
                }
            }
        }
        for figure in &self.figures {
            let names = [&figure.variant, &figure.minus].into_iter().flatten();
            if names.into_iter().any(|name| worlds.iter().all(|(known, ..)| known != name)) {
                return Err((format!("figure {}", figure.title), "names a variant that there is not"));
            }
        }
        if self.figures.is_empty() { Err(("figure".to_owned(), "at least one has to be asked for")) } else { Ok(()) }
    }
}

type Rule = (&'static str, bool, &'static str);

impl World {
    fn rules(&self) -> [Rule; 8] {
        [
            ("sites", (1..=10_000).contains(&self.sites), "must lie between 1 and 10000"),
            ("peers", self.peers >= self.sites && self.peers <= 100_000, "must not be below sites nor above 100000"),
            (
                "holders",
                (1..=256).contains(&self.holders) && self.holders < self.peers,
                "must lie between 1 and 256, and below peers",
            ),
            ("objects", (1..=100_000).contains(&self.objects), "must lie between 1 and 100000"),
            ("days", self.days > 0.0 && self.days <= 366.0, "must lie above 0 and not above 366"),
            ("step_minutes", (1..=60).contains(&self.step_minutes), "must lie between 1 and 60"),
            ("evidence", is_share(self.evidence), "must lie between 0 and 1"),
            ("visitor_networks", self.visitor_networks > 0, "must be above 0"),
        ]
    }
}

impl Group {
    fn rules(&self) -> Vec<Rule> {
        let mut rules = vec![
            ("share", is_share(self.share), "must lie between 0 and 1"),
            ("extra", self.extra <= 100_000, "must not be above 100000"),
            ("later.from_day", self.later.is_sorted_by_key(|later| later.from_day), "must be in the order of days"),
        ];
        for does in self.later.iter().map(|later| &later.does).chain([&self.does]) {
            rules.extend([
                ("does.corrupt", is_share(does.corrupt), "must lie between 0 and 1"),
                ("does.spares_audits", is_share(does.spares_audits), "must lie between 0 and 1"),
                ("does.missing", is_share(does.missing), "must lie between 0 and 1"),
                (
                    "does.bandwidth",
                    does.bandwidth > 0.0 && does.bandwidth <= 1e3,
                    "must lie above 0 and not above 1000",
                ),
                ("does.on_hours", (0.0..=1e4).contains(&does.on_hours), "must lie between 0 and 10000"),
                ("does.off_hours", (0.0..=1e4).contains(&does.off_hours), "must lie between 0 and 10000"),
            ]);
        }
        rules
    }

    /// What its peers do at that day.
    pub(super) fn does_at(&self, day: f64) -> &Behaviour {
        let later = self.later.iter().rev().find(|later| later.from_day <= day);
        later.map_or(&self.does, |later| &later.does)
    }
}

fn is_share(x: f64) -> bool {
    (0.0..=1.0).contains(&x)
}
