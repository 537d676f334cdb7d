//! On which terms this host carries anything: the operator's settings, the deny list, who owes whom, and whether it is leaving.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pcdn_core::object::{Class, ObjectRecord, Sha256};
use redb::TableDefinition;
use serde::{Deserialize, Serialize};

use super::admit::{Circumstances, Reputation, admit};
use super::deny::DenyList;
use super::ledger::Ledger;
use crate::replicate::messages::Decline;
use crate::reputation::book::Book;
use crate::settings::Host;
use crate::state_db::StateDb;
use crate::store::{Replica, Usage};

/// The terms, shared by all who take in, serve, grant and give up.
pub struct Terms {
    /// The operator's settings.
    pub host: Host,
    /// What is not carried.
    pub deny: DenyList,
    /// Who has carried how much for whom.
    pub ledger: Ledger,
    book: Arc<Book>,
    db: Arc<StateDb>,
    leaving: AtomicBool,
    /// When that was changed in a way that is not on disk yet, in seconds since the Unix epoch.
    unsaved: Mutex<Option<u64>>,
    going: Mutex<HashMap<String, Decline>>,
}

/// How far this host is in leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Whether it leaves, or has left.
    pub state: DepartureState,
    /// Replicas that are still here.
    pub replicas: usize,
    /// Bytes of these and of what is on its way in.
    pub bytes: u64,
    /// Withdrawals that their origins have not heard of yet.
    pub untold: usize,
    /// Whether a restart now would forget that it leaves, or that it stays, since the disk takes nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsaved: bool,
}

/// Whether this host leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DepartureState {
    /// It carries what it takes in.
    Staying,
    /// It takes nothing in, and gives up what it has.
    Leaving,
    /// It carries nothing any more.
    Left,
}

