//! Whether the operator has paused redirects, which no restart ends.

use std::sync::Arc;

use redb::TableDefinition;

use crate::state_db::StateDb;

/// The operator's word, on disk.
pub struct Pause {
    db: Arc<StateDb>,
}

/// One row, `paused`, while redirects are; its value says nothing.
const OPERATOR: TableDefinition<&str, u64> = TableDefinition::new("operator");
const PAUSED: &str = "paused";

impl Pause {
    /// Of the agent with this metadata.
    pub fn new(db: Arc<StateDb>) -> Self {
        Self { db }
    }

    /// Whether redirects are paused.
    ///
    /// # Errors
    /// The metadata cannot be read; this machine's fault.
    pub fn read(&self) -> Result<bool, Box<redb::Error>> {
        let rows: Vec<_> = self.db.rows(OPERATOR, |_| ()).map_err(Box::new)?;
        Ok(!rows.is_empty())
    }

    /// Notes it for the next start. Blocks for one durable write.
    ///
    /// # Errors
    /// It could not be written; this machine's fault.
    pub fn write(&self, is_paused: bool) -> Result<(), Box<redb::Error>> {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.db.begin_write()?;
            {
                let mut table = transaction.open_table(OPERATOR)?;
                if is_paused {
                    table.insert(PAUSED, 1)?
                } else {
                    table.remove(PAUSED)?
                };
            }
            Ok(transaction.commit()?)
        };
        write().map_err(Box::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_lasts_until_it_is_ended_whatever_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Pause::new(Arc::new(StateDb::open(&directory.path().join("state.redb")).unwrap()));
        assert!(!open().read().unwrap());
        open().write(true).unwrap();
        open().write(true).unwrap();
        assert!(open().read().unwrap());
        open().write(false).unwrap();
        assert!(!open().read().unwrap());
    }
}
