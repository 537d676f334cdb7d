//! Withdrawals that their origins have not confirmed, on disk before the replicas go, so that no restart makes them forgotten. A disk
//! that takes nothing keeps no replica from going: what could not be written is remembered in memory, and written later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::TableDefinition;
use serde::{Deserialize, Serialize};

use crate::replicate::messages::{MAX_BATCH, Withdrawal, WithdrawalReason};
use crate::state_db::StateDb;

/// What is yet to be told, by origin and path.
pub struct Outbox {
    db: Arc<StateDb>,
    untold: Mutex<UntoldAll>,
}

#[derive(Default)]
struct UntoldAll {
    /// By origin and path.
    rows: BTreeMap<String, BTreeMap<String, Untold>>,
    /// Whether the disk may say something else.
    is_unsaved: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Untold {
    withdrawal: Withdrawal,
    reason: WithdrawalReason,
}

/// Further ones are left to be found by the origins' probes, and by visitors who are sent back.
const MAX_UNTOLD: usize = 65_536;

/// Key: origin and path, which cannot contain a space.
const UNTOLD: TableDefinition<&str, &str> = TableDefinition::new("withdrawals");

impl Outbox {
    /// Reads what was not told before the last stop.
    pub fn open(db: Arc<StateDb>) -> Result<Self, Box<redb::Error>> {
        let mut untold = UntoldAll::default();
        let rows: Vec<_> = db.rows(UNTOLD, |json| serde_json::from_str::<Untold>(json)).map_err(Box::new)?;
        rows.into_iter().filter_map(|(_, row)| row.ok()).for_each(|row| untold.insert(row));
        Ok(Self { db, untold: Mutex::new(untold) })
    }

    /// Notes withdrawals that are to be told. Blocks for one durable write; after one that fails they are known until the agent ends,
    /// or [`Outbox::save`] has done better.
    pub fn put(&self, withdrawals: &[Withdrawal], reason: WithdrawalReason) {
        let mut untold = self.untold();
        let room = MAX_UNTOLD.saturating_sub(untold.len());
        let rows: Vec<Untold> =
            withdrawals.iter().take(room).map(|w| Untold { withdrawal: w.clone(), reason }).collect();
        if rows.len() < withdrawals.len() {
            tracing::warn!(left_out = withdrawals.len() - rows.len(), "too many withdrawals that nobody has heard of");
        }
        let written = self.write(|table| rows.iter().try_for_each(|row| insert(table, row)));
        rows.into_iter().for_each(|row| untold.insert(row));
        untold.note(written);
    }

    /// The origin has heard of these, or they are of no meaning any more. Blocks for one durable write.
    pub fn told(&self, withdrawals: &[Withdrawal]) {
        let mut untold = self.untold();
        let mut done = Vec::new();
        for withdrawal in withdrawals {
            let Some(paths) = untold.rows.get_mut(&withdrawal.origin) else { continue };
            if paths.get(&withdrawal.path).is_some_and(|row| row.withdrawal == *withdrawal) {
                paths.remove(&withdrawal.path);
                done.push(key(withdrawal));
            }
        }
        untold.rows.retain(|_, paths| !paths.is_empty());
        if !done.is_empty() {
            untold.note(self.write(|table| done.iter().try_for_each(|key| table.remove(key.as_str()).map(drop))));
        }
    }

    /// Writes everything down anew if an earlier write has failed. Blocks for one durable write.
    pub fn save(&self) {
        let mut untold = self.untold();
        if !untold.is_unsaved {
            return;
        }
        let all = || untold.rows.values().flat_map(BTreeMap::values);
        let written = self.write(|table| {
            table.retain(|_, _| false)?;
            all().try_for_each(|row| insert(table, row))
        });
        untold.is_unsaved = written.is_err();
    }

    /// Origins that have something to hear.
    pub fn origins(&self) -> Vec<String> {
        self.untold().rows.keys().cloned().collect()
    }

    /// What an origin has to hear, in batches of one reason each.
    pub fn batches(&self, origin: &str) -> Vec<(WithdrawalReason, Vec<Withdrawal>)> {
        let mut by_reason: BTreeMap<WithdrawalReason, Vec<Withdrawal>> = BTreeMap::new();
        for row in self.untold().rows.get(origin).into_iter().flat_map(BTreeMap::values) {
            by_reason.entry(row.reason).or_default().push(row.withdrawal.clone());
        }
        let batches = |(reason, all): (WithdrawalReason, Vec<Withdrawal>)| {
            all.chunks(MAX_BATCH).map(|batch| (reason, batch.to_vec())).collect::<Vec<_>>()
        };
        by_reason.into_iter().flat_map(batches).collect()
    }

