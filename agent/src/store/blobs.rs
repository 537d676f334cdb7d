//! The bytes of replicas in an object store: `staging/` for what is on its way, `blobs/` for what is whole.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt};
use p2pcdn_core::object::Sha256;
use sha2::Digest;

use super::StoreError;

/// Files under the digest of what they are.
pub(crate) struct Blobs {
    store: LocalFileSystem,
    staged: AtomicU64,
}

/// An upload that nobody sees yet.
pub(crate) struct Staged {
    pub(crate) path: Path,
    pub(crate) upload: Box<dyn MultipartUpload>,
}

impl Blobs {
    /// `is_durable` says whether what is in place has to outlast a power failure.
    pub(crate) fn open(directory: &FilePath, is_durable: bool) -> Result<Self, StoreError> {
        let fail = |source| StoreError::Directory { path: directory.display().to_string(), source };
        // Whatever stands in staging was cut off by a crash, unfinished uploads that the store does not list included.
        let staging = directory.join("staging");
        match std::fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        std::fs::create_dir_all(&staging).map_err(fail)?;
        let store = LocalFileSystem::new_with_prefix(directory)?.with_fsync(is_durable);
        Ok(Self { store, staged: AtomicU64::new(0) })
    }

    /// Digest and size of every blob; files that are no blobs are removed.
    pub(crate) async fn clean_up(&self) -> Result<HashMap<Sha256, u64>, StoreError> {
        let mut present = HashMap::new();
        let mut listing = self.store.list(Some(&Path::from("blobs")));
        while let Some(meta) = listing.try_next().await? {
            match meta.location.filename().and_then(|name| name.parse().ok()) {
                Some(digest) => drop(present.insert(digest, meta.size)),
                None => self.store.delete(&meta.location).await?,
            }
        }
        Ok(present)
    }

    pub(crate) async fn stage(&self) -> Result<Staged, StoreError> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let path = Path::from(format!("staging/{number}"));
        let upload = self.store.put_multipart(&path).await?;
        Ok(Staged { path, upload })
    }

    /// Puts a finished upload in its place by renaming it.
    pub(crate) async fn publish(&self, staged: &Path, digest: &Sha256) -> Result<ObjectMeta, StoreError> {
        let place = place(digest);
        self.store.rename(staged, &place).await?;
        Ok(self.store.head(&place).await?)
    }

    /// Removes a finished upload that is not published after all.
    pub(crate) async fn unstage(&self, staged: &Path) -> Result<(), StoreError> {
        if_present(self.store.delete(staged).await).map(drop)
    }

    pub(crate) async fn head(&self, digest: &Sha256) -> Result<Option<ObjectMeta>, StoreError> {
        if_present(self.store.head(&place(digest)).await)
    }

    pub(crate) async fn delete(&self, digest: &Sha256) -> Result<(), StoreError> {
        if_present(self.store.delete(&place(digest)).await).map(drop)
    }

    pub(crate) async fn read(
        &self,
        digest: &Sha256,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, object_store::Result<Bytes>>, StoreError> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        Ok(self.store.get_opts(&place(digest), options).await?.into_stream())
    }

    /// The digest of the bytes that are there now.
    pub(crate) async fn digest_of(&self, digest: &Sha256) -> Result<Option<Sha256>, StoreError> {
        let Some(blob) = if_present(self.store.get(&place(digest)).await)? else { return Ok(None) };
        let mut hasher = sha2::Sha256::new();
        let mut stream = blob.into_stream();
        while let Some(bytes) = stream.try_next().await? {
            hasher.update(&bytes);
        }
        Ok(Some(Sha256(hasher.finalize().into())))
    }
}

/// Where a blob is.
pub(super) fn place(digest: &Sha256) -> Path {
    let hex = digest.to_string();
    Path::from(format!("blobs/{}/{hex}", &hex[..2]))
}

fn if_present<T>(result: object_store::Result<T>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
