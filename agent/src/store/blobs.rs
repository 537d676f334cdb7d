//! Bytes in an object store under the digest of what they are: `blobs/` for objects, `records/` for signed statements about them, and
//! `staging/` for what learned objects are written to.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt};
use p2pcdn_core::object::Sha256;
use sha2::Digest;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::blocking;
use super::error::StoreError;
use super::files::Files;
use super::place::{self, BucketAccess};

/// Files under the digest of what they are.
pub(crate) struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// The same place, if it is a directory of this machine.
    files: Option<Arc<Files>>,
    staged: AtomicU64,
}

/// An upload that nobody sees yet.
pub(crate) struct Staged {
    pub(crate) path: Path,
    pub(crate) upload: Box<dyn MultipartUpload>,
}

/// What is kept under a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An object.
    Blob,
    /// A signed record; the digest is that of its payload.
    Record,
}

/// Something to be put in its place.
pub(super) struct Put {
    pub(super) kind: Kind,
    pub(super) digest: Sha256,
    pub(super) source: Source,
}

/// Where its bytes are.
pub(super) enum Source {
    /// In a file, which is moved if it can be.
    File(PathBuf),
    Bytes(Bytes),
}

/// Objects that are uploaded to a bucket at the same time.
const CONCURRENT_UPLOADS: usize = 8;
/// Larger objects are uploaded in parts of this size; above the least that S3 takes, and 10,000 of them are more than the largest object.
const PART_BYTES: usize = 8 << 20;

