//! How the bytes of replicas get from the disk to clients.
//!
//! Files that are asked for stay open, so that an answer costs no look at a path, and what the kernel has in memory is read where it is
//! asked for. Only what has to come from the disk is left to a thread that may block.

use std::fs::{File, Metadata};
use std::io::{self, IoSliceMut, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use p2pcdn_core::object::Sha256;
use quick_cache::sync::Cache;
use rustix::io::{ReadWriteFlags, preadv2};
use sha2::Digest;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{ReplicaStore, StoreError};

/// Files that stay open; beyond that the least wanted ones are closed.
const MAX_OPEN: usize = 512;
/// Bytes that are read at once to be hashed.
const HASHED_BYTES: usize = 256 * 1024;

/// The verified bytes of a replica.
pub enum Content {
    /// In an open file of this machine.
    File(Arc<OpenFile>),
    /// Anywhere else: to be asked for.
    Stored(Arc<ReplicaStore>, Sha256),
}

/// The bytes of an answer as they come.
pub(crate) type ByteStream = BoxStream<'static, io::Result<Bytes>>;

impl Content {
    /// The bytes in `range`, which lies within the replica; no piece comes before the one before it has been dropped.
    pub(crate) async fn read(self, range: Range<u64>) -> Result<ByteStream, StoreError> {
        match self {
            Self::File(file) => Ok(Pieces::new(file, range).boxed()),
            Self::Stored(store, digest) => Ok(store.read(&digest, range).await?.map_err(io::Error::other).boxed()),
        }
    }
}

/// Blobs that are open, each with the state in which it was verified.
pub(super) struct OpenFiles {
    files: Cache<Sha256, Arc<OpenFile>>,
    buffers: Arc<Buffers>,
}

/// A verified blob.
pub struct OpenFile {
    file: File,
    stamp: FileStamp,
    /// Where its bytes are read to.
    buffers: Arc<Buffers>,
}

/// Differs once somebody has written to the file, cut it off or removed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    size: u64,
    links: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl OpenFiles {
    pub(super) fn new() -> Self {
        Self { files: Cache::new(MAX_OPEN), buffers: Arc::new(Buffers::new()) }
    }

    /// The file of a blob, if it is open and still what was verified.
    pub(super) fn find(&self, digest: &Sha256) -> Option<Arc<OpenFile>> {
        self.files.get(digest).filter(|file| file.is_unchanged())
    }

    /// Opens the file of a blob, which is to be verified next.
    pub(super) async fn open(&self, path: PathBuf) -> io::Result<Arc<OpenFile>> {
        let buffers = self.buffers.clone();
        let open = move || {
            let file = File::open(path)?;
            let stamp = FileStamp::of(&file.metadata()?);
            Ok(Arc::new(OpenFile { file, stamp, buffers }))
        };
        spawn_blocking(open).await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
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

/// The digest of the bytes that are in the file of a blob now; `None` if there is no file.
pub(super) async fn digest_of(path: PathBuf) -> Result<Option<Sha256>, StoreError> {
    // Nobody waits for the end of a large file when the agent stops.
    let is_given_up = CancellationToken::new();
    let _waiting = is_given_up.clone().drop_guard();
    let file = path.clone();
    let digest = move || {
        let mut file = match File::open(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let (mut hasher, mut buffer) = (sha2::Sha256::new(), vec![0; HASHED_BYTES]);
        while !is_given_up.is_cancelled() {
            match file.read(&mut buffer)? {
                0 => return Ok(Some(Sha256(hasher.finalize().into()))),
                length => hasher.update(&buffer[..length]),
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    };
    let done = spawn_blocking(digest).await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)));
    done.map_err(StoreError::io(&path))
}

impl OpenFile {
    fn is_unchanged(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| FileStamp::of(&metadata) == self.stamp)
    }

    /// Fills the buffer as far as that is possible without waiting for a disk.
    fn read_from_memory(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(preadv2(&self.file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT)?)
    }
}

impl FileStamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.size(),
            links: metadata.nlink(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The bytes of a file in pieces. A client that takes its time keeps one of them in memory: the next one is read once it has been sent.
pub(super) struct Pieces {
    file: Arc<OpenFile>,
    range: Range<u64>,
    turn: Arc<Mutex<Turn>>,
    /// A piece on its way from the disk.
    reading: Option<JoinHandle<io::Result<Buffer>>>,
}

/// Whether the next piece may be read.
#[derive(Default)]
struct Turn {
    is_out: bool,
    waiting: Option<Waker>,
}

/// A piece on its way to the client.
struct Piece {
    buffer: Buffer,
    turn: Arc<Mutex<Turn>>,
}

impl Pieces {
    /// The bytes in `range`, which lies within the file.
    fn new(file: Arc<OpenFile>, range: Range<u64>) -> Self {
        Self { file, range, turn: Arc::default(), reading: None }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Buffer>> {
        if self.reading.is_none() {
            let (offset, left) = (self.range.start, self.range.end - self.range.start);
            let mut buffer = self.file.buffers.take(usize::try_from(left).unwrap_or(usize::MAX));
            if buffer.fill(|bytes| self.file.read_from_memory(offset, bytes)).is_ok() {
                return Poll::Ready(Ok(buffer));
            }
            let file = self.file.clone();
            self.reading = Some(spawn_blocking(move || {
                buffer.fill(|bytes| file.file.read_at(bytes, offset))?;
                Ok(buffer)
            }));
        }
        let Some(reading) = &mut self.reading else { return Poll::Pending };
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(read.unwrap_or_else(|stopped| Err(io::Error::other(stopped))))
    }
}

impl Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.range.is_empty() {
            return Poll::Ready(None);
        }
        {
            let mut turn = lock(&self.turn);
            if turn.is_out {
                turn.waiting = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let buffer = match ready!(self.poll_read(cx)) {
            Ok(buffer) if buffer.length == 0 => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            Ok(buffer) => buffer,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        self.range.start += buffer.length as u64;
        lock(&self.turn).is_out = true;
        Poll::Ready(Some(Ok(Bytes::from_owner(Piece { buffer, turn: self.turn.clone() }))))
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.buffer.bytes[..self.buffer.length]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let waiting = {
            let mut turn = lock(&self.turn);
            turn.is_out = false;
            turn.waiting.take()
        };
        waiting.inspect(Waker::wake_by_ref);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The memory of answers. Large pieces cost half as much as small ones, but slow clients would fill the memory with them: there are only
/// so many, and whoever finds none left does with a small one.
pub(super) struct Buffers {
    /// Large ones that nobody uses, the one used last on top.
    large: Mutex<Vec<Vec<u8>>>,
}

/// Bytes of a large piece. Serving 8 MiB took 7.5 ms of CPU time with pieces of 16 KiB, 5.6 ms with 32 KiB and 4.1 ms with 64 KiB.
const LARGE_BYTES: usize = 128 * 1024;
/// 4 MiB in all.
const LARGE_BUFFERS: usize = 32;
/// Bytes of a small piece, and what a slow client keeps in memory.
const SMALL_BYTES: usize = 24 * 1024;

/// Room for a piece.
struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    /// Where a large one belongs.
    home: Option<Arc<Buffers>>,
}

impl Buffers {
    fn new() -> Self {
        Self { large: Mutex::new(vec![Vec::new(); LARGE_BUFFERS]) }
    }

    fn take(self: &Arc<Self>, wanted: usize) -> Buffer {
        if let Some(mut bytes) = lock(&self.large).pop() {
            bytes.resize(LARGE_BYTES, 0);
            return Buffer { bytes, length: wanted.min(LARGE_BYTES), home: Some(self.clone()) };
        }
        let length = wanted.min(SMALL_BYTES);
        Buffer { bytes: vec![0; length], length, home: None }
    }
}

impl Buffer {
    fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
        self.length = read(&mut self.bytes[..self.length])?;
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            lock(&home.large).push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests;
