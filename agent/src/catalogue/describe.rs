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

/// Reads and hashes a file; `None` if it changed meanwhile. Blocks.
pub fn describe(directory: &ContentDirectory, path: &str) -> io::Result<Option<Described>> {
    let (file, before) = directory.open_unlinked(path)?;
    let (sha256, chunks, size) = digests(file)?;
    let (_, after) = directory.open_unlinked(path)?;
    let described = Described { sha256, chunks, size, stamp: before };
    Ok((before == after && size == before.size()).then_some(described))
}

fn digests(mut file: File) -> io::Result<(Sha256, Vec<Sha256>, u64)> {
    let mut whole = sha2::Sha256::new();
    let mut chunks = Vec::new();
    let mut size = 0;
    let mut buffer = Vec::with_capacity(CHUNK_BYTES as usize);
    loop {
        buffer.clear();
        let read = (&mut file).take(CHUNK_BYTES).read_to_end(&mut buffer)?;
        if read == 0 {
            return Ok((Sha256(whole.finalize().into()), chunks, size));
        }
        whole.update(&buffer);
        chunks.push(Sha256(sha2::Sha256::digest(&buffer).into()));
        size += read as u64;
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
            assert_eq!(described.sha256.0, <[u8; 32]>::from(sha2::Sha256::digest(&bytes)));
            assert_eq!(described.chunks.len() as u64, size.div_ceil(CHUNK_BYTES));
            let last = bytes.chunks(CHUNK_BYTES as usize).last().unwrap();
            assert_eq!(described.chunks.last().unwrap().0, <[u8; 32]>::from(sha2::Sha256::digest(last)));
        }
    }
}