impl Blobs {
    /// An area for [`Blobs::stage`], which is emptied of what was cut off by a crash.
    pub(crate) fn open(directory: &FilePath) -> Result<Self, StoreError> {
        // Unfinished uploads included, which the store does not list.
        let staging = directory.join("staging");
        match std::fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(StoreError::io(&staging)(error)),
            _ => {}
        }
        std::fs::create_dir_all(&staging).map_err(StoreError::io(&staging))?;
        let store = Arc::new(LocalFileSystem::new_with_prefix(directory)?);
        Ok(Self { store, files: None, staged: AtomicU64::new(0) })
    }

    /// A directory of this machine. Blocks.
    pub(super) fn in_directory(directory: &FilePath) -> Result<Self, StoreError> {
        let files = Arc::new(Files::open(directory)?);
        let store = Arc::new(LocalFileSystem::new_with_prefix(directory)?);
        Ok(Self { store, files: Some(files), staged: AtomicU64::new(0) })
    }

    /// A bucket behind HTTP.
    pub(super) fn in_bucket(bucket: &str, prefix: &str, access: &BucketAccess) -> Result<Self, StoreError> {
        let store = PrefixStore::new(place::bucket(bucket, access)?, prefix);
        Ok(Self { store: Arc::new(store), files: None, staged: AtomicU64::new(0) })
    }

    /// Whether the place may be out of reach while this machine is well.
    pub(super) fn is_remote(&self) -> bool {
        self.files.is_none()
    }

    /// Digest and size of everything of a kind; files that are nothing of the kind are removed.
    pub(crate) async fn list(&self, kind: Kind) -> Result<HashMap<Sha256, u64>, StoreError> {
        let mut present = HashMap::new();
        let mut listing = self.store.list(Some(&Path::from(kind.directory())));
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
        let place = location(Kind::Blob, digest);
        self.store.rename(staged, &place).await?;
        Ok(self.store.head(&place).await?)
    }

    /// Removes a finished upload that is not published after all.
    pub(crate) async fn unstage(&self, staged: &Path) -> Result<(), StoreError> {
        if_present(self.store.delete(staged).await).map(drop)
    }

    pub(crate) async fn head(&self, digest: &Sha256) -> Result<Option<ObjectMeta>, StoreError> {
        if_present(self.store.head(&location(Kind::Blob, digest)).await)
    }

    /// Puts everything in its place; what has no error is durable there.
    pub(super) async fn put(&self, puts: Vec<Put>) -> Vec<Result<(), StoreError>> {
        let count = puts.len();
        let Some(files) = self.files.clone() else {
            let uploads = stream::iter(puts.into_iter().map(|put| self.upload(put)));
            return uploads.buffered(CONCURRENT_UPLOADS).collect().await;
        };
        let done = blocking(move || files.put(&puts)).await;
        done.unwrap_or_else(|_| (0..count).map(|_| Err(StoreError::Stopping)).collect())
    }

    async fn upload(&self, put: Put) -> Result<(), StoreError> {
        let place = location(put.kind, &put.digest);
        let path = match put.source {
            Source::Bytes(bytes) => {
                self.store.put(&place, bytes.into()).await?;
                return Ok(());
            }
            Source::File(path) => path,
        };
        let mut file = File::open(&path).await.map_err(StoreError::io(&path))?;
        let mut part = read_part(&mut file, &path).await?;
        if part.len() < PART_BYTES {
            self.store.put(&place, part.into()).await?;
            return Ok(());
        }
        let mut upload = self.store.put_multipart(&place).await?;
        let sent = async {
            while !part.is_empty() {
                upload.put_part(part.into()).await?;
                part = read_part(&mut file, &path).await?;
            }
            upload.complete().await?;
            Ok(())
        };
        let sent: Result<(), StoreError> = sent.await;
        if sent.is_err() {
            // What stays if this fails, too, the bucket's own rule for incomplete uploads removes.
            let _ = upload.abort().await;
        }
        sent
    }

    /// The signed record of that name, as it was put.
    pub(super) async fn record(&self, digest: &Sha256) -> Result<Bytes, StoreError> {
        Ok(self.store.get(&location(Kind::Record, digest)).await?.bytes().await?)
    }

    /// No error if it is not there.
    pub(crate) async fn delete(&self, kind: Kind, digest: &Sha256) -> Result<(), StoreError> {
        if_present(self.store.delete(&location(kind, digest)).await).map(drop)
    }

    /// Removes a record so that no power failure brings it back.
    pub(super) async fn delete_record(&self, digest: &Sha256) -> Result<(), StoreError> {
        self.delete(Kind::Record, digest).await?;
        let Some(files) = self.files.clone() else { return Ok(()) };
        let digest = *digest;
        blocking(move || files.sync_removal(Kind::Record, &digest)).await?
    }

    /// Where a blob is, if that is a file of this machine.
    pub(super) fn file_of(&self, digest: &Sha256) -> Option<PathBuf> {
        self.files.as_ref().map(|files| files.place(Kind::Blob, digest))
    }

    pub(crate) async fn read(
        &self,
        digest: &Sha256,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, object_store::Result<Bytes>>, StoreError> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        Ok(self.store.get_opts(&location(Kind::Blob, digest), options).await?.into_stream())
    }

    /// The digest of the bytes that are there now.
    pub(crate) async fn digest_of(&self, digest: &Sha256) -> Result<Option<Sha256>, StoreError> {
        let Some(blob) = if_present(self.store.get(&location(Kind::Blob, digest)).await)? else { return Ok(None) };
        let mut hasher = sha2::Sha256::new();
        let mut stream = blob.into_stream();
        while let Some(bytes) = stream.try_next().await? {
            hasher.update(&bytes);
        }
        Ok(Some(Sha256(hasher.finalize().into())))
    }
}

async fn read_part(file: &mut File, path: &FilePath) -> Result<Bytes, StoreError> {
    let mut part = Vec::with_capacity(PART_BYTES);
    file.take(PART_BYTES as u64).read_to_end(&mut part).await.map_err(StoreError::io(path))?;
    Ok(part.into())
}

impl Kind {
    pub(super) fn directory(self) -> &'static str {
        match self {
            Self::Blob => "blobs",
            Self::Record => "records",
        }
    }
}

fn location(kind: Kind, digest: &Sha256) -> Path {
    let hex = digest.to_string();
    Path::from(format!("{}/{}/{hex}", kind.directory(), &hex[..2]))
}

fn if_present<T>(result: object_store::Result<T>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
