//! The operator's word that nothing is redirected: at once, and until another word, whatever restarts.

use std::sync::{Arc, Mutex, PoisonError};

use redb::TableDefinition;

use crate::load::LoadMeter;
use crate::state_db::StateDb;

/// Whether redirects are paused, for the load that every worker hears of and on disk.
pub struct Pause {
    db: Arc<StateDb>,
    load: Arc<Mutex<LoadMeter>>,
    /// Held until one word is in both places.
    setting: Mutex<()>,
}

/// One row, `paused`, while redirects are; its value says nothing.
pub(crate) const OPERATOR: TableDefinition<&str, u64> = TableDefinition::new("operator");
const PAUSED: &str = "paused";

impl Pause {
    /// Reads what was said before the last stop, and holds to it.
    ///
    /// # Errors
    /// The metadata cannot be read; this machine's fault.
    pub fn open(db: Arc<StateDb>, load: Arc<Mutex<LoadMeter>>) -> Result<Self, Box<redb::Error>> {
        let rows: Vec<(String, ())> = db.rows(OPERATOR, |_| ()).map_err(Box::new)?;
        if rows.iter().any(|(key, ())| key == PAUSED) {
            tracing::warn!("redirects are paused, as the operator said: p2pcdn resume brings them back");
            load.lock().unwrap_or_else(PoisonError::into_inner).set_killed(true);
        }
        Ok(Self { db, load, setting: Mutex::default() })
    }

    /// Pauses redirects or brings them back. Blocks for one durable write.
    ///
    /// # Errors
    /// It could not be written, and is in force until the agent ends; this machine's fault.
    pub fn set(&self, is_paused: bool) -> Result<(), Box<redb::Error>> {
        let _turn = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        self.load.lock().unwrap_or_else(PoisonError::into_inner).set_killed(is_paused);
        let change = |table: &mut redb::Table<'_, &'static str, u64>| {
            if is_paused { table.insert(PAUSED, 1) } else { table.remove(PAUSED) }.map(drop)
        };
        self.db.change(OPERATOR, change).map_err(Box::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_lasts_until_it_is_ended_whatever_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let open = || {
            let load: Arc<Mutex<LoadMeter>> = Arc::default();
            let db = Arc::new(StateDb::open(&directory.path().join("state.redb")).unwrap());
            (Pause::open(db, load.clone()).unwrap(), load)
        };
        let is_killed = |load: Arc<Mutex<LoadMeter>>| load.lock().unwrap().steering(0).killed;
        let (pause, load) = open();
        assert!(!is_killed(load.clone()));
        pause.set(true).unwrap();
        assert!(is_killed(load));
        drop(pause);
        let (pause, load) = open();
        assert!(is_killed(load.clone()));
        pause.set(false).unwrap();
        assert!(!is_killed(load));
        drop(pause);
        assert!(!is_killed(open().1));
    }
}
