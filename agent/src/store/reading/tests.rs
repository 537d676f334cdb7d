use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures_util::poll;
use tempfile::TempDir;

use super::*;

const DIGEST: Sha256 = Sha256([7; 32]);

/// A directory with one file of so many bytes, whose name is `blob`.
async fn opened(length: usize) -> (TempDir, OpenFiles, Arc<OpenFile>, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..length).map(|at| (at * 31 % 251) as u8).collect();
    std::fs::write(directory.path().join("blob"), &content).unwrap();
    let files = OpenFiles::new();
    let file = files.open(blob(&directory)).await.unwrap();
    (directory, files, file, content)
}

async fn collect(mut pieces: Pieces) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(piece) = pieces.next().await {
        all.extend_from_slice(&piece?);
    }
    Ok(all)
}

fn blob(directory: &TempDir) -> PathBuf {
    directory.path().join("blob")
}

#[tokio::test]
async fn every_range_is_read_as_it_is_in_the_file() {
    let (_directory, _files, file, content) = opened(3 * LARGE_BYTES + 5).await;
    let size = content.len() as u64;
    for range in [0..size, 0..1, size - 1..size, 5..5, 1..LARGE_BYTES as u64 + 1, 70_000..size - 3] {
        let expected = &content[range.start as usize..range.end as usize];
        assert!(collect(Pieces::new(file.clone(), range.clone())).await.unwrap() == expected, "{range:?}");
    }
}

#[tokio::test]
async fn what_the_kernel_cannot_read_at_once_comes_from_another_thread() {
    // A file system in memory, which refuses to be asked so.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let content = vec![3; LARGE_BYTES + 9];
    std::fs::write(blob(&directory), &content).unwrap();
    let file = OpenFiles::new().open(blob(&directory)).await.unwrap();
    assert!(collect(Pieces::new(file, 0..content.len() as u64)).await.unwrap() == content);
}

#[tokio::test]
async fn a_piece_is_read_once_the_one_before_has_been_sent() {
    let (_directory, _files, file, _) = opened(2 * LARGE_BYTES).await;
    let mut pieces = Pieces::new(file, 0..2 * LARGE_BYTES as u64);
    let first = pieces.next().await.unwrap().unwrap();
    // A connection keeps parts of it.
    let part = first.slice(9..10);
    drop(first);
    assert!(poll!(pieces.next()).is_pending());
    drop(part);
    assert_eq!(pieces.next().await.unwrap().unwrap().len(), LARGE_BYTES);
    assert!(pieces.next().await.is_none());
}

#[tokio::test]
async fn a_thousand_clients_that_do_not_read_share_the_large_pieces() {
    let (_directory, _files, file, content) = opened(4 * LARGE_BYTES).await;
    let mut readers = Vec::new();
    for _ in 0..1000 {
        let mut pieces = Pieces::new(file.clone(), 0..content.len() as u64);
        let piece = pieces.next().await.unwrap().unwrap();
        readers.push((pieces, piece));
    }
    let held: usize = readers.iter().map(|(_, piece)| piece.len()).sum();
    assert_eq!(held, LARGE_BUFFERS * LARGE_BYTES + (1000 - LARGE_BUFFERS) * SMALL_BYTES);
    // Once they have gone, there are large ones again.
    drop(readers);
    assert_eq!(Pieces::new(file, 0..content.len() as u64).next().await.unwrap().unwrap().len(), LARGE_BYTES);
}

#[tokio::test]
async fn a_file_that_ends_early_is_an_error_and_no_short_answer() {
    let (directory, _files, file, content) = opened(10_000).await;
    File::options().write(true).open(blob(&directory)).unwrap().set_len(5000).unwrap();
    let read = collect(Pieces::new(file, 0..content.len() as u64)).await;
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_file_stays_open_until_somebody_touches_it() {
    type Touch = fn(&Path);
    let touches: [(&str, Touch); 3] = [
        ("written to", |path| {
            std::fs::write(path, vec![1; 10]).unwrap();
            // Time stamps are as coarse as a few milliseconds.
            let file = File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
        }),
        ("removed", |path| std::fs::remove_file(path).unwrap()),
        ("replaced", |path| {
            std::fs::write(path.with_extension("new"), vec![1; 10]).unwrap();
            std::fs::rename(path.with_extension("new"), path).unwrap();
        }),
    ];
    for (what, touch) in touches {
        let (directory, files, file, _) = opened(10).await;
        assert!(files.find(&DIGEST).is_none());
        assert!(files.keep(DIGEST, &file));
        assert!(files.find(&DIGEST).is_some());
        touch(&blob(&directory));
        assert!(files.find(&DIGEST).is_none(), "{what}");
        assert!(!files.keep(DIGEST, &file), "{what}");
    }
}

#[tokio::test]
async fn the_digest_is_that_of_the_file_as_it_is_now() {
    let (directory, _files, _file, content) = opened(HASHED_BYTES + 1).await;
    let digest = |bytes: &[u8]| Some(Sha256(sha2::Sha256::digest(bytes).into()));
    assert_eq!(digest_of(blob(&directory)).await.unwrap(), digest(&content));
    std::fs::write(blob(&directory), b"other").unwrap();
    assert_eq!(digest_of(blob(&directory)).await.unwrap(), digest(b"other"));
    std::fs::remove_file(blob(&directory)).unwrap();
    assert_eq!(digest_of(blob(&directory)).await.unwrap(), None);
}
