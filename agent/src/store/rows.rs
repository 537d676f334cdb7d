//! Metadata of replicas: one row for each, in a redb file beside the bytes.

use std::io;
use std::path::Path;
use std::sync::Arc;

use redb::TableDefinition;

use super::error::StoreError;
use super::index::Replica;
use crate::identity::Signed;
use crate::state_db::StateDb;

pub(super) struct Rows(StateDb);

pub(super) enum Change {
    Insert(Arc<Replica>),
    /// By its key.
    Remove(String),
}

/// Authority and path of the object, which the replica's key joins, to the signed record as JSON.
const REPLICAS: TableDefinition<&str, &str> = TableDefinition::new("replicas");

impl Rows {
    /// Opens the file; one that is damaged is set aside, since everything in it can be had from the records beside the bytes. Blocks.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let db = match open_sound(path)? {
            Some(db) => db,
            None => {
                tracing::error!(path = %path.display(), "replica metadata is damaged, rebuilding it");
                std::fs::rename(path, path.with_extension("damaged")).map_err(StoreError::io(path))?;
                open(path)?
            }
        };
        Ok(Self(db))
    }

    /// Every row, by its key; rows that cannot be read have none. Blocks.
    pub(super) fn read(&self) -> Result<Vec<(String, Option<Signed>)>, StoreError> {
        read(&self.0).map_err(metadata)
    }

    /// Makes all changes at once, durably; after an error they may or may not have been made. Blocks.
    pub(super) fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut rows = Vec::with_capacity(changes.len());
        for change in changes {
            rows.push(match change {
                Change::Insert(replica) => (replica.key(), Some(serde_json::to_string(&replica.signed)?)),
                Change::Remove(key) => (key.clone(), None),
            });
        }
        let change = |table: &mut redb::Table<'_, &'static str, &'static str>| {
            rows.iter().try_for_each(|(key, json)| match json {
                Some(json) => table.insert(key.as_str(), json.as_str()).map(drop),
                None => table.remove(key.as_str()).map(drop),
            })
        };
        self.0.change(REPLICAS, change).map_err(metadata)
    }
}

fn open(path: &Path) -> Result<StateDb, StoreError> {
    StateDb::open(path).map_err(|error| match error {
        redb::Error::Io(source) => StoreError::io(path)(source),
        error => metadata(error),
    })
}

fn metadata(error: redb::Error) -> StoreError {
    StoreError::Metadata(Box::new(error))
}

/// `None` if the file is damaged. redb notices some damage by a panic, and some only when rows are read.
fn open_sound(path: &Path) -> Result<Option<StateDb>, StoreError> {
    let opened = std::panic::catch_unwind(|| {
        let db = open(path)?;
        read(&db).map_err(metadata)?;
        Ok(db)
    });
    match opened {
        Err(_panic) => Ok(None),
        Ok(Err(error)) if is_damage(&error) => Ok(None),
        Ok(opened) => opened.map(Some),
    }
}

fn read(db: &StateDb) -> Result<Vec<(String, Option<Signed>)>, redb::Error> {
    db.rows(REPLICAS, |json| serde_json::from_str(json).ok())
}

fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Io { source, .. } => {
            matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        StoreError::Metadata(error) => {
            !matches!(**error, redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseAlreadyOpen)
        }
        _ => false,
    }
}
