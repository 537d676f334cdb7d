//! An object on its way in: every chunk is checked before it is written, the whole when it is complete.
//!
//! What is on its way lies in plain files `incoming/<digest of the object>.<number>.part`, which hold nothing but whole verified
//! chunks. After an interruption they are hashed anew, so that there is no further state to lose.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use p2pcdn_core::object::{CHUNK_BYTES, ObjectRecord, Sha256};
use sha2::Digest;

use super::blocking;
use super::error::{IncomingError, StoreError};
use super::health::Health;

/// An object on its way in. Dropping it is as good as [`Incoming::suspend`].
pub struct Incoming {
    record: Arc<ObjectRecord>,
    writer: Arc<Mutex<Writer>>,
    /// Of the chunk that is not complete yet.
    chunk: BytesMut,
    /// Bytes that were verified when last looked.
    received: u64,
}

/// The directory of unfinished objects.
pub(super) struct Parts {
    directory: PathBuf,
    max_bytes: u64,
    health: Arc<Health>,
    open: Mutex<HashSet<PathBuf>>,
}

/// A part's file while somebody works with it.
struct Lease {
    parts: Arc<Parts>,
    path: PathBuf,
}

/// What writes the verified chunks, on a thread that may block.
struct Writer {
    lease: Lease,
    file: Option<File>,
    whole: sha2::Sha256,
    chunks: usize,
    received: u64,
}

/// A complete and verified object in its part's file.
pub(super) struct Complete {
    lease: Lease,
}

/// Unfinished objects are given up after this time, longer than any retry.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

impl Incoming {
    /// Takes up what an earlier attempt left, or begins anew. Blocks.
    pub(super) fn open(parts: &Arc<Parts>, record: ObjectRecord) -> Result<Self, StoreError> {
        let mut writer = Writer {
            lease: parts.lease(&record.sha256),
            file: None,
            whole: sha2::Sha256::new(),
            chunks: 0,
            received: 0,
        };
        writer.resume(&record)?;
        let received = writer.received;
        let writer = Arc::new(Mutex::new(writer));
        Ok(Self { record: Arc::new(record), writer, chunk: BytesMut::new(), received })
    }

    /// Bytes of the verified prefix: whole chunks, or all. What is pushed next continues there or where the last push ended.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Takes in the next bytes.
    ///
    /// A wrong chunk leaves the verified prefix, from where another source may go on. If this was cancelled, or the store has failed,
    /// the object can be suspended and begun again.
    pub async fn push(&mut self, mut bytes: Bytes) -> Result<(), IncomingError> {
        if self.received + self.chunk.len() as u64 + bytes.len() as u64 > self.record.size {
            return Err(IncomingError::TooLong);
        }
        while !bytes.is_empty() {
            let expected = CHUNK_BYTES.min(self.record.size - self.received) as usize;
            // Copied: a source that sends single bytes would otherwise keep a whole network buffer for each.
            let part = bytes.split_to((expected - self.chunk.len()).min(bytes.len()));
            self.chunk.extend_from_slice(&part);
            if self.chunk.len() == expected {
                let (writer, record, chunk) = (self.writer.clone(), self.record.clone(), self.chunk.split().freeze());
                self.received = blocking(move || lock(&writer).append(&record, &chunk)).await??;
            }
        }
        Ok(())
    }

    /// Forgets the bytes of an incomplete chunk, so that the next push continues at the returned offset.
    pub fn rewind(&mut self) -> u64 {
        self.chunk.clear();
        self.received
    }

    /// Keeps what is verified for another attempt, within the bound of unfinished objects.
    pub async fn suspend(self) {
        let parts = lock(&self.writer).lease.parts.clone();
        drop(self);
        let _ = blocking(move || parts.prune()).await;
    }

    /// Gives up and leaves nothing behind.
    pub async fn discard(self) {
        let writer = self.writer;
        // A failure leaves a file that is pruned later.
        let _ = blocking(move || lock(&writer).remove()).await;
    }

    pub(super) fn is_about(&self, record: &ObjectRecord) -> bool {
        let own = &self.record;
        (own.sha256, own.size, &own.chunks) == (record.sha256, record.size, &record.chunks)
    }

    /// Blocks. An object that is cut off stays for another attempt.
    pub(super) fn complete(self) -> Result<Complete, IncomingError> {
        let received = self.received;
        if received < self.record.size {
            return Err(IncomingError::CutOff { received });
        }
        let mut writer = lock(&self.writer);
        if writer.whole.clone().finalize()[..] != self.record.sha256.0 {
            writer.remove()?;
            return Err(IncomingError::WrongBytes { chunk: writer.chunks });
        }
        writer.file = None;
        let (parts, path) = (writer.lease.parts.clone(), std::mem::take(&mut writer.lease.path));
        Ok(Complete { lease: Lease { parts, path } })
    }
}

impl Complete {
    pub(super) fn path(&self) -> &Path {
        &self.lease.path
    }

    /// Removes the file; without this it stays for another attempt. Blocks.
    pub(super) fn discard(self) -> Result<(), StoreError> {
        remove(&self.lease.path)
    }
}

