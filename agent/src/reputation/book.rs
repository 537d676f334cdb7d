//! The accounts of all peers, kept across restarts, and what follows from them for redirects.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::TableDefinition;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use super::account::{Account, Membership};
use super::formulas::Formulas;
use super::{Marks, Reputation, State};
use crate::clock::judging_now_ms;
use crate::identity::neighbourhood::registrable;
use crate::state_db::StateDb;

/// All accounts, shared by those who gather evidence and those who act on it.
pub struct Book {
    db: Arc<StateDb>,
    mode: Mode,
    reputation: Mutex<Reputation>,
}

/// Whether judgements have consequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Weights and isolation govern redirects.
    #[default]
    On,
    /// Everything is judged and shown, and nothing follows from it, but for the operator's ban.
    Observe,
}

/// What follows for redirects to one peer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trust {
    /// 0 to 1.
    pub weight: f64,
    /// Whether it shares what newcomers get together.
    pub newcomer: bool,
}

/// Account of each domain, as JSON.
pub(crate) const ACCOUNTS: TableDefinition<&str, &[u8]> = TableDefinition::new("reputation");
/// Marks of each registrable domain, as JSON.
pub(crate) const MARKS: TableDefinition<&str, &[u8]> = TableDefinition::new("reputation_marks");

/// How often what has changed is written down; what a crash forgets is found out anew.
const SAVE_EVERY: Duration = Duration::from_secs(5);

impl Book {
    /// Reads what was known before. Rows that this release does not understand are left out, with a line in the log.
    pub fn open(db: Arc<StateDb>, formulas: Formulas, mode: Mode) -> Result<Self, Box<redb::Error>> {
        let accounts: BTreeMap<String, Account> = read(&db, ACCOUNTS).map_err(Box::new)?;
        let marks: BTreeMap<String, Marks> = read(&db, MARKS).map_err(Box::new)?;
        Ok(Self { db, mode, reputation: Mutex::new(Reputation::new(formulas, accounts, marks)) })
    }

    /// Whether judgements have consequences.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Everything that is known, to add to it or to look at it; `now_ms` is passed on to whoever does.
    pub fn judge<T>(&self, with: impl FnOnce(&mut Reputation, u64) -> T) -> T {
        with(&mut self.reputation(), judging_now_ms())
    }

