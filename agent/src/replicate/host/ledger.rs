//! Who has carried how much for whom, as this site has counted it itself, slowly forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::TableDefinition;

use super::admit::Balance;
use crate::state_db::StateDb;

/// One account per peer.
pub struct Ledger {
    db: Arc<StateDb>,
    accounts: Mutex<Accounts>,
}

struct Accounts {
    by_domain: HashMap<String, Account>,
    aged_ms: u64,
    is_saved: bool,
}

/// Bytes, of which half are forgotten every [`HALF_LIFE_S`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Account {
    given: f64,
    received: f64,
}

/// Two weeks, so that a debt of one crowd is forgiven in a season, and a friend's help is not forgotten at once.
const HALF_LIFE_S: f64 = 14.0 * 24.0 * 3600.0;
/// As many as there can be peers; further ones have no account, and so no debt.
const MAX_ACCOUNTS: usize = 4096;
/// An account with fewer bytes on both sides is closed.
const NOTHING: f64 = 1024.0;

/// Bytes given, bytes received, and when that was so, in seconds since the Unix epoch.
const LEDGER: TableDefinition<&str, (u64, u64, u64)> = TableDefinition::new("ledger");

impl Ledger {
    /// Reads the accounts; what was forgotten meanwhile follows from `now_s`, seconds since the Unix epoch.
    ///
    /// A clock that was set back has nothing forgotten, one that was set forward more than it should, in the debtors' favour.
    pub fn open(db: Arc<StateDb>, now_s: u64, now_ms: u64) -> Result<Self, Box<redb::Error>> {
        let aged = |(domain, (given, received, at_s)): (String, (u64, u64, u64))| {
            let account = Account { given: given as f64, received: received as f64 };
            (domain, account.after(now_s.saturating_sub(at_s) as f64))
        };
        let rows: Vec<_> = db.rows(LEDGER, |account| account).map_err(Box::new)?;
        let by_domain = rows.into_iter().take(MAX_ACCOUNTS).map(aged).collect();
        Ok(Self { db, accounts: Mutex::new(Accounts { by_domain, aged_ms: now_ms, is_saved: true }) })
    }

    /// Counts bytes that this host has sent for a peer, and bytes that the peer was to send for this site.
    pub fn note(&self, domain: &str, given: u64, received: u64) {
        let mut accounts = self.accounts();
        let is_new = !accounts.by_domain.contains_key(domain);
        if (given == 0 && received == 0) || (is_new && accounts.by_domain.len() >= MAX_ACCOUNTS) {
            return;
        }
        let account = accounts.by_domain.entry(domain.to_owned()).or_default();
        account.given += given as f64;
        account.received += received as f64;
        accounts.is_saved = false;
    }

    /// How it stands with a peer.
    pub fn balance(&self, domain: &str) -> Balance {
        let account = self.accounts().by_domain.get(domain).copied().unwrap_or_default();
        Balance { given: account.given as u64, received: account.received as u64 }
    }

    /// Forgets what is due by `now_ms`, which is monotonic, closes the accounts of those who are no peers, and writes the rest down
    /// as of `now_s`. Blocks for one durable write if anything was counted since the last one.
    pub fn save(&self, now_s: u64, now_ms: u64, is_peer: impl Fn(&str) -> bool) -> Result<(), Box<redb::Error>> {
        let mut accounts = self.accounts();
        let elapsed_s = now_ms.saturating_sub(accounts.aged_ms) as f64 / 1000.0;
        accounts.aged_ms = now_ms;
        accounts.by_domain.values_mut().for_each(|account| *account = account.after(elapsed_s));
        let is_open =
            |domain: &String, account: &mut Account| is_peer(domain) && account.given.max(account.received) >= NOTHING;
        accounts.by_domain.retain(is_open);
        if accounts.is_saved {
            return Ok(());
        }
        let write = || -> Result<(), redb::Error> {
            let transaction = self.db.begin_write()?;
            transaction.delete_table(LEDGER)?;
            {
                let mut table = transaction.open_table(LEDGER)?;
                for (domain, account) in &accounts.by_domain {
                    table.insert(domain.as_str(), (account.given as u64, account.received as u64, now_s))?;
                }
            }
            Ok(transaction.commit()?)
        };
        write().map_err(Box::new)?;
        accounts.is_saved = true;
        Ok(())
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn after(self, seconds: f64) -> Self {
        let left = (-seconds / HALF_LIFE_S).exp2();
        Self { given: self.given * left, received: self.received * left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing;

    const HALF_LIFE: u64 = 14 * 24 * 3600;

    fn balance(ledger: &Ledger, domain: &str) -> (u64, u64) {
        let Balance { given, received } = ledger.balance(domain);
        (given, received)
    }

    #[test]
    fn both_sides_are_counted_and_forgotten_alike() {
        let ledger = Ledger::open(testing::database(), 0, 0).unwrap();
        ledger.note("b.test", 4_000_000, 0);
        ledger.note("b.test", 0, 2_000_000);
        assert_eq!(balance(&ledger, "b.test"), (4_000_000, 2_000_000));
        assert_eq!(balance(&ledger, "c.test"), (0, 0));
        ledger.save(0, HALF_LIFE * 1000, |_| true).unwrap();
        assert_eq!(balance(&ledger, "b.test"), (2_000_000, 1_000_000));
        ledger.save(0, HALF_LIFE * 100_000, |_| true).unwrap();
        assert_eq!(balance(&ledger, "b.test"), (0, 0));
    }

    #[test]
    fn accounts_outlast_a_restart_and_a_clock_that_was_set_back() {
        let db = testing::database();
        let first = Ledger::open(db.clone(), 1_000_000_000, 0).unwrap();
        first.note("b.test", 4_000_000, 2_000_000);
        first.note("c.test", 4_000_000, 0);
        first.save(1_000_000_000, 0, |domain| domain == "b.test").unwrap();
        let at = |now_s| balance(&Ledger::open(db.clone(), now_s, 0).unwrap(), "b.test");
        assert_eq!(at(1_000_000_000), (4_000_000, 2_000_000));
        assert_eq!(at(1_000_000_000 + HALF_LIFE), (2_000_000, 1_000_000));
        assert_eq!(at(5), (4_000_000, 2_000_000));
        assert_eq!(balance(&Ledger::open(db, 5, 0).unwrap(), "c.test"), (0, 0), "no peer any more");
    }

    #[test]
    fn there_are_no_more_accounts_than_peers() {
        let ledger = Ledger::open(testing::database(), 0, 0).unwrap();
        (0..MAX_ACCOUNTS + 9).for_each(|n| ledger.note(&format!("{n}.test"), 5000, 0));
        assert_eq!(ledger.accounts().by_domain.len(), MAX_ACCOUNTS);
        ledger.note("1.test", 5000, 0);
        assert_eq!(balance(&ledger, "1.test").0, 10_000);
    }
}