impl Writer {
    fn resume(&mut self, record: &ObjectRecord) -> Result<(), StoreError> {
        let path = self.lease.path.clone();
        let fail = || StoreError::io(&path);
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file.map_err(fail())?,
        };
        let mut chunk = Vec::new();
        while let Some(expected) = record.chunks.get(self.chunks) {
            chunk.resize(CHUNK_BYTES.min(record.size - self.received) as usize, 0);
            match file.read_exact(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                read => read.map_err(fail())?,
            }
            if *expected != digest(&chunk) {
                break;
            }
            self.count(&chunk);
        }
        file.set_len(self.received).map_err(fail())?;
        file.seek(SeekFrom::Start(self.received)).map_err(fail())?;
        self.file = Some(file);
        Ok(())
    }

    /// Returns the length of the verified prefix.
    fn append(&mut self, record: &ObjectRecord, chunk: &[u8]) -> Result<u64, IncomingError> {
        if record.chunks.get(self.chunks) != Some(&digest(chunk)) {
            return Err(IncomingError::WrongBytes { chunk: self.chunks });
        }
        if let Err(source) = self.write(chunk) {
            let error = StoreError::io(&self.lease.path)(source);
            self.lease.parts.health.failed(&error);
            return Err(error.into());
        }
        self.count(chunk);
        Ok(self.received)
    }

    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(OpenOptions::new().create_new(true).write(true).open(&self.lease.path)?),
        };
        let written = file.write_all(chunk);
        if written.is_err() {
            // Half a chunk may stand there now, which only a new resume finds.
            self.file = None;
        }
        written
    }

    fn count(&mut self, chunk: &[u8]) {
        self.whole.update(chunk);
        self.chunks += 1;
        self.received += chunk.len() as u64;
    }

    fn remove(&mut self) -> Result<(), StoreError> {
        self.file = None;
        remove(&self.lease.path)
    }
}

impl Parts {
    /// The unfinished objects below `directory`, of which at most `max_bytes` are kept while nobody works on them. Blocks.
    pub(super) fn open(directory: &Path, max_bytes: u64, health: Arc<Health>) -> Result<Arc<Self>, StoreError> {
        std::fs::create_dir_all(directory).map_err(StoreError::io(directory))?;
        let parts = Self { directory: directory.to_owned(), max_bytes, health, open: Mutex::default() };
        parts.prune()?;
        Ok(Arc::new(parts))
    }

    fn lease(self: &Arc<Self>, digest: &Sha256) -> Lease {
        let mut open = lock(&self.open);
        // The number is above 0 only where the same bytes are fetched twice at once, for two origins.
        let mut number = 0_u32;
        let path = loop {
            let path = self.directory.join(format!("{digest}.{number}.part"));
            if open.insert(path.clone()) {
                break path;
            }
            number += 1;
        };
        Lease { parts: self.clone(), path }
    }

    /// Removes the parts of unwanted objects, as far as nobody works on them. Blocks.
    pub(super) fn forget(&self, is_unwanted: impl Fn(&Sha256) -> bool) -> Result<(), StoreError> {
        let open = lock(&self.open);
        for entry in std::fs::read_dir(&self.directory).map_err(StoreError::io(&self.directory))? {
            let path = entry.map_err(StoreError::io(&self.directory))?.path();
            let digest = path.file_name().and_then(|name| name.to_str()?.split('.').next()?.parse().ok());
            if digest.is_some_and(|digest| is_unwanted(&digest)) && !open.contains(&path) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes what is too old or too much, the oldest first, and what is no part. Blocks.
    fn prune(&self) -> Result<(), StoreError> {
        let open = lock(&self.open);
        let mut idle = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(StoreError::io(&self.directory))? {
            let entry = entry.map_err(StoreError::io(&self.directory))?;
            let (path, metadata) = (entry.path(), entry.metadata().map_err(StoreError::io(&self.directory))?);
            if metadata.is_file() && !open.contains(&path) {
                let modified = metadata.modified().map_err(StoreError::io(&path))?;
                let is_part = path.extension().is_some_and(|extension| extension == "part");
                idle.push((if is_part { modified } else { SystemTime::UNIX_EPOCH }, metadata.len(), path));
            }
        }
        idle.sort_by_key(|(modified, ..)| std::cmp::Reverse(*modified));
        let now = SystemTime::now();
        let mut kept = 0_u64;
        for (modified, bytes, path) in idle {
            // A time ahead of the clock says nothing about the age; the clock has been set back.
            let is_old = now.duration_since(modified).is_ok_and(|age| age > MAX_AGE);
            if is_old || kept + bytes > self.max_bytes {
                remove(&path)?;
            } else {
                kept += bytes;
            }
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.parts.open).remove(&self.path);
    }
}

/// Checks an object of at most one chunk that is here in whole.
pub(super) fn check_small(record: &ObjectRecord, bytes: &[u8]) -> Result<(), IncomingError> {
    let whole = digest(bytes);
    if bytes.len() as u64 > record.size {
        return Err(IncomingError::TooLong);
    }
    if (bytes.len() as u64) < record.size {
        return Err(IncomingError::CutOff { received: 0 });
    }
    if record.sha256 != whole || record.chunks != [whole] {
        return Err(IncomingError::WrongBytes { chunk: 0 });
    }
    Ok(())
}

pub(super) fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(path)(error)),
        _ => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