    /// These are the peers now.
    pub fn meet<'a>(&self, peers: impl Iterator<Item = (&'a str, Membership)>) {
        let peers: Vec<(&str, Membership)> = peers.collect();
        let (mut reputation, now_ms) = (self.reputation(), judging_now_ms());
        reputation.are_peers(peers.iter().map(|(domain, _)| (*domain).to_owned()).collect());
        peers.into_iter().for_each(|(domain, membership)| reputation.meet(domain, membership, now_ms));
    }

    /// What follows for redirects to a peer that so many bytes per second are to be sent to.
    pub fn trust(&self, domain: &str, needed_bytes_per_s: f64) -> Trust {
        let standing = self.reputation().standing(domain, needed_bytes_per_s, judging_now_ms());
        match self.mode {
            Mode::Observe if standing.state != State::Banned => Trust { weight: 1.0, newcomer: false },
            Mode::On | Mode::Observe => Trust { weight: standing.weight, newcomer: standing.newcomer },
        }
    }

    /// Whether objects of this origin are carried at all, as far as its reputation goes.
    pub fn is_acceptable(&self, origin: &str) -> bool {
        let state = self.reputation().standing(origin, 0.0, judging_now_ms()).state;
        state != State::Banned && (self.mode == Mode::Observe || state != State::Convicted)
    }

    /// Writes down what changes until cancelled, and once more then.
    pub async fn keep(self: Arc<Self>, cancel: CancellationToken) {
        loop {
            let last = tokio::time::timeout(SAVE_EVERY, cancel.cancelled()).await.is_ok();
            let book = self.clone();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || book.save()).await {
                tracing::warn!(%error, "reputations are not written down; is there room in state.directory?");
            }
            if last {
                return;
            }
        }
    }

    /// Writes down what has changed; blocks for one durable write if anything has.
    pub fn save(&self) -> Result<(), Box<redb::Error>> {
        let mut accounts = Vec::new();
        let mut marks = Vec::new();
        {
            let mut reputation = self.reputation();
            for domain in reputation.take_changed() {
                let json = |value: Option<serde_json::Result<Vec<u8>>>| value.and_then(Result::ok);
                marks.push((registrable(&domain).to_owned(), json(reputation.marks(&domain).map(serde_json::to_vec))));
                accounts.push((domain.clone(), json(reputation.account(&domain).map(serde_json::to_vec))));
            }
        }
        if accounts.is_empty() {
            return Ok(());
        }
        let write = || -> Result<(), redb::Error> {
            let transaction = self.db.begin_write()?;
            for (definition, rows) in [(ACCOUNTS, &accounts), (MARKS, &marks)] {
                let mut table = transaction.open_table(definition)?;
                for (domain, row) in rows {
                    match row {
                        Some(row) => table.insert(domain.as_str(), row.as_slice())?,
                        None => table.remove(domain.as_str())?,
                    };
                }
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|error| {
            // To be tried again with whatever changes next.
            self.reputation().touch(accounts.into_iter().map(|(domain, _)| domain));
            Box::new(error)
        })
    }

    fn reputation(&self) -> MutexGuard<'_, Reputation> {
        self.reputation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read<T: DeserializeOwned>(
    db: &StateDb,
    definition: TableDefinition<'static, &'static str, &'static [u8]>,
) -> Result<BTreeMap<String, T>, redb::Error> {
    let rows: Vec<(String, Result<T, _>)> = db.rows(definition, |json| serde_json::from_slice(json))?;
    let understood = rows.into_iter().filter_map(|(domain, value)| match value {
        Ok(value) => Some((domain, value)),
        Err(error) => {
            tracing::warn!(%domain, %error, "a reputation is not understood");
            None
        }
    });
    Ok(understood.collect())
}

#[cfg(test)]
mod tests {
    use super::super::Audited;
    use super::super::account::Verdict;
    use super::*;
    use crate::identity::testing;

    fn wrong(book: &Book) {
        let audited = |begun_ms| Audited { verdict: Verdict::WrongBytes, path: "/x", bytes_per_s: None, begun_ms };
        book.judge(|reputation, now_ms| reputation.audited("b.test", &audited(now_ms), now_ms));
    }

    fn open(db: &Arc<StateDb>, mode: Mode) -> Book {
        Book::open(db.clone(), Formulas::default(), mode).unwrap()
    }

    #[test]
    fn what_was_found_out_survives_a_restart() {
        let db = testing::database();
        let book = open(&db, Mode::On);
        book.meet([("b.test", Membership::Invited)].into_iter());
        assert!(book.trust("b.test", 0.0).weight > 0.5);
        wrong(&book);
        book.save().unwrap();
        let book = open(&db, Mode::On);
        assert_eq!(book.trust("b.test", 0.0).weight, 0.0);
        book.judge(|reputation, now_ms| reputation.forgive("b.test", now_ms));
        book.save().unwrap();
        assert!(open(&db, Mode::On).trust("b.test", 0.0).weight > 0.5);
    }

    #[test]
    fn who_only_observes_redirects_as_before_and_still_bans() {
        let book = open(&testing::database(), Mode::Observe);
        book.meet([("b.test", Membership::Open)].into_iter());
        wrong(&book);
        assert_eq!(book.trust("b.test", 0.0), Trust { weight: 1.0, newcomer: false });
        assert!(book.is_acceptable("b.test"));
        book.judge(|reputation, now_ms| reputation.ban("b.test", now_ms));
        assert_eq!(book.trust("b.test", 0.0).weight, 0.0);
        assert!(!book.is_acceptable("b.test"));
    }
}
