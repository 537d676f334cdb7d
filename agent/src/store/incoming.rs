//! An object on its way in: every chunk is checked as it arrives, the whole when it is complete.

use bytes::Bytes;
use object_store::WriteMultipart;
use object_store::path::Path;
use p2pcdn_core::object::{CHUNK_BYTES, ObjectRecord, Sha256};
use sha2::Digest;

use super::StoreError;
use super::blobs::Staged;

/// An object on its way in.
pub struct Incoming {
    record: ObjectRecord,
    path: Path,
    write: WriteMultipart,
    whole: sha2::Sha256,
    chunk: sha2::Sha256,
    chunk_bytes: u64,
    chunks: usize,
    received: u64,
}

/// Why an object was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// The sender's fault: a chunk, or the whole, is not what the record says.
    #[error("wrong bytes in chunk {chunk}")]
    WrongBytes {
        /// Number of the chunk, from 0.
        chunk: usize,
    },
    /// The sender's fault: more bytes than the record says.
    #[error("more bytes than the record says")]
    TooLong,
    /// The sender's fault: the body ended early.
    #[error("the body ended after {received} bytes")]
    CutOff {
        /// Bytes that came.
        received: u64,
    },
    /// Nobody's fault: a newer version came in meanwhile.
    #[error("a newer version has come in meanwhile")]
    Outdated,
    /// This machine's fault.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Parts of an upload that are written at the same time.
const CONCURRENT_WRITES: usize = 2;
/// Bytes of one part; small enough that slow sources do not hold much memory.
const PART_BYTES: usize = 1 << 20;

impl Incoming {
    pub(super) fn new(record: ObjectRecord, staged: Staged) -> Self {
        Self {
            record,
            path: staged.path,
            write: WriteMultipart::new_with_chunk_size(staged.upload, PART_BYTES),
            whole: sha2::Sha256::new(),
            chunk: sha2::Sha256::new(),
            chunk_bytes: 0,
            chunks: 0,
            received: 0,
        }
    }

    /// Takes in the next bytes; after an error nothing but [`Incoming::discard`] makes sense.
    pub async fn push(&mut self, mut bytes: Bytes) -> Result<(), IncomingError> {
        if self.received + bytes.len() as u64 > self.record.size {
            return Err(IncomingError::TooLong);
        }
        while !bytes.is_empty() {
            let room = usize::try_from(CHUNK_BYTES - self.chunk_bytes).unwrap_or(usize::MAX);
            let part = bytes.split_to(room.min(bytes.len()));
            self.whole.update(&part);
            self.chunk.update(&part);
            self.chunk_bytes += part.len() as u64;
            self.received += part.len() as u64;
            if self.chunk_bytes == CHUNK_BYTES || self.received == self.record.size {
                self.close_chunk()?;
            }
            self.write.put(part);
        }
        self.write.wait_for_capacity(CONCURRENT_WRITES).await.map_err(StoreError::from)?;
        Ok(())
    }

    /// Gives up and leaves nothing behind.
    pub async fn discard(self) {
        // A failure leaves a file in staging, which the next start clears.
        let _ = self.write.abort().await;
    }

    /// Where the complete and verified bytes now are.
    pub(super) async fn finish(self) -> Result<Path, IncomingError> {
        if self.received < self.record.size {
            let received = self.received;
            self.discard().await;
            return Err(IncomingError::CutOff { received });
        }
        if self.whole.clone().finalize()[..] != self.record.sha256.0 {
            let chunk = self.chunks;
            self.discard().await;
            return Err(IncomingError::WrongBytes { chunk });
        }
        self.write.finish().await.map_err(StoreError::from)?;
        Ok(self.path)
    }

    fn close_chunk(&mut self) -> Result<(), IncomingError> {
        let digest = Sha256(self.chunk.finalize_reset().into());
        if self.record.chunks.get(self.chunks) != Some(&digest) {
            return Err(IncomingError::WrongBytes { chunk: self.chunks });
        }
        self.chunks += 1;
        self.chunk_bytes = 0;
        Ok(())
    }
}
