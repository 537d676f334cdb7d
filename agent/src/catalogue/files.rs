//! Files of the content directory, opened so that no path and no link leads out of it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// How often an opening is repeated that something else got in the way of.
const MAX_TRIES: u32 = 16;

/// The root of what the embedded origin serves.
#[derive(Debug)]
pub struct ContentDirectory {
    configured: PathBuf,
    root: RwLock<Arc<Root>>,
}

/// The directory that the configured path led to when it was opened.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    directory: OwnedFd,
    identity: (u64, u64),
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
    /// Opens the directory that the path leads to.
    pub fn at(configured: &Path) -> io::Result<Self> {
        let root = RwLock::new(Arc::new(Root::open(configured)?));
        Ok(Self { configured: configured.to_owned(), root })
    }

    /// Its absolute path, as when it was opened.
    pub fn path(&self) -> PathBuf {
        self.root().path.clone()
    }

    /// Opens the directory anew if the path now leads to another one, as after a release was switched; says whether it did.
    pub fn follow(&self) -> io::Result<bool> {
        let now = Root::open(&self.configured)?;
        let is_other = now.identity != self.root().identity;
        if is_other {
            *self.root.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
        }
        Ok(is_other)
    }

    fn root(&self) -> Arc<Root> {
        self.root.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens a regular file by its canonical path at the site; dotfiles and links that leave the directory are not found.
    pub fn open_file(&self, path: &str) -> io::Result<(File, FileStamp)> {
        self.open(path, ResolveFlags::empty())
    }

    /// The same, but nothing that a link leads to: a change behind a link would not be noticed.
    pub fn open_unlinked(&self, path: &str) -> io::Result<(File, FileStamp)> {
        self.open(path, ResolveFlags::NO_SYMLINKS)
    }

    fn open(&self, path: &str, restriction: ResolveFlags) -> io::Result<(File, FileStamp)> {
        let relative = path.trim_start_matches('/');
        if relative.split('/').any(|segment| segment.starts_with('.')) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // NONBLOCK, so that a named pipe in the directory cannot hold a thread.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | restriction;
        let root = self.root();
        let mut tries = 0;
        let file = loop {
            match openat2(&root.directory, relative, flags, Mode::empty(), resolve) {
                // Something was renamed somewhere while a link upwards was resolved.
                Err(Errno::AGAIN | Errno::INTR) if tries < MAX_TRIES => tries += 1,
                // A socket, or a device without a driver.
                Err(Errno::NXIO | Errno::NODEV) => return Err(io::ErrorKind::NotFound.into()),
                opened => break File::from(opened?),
            }
        };
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
        let root = self.root();
        let relative = file.strip_prefix(&root.path).ok()?.to_str()?;
        Some(format!("/{relative}"))
    }
}

impl Root {
    fn open(configured: &Path) -> io::Result<Self> {
        let directory = File::open(configured)?;
        let metadata = directory.metadata()?;
        if !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let identity = (metadata.dev(), metadata.ino());
        Ok(Self { path: configured.canonicalize()?, directory: directory.into(), identity })
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
        let directory = ContentDirectory::at(inside.path()).unwrap();
        assert!(directory.open_file("/d/ok").is_ok());
        assert!(directory.open_file("/link").is_ok());
        assert!(directory.open_unlinked("/link").is_err());
        for bad in ["/absolute", "/upwards", "/.hidden", "/d/../../x", "/d", "/", "/nothing", "/dev/null"] {
            assert!(directory.open_file(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sockets_pipes_and_devices_are_not_found() {
        let inside = tempfile::tempdir().unwrap();
        let at = |name: &str| inside.path().join(name);
        let _listener = std::os::unix::net::UnixListener::bind(at("socket.png")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe.png"), Mode::RUSR).unwrap();
        let directory = ContentDirectory::at(inside.path()).unwrap();
        for path in ["/socket.png", "/pipe.png"] {
            assert_eq!(directory.open_file(path).unwrap_err().kind(), io::ErrorKind::NotFound, "{path}");
        }
    }

    #[test]
    fn a_directory_that_is_replaced_is_followed() {
        let inside = tempfile::tempdir().unwrap();
        let at = |name: &str| inside.path().join(name);
        for release in ["one", "two"] {
            std::fs::create_dir(at(release)).unwrap();
            std::fs::write(at(release).join("f"), release).unwrap();
        }
        std::os::unix::fs::symlink("one", at("current")).unwrap();
        let directory = ContentDirectory::at(&at("current")).unwrap();
        let read = || std::io::read_to_string(directory.open_file("/f").unwrap().0).unwrap();
        assert!(!directory.follow().unwrap());
        assert_eq!(read(), "one");
        std::fs::remove_file(at("current")).unwrap();
        assert!(directory.follow().is_err());
        std::os::unix::fs::symlink("two", at("current")).unwrap();
        assert!(directory.follow().unwrap());
        assert_eq!(read(), "two");
    }

    #[test]
    fn a_rewritten_file_has_another_stamp() {
        let inside = tempfile::tempdir().unwrap();
        let file = inside.path().join("f");
        std::fs::write(&file, "one").unwrap();
        let directory = ContentDirectory::at(inside.path()).unwrap();
        let (_, before) = directory.open_file("/f").unwrap();
        std::fs::write(&file, "two!").unwrap();
        assert_ne!(directory.open_file("/f").unwrap().1, before);
    }
}
