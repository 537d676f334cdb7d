//! What this host's operator does not carry: by domain, by the beginning of a path, and by digest.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use p2pcdn_core::lookup::canonical_path;
use p2pcdn_core::object::{Sha256, is_authority};
use redb::TableDefinition;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::state_db::StateDb;

/// One thing that is not carried; its text tells its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Denial {
    /// `example.org`: that name and all below it, at any port unless one is named.
    Domain(String),
    /// `example.org/path` or `/path`: whatever begins like this, of that domain or of every origin.
    Path {
        /// As in [`Denial::Domain`].
        domain: Option<String>,
        /// Canonical, with its slash.
        prefix: String,
    },
    /// 64 hexadecimal digits: these bytes, whoever offers them under whatever name.
    Digest(Sha256),
}

/// The text is no [`Denial`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} must be a domain, DOMAIN/PATH, /PATH (as the site writes it, without query) or the 64 hexadecimal digits of a SHA-256"
)]
pub struct DenialError(String);

/// Why the list could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum DenyError {
    /// The operator's: there is no more room.
    #[error(
        "the list is full: {MAX_DENIALS} entries, {MAX_PATHS} of them paths; take some out with p2pcdn deny remove"
    )]
    Full,
    /// The operator's: it stands in the settings.
    #[error("{0} stands in host.deny: take it out there and restart the agent")]
    InSettings(Denial),
}

/// An entry as an operator is shown it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyEntry {
    /// What is not carried.
    pub denial: Denial,
    /// When it was denied, in seconds since the Unix epoch; none for what stands in the settings.
    pub since_s: Option<u64>,
}

/// The operator's list: what stands in the settings, and what was added at run time, which counts from the moment in which he has said
/// so: a full disk does not keep him from it.
pub struct DenyList {
    db: Arc<StateDb>,
    in_settings: Vec<Denial>,
    added: Mutex<Added>,
    rules: RwLock<Arc<Rules>>,
}

#[derive(Default)]
struct Added {
    /// Each with its time.
    entries: BTreeMap<Denial, u64>,
    /// Whether the disk may say something else.
    is_unsaved: bool,
}

/// The list in the form in which every request for a replica is compared with it.
#[derive(Debug, Default)]
struct Rules {
    domains: HashSet<String>,
    paths: Vec<(Option<String>, String)>,
    digests: HashSet<Sha256>,
}

/// Entries of the list; further ones are refused.
pub const MAX_DENIALS: usize = 65_536;
/// Of these, paths, which are compared one by one.
const MAX_PATHS: usize = 1024;

pub(crate) const DENIED: TableDefinition<&str, u64> = TableDefinition::new("denied");

impl DenyList {
    /// Reads what was added before.
    pub fn open(db: Arc<StateDb>, in_settings: Vec<Denial>) -> Result<Self, Box<redb::Error>> {
        let added: Vec<(String, u64)> = db.rows(DENIED, |since_s| since_s).map_err(Box::new)?;
        // What no longer reads was written by a release that knew more; it must not keep this one from starting.
        let entries = added.into_iter().filter_map(|(text, since_s)| Some((text.parse().ok()?, since_s))).collect();
        let added = Mutex::new(Added { entries, is_unsaved: false });
        let list = Self { db, in_settings, added, rules: RwLock::default() };
        list.compile(&list.added().entries);
        Ok(list)
    }

    /// Whether the operator does not carry this.
    pub fn covers(&self, origin: &str, path: &str, sha256: &Sha256) -> bool {
        self.rules().covers(origin, path, sha256)
    }

    /// Whether these bytes are not carried, whoever's they are.
    pub fn covers_digest(&self, sha256: &Sha256) -> bool {
        self.rules().digests.contains(sha256)
    }

    /// Whether nothing of the origin is carried.
    pub fn covers_origin(&self, origin: &str) -> bool {
        self.rules().covers_origin(origin)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.in_settings.len() + self.added().entries.len()
    }

    /// Whether everything is carried.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every entry.
    pub fn list(&self) -> Vec<DenyEntry> {
        let settled = self.in_settings.iter().map(|denial| DenyEntry { denial: denial.clone(), since_s: None });
        let added = self.added();
        let added =
            added.entries.iter().map(|(denial, since_s)| DenyEntry { denial: denial.clone(), since_s: Some(*since_s) });
        settled.chain(added).collect()
    }

