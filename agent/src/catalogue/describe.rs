//! What a file is: its digest in whole and chunk by chunk.

use std::fs::File;
use std::io::{self, Read};

use p2pcdn_core::object::{CHUNK_BYTES, Sha256};
use sha2::Digest;

use super::files::{ContentDirectory, FileStamp};

/// What a file was while it was read.
#[derive(Debug)]
pub struct Described {
    /// Digest of all bytes.
    pub sha256: Sha256,
    /// Digest of each chunk.
    pub chunks: Vec<Sha256>,
    /// Bytes.
    pub size: u64,
    /// Its stamp, the same before and after.
    pub stamp: FileStamp,
}

/// Digests of bytes that come piece by piece.
#[derive(Default)]
pub struct Digests {
    whole: sha2::Sha256,
    chunk: sha2::Sha256,
    chunk_bytes: u64,
    chunks: Vec<Sha256>,
    size: u64,
}

impl Digests {
    /// Takes in the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(CHUNK_BYTES - self.chunk_bytes).unwrap_or(usize::MAX);
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            self.whole.update(part);
            self.chunk.update(part);
            self.chunk_bytes += part.len() as u64;
            self.size += part.len() as u64;
            if self.chunk_bytes == CHUNK_BYTES {
                self.close_chunk();
            }
            bytes = rest;
        }
    }

    /// Digest of all bytes, of each chunk, and their number.
    pub fn finish(mut self) -> (Sha256, Vec<Sha256>, u64) {
        if self.chunk_bytes > 0 {
            self.close_chunk();
        }
        (Sha256(self.whole.finalize().into()), self.chunks, self.size)
    }

    fn close_chunk(&mut self) {
        self.chunks.push(Sha256(self.chunk.finalize_reset().into()));
        self.chunk_bytes = 0;
    }
}

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;

/// Reads and hashes a file; `None` if it changed meanwhile. Blocks.
pub fn describe(directory: &ContentDirectory, path: &str) -> io::Result<Option<Described>> {
    let (file, before) = directory.open_unlinked(path)?;
    let (sha256, chunks, size) = digests(file)?;
    let (_, after) = directory.open_unlinked(path)?;
    let described = Described { sha256, chunks, size, stamp: before };
    Ok((before == after && size == before.size()).then_some(described))
}

fn digests(mut file: File) -> io::Result<(Sha256, Vec<Sha256>, u64)> {
    let mut digests = Digests::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(digests.finish()),
            Ok(read) => digests.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_hashed_as_the_record_counts_them() {
        let directory = tempfile::tempdir().unwrap();
        for size in [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            std::fs::write(directory.path().join("f"), &bytes).unwrap();
            let content = ContentDirectory::at(directory.path()).unwrap();
            let described = describe(&content, "/f").unwrap().unwrap();
            let mut pieces = Digests::default();
            bytes.chunks(1000).for_each(|piece| pieces.update(piece));
            assert_eq!(pieces.finish(), (described.sha256, described.chunks.clone(), size));
            assert_eq!(described.sha256.0, <[u8; 32]>::from(sha2::Sha256::digest(&bytes)));
            assert_eq!(described.chunks.len() as u64, size.div_ceil(CHUNK_BYTES));
            let last = bytes.chunks(CHUNK_BYTES as usize).last().unwrap();
            assert_eq!(described.chunks.last().unwrap().0, <[u8; 32]>::from(sha2::Sha256::digest(last)));
        }
    }
}