    /// Number of withdrawals that are yet to be told.
    pub fn len(&self) -> usize {
        self.untold().len()
    }

    /// Whether everything has been told.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn write(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &'static str, &'static str>) -> Result<(), redb::StorageError>,
    ) -> Result<(), Box<redb::Error>> {
        self.db.change(UNTOLD, change).map_err(Box::new)
    }

    fn untold(&self) -> MutexGuard<'_, UntoldAll> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UntoldAll {
    fn insert(&mut self, row: Untold) {
        let Withdrawal { origin, path, .. } = &row.withdrawal;
        self.rows.entry(origin.clone()).or_default().insert(path.clone(), row);
    }

    fn len(&self) -> usize {
        self.rows.values().map(BTreeMap::len).sum()
    }

    fn note(&mut self, written: Result<(), Box<redb::Error>>) {
        if let Err(error) = written {
            tracing::error!(%error, "noting withdrawals in state.redb; a restart now would forget them");
            self.is_unsaved = true;
        }
    }
}

fn insert(table: &mut redb::Table<'_, &str, &str>, row: &Untold) -> Result<(), redb::StorageError> {
    // Strings and numbers always become JSON.
    let json = serde_json::to_string(row).unwrap_or_default();
    table.insert(key(&row.withdrawal).as_str(), json.as_str()).map(drop)
}

fn key(withdrawal: &Withdrawal) -> String {
    format!("{} {}", withdrawal.origin, withdrawal.path)
}

#[cfg(test)]
mod tests {
    use p2pcdn_core::object::Sha256;

    use super::*;
    use crate::identity::testing;

    fn withdrawal(origin: &str, number: usize, version: u8) -> Withdrawal {
        Withdrawal { origin: origin.into(), path: format!("/{number}"), sha256: Sha256([version; 32]) }
    }

    #[test]
    fn what_was_not_told_is_known_after_a_restart_until_it_is() {
        let db = testing::database();
        let many: Vec<Withdrawal> = (0..MAX_BATCH + 1).map(|n| withdrawal("a.test", n, 1)).collect();
        let first = Outbox::open(db.clone()).unwrap();
        first.put(&many, WithdrawalReason::Leaving);
        first.put(&[withdrawal("a.test", 999, 1), withdrawal("b.test", 1, 1)], WithdrawalReason::Denied);
        let again = Outbox::open(db.clone()).unwrap();
        assert_eq!((again.len(), again.origins().len()), (MAX_BATCH + 3, 2));
        let batches = again.batches("a.test");
        let sizes: Vec<_> = batches.iter().map(|(reason, batch)| (*reason, batch.len())).collect();
        let expected =
            [(WithdrawalReason::Denied, 1), (WithdrawalReason::Leaving, MAX_BATCH), (WithdrawalReason::Leaving, 1)];
        assert_eq!(sizes, expected);
        batches.iter().for_each(|(_, batch)| again.told(batch));
        assert_eq!(Outbox::open(db).unwrap().origins(), ["b.test"]);
    }

    #[test]
    fn a_confirmation_of_one_version_is_none_of_another() {
        let outbox = Outbox::open(testing::database()).unwrap();
        outbox.put(&[withdrawal("a.test", 1, 1)], WithdrawalReason::Lost);
        outbox.put(&[withdrawal("a.test", 1, 2)], WithdrawalReason::Lost);
        outbox.told(&[withdrawal("a.test", 1, 1)]);
        assert_eq!(outbox.len(), 1);
        outbox.told(&[withdrawal("a.test", 1, 2), withdrawal("c.test", 1, 2)]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn there_is_a_limit_to_what_is_remembered() {
        let outbox = Outbox::open(testing::database()).unwrap();
        let many: Vec<Withdrawal> = (0..MAX_UNTOLD + 9).map(|n| withdrawal("a.test", n, 1)).collect();
        outbox.put(&many, WithdrawalReason::Leaving);
        assert_eq!(outbox.len(), MAX_UNTOLD);
    }
}
