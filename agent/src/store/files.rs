//! Bytes in a directory of this machine: written beside their place, made durable, renamed.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use p2pcdn_core::object::Sha256;

use super::blobs::{Kind, Put, Source};
use super::error::StoreError;

/// `blobs/`, `records/`, and `staging/` for what is not in its place yet.
pub(super) struct Files {
    directory: PathBuf,
    written: AtomicU64,
}

/// Up to so many files are synchronised one by one; for more, the whole file system is, once.
const MAX_SINGLE_SYNCS: usize = 4;

impl Files {
    /// Prepares the directory and empties staging. Every method of this blocks.
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let staging = directory.join("staging");
        for below in [&staging, &directory.join(Kind::Blob.directory()), &directory.join(Kind::Record.directory())] {
            std::fs::create_dir_all(below).map_err(StoreError::io(below))?;
        }
        for entry in std::fs::read_dir(&staging).map_err(StoreError::io(&staging))? {
            let path = entry.map_err(StoreError::io(&staging))?.path();
            if !path.is_dir() {
                std::fs::remove_file(&path).map_err(StoreError::io(&path))?;
            }
        }
        // Whoever cannot write here should hear of it now and not from the first replica.
        let probe = staging.join("probe");
        File::create(&probe).and_then(|_| std::fs::remove_file(&probe)).map_err(StoreError::io(&probe))?;
        Ok(Self { directory: directory.to_owned(), written: AtomicU64::new(0) })
    }

    /// Puts everything in its place; what has no error is durable there.
    pub(super) fn put(&self, puts: &[Put]) -> Vec<Result<(), StoreError>> {
        let is_single = puts.len() <= MAX_SINGLE_SYNCS;
        let mut results: Vec<_> = puts.iter().map(|put| self.put_one(put, is_single)).collect();
        if results.iter().any(Result::is_ok)
            && let Err(error) = self.sync(puts, is_single)
        {
            let error = Arc::new(error);
            results.iter_mut().for_each(|result| *result = Err(error.clone().into()));
        }
        results
    }

    /// Makes it last that something has been removed.
    pub(super) fn sync_removal(&self, kind: Kind, digest: &Sha256) -> Result<(), StoreError> {
        match sync_directory(parent(&self.place(kind, digest))) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced,
        }
    }

    fn put_one(&self, put: &Put, is_single: bool) -> Result<(), StoreError> {
        let place = self.place(put.kind, &put.digest);
        if let (Source::Bytes(bytes), false) = (&put.source, is_single)
            && let Some(written) = write_new(&place, |file| file.write_all(bytes))
        {
            return written.map_err(StoreError::io(&place));
        }
        let staged = match &put.source {
            Source::File(path) => path.clone(),
            Source::Bytes(bytes) => {
                let number = self.written.fetch_add(1, Ordering::Relaxed);
                let path = self.directory.join(format!("staging/{number}"));
                let write = || OpenOptions::new().create_new(true).write(true).open(&path)?.write_all(bytes);
                write().inspect_err(|_| drop(std::fs::remove_file(&path))).map_err(StoreError::io(&path))?;
                path
            }
        };
        if is_single {
            File::open(&staged).and_then(|file| file.sync_all()).map_err(StoreError::io(&staged))?;
        }
        let renamed = match std::fs::rename(&staged, &place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(parent(&place)).and_then(|()| std::fs::rename(&staged, &place))
            }
            renamed => renamed,
        };
        if renamed.is_err() && matches!(put.source, Source::Bytes(_)) {
            let _ = std::fs::remove_file(&staged);
        }
        renamed.map_err(StoreError::io(&place))
    }

    fn sync(&self, puts: &[Put], is_single: bool) -> Result<(), StoreError> {
        if !is_single {
            let synced = File::open(&self.directory).and_then(|directory| Ok(rustix::fs::syncfs(directory)?));
            return synced.map_err(StoreError::io(&self.directory));
        }
        let places = puts.iter().map(|put| self.place(put.kind, &put.digest));
        // With the directory above, where the parent may be new.
        let touched: BTreeSet<_> =
            places.flat_map(|place| [parent(&place).to_owned(), parent(parent(&place)).to_owned()]).collect();
        touched.iter().try_for_each(|directory| sync_directory(directory))
    }

    pub(super) fn place(&self, kind: Kind, digest: &Sha256) -> PathBuf {
        let hex = digest.to_string();
        self.directory.join(kind.directory()).join(&hex[..2]).join(hex)
    }
}

/// Writes a file where there is none, and where its directory is; it saves a second directory change for each of many small files.
///
/// Half of one that a crash or a full disk leaves has no row, and whoever has written it, or a start, removes it, once it is known that nobody
/// else has put the whole in its place meanwhile.
fn write_new(place: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Option<io::Result<()>> {
    let mut file = OpenOptions::new().create_new(true).write(true).open(place).ok()?;
    Some(write(&mut file))
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(StoreError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_leaves_what_another_has_put_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let (files, digest) = (Files::open(directory.path()).unwrap(), Sha256([7; 32]));
        let put = || Put { kind: Kind::Blob, digest, source: Source::Bytes(b"whole"[..].into()) };
        let place = files.place(Kind::Blob, &digest);
        std::fs::create_dir_all(parent(&place)).unwrap();
        let written = write_new(&place, |file| {
            file.write_all(b"wh")?;
            files.put(&[put()]).remove(0).unwrap();
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(matches!(written, Some(Err(_))));
        assert_eq!(std::fs::read(&place).unwrap(), b"whole");
    }

    #[test]
    fn half_a_file_is_replaced_by_the_whole() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::open(directory.path()).unwrap();
        let put = |n| Put { kind: Kind::Blob, digest: Sha256([n; 32]), source: Source::Bytes(b"whole"[..].into()) };
        let place = files.place(Kind::Blob, &Sha256([0; 32]));
        std::fs::create_dir_all(parent(&place)).unwrap();
        std::fs::write(&place, b"wh").unwrap();
        let puts: Vec<Put> = (0..=MAX_SINGLE_SYNCS as u8).map(put).collect();
        assert!(files.put(&puts).iter().all(Result::is_ok));
        assert_eq!(std::fs::read(&place).unwrap(), b"whole");
    }
}
