//! How the bytes of replicas get from the disk to clients.
//!
//! Files that are asked for stay open, so that an answer costs no look at a path, and what the kernel has in memory is read where it is
//! asked for. Only what has to come from the disk is left to a thread that may block.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use p2pcdn_core::object::Sha256;
use quick_cache::sync::Cache;
use rustix::fs::{Stat, fstat};
use rustix::io::{ReadWriteFlags, preadv2};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{ReplicaStore, StoreError};

/// Files that stay open; beyond that the least wanted ones are closed.
const MAX_OPEN: usize = 512;
/// Bytes that are read at once.
const PIECE_BYTES: usize = 32 * 1024;

/// The verified bytes of a replica.
pub enum Content {
    /// In an open file of this machine.
    File(Arc<OpenFile>),
    /// Anywhere else: to be asked for.
    Stored(Arc<ReplicaStore>, Sha256),
}

/// The bytes of an answer as they come.
type ByteStream = BoxStream<'static, io::Result<Bytes>>;

impl Content {
    /// The bytes in `range`, which lies within the replica.
    pub async fn read(self, range: Range<u64>) -> Result<ByteStream, StoreError> {
        match self {
            Self::File(file) => Ok(Pieces::new(file, range).boxed()),
            Self::Stored(store, digest) => Ok(store.read(&digest, range).await?.map_err(io::Error::other).boxed()),
        }
    }
}

/// Blobs that are open, each with the state in which it was verified.
pub(super) struct OpenFiles {
    files: Cache<Sha256, Arc<OpenFile>>,
}

/// A verified blob.
pub struct OpenFile {
    file: File,
    stamp: FileStamp,
}

/// Differs once somebody has written to the file, cut it off or removed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    size: i64,
    links: u64,
    written: (i64, u64),
    changed: (i64, u64),
}

impl OpenFiles {
    pub(super) fn new() -> Self {
        Self { files: Cache::new(MAX_OPEN) }
    }

    /// The file of a blob, if it is open and still what was verified.
    pub(super) fn find(&self, digest: &Sha256) -> Option<Arc<OpenFile>> {
        self.files.get(digest).filter(|file| file.is_unchanged())
    }

    /// Keeps a file that has been verified since it was opened; `false` if it has changed meanwhile.
    pub(super) fn keep(&self, digest: Sha256, file: &Arc<OpenFile>) -> bool {
        self.files.insert(digest, file.clone());
        // Looked at only now: whoever removes a blob removes its file first and then calls `close`.
        let is_unchanged = file.is_unchanged();
        if !is_unchanged {
            self.close(&digest);
        }
        is_unchanged
    }

    /// Closes the file of a blob that is damaged or has been removed, once the answers that need it have ended.
    pub(super) fn close(&self, digest: &Sha256) {
        self.files.remove(digest);
    }
}

impl OpenFile {
    /// Opens the file of a blob, which is to be verified next.
    pub(super) async fn at(path: PathBuf) -> io::Result<Arc<Self>> {
        let open = move || {
            let file = File::open(path)?;
            let stamp = FileStamp::of(&fstat(&file)?);
            Ok(Arc::new(Self { file, stamp }))
        };
        spawn_blocking(open).await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
    }

    fn is_unchanged(&self) -> bool {
        fstat(&self.file).is_ok_and(|stat| FileStamp::of(&stat) == self.stamp)
    }

    /// Reads without waiting for a disk; an error if that is not possible here or now.
    fn read_from_memory(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; length];
        let read = preadv2(&self.file, &mut [IoSliceMut::new(&mut bytes)], offset, ReadWriteFlags::NOWAIT)?;
        bytes.truncate(read);
        Ok(bytes.into())
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; length];
        let read = self.file.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes.into())
    }
}

impl FileStamp {
    fn of(stat: &Stat) -> Self {
        Self {
            size: stat.st_size,
            links: stat.st_nlink,
            written: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// The bytes of a file in pieces.
pub(super) struct Pieces {
    file: Arc<OpenFile>,
    range: Range<u64>,
    /// A piece on its way from the disk.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Pieces {
    /// The bytes in `range`, which lies within the file.
    pub(super) fn new(file: Arc<OpenFile>, range: Range<u64>) -> Self {
        Self { file, range, reading: None }
    }

    fn pass_on(&mut self, piece: io::Result<Bytes>) -> Poll<Option<io::Result<Bytes>>> {
        let length = piece.as_ref().map_or(0, Bytes::len) as u64;
        self.range.start += length;
        match piece {
            Ok(_) if length == 0 => Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            piece => Poll::Ready(Some(piece)),
        }
    }
}

impl Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.range.is_empty() {
            return Poll::Ready(None);
        }
        if self.reading.is_none() {
            let (offset, left) = (self.range.start, self.range.end - self.range.start);
            let length = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            if let Ok(piece) = self.file.read_from_memory(offset, length) {
                return self.pass_on(Ok(piece));
            }
            let file = self.file.clone();
            self.reading = Some(spawn_blocking(move || file.read(offset, length)));
        }
        let Some(reading) = &mut self.reading else { return Poll::Pending };
        let piece = ready!(Pin::new(reading).poll(cx)).unwrap_or_else(|stopped| Err(io::Error::other(stopped)));
        self.reading = None;
        self.pass_on(piece)
    }
}
