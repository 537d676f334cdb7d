//! Replicas that this site holds for others: which there are, what they weigh, and their bytes.
//!
//! Bytes lie in an object store under the digest of what they are, metadata in redb under origin and path; a replica exists once
//! its metadata row does. Two origins that share bytes share one blob, and each is charged for it.

pub(crate) mod blobs;
mod incoming;
mod index;
mod reading;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::ObjectMeta;
use p2pcdn_core::object::{ObjectRecord, Sha256};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::identity::{Signed, SignedError};
use blobs::{Blobs, place};
pub use incoming::{Incoming, IncomingError};
use index::Index;
pub use index::{Replica, Usage};
pub use reading::Content;
use reading::OpenFiles;

/// All replicas held for others.
pub struct ReplicaStore {
    db: Arc<Database>,
    blobs: Blobs,
    index: Mutex<Index>,
    /// Held while index, metadata and blobs change together.
    changing: tokio::sync::Mutex<()>,
    /// Held while a blob is read in whole because somebody waits for it.
    verifying: tokio::sync::Mutex<()>,
    /// The stamp that each blob had when its digest was last found right; nothing is served without one.
    verified: Mutex<HashMap<Sha256, Stamp>>,
    /// `None` if blobs are anywhere else than in a directory of this machine.
    open: Option<OpenFiles>,
}

/// What an object store says about a blob; a blob whose stamp has changed is verified anew.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp(u64, i64, Option<String>);

impl Stamp {
    fn of(meta: &ObjectMeta) -> Self {
        Self(meta.size, meta.last_modified.timestamp_micros(), meta.e_tag.clone())
    }
}

