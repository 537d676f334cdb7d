//! The site's own objects: which there are, what they are now, and the signed record of each.
//!
//! They come from one of two places. [`watch`] follows a directory that the agent serves itself ([`origin`]), and shares those files that a
//! [`stranger`] can have; [`learn`] asks the site's public listener for what visitors ask for, and keeps the bytes that [`cacheable`] lets
//! it share ([`area`]).

pub mod area;
pub mod cacheable;
pub mod describe;
mod fetch;
pub mod files;
mod hints;
pub mod learn;
mod looks;
pub mod origin;
pub mod references;
mod schedule;
mod sequences;
mod source;
pub mod stranger;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use p2pcdn_core::object::{Class, Embedding, MAX_OBJECT_BYTES, ObjectRecord, Sha256, Sharing};
use tokio::sync::{mpsc, watch as signal};

use crate::clock::{monotonic_ms, now_s};
use crate::demand::{Demand, HALF_LIFE_MS};
use crate::identity::{Counter, CounterError, NodeKey, Signed, sign};
use crate::publish::Board;
use crate::settings::{Share, Site};
use files::FileStamp;
use hints::Hint;
pub use hints::{Hints, Purge, Purged};
use sequences::Sequences;
pub use source::{Source, SourceError};
use stranger::LooksStatus;

/// The site's own objects.
pub struct Catalogue {
    source: Source,
    site: Site,
    share: Share,
    key: Arc<NodeKey>,
    sequences: Mutex<Sequences>,
    board: Arc<Board>,
    objects: RwLock<Objects>,
    changed: signal::Sender<u64>,
    hints: mpsc::Sender<Hint>,
    demand: Mutex<Demand>,
    looks: Mutex<LooksStatus>,
}

#[derive(Default)]
struct Objects {
    by_path: BTreeMap<String, Arc<OwnObject>>,
    by_digest: HashMap<Sha256, BTreeSet<String>>,
    /// Number of purges so far.
    purges: u64,
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
    /// The file as it was when it was hashed; none for what was learned.
    pub stamp: Option<FileStamp>,
    /// When this version was first put here, on the monotonic clock.
    pub since_ms: u64,
    /// The version before, if there was one.
    pub former: Option<Sha256>,
}

/// What is to be said of an object, and how long it holds.
struct Description {
    class: Class,
    content_type: &'static str,
    sha256: Sha256,
    chunks: Vec<Sha256>,
    size: u64,
    /// The strong entity tag that the origin answers with, if that is known.
    etag: Option<String>,
    max_age_s: u32,
    fresh_until_s: u32,
    stale_if_error_s: u32,
    sharing: Sharing,
    embedding: Embedding,
    stamp: Option<FileStamp>,
    /// [`Catalogue::purges`] when this began to be found out.
    purges: u64,
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
        source: io::Error,
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
    /// The operator has purged while the object was being found out.
    #[error("purged meanwhile")]
    Purged,
}

/// Life of an object record: 14 days; renewed when a quarter is left.
const RECORD_LIFE_S: u64 = 14 * 24 * 3600;
/// A record that holds for this much longer than one that is signed now was signed before the clock was set back.
const CLOCK_SLACK_S: u64 = 24 * 3600;
impl Catalogue {
    /// A catalogue that is empty until [`watch::Watcher`] or [`learn::Learner`] fills it.
    pub fn new(
        source: Source,
        site: Site,
        share: Share,
        key: Arc<NodeKey>,
        counter: Counter,
        board: Arc<Board>,
        time_scale: f64,
    ) -> (Arc<Self>, Hints) {
        let (hints, waiting) = hints::queue();
        let catalogue = Self {
            source,
            site,
            share,
            key,
            sequences: Mutex::new(Sequences::new(counter)),
            board,
            objects: RwLock::default(),
            changed: signal::Sender::new(0),
            hints,
            demand: Mutex::new(Demand::new(HALF_LIFE_MS * time_scale)),
            looks: Mutex::default(),
        };
        (Arc::new(catalogue), waiting)
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

    /// How much each object is asked for, as far as the workers report it.
    pub fn demand(&self) -> MutexGuard<'_, Demand> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far looking at the directory as a stranger has come.
    pub fn looks(&self) -> MutexGuard<'_, LooksStatus> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The site that the objects belong to.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The bytes of an object in `range`, which lies within it; it has to be the present version still.
    pub async fn bytes(
        &self,
        object: &OwnObject,
        range: Range<u64>,
    ) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        self.source.bytes(object, range).await
    }

    fn purges(&self) -> u64 {
        self.read().purges
    }

    /// Takes an object out, from the table first; returns what it was.
    fn retract(&self, path: &str) -> Option<Arc<OwnObject>> {
        let mut objects = self.write();
        self.board.remove_object(path);
        let old = objects.by_path.remove(path)?;
        objects.forget_digest(&old.record);
        drop(objects);
        self.changed.send_modify(|version| *version += 1);
        Some(old)
    }

