//! Files of the content directory, opened so that no path and no link leads out of it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// The root of what the embedded origin serves.
#[derive(Debug)]
pub struct ContentDirectory {
    path: PathBuf,
    root: OwnedFd,
}

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    inode: u64,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl ContentDirectory {
    /// Opens the directory; it stays the same one even if it is renamed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = File::open(path)?;
        if !root.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { path: path.canonicalize()?, root: root.into() })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a regular file by its canonical path at the site; dotfiles and links that leave the directory are not found.
    pub fn open_file(&self, path: &str) -> io::Result<(File, FileStamp)> {
        let relative = path.trim_start_matches('/');
        if relative.split('/').any(|segment| segment.starts_with('.')) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // NONBLOCK, so that a named pipe in the directory cannot hold a thread.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = File::from(openat2(&self.root, relative, flags, Mode::empty(), resolve)?);
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !metadata.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        let stamp = FileStamp {
            inode: metadata.ino(),
            size: metadata.len(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        };
        Ok((file, stamp))
    }

    /// The path at the site of a file below the directory.
    pub fn site_path(&self, file: &Path) -> Option<String> {
        let relative = file.strip_prefix(&self.path).ok()?.to_str()?;
        Some(format!("/{relative}"))
    }
}

impl FileStamp {
    /// Length of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_directory_can_be_opened() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        let inside = tempfile::tempdir().unwrap();
        let at = |name: &str| inside.path().join(name);
        std::fs::create_dir(at("d")).unwrap();
        std::fs::write(at("d/ok"), "x").unwrap();
        std::fs::write(at(".hidden"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), at("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../../etc/passwd", at("upwards")).unwrap();
        std::os::unix::fs::symlink("d/ok", at("link")).unwrap();
        let directory = ContentDirectory::open(inside.path()).unwrap();
        assert!(directory.open_file("/d/ok").is_ok());
        assert!(directory.open_file("/link").is_ok());
        for bad in ["/absolute", "/upwards", "/.hidden", "/d/../../x", "/d", "/", "/nothing", "/dev/null"] {
            assert!(directory.open_file(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rewritten_file_has_another_stamp() {
        let inside = tempfile::tempdir().unwrap();
        let file = inside.path().join("f");
        std::fs::write(&file, "one").unwrap();
        let directory = ContentDirectory::open(inside.path()).unwrap();
        let (_, before) = directory.open_file("/f").unwrap();
        std::fs::write(&file, "two!").unwrap();
        assert_ne!(directory.open_file("/f").unwrap().1, before);
    }
}
