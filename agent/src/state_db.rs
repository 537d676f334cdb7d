//! The file of what outlasts restarts: `state.redb`, and the metadata of replicas in the same form.
//!
//! redb serves nothing more after a failed write, for example to a full disk, until it is opened again, which is done here: one
//! write that fails is no reason for the next one to.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition, TableError,
    TransactionError, Value, WriteTransaction,
};

/// A database in a file, opened anew after every failure.
pub struct StateDb {
    /// None in memory, where nothing is opened anew.
    path: Option<PathBuf>,
    /// None after a failure, until the file could be opened again.
    db: Mutex<Option<Arc<Database>>>,
}

impl StateDb {
    /// Opens the file, or creates it. Blocks.
    pub fn open(path: &Path) -> Result<Self, redb::Error> {
        Ok(Self { path: Some(path.to_owned()), db: Mutex::new(Some(Arc::new(Database::create(path)?))) })
    }

    /// A database that is gone with this value.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        let backend = redb::backends::InMemoryBackend::new();
        let db = Database::builder().create_with_backend(backend).expect("memory can be written");
        Self { path: None, db: Mutex::new(Some(Arc::new(db))) }
    }

    /// Begins to change something; waits until nobody else does.
    pub fn begin_write(&self) -> Result<WriteTransaction, redb::Error> {
        self.begin(Database::begin_write)
    }

    /// Begins to read.
    pub fn begin_read(&self) -> Result<ReadTransaction, redb::Error> {
        self.begin(|db| db.begin_read())
    }

    /// See [`rows`].
    pub fn rows<V: Value + 'static, T, C: FromIterator<(String, T)>>(
        &self,
        table: TableDefinition<'_, &'static str, V>,
        own: impl Fn(V::SelfType<'_>) -> T,
    ) -> Result<C, redb::Error> {
        rows(&self.begin_read()?, table, own)
    }

    /// Changes one table durably. Blocks for one write.
    ///
    /// # Errors
    /// Nothing was changed, or nobody knows; this machine's fault.
    pub fn change<V: Value + 'static>(
        &self,
        table: TableDefinition<'_, &'static str, V>,
        change: impl FnOnce(&mut Table<'_, &'static str, V>) -> Result<(), StorageError>,
    ) -> Result<(), redb::Error> {
        let transaction = self.begin_write()?;
        change(&mut transaction.open_table(table)?)?;
        Ok(transaction.commit()?)
    }

    fn begin<T>(&self, begin: impl Fn(&Database) -> Result<T, TransactionError>) -> Result<T, redb::Error> {
        let db = self.opened()?;
        match begin(&db) {
            Err(TransactionError::Storage(_)) if self.path.is_some() => {}
            begun => return Ok(begun?),
        }
        self.close(db);
        Ok(begin(&*self.opened()?)?)
    }

    fn opened(&self) -> Result<Arc<Database>, redb::Error> {
        let mut open = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        let db = match (open.take(), &self.path) {
            (Some(db), _) => db,
            (None, Some(path)) => Arc::new(Database::create(path)?),
            (None, None) => return Err(redb::Error::DatabaseClosed),
        };
        Ok(open.insert(db).clone())
    }

    /// Lets go of what has failed, unless somebody else has opened the file anew already.
    fn close(&self, failed: Arc<Database>) {
        let mut open = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        open.take_if(|db| Arc::ptr_eq(db, &failed));
        // Under the lock: the file can be opened again once nobody has it open.
        drop(failed);
    }
}

/// Every row of a table, its value as `own` makes it; none if there is no such table yet.
pub fn rows<V: Value + 'static, T, C: FromIterator<(String, T)>>(
    transaction: &ReadTransaction,
    table: TableDefinition<'_, &'static str, V>,
    own: impl Fn(V::SelfType<'_>) -> T,
) -> Result<C, redb::Error> {
    let table = match transaction.open_table(table) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(C::from_iter([])),
        table => table?,
    };
    let rows = table.iter()?.map(|row| row.map(|(key, value)| (key.value().to_owned(), own(value.value()))));
    Ok(rows.collect::<Result<C, _>>()?)
}
