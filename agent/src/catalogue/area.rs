//! Bytes of learned objects, for peers to fetch, in a bounded area. Nothing in it outlasts a restart: what is still asked for is soon
//! learned again, and nobody has to prove that it is still what the origin serves.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::WriteMultipart;
use p2pcdn_core::object::Sha256;

use super::describe::Digests;
use crate::store::StoreError;
use crate::store::blobs::{Blobs, Kind};

/// The area.
pub struct Area {
    blobs: Blobs,
    quota_bytes: u64,
    usage: Mutex<Usage>,
}

#[derive(Default)]
struct Usage {
    kept: HashMap<Sha256, u64>,
    kept_bytes: u64,
    /// Of what is on its way in.
    reserved_bytes: u64,
}

/// Bytes on their way in; what was set aside for them is given back when dropped.
pub struct Draft {
    area: Arc<Area>,
    reserved_bytes: u64,
    path: object_store::path::Path,
    write: Option<WriteMultipart>,
    digests: Digests,
}

/// Bytes that are whole and not in their place yet.
pub struct Whole {
    draft: Draft,
    /// Digest of all bytes.
    pub sha256: Sha256,
    /// Digest of each chunk.
    pub chunks: Vec<Sha256>,
    /// Number of bytes.
    pub size: u64,
}

/// Parts of a draft that are written at the same time.
const CONCURRENT_WRITES: usize = 2;
/// Bytes of one part.
const PART_BYTES: usize = 1 << 20;

impl Area {
    /// Opens the area below `directory` and empties it.
    pub async fn open(directory: &Path, quota_bytes: u64) -> Result<Self, StoreError> {
        let blobs = Blobs::open(directory)?;
        for digest in blobs.list(Kind::Blob).await?.keys() {
            blobs.delete(Kind::Blob, digest).await?;
        }
        Ok(Self { blobs, quota_bytes, usage: Mutex::default() })
    }

    /// Begins to take something in.
    pub async fn draft(self: &Arc<Self>) -> Result<Draft, StoreError> {
        let staged = self.blobs.stage().await?;
        Ok(Draft {
            area: self.clone(),
            reserved_bytes: 0,
            path: staged.path,
            write: Some(WriteMultipart::new_with_chunk_size(staged.upload, PART_BYTES)),
            digests: Digests::default(),
        })
    }

    /// Puts whole bytes in their place.
    pub async fn keep(&self, mut whole: Whole) -> Result<(), StoreError> {
        self.blobs.publish(&whole.draft.path, &whole.sha256).await?;
        let mut usage = self.usage();
        usage.reserved_bytes -= std::mem::take(&mut whole.draft.reserved_bytes);
        if usage.kept.insert(whole.sha256, whole.size).is_none() {
            usage.kept_bytes += whole.size;
        }
        Ok(())
    }

    /// Deletes bytes; reading that has begun goes on.
    pub async fn delete(&self, digest: &Sha256) -> Result<(), StoreError> {
        self.blobs.delete(Kind::Blob, digest).await?;
        let mut usage = self.usage();
        if let Some(bytes) = usage.kept.remove(digest) {
            usage.kept_bytes -= bytes;
        }
        Ok(())
    }