/// Why the store could not do its work; this machine's fault.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The object store failed.
    #[error("replica bytes: {0}")]
    Bytes(#[from] object_store::Error),
    /// The metadata could not be read or written.
    #[error("replica metadata: {0}")]
    Metadata(Box<redb::Error>),
    /// A statement in the metadata no longer opens.
    #[error("replica metadata: {0}")]
    Statement(#[from] SignedError),
    /// A statement could not be written.
    #[error("replica metadata: {0}")]
    Json(#[from] serde_json::Error),
    /// A directory could not be prepared.
    #[error("{path}: {source}")]
    Directory {
        /// Which one.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why a replica cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its bytes are gone.
    #[error("the bytes are missing")]
    Missing,
    /// Its bytes are not what the record says.
    #[error("the bytes do not match the record")]
    Corrupt,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

const REPLICAS: TableDefinition<&str, &str> = TableDefinition::new("replicas");

impl ReplicaStore {
    /// Opens the store below `directory`; what a crash left half is removed, and rows without bytes are dropped.
    pub async fn open(db: Arc<Database>, directory: &Path) -> Result<Self, StoreError> {
        let blobs = Blobs::open(directory, true)?;
        let present = blobs.clean_up().await?;
        let mut index = Index::default();
        let mut dropped = Vec::new();
        for (key, signed) in read_rows(&db)? {
            let replica = Replica::new(signed)?;
            if present.get(&replica.record.sha256) == Some(&replica.record.size) {
                index.insert(replica);
            } else {
                tracing::warn!(replica = %key, "the bytes of a replica are gone, forgetting it");
                dropped.push(key);
            }
        }
        let store = Self {
            db,
            blobs,
            index: Mutex::new(index),
            changing: tokio::sync::Mutex::default(),
            verifying: tokio::sync::Mutex::default(),
            verified: Mutex::default(),
            open: Some(OpenFiles::new(directory)),
        };
        for key in dropped {
            store.remove_row(&key)?;
        }
        for digest in present.keys() {
            store.remove_unused(digest).await?;
        }
        Ok(store)
    }

    /// The replica of this path, if one is held and not retired.
    pub fn find(&self, origin: &str, path: &str) -> Option<Arc<Replica>> {
        self.index().find(origin, path)
    }

    /// Every replica.
    pub fn list(&self) -> Vec<Arc<Replica>> {
        self.index().list()
    }

    /// Bytes in use, replicas on their way included.
    pub fn usage(&self) -> Usage {
        self.index().usage().clone()
    }

    /// Calls `admit` with the present usage and, if it agrees, sets the bytes of the record aside in the same step.
    pub fn reserve<E>(
        self: &Arc<Self>,
        record: &ObjectRecord,
        admit: impl FnOnce(&Usage) -> Result<(), E>,
    ) -> Result<Reservation, E> {
        let mut index = self.index();
        admit(index.usage())?;
        index.charge(&record.origin, record.size);
        Ok(Reservation { store: self.clone(), origin: record.origin.clone(), bytes: record.size })
    }

    /// Starts to take in the bytes of a record.
    pub async fn begin(&self, record: &ObjectRecord) -> Result<Incoming, StoreError> {
        Ok(Incoming::new(record.clone(), self.blobs.stage().await?))
    }

    /// Makes a completely received object a replica, in place of an earlier version of the same path.
    pub async fn commit(
        &self,
        incoming: Incoming,
        signed: Signed,
        reservation: Reservation,
    ) -> Result<(), IncomingError> {
        let replica = Replica::new(signed).map_err(StoreError::from)?;
        let digest = replica.record.sha256;
        let staged = incoming.finish().await?;
        let _changing = self.changing.lock().await;
        let meta = self.blobs.publish(&staged, &digest).await?;
        let held = self.find(&replica.record.origin, &replica.record.path);
        if held.is_some_and(|held| held.record.sequence > replica.record.sequence) {
            self.remove_unreferenced(&digest).await?;
            return Err(IncomingError::Outdated);
        }
        self.verified().insert(digest, Stamp::of(&meta));
        if let Err(error) = self.insert_row(&replica) {
            self.remove_unreferenced(&digest).await?;
            return Err(error.into());
        }
        let replaced = {
            let mut index = self.index();
            reservation.release_into(&mut index);
            index.insert(replica)
        };
        if let Some(old) = replaced {
            self.remove_unreferenced(&old.record.sha256).await?;
        }
        Ok(())
    }

    /// Puts a newer record of the same bytes in place of the one that is held.
    ///
    /// `false` if it is not held any more.
    pub async fn renew(&self, signed: Signed) -> Result<bool, StoreError> {
        let replica = Replica::new(signed)?;
        let _changing = self.changing.lock().await;
        let held = self.find(&replica.record.origin, &replica.record.path);
        if held.is_none_or(|held| held.record.sha256 != replica.record.sha256) {
            return Ok(false);
        }
        self.insert_row(&replica)?;
        self.index().insert(replica);
        Ok(true)
    }

    /// Stops serving a replica and forgets it; its bytes stay until [`ReplicaStore::remove_unused`].
    pub async fn retire(&self, replica: &Replica) -> Result<bool, StoreError> {
        let _changing = self.changing.lock().await;
        let key = replica.key();
        if !self.index().remove(replica) {
            return Ok(false);
        }
        self.remove_row(&key)?;
        Ok(true)
    }

    /// Deletes a blob that no replica refers to any more.
    pub async fn remove_unused(&self, digest: &Sha256) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        self.remove_unreferenced(digest).await
    }

    async fn remove_unreferenced(&self, digest: &Sha256) -> Result<(), StoreError> {
        if !self.index().uses(digest) {
            self.verified().remove(digest);
            self.blobs.delete(digest).await?;
            self.close(digest);
        }
        Ok(())
    }

    /// The bytes of a replica, verified and ready to be served.
    pub async fn open_content(self: &Arc<Self>, record: &ObjectRecord) -> Result<Content, ReadError> {
        let digest = record.sha256;
        let Some(open) = &self.open else {
            self.verify(record).await?;
            return Ok(Content::Stored(self.clone(), digest));
        };
        if let Some(file) = open.find(&digest) {
            return Ok(Content::File(file));
        }
        // Opened before it is verified, and kept only if it has not changed since.
        let opened = open.open(place(&digest).as_ref()).await;
        self.verify(record).await?;
        match opened {
            Ok(file) if open.keep(digest, &file) => Ok(Content::File(file)),
            _ => Ok(Content::Stored(self.clone(), digest)),
        }
    }

    fn close(&self, digest: &Sha256) {
        if let Some(open) = &self.open {
            open.close(digest);
        }
    }

    /// Makes sure that the bytes are those of the record: by their stamp if they were verified before, else by reading them all.
    ///
    /// However many ask at the same time, the bytes are read once, and to the end even if all of them have gone.
    pub async fn verify(self: &Arc<Self>, record: &ObjectRecord) -> Result<(), ReadError> {
        if self.is_verified(&record.sha256).await? {
            return Ok(());
        }
        let (store, record) = (self.clone(), record.clone());
        let reading = tokio::spawn(async move {
            let _turn = store.verifying.lock().await;
            if store.is_verified(&record.sha256).await? { Ok(()) } else { store.scrub(&record).await }
        });
        reading.await.unwrap_or(Err(ReadError::Corrupt))
    }

    async fn is_verified(&self, digest: &Sha256) -> Result<bool, ReadError> {
        let stamp = Stamp::of(&self.blobs.head(digest).await?.ok_or(ReadError::Missing)?);
        Ok(self.verified().get(digest) == Some(&stamp))
    }

    /// Reads all bytes of a replica and compares them with the record.
    pub async fn scrub(&self, record: &ObjectRecord) -> Result<(), ReadError> {
        let digest = record.sha256;
        let stamp = Stamp::of(&self.blobs.head(&digest).await?.ok_or(ReadError::Missing)?);
        let found = match &self.open {
            Some(open) => open.digest_of(place(&digest).as_ref()).await?,
            None => self.blobs.digest_of(&digest).await?,
        };
        if found != Some(digest) {
            self.verified().remove(&digest);
            self.close(&digest);
            return Err(ReadError::Corrupt);
        }
        self.verified().insert(digest, stamp);
        Ok(())
    }

    /// A stream of the bytes in `range`, which lies within the object; [`ReplicaStore::verify`] comes first.
    pub async fn read(
        &self,
        digest: &Sha256,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, object_store::Result<Bytes>>, StoreError> {
        self.blobs.read(digest, range).await
    }

    fn insert_row(&self, replica: &Replica) -> Result<(), StoreError> {
        let json = serde_json::to_string(&replica.signed)?;
        self.write(|table| table.insert(replica.key().as_str(), json.as_str()).map(drop))
    }

    fn remove_row(&self, key: &str) -> Result<(), StoreError> {
        self.write(|table| table.remove(key).map(drop))
    }

    fn write(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &str, &str>) -> Result<(), redb::StorageError>,
    ) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.db.begin_write()?;
            change(&mut transaction.open_table(REPLICAS)?)?;
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|e| StoreError::Metadata(Box::new(e)))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verified(&self) -> MutexGuard<'_, HashMap<Sha256, Stamp>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes set aside for a replica on its way; given back when dropped.
pub struct Reservation {
    store: Arc<ReplicaStore>,
    origin: String,
    bytes: u64,
}

impl Reservation {
    /// Gives the bytes back under the lock in which the replica is charged for them.
    fn release_into(mut self, index: &mut Index) {
        index.discharge(&self.origin, self.bytes);
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.store.index().discharge(&self.origin, self.bytes);
        }
    }
}

fn read_rows(db: &Database) -> Result<Vec<(String, Signed)>, StoreError> {
    let read = || -> Result<Vec<(String, String)>, redb::Error> {
        let transaction = db.begin_read()?;
        let table = match transaction.open_table(REPLICAS) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table?,
        };
        let mut rows = Vec::new();
        for row in table.iter()? {
            let (key, json) = row?;
            rows.push((key.value().to_owned(), json.value().to_owned()));
        }
        Ok(rows)
    };
    let rows = read().map_err(|e| StoreError::Metadata(Box::new(e)))?;
    rows.into_iter().map(|(key, json)| Ok((key, serde_json::from_str(&json)?))).collect()
}

#[cfg(test)]
mod tests;
