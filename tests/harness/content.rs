//! The files that a site serves, and what their bodies should be.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use p2pcdn_core::lookup::canonical_path;
use p2pcdn_core::object::{Class, Sha256, content_type_of_extension};
use sha2::Digest;
use walkdir::WalkDir;

use crate::Error;

/// A directory of objects with the digest of every version that each has had; clones share it.
#[derive(Clone)]
pub struct Content {
    directory: PathBuf,
    objects: Arc<RwLock<Vec<Object>>>,
}

/// One file that the origin serves as an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Path of its URL.
    pub path: String,
    /// Bytes of the current version.
    pub size: u64,
    /// Digests of its versions, the current one last; never empty.
    pub versions: Vec<Sha256>,
}

/// What a body was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The current version.
    Current,
    /// A former version of the same object.
    Stale,
    /// Anything else.
    Corrupt,
}

impl Content {
    /// Takes in the files below `directory` that are objects: of a type on the allow-list, with a path that is canonical.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn scan(directory: &Path) -> Result<Self, Error> {
        let mut objects = Vec::new();
        for (path, file) in candidates(directory) {
            let bytes = fs::read(&file).map_err(Error::io("read", &file))?;
            objects.push(Object { path, size: bytes.len() as u64, versions: vec![digest(&bytes)] });
        }
        Ok(Self { directory: directory.into(), objects: Arc::new(RwLock::new(objects)) })
    }

    /// Writes an object, or a new version of it, in one step for whoever reads the directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        let file = self.directory.join(path.trim_start_matches('/'));
        let draft = file.with_file_name(".draft");
        let parent = file.parent().unwrap_or(&self.directory);
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        fs::write(&draft, bytes).map_err(Error::io("write", &draft))?;
        // Before the origin can serve it, so that nobody who gets it early calls it corrupt.
        let mut objects = self.objects.write().expect("no holder panics");
        let (size, digest) = (bytes.len() as u64, digest(bytes));
        match objects.iter_mut().find(|o| o.path == path) {
            Some(object) => {
                object.size = size;
                object.versions.retain(|v| *v != digest);
                object.versions.push(digest);
            }
            None => objects.push(Object { path: path.into(), size, versions: vec![digest] }),
        }
        fs::rename(&draft, &file).map_err(Error::io("write", &file))
    }

    /// Every object, in the order of their numbers.
    pub fn objects(&self) -> Vec<Object> {
        self.objects.read().expect("no holder panics").clone()
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.objects.read().expect("no holder panics").len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// URL path of the object with this number, which is less than [`Content::len`].
    pub fn path(&self, number: usize) -> String {
        self.objects.read().expect("no holder panics")[number].path.clone()
    }

    /// What a body with this digest is for the object with this number.
    pub fn judge(&self, number: usize, digest: Sha256) -> Verdict {
        match self.objects.read().expect("no holder panics").get(number).map(|o| o.versions.as_slice()) {
            Some([.., current]) if *current == digest => Verdict::Current,
            Some(versions) if versions.contains(&digest) => Verdict::Stale,
            _ => Verdict::Corrupt,
        }
    }
}

/// Files below `directory` that a site could serve as objects, with the paths of their URLs, sorted by path; no links, no dotfiles.
pub fn candidates(directory: &Path) -> Vec<(String, PathBuf)> {
    let visible =
        |entry: &walkdir::DirEntry| entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b".");
    let files = WalkDir::new(directory).sort_by_file_name().into_iter().filter_entry(visible).flatten();
    let mut found: Vec<_> = files
        .filter(|entry| entry.file_type().is_file())
        .filter_map(|entry| {
            let path = format!("/{}", entry.path().strip_prefix(directory).ok()?.to_str()?);
            let content_type = content_type_of_extension(entry.path().extension()?.to_str()?)?;
            // Styles and scripts are shared on declared paths only.
            Class::of_content_type(content_type).filter(|class| class.is_leaf())?;
            canonical_path(path.as_bytes()).ok()?;
            Some((path, entry.into_path()))
        })
        .collect();
    found.sort();
    found
}

/// SHA-256 of some bytes.
pub fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

/// `length` bytes that no two seeds have in common.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes: Vec<u8> =
        std::iter::repeat_with(|| random.next().to_le_bytes()).take(length / 8 + 1).flatten().collect();
    bytes.truncate(length);
    bytes
}

/// Reproducible draws (splitmix64).
pub struct Random(u64);

impl Random {
    /// Draws that depend on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "an endless iterator would only add an Option to every draw")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_are_objects_are_taken_in() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.png", "a/c.woff2", "a/page.html", ".hidden/d.png", "with space.png"] {
            let file = directory.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, name).unwrap();
        }
        std::os::unix::fs::symlink("b.png", directory.path().join("link.png")).unwrap();
        let content = Content::scan(directory.path()).unwrap();
        let paths: Vec<_> = content.objects().into_iter().map(|o| o.path).collect();
        assert_eq!(paths, ["/a/c.woff2", "/b.png"]);
    }

    #[test]
    fn a_replaced_version_is_stale_until_it_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let content = Content::scan(directory.path()).unwrap();
        let judge = |bytes: &[u8]| content.judge(0, digest(bytes));
        content.put("/x/a.png", b"one").unwrap();
        assert_eq!(judge(b"one"), Verdict::Current);
        content.put("/x/a.png", b"two").unwrap();
        assert_eq!((judge(b"one"), judge(b"two"), judge(b"six")), (Verdict::Stale, Verdict::Current, Verdict::Corrupt));
        content.put("/x/a.png", b"one").unwrap();
        assert_eq!((judge(b"one"), judge(b"two")), (Verdict::Current, Verdict::Stale));
        assert_eq!(fs::read(directory.path().join("x/a.png")).unwrap(), b"one");
        assert_eq!(content.len(), 1);
    }

    #[test]
    fn noise_depends_on_its_seed_alone() {
        assert_eq!(noise(1, 100), noise(1, 100));
        assert_ne!(noise(1, 100), noise(2, 100));
        assert_eq!(noise(1, 13).len(), 13);
    }
}
