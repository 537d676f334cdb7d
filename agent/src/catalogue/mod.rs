//! The site's own objects: which files there are, what they are now, and the signed record of each.

pub mod describe;
pub mod files;
pub mod origin;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use p2pcdn_core::object::{Class, Embedding, ObjectRecord, Sha256, Sharing};
use tokio::sync::watch as signal;

use crate::clock::now_s;
use crate::identity::{Counter, CounterError, NodeKey, Signed, sign};
use crate::publish::Board;
use crate::settings::{Share, Site};
use describe::Described;
use files::{ContentDirectory, FileStamp};

/// The site's own objects.
pub struct Catalogue {
    directory: ContentDirectory,
    site: Site,
    share: Share,
    key: Arc<NodeKey>,
    sequences: Mutex<Sequences>,
    board: Arc<Board>,
    objects: RwLock<Objects>,
    changed: signal::Sender<u64>,
}

#[derive(Default)]
struct Objects {
    by_path: BTreeMap<String, Arc<OwnObject>>,
    by_digest: HashMap<Sha256, BTreeSet<String>>,
}

/// One version of one own object.
#[derive(Debug)]
pub struct OwnObject {
    /// What this site says about it.
    pub record: ObjectRecord,
    /// The same, signed.
    pub signed: Signed,
    /// Its class.
    pub class: Class,
    /// The file as it was when it was hashed.
    pub stamp: FileStamp,
}

/// Why a file could not be catalogued.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The content directory or a file in it could not be read.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The directory cannot be watched.
    #[error("watching the content directory: {0}")]
    Watch(#[from] notify::Error),
    /// The record's number could not be made durable.
    #[error(transparent)]
    Counter(#[from] CounterError),
    /// The record could not be written.
    #[error("writing a record: {0}")]
    Json(#[from] serde_json::Error),
}

/// Record numbers are drawn from the durable counter in blocks, since a commit to disk for each would make a first scan slow.
struct Sequences {
    counter: Counter,
    block: u64,
    used: u64,
}

const SEQUENCES_PER_BLOCK: u64 = 1 << 20;
/// Life of an object record: 14 days; renewed by the rescan when a quarter is left.
const RECORD_LIFE_S: u64 = 14 * 24 * 3600;

impl Catalogue {
    /// A catalogue of `directory` that is empty until [`Catalogue::run`].
    pub fn new(
        directory: &Path,
        site: Site,
        share: Share,
        key: Arc<NodeKey>,
        counter: Counter,
        board: Arc<Board>,
    ) -> Result<Self, CatalogueError> {
        let file = |source| CatalogueError::File { path: directory.display().to_string(), source };
        Ok(Self {
            directory: ContentDirectory::at(directory).map_err(file)?,
            site,
            share,
            key,
            sequences: Mutex::new(Sequences { counter, block: 0, used: SEQUENCES_PER_BLOCK }),
            board,
            objects: RwLock::default(),
            changed: signal::Sender::new(0),
        })
    }

    /// The present version of an object.
    pub fn find(&self, path: &str) -> Option<Arc<OwnObject>> {
        self.read().by_path.get(path).cloned()
    }

    /// The object with these bytes.
    pub fn find_digest(&self, digest: &Sha256) -> Option<Arc<OwnObject>> {
        let objects = self.read();
        objects.by_path.get(objects.by_digest.get(digest)?.first()?).cloned()
    }

    /// Every object, by path.
    pub fn list(&self) -> Vec<Arc<OwnObject>> {
        self.read().by_path.values().cloned().collect()
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.read().by_path.len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes whenever an object does.
    pub fn changed(&self) -> signal::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The directory behind the catalogue.
    pub fn directory(&self) -> &ContentDirectory {
        &self.directory
    }

    /// The site that the objects belong to.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Takes an object out, from the table first.
    fn retract(&self, path: &str) {
        self.board.remove_object(path);
        let mut objects = self.write();
        let Some(old) = objects.by_path.remove(path) else { return };
        objects.forget_digest(&old.record);
        drop(objects);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Puts a described file in, in place of its former version.
    fn put(&self, path: &str, class: Class, content_type: &str, described: Described) -> Result<(), CatalogueError> {
        let record = ObjectRecord {
            origin: self.site.domain.clone(),
            path: path.to_owned(),
            sha256: described.sha256,
            size: described.size,
            content_type: content_type.to_owned(),
            etag: etag_of(&described.sha256),
            max_age_s: u32::try_from(self.site.max_age.as_secs()).unwrap_or(u32::MAX),
            stale_if_error_s: 0,
            sharing: Sharing::SameOrigin,
            embedding: Embedding::Unstated,
            chunks: described.chunks,
            sequence: self.sequences.lock().unwrap_or_else(PoisonError::into_inner).next()?,
            expires_s: now_s() + RECORD_LIFE_S,
        };
        let signed = sign(&self.key, &record)?;
        self.board.put_object(&record, class, Some(&record.etag), u32::MAX);
        let mut objects = self.write();
        let sha256 = record.sha256;
        let object = Arc::new(OwnObject { record, signed, class, stamp: described.stamp });
        if let Some(old) = objects.by_path.insert(path.to_owned(), object) {
            objects.forget_digest(&old.record);
        }
        objects.by_digest.entry(sha256).or_default().insert(path.to_owned());
        drop(objects);
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Objects> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Objects> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Objects {
    fn forget_digest(&mut self, old: &ObjectRecord) {
        if let Some(paths) = self.by_digest.get_mut(&old.sha256) {
            paths.remove(&old.path);
            if paths.is_empty() {
                self.by_digest.remove(&old.sha256);
            }
        }
    }
}

impl Sequences {
    fn next(&mut self) -> Result<u64, CounterError> {
        if self.used == SEQUENCES_PER_BLOCK {
            self.block = self.counter.next(now_s())?;
            self.used = 0;
        }
        self.used += 1;
        Ok(self.block * SEQUENCES_PER_BLOCK + self.used)
    }
}

/// The strong entity tag of a file: 128 bits of its digest.
fn etag_of(sha256: &Sha256) -> String {
    format!("\"{}\"", &sha256.to_string()[..32])
}
