//! Replicas that this site holds for others: which there are, what they weigh, and their bytes.
//!
//! Bytes lie in an object store under the digest of what they are, and beside them each signed record. Metadata lies in redb under
//! origin and path; a replica exists once its row does, and its row can be rebuilt from the record. Two origins that share bytes share
//! one blob, and each is charged for it.

pub(crate) mod blobs;
mod commit;
mod error;
mod files;
mod health;
mod incoming;
mod index;
mod place;
mod reading;
mod rows;
mod s3_http;
mod start;

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::ObjectMeta;
use p2pcdn_core::object::{ObjectRecord, Sha256};

use crate::identity::Signed;
use blobs::{Blobs, Kind};
pub use commit::Small;
pub use error::{IncomingError, ReadError, StoreError};
use health::Health;
pub use incoming::Incoming;
use incoming::Parts;
use index::Index;
pub use index::{Replica, Usage};
pub use place::{BucketAccess, Place, has_bucket_keys};
pub use reading::Content;
use reading::OpenFiles;
use rows::{Change, Rows};

/// All replicas held for others.
pub struct ReplicaStore {
    parts: Arc<Parts>,
    rows: Arc<Rows>,
    blobs: Blobs,
    health: Arc<Health>,
    index: Mutex<Index>,
    /// Held while index, metadata and blobs change together.
    changing: tokio::sync::Mutex<()>,
    /// Held while a blob is read in whole because somebody waits for it; a large one holds up no small one.
    verifying: Verifying,
    /// The stamp that each blob had when its digest was last found right; nothing is served without one.
    verified: Mutex<HashMap<Sha256, Stamp>>,
    /// `None` if blobs are anywhere else than in a directory of this machine.
    open: OpenFiles,
}

/// Who reads next.
#[derive(Default)]
struct Verifying {
    small: tokio::sync::Mutex<()>,
    large: tokio::sync::Mutex<()>,
}

impl Verifying {
    /// Bytes from which a blob is large: no probe waits for so many.
    const LARGE: u64 = 16 << 20;

    fn of(&self, bytes: u64) -> &tokio::sync::Mutex<()> {
        if bytes < Self::LARGE { &self.small } else { &self.large }
    }
}

/// What an object store says about a blob; a blob whose stamp has changed is verified anew.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp(u64, i64, Option<String>);

impl Stamp {
    fn of(meta: &ObjectMeta) -> Self {
        Self(meta.size, meta.last_modified.timestamp_micros(), meta.e_tag.clone())
    }
}

/// What a store needs to know.
#[derive(Clone)]
pub struct Location {
    /// Directory for metadata, and for the bytes of [`Place::State`].
    pub directory: PathBuf,
    /// Where the bytes are.
    pub place: Place,
    /// The way to [`Place::Bucket`].
    pub access: BucketAccess,
    /// Bytes of unfinished objects that are kept for another attempt while nobody works on them; the oldest go first.
    pub max_unfinished_bytes: u64,
}

impl ReplicaStore {
    /// Opens the store: what a crash left half is removed, what is whole is there again, and rows without bytes are dropped.
    pub async fn open(location: Location) -> Result<Self, StoreError> {
        let health = Arc::new(Health::default());
        let for_parts = health.clone();
        let (parts, rows, blobs) = blocking(move || {
            let Location { directory, place, access, max_unfinished_bytes } = location;
            std::fs::create_dir_all(&directory).map_err(StoreError::io(&directory))?;
            let (local, blobs) = match place {
                Place::State => (directory.clone(), Blobs::in_directory(&directory)?),
                Place::Directory(other) => (other.clone(), Blobs::in_directory(&other)?),
                Place::Bucket { bucket, prefix } => (directory.clone(), Blobs::in_bucket(&bucket, &prefix, &access)?),
            };
            let parts = Parts::open(&local.join("incoming"), max_unfinished_bytes, for_parts)?;
            Ok::<_, StoreError>((parts, Rows::open(&directory.join("replicas.redb"))?, blobs))
        })
        .await??;
        let store = Self {
            parts,
            rows: Arc::new(rows),
            blobs,
            health,
            index: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            verifying: Verifying::default(),
            verified: Mutex::default(),
            open: OpenFiles::new(),
        };
        store.reconcile().await?;
        Ok(store)
    }

    /// Whether a write has failed just now, so that nothing new should be accepted; what is held is served all the same.
    pub fn declines(&self) -> bool {
        self.health.is_pausing()
    }

    /// What kept the store from writing when it last tried, with the remedy.
    pub fn trouble(&self) -> Option<String> {
        self.health.trouble()
    }

    /// The replica of this path, if one is held and not retired.
    pub fn find(&self, origin: &str, path: &str) -> Option<Arc<Replica>> {
        self.index().find(origin, path)
    }

    /// A replica with these bytes that `is_fine`, whoever's it is.
    pub fn find_digest(&self, digest: &Sha256, is_fine: impl Fn(&Replica) -> bool) -> Option<Arc<Replica>> {
        self.index().find_digest(digest, is_fine)
    }

    /// Every replica.
    pub fn list(&self) -> Vec<Arc<Replica>> {
        self.index().list()
    }

    /// Number of replicas.
    pub fn len(&self) -> usize {
        self.index().len()
    }

    /// Whether there is no replica.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