/// The terms could not be read; this machine's fault.
#[derive(Debug, thiserror::Error)]
#[error("the terms of hosting in state.redb: {0}")]
pub struct TermsError(#[from] Box<redb::Error>);

/// One row, `leaving`, while this host is.
pub(crate) const HOSTING: TableDefinition<&str, u64> = TableDefinition::new("hosting");
const LEAVING: &str = "leaving";

impl Terms {
    /// Reads what outlasts restarts; `now_s` is seconds since the Unix epoch, `now_ms` monotonic.
    pub fn open(db: Arc<StateDb>, host: Host, book: Arc<Book>, now_s: u64, now_ms: u64) -> Result<Self, TermsError> {
        Ok(Self {
            deny: DenyList::open(db.clone(), host.deny.clone())?,
            ledger: Ledger::open(db.clone(), now_s, now_ms)?,
            leaving: AtomicBool::new(read_leaving(&db).map_err(Box::new)?),
            unsaved: Mutex::default(),
            host,
            book,
            db,
            going: Mutex::default(),
        })
    }

    /// Whether a record is refused whatever room there is; also one that is held still, but on its way out.
    pub fn refuses(&self, record: &ObjectRecord) -> Option<Decline> {
        self.refuses_version(&record.origin, &record.path, &record.sha256)
    }

    /// The same, of whose record these are parts.
    pub(super) fn refuses_version(&self, origin: &str, path: &str, sha256: &Sha256) -> Option<Decline> {
        if self.is_leaving() {
            Some(Decline::Leaving)
        } else if self.deny.covers(origin, path, sha256) {
            Some(Decline::Denied)
        } else {
            self.going().get(&key(origin, path)).copied()
        }
    }

    /// Admits or declines a valid record of `class`, given what is in use already.
    pub fn admit(&self, usage: &Usage, record: &ObjectRecord, class: Class) -> Result<(), Decline> {
        let circumstances = Circumstances {
            denied: self.deny.covers(&record.origin, &record.path, &record.sha256),
            leaving: self.is_leaving(),
            balance: self.ledger.balance(&record.origin),
            reputation: if self.book.is_acceptable(&record.origin) { Reputation::Good } else { Reputation::Poor },
        };
        admit(&self.host, &circumstances, usage, record, class)
    }

    /// Whether a replica may be served; holds from the very moment in which the operator has said no.
    pub fn serves(&self, origin: &str, path: &str, sha256: &Sha256) -> bool {
        !self.deny.covers(origin, path, sha256)
    }

    /// Whether an origin is granted any bandwidth.
    pub fn grants(&self, origin: &str) -> bool {
        !self.is_leaving() && !self.deny.covers_origin(origin) && self.book.is_acceptable(origin)
    }

    /// Whether this host is giving up everything that it carries.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Begins to leave, as of `now_s` seconds since the Unix epoch, or comes back. Blocks for one durable write; after one that fails
    /// it holds until the agent ends, or [`Terms::save`] has done better.
    pub fn set_leaving(&self, leaving: bool, now_s: u64) {
        let mut unsaved = self.unsaved();
        self.leaving.store(leaving, Ordering::Relaxed);
        *unsaved = self.write_leaving(leaving, now_s).err().map(|error| {
            tracing::error!(%error, "writing to state.redb whether this host leaves");
            now_s
        });
    }

    /// Whether everything is on disk as it holds.
    pub fn is_saved(&self) -> bool {
        self.unsaved().is_none() && self.deny.is_saved()
    }

    /// Writes down what could not be written before. Blocks for up to two durable writes.
    pub fn save(&self) {
        self.deny.save();
        let mut unsaved = self.unsaved();
        *unsaved = unsaved.filter(|since_s| self.write_leaving(self.is_leaving(), *since_s).is_err());
    }

    fn write_leaving(&self, leaving: bool, now_s: u64) -> Result<(), Box<redb::Error>> {
        let change = |table: &mut redb::Table<'_, &'static str, u64>| {
            if leaving { table.insert(LEAVING, now_s) } else { table.remove(LEAVING) }.map(drop)
        };
        self.db.change(HOSTING, change).map_err(Box::new)
    }

    /// Declines, from now on, objects that are being given up while they are still served.
    pub(super) fn let_go(&self, replicas: &[Arc<Replica>], reason: Decline) {
        let keys = replicas.iter().map(|replica| (key(&replica.record.origin, &replica.record.path), reason));
        self.going().extend(keys);
    }

    /// Whether the object is being given up.
    pub(super) fn is_going(&self, replica: &Replica) -> bool {
        let going = self.going();
        !going.is_empty() && going.contains_key(&key(&replica.record.origin, &replica.record.path))
    }

    /// They are gone, or stay after all.
    pub(super) fn settle(&self, replicas: &[Arc<Replica>]) {
        let mut going = self.going();
        for replica in replicas {
            going.remove(&key(&replica.record.origin, &replica.record.path));
        }
    }

    fn unsaved(&self) -> MutexGuard<'_, Option<u64>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn going(&self) -> MutexGuard<'_, HashMap<String, Decline>> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Neither can contain a space.
fn key(origin: &str, path: &str) -> String {
    format!("{origin} {path}")
}

fn read_leaving(db: &StateDb) -> Result<bool, redb::Error> {
    match db.begin_read()?.open_table(HOSTING) {
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(false),
        table => Ok(table?.get(LEAVING)?.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use p2pcdn_core::object::Class;

    use super::super::admit::tests::{host, record};
    use super::*;
    use crate::identity::testing;

    #[test]
    fn who_is_leaving_takes_nothing_and_grants_nothing_until_it_comes_back_whatever_restarts() {
        let db = testing::database();
        let open = || Terms::open(db.clone(), host(), testing::book(), 0, 0).unwrap();
        let verdict = |terms: &Terms| terms.admit(&Usage::default(), &record("a.test", 10), Class::Image);
        assert_eq!(verdict(&open()), Ok(()));
        open().set_leaving(true, 7);
        let terms = open();
        assert_eq!(verdict(&terms), Err(Decline::Leaving));
        assert_eq!(terms.refuses(&record("a.test", 10)), Some(Decline::Leaving));
        assert!(
            !terms.grants("a.test") && terms.serves("a.test", "/x", &Sha256([0; 32])),
            "it serves until all is told"
        );
        terms.set_leaving(false, 8);
        assert_eq!(verdict(&open()), Ok(()));
        assert_eq!(open().refuses(&record("a.test", 10)), None);
    }

    #[test]
    fn what_the_operator_denies_is_neither_served_nor_taken_in() {
        let terms = Terms::open(testing::database(), host(), testing::book(), 0, 0).unwrap();
        assert!(terms.serves("a.test", "/x", &Sha256([0; 32])));
        terms.deny.add(&["a.test/x".parse().unwrap()], 1).unwrap();
        assert!(!terms.serves("a.test", "/x", &Sha256([0; 32])) && terms.grants("a.test"));
        assert_eq!(terms.refuses(&record("a.test", 10)), Some(Decline::Denied));
        assert_eq!(terms.refuses(&record("b.test", 10)), None);
        terms.deny.add(&["a.test".parse().unwrap()], 1).unwrap();
        assert!(!terms.grants("a.test"));
    }
}