    /// Puts a described object in, in place of its former version.
    fn put(&self, path: &str, description: Description) -> Result<(), CatalogueError> {
        let Description { class, sha256, etag, fresh_until_s, stamp, purges, .. } = description;
        let record = ObjectRecord {
            origin: self.site.domain.clone(),
            path: path.to_owned(),
            sha256,
            size: description.size,
            content_type: description.content_type.to_owned(),
            etag: etag.clone().unwrap_or_else(|| etag_of(&sha256)),
            max_age_s: description.max_age_s,
            stale_if_error_s: description.stale_if_error_s,
            sharing: description.sharing,
            embedding: description.embedding,
            chunks: description.chunks,
            sequence: self.sequences.lock().unwrap_or_else(PoisonError::into_inner).next()?,
            expires_s: now_s() + RECORD_LIFE_S,
        };
        let signed = sign(&self.key, &record)?;
        let mut objects = self.write();
        if objects.purges != purges {
            return Err(CatalogueError::Purged);
        }
        self.board.put_object(&record, class, etag.as_deref(), fresh_until_s);
        let (since_ms, former) = match objects.by_path.get(path) {
            Some(known) if known.record.sha256 == sha256 => (known.since_ms, known.former),
            known => (monotonic_ms(), known.map(|known| known.record.sha256)),
        };
        let object = Arc::new(OwnObject { record, signed, class, stamp, since_ms, former });
        if let Some(old) = objects.by_path.insert(path.to_owned(), object) {
            objects.forget_digest(&old.record);
        }
        objects.by_digest.entry(sha256).or_default().insert(path.to_owned());
        drop(objects);
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Extends the freshness of an object; `false` if it is not in the table any more.
    fn extend(&self, object: &Arc<OwnObject>, etag: Option<&str>, fresh_until_s: u32, purges: u64) -> bool {
        let objects = self.write();
        let path = &object.record.path;
        let is_present = objects.by_path.get(path).is_some_and(|present| Arc::ptr_eq(present, object));
        let stays = is_present && objects.purges == purges && self.board.has_object(path);
        if stays {
            self.board.put_object(&object.record, object.class, etag, fresh_until_s);
        }
        stays
    }

    fn is_shared_size(&self, bytes: u64) -> bool {
        let most = self.share.max_object_bytes.min(MAX_OBJECT_BYTES);
        (self.share.min_object_bytes.max(1)..=most).contains(&bytes)
    }

    /// Whether the operator lets nothing be shared under this path.
    fn is_excluded(&self, path: &str) -> bool {
        self.share.exclude.iter().any(|prefix| path.starts_with(&**prefix))
    }

    /// Whether objects of this class are offered under this path.
    fn is_offered(&self, path: &str, class: Class) -> bool {
        if self.is_excluded(path) {
            false
        } else if class.is_leaf() {
            self.share.classes.contains(&class)
        } else {
            self.share.code_paths.iter().any(|prefix| path.starts_with(&**prefix))
        }
    }

    fn has_room(&self, path: &str) -> bool {
        let objects = self.read();
        objects.by_path.len() < self.share.max_objects || objects.by_path.contains_key(path)
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

/// Whether a record need not be signed anew at `now_s` seconds since the Unix epoch.
fn is_in_time(record: &ObjectRecord, now_s: u64) -> bool {
    let soon = now_s.saturating_add(RECORD_LIFE_S / 4);
    let latest = now_s.saturating_add(RECORD_LIFE_S + CLOCK_SLACK_S);
    (soon..=latest).contains(&record.expires_s)
}

/// The strong entity tag of a file: 128 bits of its digest.
fn etag_of(sha256: &Sha256) -> String {
    format!("\"{}\"", &sha256.to_string()[..32])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing;

    #[test]
    fn a_record_is_signed_anew_before_it_expires_and_when_a_wrong_clock_signed_it() {
        const HOUR: u64 = 3600;
        let now_s = 1_800_000_000;
        let record = |expires_s| ObjectRecord { expires_s, ..testing::object_record("a.test", "/x", b"x") };
        let signed_at = |signed_s: u64| is_in_time(&record(signed_s + RECORD_LIFE_S), now_s);
        assert!(signed_at(now_s) && signed_at(now_s - RECORD_LIFE_S * 3 / 4));
        assert!(!signed_at(now_s - RECORD_LIFE_S * 3 / 4 - 1), "a quarter is left");
        assert!(signed_at(now_s + 5 * HOUR), "a clock that was set back by hours costs nothing");
        assert!(!signed_at(now_s + 25 * HOUR), "and by days not for ever");
    }
}