    /// Adds entries, all or none; returns how many are news. Blocks for one durable write; after one that fails they count until the
    /// agent ends, or [`DenyList::save`] has done better.
    pub fn add(&self, denials: &[Denial], now_s: u64) -> Result<usize, DenyError> {
        let mut added = self.added();
        let is_news = |denial: &&Denial| !added.entries.contains_key(*denial) && !self.in_settings.contains(denial);
        let news: HashSet<&Denial> = denials.iter().filter(is_news).collect();
        let is_path = |denial: &Denial| matches!(denial, Denial::Path { .. });
        let known = added.entries.keys().filter(|denial| is_path(denial)).count();
        let paths = news.iter().filter(|denial| is_path(denial)).count() + known;
        if news.len() + added.entries.len() > MAX_DENIALS || paths > MAX_PATHS {
            return Err(DenyError::Full);
        }
        let news: Vec<Denial> = news.into_iter().cloned().collect();
        added.entries.extend(news.iter().map(|denial| (denial.clone(), now_s)));
        // Before the disk has its say, which may take time.
        self.compile(&added.entries);
        let write = |table: &mut redb::Table<'_, &str, u64>| news.iter().try_for_each(|d| insert(table, d, now_s));
        added.note(self.write(write));
        Ok(news.len())
    }

    /// Takes entries out; returns how many there were. Blocks for one durable write, as [`DenyList::add`].
    pub fn remove(&self, denials: &[Denial]) -> Result<usize, DenyError> {
        if let Some(fixed) = denials.iter().find(|denial| self.in_settings.contains(denial)) {
            return Err(DenyError::InSettings(fixed.clone()));
        }
        let mut added = self.added();
        let removed = denials.iter().filter(|denial| added.entries.remove(denial).is_some()).count();
        self.compile(&added.entries);
        added.note(self.write(|table| denials.iter().try_for_each(|d| table.remove(d.to_string().as_str()).map(drop))));
        Ok(removed)
    }

    /// Whether everything is on disk as it counts.
    pub fn is_saved(&self) -> bool {
        !self.added().is_unsaved
    }

    /// Writes everything down anew if an earlier write has failed. Blocks for one durable write.
    pub fn save(&self) {
        let mut added = self.added();
        if added.is_unsaved {
            let written = self.write(|table| {
                table.retain(|_, _| false)?;
                added.entries.iter().try_for_each(|(denial, since_s)| insert(table, denial, *since_s))
            });
            added.is_unsaved = written.is_err();
        }
    }