    /// What was kept under this digest, in a range that lies within it.
    pub async fn read(
        &self,
        digest: &Sha256,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, object_store::Result<Bytes>>, StoreError> {
        self.blobs.read(digest, range).await
    }

    /// Digests of everything that is kept.
    pub fn digests(&self) -> Vec<Sha256> {
        self.usage().kept.keys().copied().collect()
    }

    /// Bytes in use, those on their way included.
    pub fn used_bytes(&self) -> u64 {
        let usage = self.usage();
        usage.kept_bytes + usage.reserved_bytes
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Draft {
    /// Sets `bytes` more aside, or says how many are missing.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), u64> {
        let mut usage = self.area.usage();
        let needed = usage.kept_bytes + usage.reserved_bytes + bytes;
        let missing = needed.saturating_sub(self.area.quota_bytes);
        if missing > 0 {
            return Err(missing);
        }
        usage.reserved_bytes += bytes;
        self.reserved_bytes += bytes;
        Ok(())
    }

    /// Takes in the next bytes, which were set aside before.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.digests.update(&bytes);
        if let Some(write) = &mut self.write {
            write.put(bytes);
            write.wait_for_capacity(CONCURRENT_WRITES).await?;
        }
        Ok(())
    }

    /// All bytes are there.
    pub async fn finish(mut self) -> Result<Whole, StoreError> {
        if let Some(write) = self.write.take() {
            write.finish().await?;
        }
        let (sha256, chunks, size) = std::mem::take(&mut self.digests).finish();
        Ok(Whole { draft: self, sha256, chunks, size })
    }

    /// Gives up and leaves nothing behind.
    pub async fn discard(mut self) {
        if let Some(write) = self.write.take() {
            // A failure leaves a file in staging, which the next start clears.
            let _ = write.abort().await;
        }
    }
}

impl Whole {
    /// Gives up and leaves nothing behind.
    pub async fn discard(self) {
        let _ = self.draft.area.blobs.unstage(&self.draft.path).await;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.area.usage().reserved_bytes -= self.reserved_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;

    async fn area(quota_bytes: u64) -> (tempfile::TempDir, Arc<Area>) {
        let directory = tempfile::tempdir().unwrap();
        let area = Area::open(directory.path(), quota_bytes).await.unwrap();
        (directory, Arc::new(area))
    }

    async fn take_in(area: &Arc<Area>, bytes: &'static [u8]) -> Whole {
        let mut draft = area.draft().await.unwrap();
        draft.reserve(bytes.len() as u64).unwrap();
        draft.push(Bytes::from_static(bytes)).await.unwrap();
        draft.finish().await.unwrap()
    }

    #[tokio::test]
    async fn what_is_kept_can_be_read_and_what_is_not_is_given_back() {
        let (_directory, area) = area(10).await;
        let whole = take_in(&area, b"12345678").await;
        let (sha256, size) = (whole.sha256, whole.size);
        assert_eq!((size, area.used_bytes()), (8, 8));
        area.keep(whole).await.unwrap();
        let read: Vec<Bytes> = area.read(&sha256, 0..size).await.unwrap().try_collect().await.unwrap();
        assert_eq!(read.concat(), b"12345678");
        let part: Vec<Bytes> = area.read(&sha256, 2..5).await.unwrap().try_collect().await.unwrap();
        assert_eq!(part.concat(), b"345");

        let mut draft = area.draft().await.unwrap();
        assert_eq!((draft.reserve(2), draft.reserve(1)), (Ok(()), Err(1)));
        draft.discard().await;
        take_in(&area, b"12").await.discard().await;
        assert_eq!(area.used_bytes(), 8);

        area.delete(&sha256).await.unwrap();
        assert_eq!(area.used_bytes(), 0);
        assert!(area.read(&sha256, 0..size).await.is_err());
    }

    #[tokio::test]
    async fn the_same_bytes_count_once() {
        let (_directory, area) = area(10).await;
        for _ in 0..2 {
            let whole = take_in(&area, b"1234").await;
            area.keep(whole).await.unwrap();
        }
        assert_eq!(area.used_bytes(), 4);
    }

    #[tokio::test]
    async fn a_restart_begins_with_nothing() {
        let (directory, area) = area(10).await;
        let whole = take_in(&area, b"1234").await;
        let sha256 = whole.sha256;
        area.keep(whole).await.unwrap();
        drop(area);
        let area = Area::open(directory.path(), 10).await.unwrap();
        assert!(area.used_bytes() == 0 && area.read(&sha256, 0..4).await.is_err());
    }
}