    /// Starts to take in the bytes of a record, or goes on where an earlier attempt was interrupted.
    pub async fn begin(&self, record: &ObjectRecord) -> Result<Incoming, StoreError> {
        let (parts, record) = (self.parts.clone(), record.clone());
        blocking(move || Incoming::open(&parts, record)).await?
    }

    /// Removes what is left of unfinished objects that nobody works on and nobody wants any more.
    pub async fn forget_unfinished(&self, is_unwanted: impl Fn(&Sha256) -> bool + Send + 'static) {
        let parts = self.parts.clone();
        let forgotten = blocking(move || parts.forget(is_unwanted)).await;
        if let Err(error) = forgotten.and_then(|forgotten| forgotten) {
            tracing::error!(%error, "removing unfinished objects");
        }
    }

    /// Puts a newer record of the same bytes in place of the one that is held.
    ///
    /// `false` if it is not held any more.
    pub async fn renew(&self, signed: Signed) -> Result<bool, StoreError> {
        let replica = Arc::new(Replica::new(signed)?);
        let _changing = self.changing.lock().await;
        let held = self.find(&replica.record.origin, &replica.record.path);
        let Some(held) = held.filter(|held| held.is_same_bytes(&replica)) else { return Ok(false) };
        self.blobs.put(vec![replica.statement()?]).await.into_iter().collect::<Result<(), _>>()?;
        self.change(vec![Change::Insert(replica.clone())]).await?;
        self.index().insert(replica);
        if !self.holds(&held) {
            self.blobs.delete(Kind::Record, &held.signed.digest()).await?;
        }
        Ok(true)
    }

    /// Stops serving a replica and forgets it; its bytes stay until [`ReplicaStore::remove_unused`].
    pub async fn retire(&self, replica: &Replica) -> Result<bool, StoreError> {
        let _changing = self.changing.lock().await;
        if !self.index().remove(replica) {
            return Ok(false);
        }
        // The record goes first: from a record without a row, a start would make the replica anew.
        self.blobs.delete_record(&replica.signed.digest()).await?;
        if let Err(error) = self.change(vec![Change::Remove(replica.key())]).await {
            // A full disk must not keep room from being made. Without its record the next start drops the row.
            tracing::warn!(%error, "the row of a replica stays behind");
        }
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
            self.blobs.delete(Kind::Blob, digest).await?;
            self.open.close(digest);
        }
        Ok(())
    }

    /// Whether a path is held with exactly this statement.
    fn holds(&self, replica: &Replica) -> bool {
        let held = self.find(&replica.record.origin, &replica.record.path);
        held.is_some_and(|held| held.signed == replica.signed)
    }

    async fn change(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let rows = self.rows.clone();
        blocking(move || rows.write(&changes)).await?
    }

    /// The bytes of a replica, verified and ready to be served.
    pub async fn open_content(self: &Arc<Self>, record: &ObjectRecord) -> Result<Content, ReadError> {
        let digest = record.sha256;
        let Some(path) = self.blobs.file_of(&digest) else {
            self.verify(record).await?;
            return Ok(Content::Stored(self.clone(), digest));
        };
        if let Some(file) = self.open.find(&digest) {
            return Ok(Content::File(file));
        }
        // Opened before it is verified, and kept only if it has not changed since.
        let opened = self.open.open(path).await;
        self.verify(record).await?;
        match opened {
            Ok(file) if self.open.keep(digest, &file) => Ok(Content::File(file)),
            _ => Ok(Content::Stored(self.clone(), digest)),
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
            let _turn = store.verifying.of(record.size).lock().await;
            if store.is_verified(&record.sha256).await? { Ok(()) } else { store.scrub(&record).await }
        });
        reading.await.unwrap_or(Err(ReadError::Corrupt))
    }

    async fn is_verified(&self, digest: &Sha256) -> Result<bool, ReadError> {
        let stamp = Stamp::of(&self.blobs.head(digest).await?.ok_or(ReadError::Missing)?);
        Ok(self.verified().get(digest) == Some(&stamp))
    }

    /// Looks whether the bytes of a replica are there and still what they were, without being asked for them.
    ///
    /// In a directory they are read. A bucket keeps bytes by checksums of its own, and what leaves it costs money: there it is asked for
    /// their size and entity tag only, and they are read if these are others than when they were last verified.
    pub async fn inspect(&self, record: &ObjectRecord) -> Result<(), ReadError> {
        if !self.blobs.is_remote() {
            return self.scrub(record).await;
        }
        let digest = record.sha256;
        let meta = self.blobs.head(&digest).await?.ok_or(ReadError::Missing)?;
        if meta.size != record.size {
            self.verified().remove(&digest);
            return Err(ReadError::Corrupt);
        }
        let is_changed = self.verified().get(&digest).is_some_and(|stamp| *stamp != Stamp::of(&meta));
        if is_changed { self.scrub(record).await } else { Ok(()) }
    }

    /// Reads all bytes of a replica and compares them with the record.
    pub async fn scrub(&self, record: &ObjectRecord) -> Result<(), ReadError> {
        let digest = record.sha256;
        let stamp = Stamp::of(&self.blobs.head(&digest).await?.ok_or(ReadError::Missing)?);
        let found = match self.blobs.file_of(&digest) {
            Some(path) => reading::digest_of(path).await?,
            None => self.blobs.digest_of(&digest).await?,
        };
        if found != Some(digest) {
            self.verified().remove(&digest);
            self.open.close(&digest);
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

/// Runs work that waits for the disk where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Stopping)
}

#[cfg(test)]
pub(crate) mod tests;