    fn compile(&self, added: &BTreeMap<Denial, u64>) {
        let mut rules = Rules::default();
        for denial in self.in_settings.iter().chain(added.keys()) {
            match denial {
                Denial::Domain(domain) => drop(rules.domains.insert(domain.clone())),
                Denial::Path { domain, prefix } => rules.paths.push((domain.clone(), prefix.clone())),
                Denial::Digest(sha256) => drop(rules.digests.insert(*sha256)),
            }
        }
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    fn write(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &'static str, u64>) -> Result<(), redb::StorageError>,
    ) -> Result<(), Box<redb::Error>> {
        self.db.change(DENIED, change).map_err(Box::new)
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn added(&self) -> MutexGuard<'_, Added> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Added {
    fn note(&mut self, written: Result<(), Box<redb::Error>>) {
        if let Err(error) = written {
            tracing::error!(%error, "writing the deny list to state.redb; it holds until the agent ends");
            self.is_unsaved = true;
        }
    }
}

fn insert(table: &mut redb::Table<'_, &str, u64>, denial: &Denial, since_s: u64) -> Result<(), redb::StorageError> {
    table.insert(denial.to_string().as_str(), since_s).map(drop)
}

impl Rules {
    fn covers(&self, origin: &str, path: &str, sha256: &Sha256) -> bool {
        let is_of = |domain: &Option<String>| domain.as_ref().is_none_or(|domain| names(origin).any(|n| n == *domain));
        self.digests.contains(sha256)
            || self.covers_origin(origin)
            || self.paths.iter().any(|(domain, prefix)| path.starts_with(prefix.as_str()) && is_of(domain))
    }

    fn covers_origin(&self, origin: &str) -> bool {
        !self.domains.is_empty() && names(origin).any(|name| self.domains.contains(&name))
    }
}

/// An authority and all names above it, each with and without its port.
fn names(authority: &str) -> impl Iterator<Item = String> {
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    let above = host.match_indices('.').filter_map(|(at, _)| host.get(at + 1..));
    std::iter::once(host).chain(above).flat_map(move |host| {
        let with_port = port.map(|port| format!("{host}:{port}"));
        std::iter::once(host.to_owned()).chain(with_port)
    })
}

impl FromStr for Denial {
    type Err = DenialError;

    fn from_str(text: &str) -> Result<Self, DenialError> {
        let wrong = || DenialError(text.to_owned());
        if let Ok(sha256) = text.parse() {
            return Ok(Self::Digest(sha256));
        }
        let Some(slash) = text.find('/') else {
            return if is_authority(text) { Ok(Self::Domain(text.to_owned())) } else { Err(wrong()) };
        };
        let (domain, path) = text.split_at(slash);
        let prefix = canonical_path(path.as_bytes()).map_err(|_| wrong())?.to_owned();
        match domain {
            "" => Ok(Self::Path { domain: None, prefix }),
            domain if is_authority(domain) => Ok(Self::Path { domain: Some(domain.to_owned()), prefix }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => f.write_str(domain),
            Self::Path { domain, prefix } => write!(f, "{}{prefix}", domain.as_deref().unwrap_or_default()),
            Self::Digest(sha256) => sha256.fmt(f),
        }
    }
}

impl Serialize for Denial {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Denial {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing;
    use proptest::prelude::*;

    fn list(entries: &[&str]) -> DenyList {
        DenyList::open(testing::database(), entries.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    /// Origin, path, and whether they are covered.
    type Case = (&'static str, &'static str, bool);

    #[test]
    fn an_entry_covers_what_it_names_and_nothing_beside() {
        let bytes = Sha256([7; 32]);
        let digest = bytes.to_string();
        let table: [(&str, &[Case]); 5] = [
            (
                "b.test",
                &[
                    ("b.test", "/x", true),
                    ("b.test:8443", "/x", true),
                    ("www.b.test:8443", "/x", true),
                    ("bb.test", "/x", false),
                    ("test", "/x", false),
                    ("b.test.evil.test", "/x", false),
                ],
            ),
            ("b.test:8443", &[("b.test:8443", "/", true), ("b.test", "/", false), ("b.test:9443", "/", false)]),
            (
                "b.test/a/",
                &[
                    ("b.test", "/a/x", true),
                    ("www.b.test", "/a/x", true),
                    ("b.test", "/ab", false),
                    ("c.test", "/a/x", false),
                ],
            ),
            ("/a", &[("b.test", "/a/x", true), ("c.test", "/ab", true), ("c.test", "/b/a", false)]),
            (&digest, &[("b.test", "/x", true), ("c.test", "/y", true)]),
        ];
        for (entry, cases) in table {
            for (origin, path, covered) in cases {
                assert_eq!(list(&[entry]).covers(origin, path, &bytes), *covered, "{entry}: {origin}{path}");
            }
            assert!(!list(&[]).covers("b.test", "/a/x", &bytes));
        }
        assert!(!list(&[&digest]).covers("b.test", "/x", &Sha256([8; 32])));
        assert!(list(&["b.test"]).covers_origin("www.b.test:1") && !list(&["b.test/a"]).covers_origin("b.test"));
    }

    #[test]
    fn what_is_added_outlasts_a_restart_and_what_stands_in_the_settings_is_changed_there() {
        let db = testing::database();
        let denials: Vec<Denial> = ["b.test", "/a/", "b.test"].map(|text| text.parse().unwrap()).into();
        let first = DenyList::open(db.clone(), vec![]).unwrap();
        assert_eq!(first.add(&denials, 5).unwrap(), 2);
        assert_eq!(first.add(&denials, 6).unwrap(), 0);
        let again = DenyList::open(db.clone(), vec!["c.test".parse().unwrap()]).unwrap();
        assert!(again.covers_origin("b.test") && again.covers_origin("c.test") && again.len() == 3);
        assert_eq!(again.list()[0], DenyEntry { denial: "c.test".parse().unwrap(), since_s: None });
        assert!(matches!(again.remove(&["c.test".parse().unwrap()]), Err(DenyError::InSettings(_))));
        assert_eq!(again.remove(&denials).unwrap(), 2);
        assert!(!again.covers_origin("b.test"));
        assert_eq!(DenyList::open(db, vec![]).unwrap().len(), 0);
    }

    #[test]
    fn a_full_list_takes_nothing_more() {
        let list = list(&[]);
        let paths: Vec<Denial> = (0..=MAX_PATHS).map(|n| format!("/{n}").parse().unwrap()).collect();
        assert!(matches!(list.add(&paths, 1), Err(DenyError::Full)));
        assert!(list.is_empty(), "all or none");
        assert_eq!(list.add(&paths[1..], 1).unwrap(), MAX_PATHS);
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in
            ["", "B.test", "b.test:443", "b..test", "b.test//a", "/a/../b", "http://b.test/", "/a b", &"a".repeat(300)]
        {
            assert!(text.parse::<Denial>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_entry_reads_as_it_was_written(text in "[a-z0-9./:-]{0,80}|[0-9a-f]{64}") {
            if let Ok(denial) = text.parse::<Denial>() {
                prop_assert_eq!(denial.to_string().parse::<Denial>().unwrap(), denial);
            }
        }
    }
}
