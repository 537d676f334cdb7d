//! Follows the content directory: what changes leaves the table at once and comes back, described anew, when it has come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::event::{EventKind, MetadataKind, ModifyKind};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher};
use p2pcdn_core::lookup::canonical_path;
use p2pcdn_core::object::{Class, MAX_OBJECT_BYTES, content_type_of_extension};
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use walkdir::WalkDir;

use super::describe::{Described, describe};
use super::{Catalogue, CatalogueError, RECORD_LIFE_S};
use crate::clock::now_s;

/// A file is described once nothing has touched it for so long.
const REST: Duration = Duration::from_millis(200);
/// The whole directory is compared with the catalogue so often, since watching can miss changes (network file systems do).
const RESCAN: Duration = Duration::from_secs(20);
/// Files that are hashed at the same time.
const MAX_HASHING: usize = 4;
/// Changes that wait to be looked at; if there are more, the whole directory is.
const MAX_EVENTS: usize = 8192;

/// A file that was read, or could not be.
struct Hashed {
    path: String,
    described: std::io::Result<Option<Described>>,
}

impl Catalogue {
    /// Scans the directory, then follows it until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) -> Result<(), CatalogueError> {
        let (sender, mut events) = mpsc::channel(MAX_EVENTS);
        let overflowed = Arc::new(AtomicBool::new(false));
        let mut watcher = watcher(sender, overflowed.clone())?;
        let mut due: BTreeMap<String, Instant> = BTreeMap::new();
        let mut hashing = JoinSet::new();
        let mut rescan = tokio::time::interval(RESCAN);
        self.watch(&mut watcher);
        loop {
            let next = due.values().min().copied().filter(|_| hashing.len() < MAX_HASHING);
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                _ = rescan.tick() => {
                    match self.directory.follow() {
                        Ok(false) => {}
                        Ok(true) => {
                            tracing::warn!(directory = %self.directory.path().display(), "the content directory was replaced");
                            self.watch(&mut watcher);
                        }
                        Err(error) => tracing::error!(%error, "the content directory is gone"),
                    }
                    self.mark_changed(&mut due).await;
                }
                Some(path) = events.recv() => self.touched(&path, &mut due),
                Some(Ok(hashed)) = hashing.join_next() => self.take_in(hashed, &mut due),
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    self.hash_rested(&mut due, &mut hashing);
                }
            }
            if overflowed.swap(false, Ordering::Relaxed) {
                self.mark_changed(&mut due).await;
            }
        }
    }

    /// Where watching fails, the regular comparison still finds every change.
    fn watch(&self, watcher: &mut RecommendedWatcher) {
        if let Err(error) = watcher.watch(&self.directory.path(), RecursiveMode::Recursive) {
            let remedy = match error.kind {
                ErrorKind::MaxFilesWatch => "raise fs.inotify.max_user_watches",
                _ => "make every directory below site.directory readable for the agent",
            };
            tracing::warn!(%error, remedy, "some changes of the content directory are noticed late");
        }
    }

    /// Something happened to this file or directory.
    fn touched(&self, file: &Path, due: &mut BTreeMap<String, Instant>) {
        let Some(path) = self.directory.site_path(file) else { return };
        // A directory that was moved away or in concerns all that is below it.
        let below = format!("{path}/");
        let known = |path: &String| path.starts_with(&below);
        let inside: Vec<String> =
            self.read().by_path.range(below.clone()..).map(|(path, _)| path.clone()).take_while(known).collect();
        let found = if file.is_dir() { self.files_below(file) } else { vec![path] };
        // A directory's own rights and times say nothing about its files.
        let changed = |path: &String| {
            let stamp = self.directory.open_unlinked(path).ok().map(|(_, stamp)| stamp);
            self.find(path).is_none_or(|known| Some(known.stamp) != stamp)
        };
        for path in inside.into_iter().chain(found).filter(changed) {
            self.retract(&path);
            due.insert(path, Instant::now() + REST);
        }
    }

    /// Marks every path whose file is not what the catalogue says.
    async fn mark_changed(self: &Arc<Self>, due: &mut BTreeMap<String, Instant>) {
        let catalogue = self.clone();
        let scan = tokio::task::spawn_blocking(move || catalogue.compare());
        for path in scan.await.unwrap_or_default() {
            due.entry(path).or_insert_with(Instant::now);
        }
    }

    fn compare(&self) -> Vec<String> {
        let known: BTreeSet<String> = self.read().by_path.keys().cloned().collect();
        let files = self.files_below(&self.directory.path());
        let renewable = now_s() + RECORD_LIFE_S / 4;
        let changed = |path: &String| {
            let stamp = self.directory.open_unlinked(path).ok().map(|(_, stamp)| stamp);
            let known = self.find(path);
            let same = known.as_ref().map(|object| object.stamp) == stamp;
            if !same {
                self.retract(path);
            }
            !same || known.is_some_and(|object| object.record.expires_s < renewable)
        };
        known.into_iter().chain(files).collect::<BTreeSet<_>>().into_iter().filter(changed).collect()
    }

    fn files_below(&self, directory: &Path) -> Vec<String> {
        let is_hidden = |entry: &walkdir::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b".");
        let visible = |entry: &walkdir::DirEntry| entry.depth() == 0 || !is_hidden(entry);
        let files = WalkDir::new(directory).into_iter().filter_entry(visible).filter_map(Result::ok);
        let paths = files.filter(|e| !e.file_type().is_dir()).filter_map(|e| self.directory.site_path(e.path()));
        paths.filter(|path| self.class_of(path).is_some()).collect()
    }

    /// Starts to describe files that have come to rest.
    fn hash_rested(self: &Arc<Self>, due: &mut BTreeMap<String, Instant>, hashing: &mut JoinSet<Hashed>) {
        let now = Instant::now();
        let room = MAX_HASHING - hashing.len();
        let rested: Vec<String> =
            due.iter().filter(|(_, at)| **at <= now).map(|(path, _)| path.clone()).take(room).collect();
        for path in rested {
            due.remove(&path);
            let catalogue = self.clone();
            hashing.spawn_blocking(move || {
                let described = describe(&catalogue.directory, &path);
                Hashed { path, described }
            });
        }
    }

    fn take_in(&self, hashed: Hashed, due: &mut BTreeMap<String, Instant>) {
        let Hashed { path, described } = hashed;
        // Touched again while it was read: its turn will come.
        if due.contains_key(&path) {
            return;
        }
        let Some((class, content_type)) = self.class_of(&path) else { return };
        match described {
            Ok(Some(described)) if self.has_room(&path) && self.is_shared(described.size) => {
                if let Err(error) = self.put(&path, class, content_type, described) {
                    tracing::error!(%path, %error, "an object stays local");
                }
            }
            Ok(None) => drop(due.insert(path, Instant::now() + REST)),
            // Too small, or the catalogue is full.
            Ok(Some(_)) => {}
            Err(error) if is_absence(&error) => {}
            Err(error) => tracing::warn!(%path, %error, "a file stays local until the next comparison"),
        }
    }

    fn is_shared(&self, size: u64) -> bool {
        (self.share.min_object_bytes.max(1)..=MAX_OBJECT_BYTES).contains(&size)
    }

    fn has_room(&self, path: &str) -> bool {
        let objects = self.read();
        objects.by_path.len() < self.share.max_objects || objects.by_path.contains_key(path)
    }

    fn class_of(&self, path: &str) -> Option<(Class, &'static str)> {
        canonical_path(path.as_bytes()).ok()?;
        let content_type = content_type_of_extension(Path::new(path).extension()?.to_str()?)?;
        let class = Class::of_content_type(content_type)?;
        self.share.classes.contains(&class).then_some((class, content_type))
    }
}

/// Gone, a directory, or a link.
fn is_absence(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
        || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

fn watcher(sender: mpsc::Sender<PathBuf>, overflowed: Arc<AtomicBool>) -> Result<RecommendedWatcher, CatalogueError> {
    let handler = move |event: notify::Result<notify::Event>| match event {
        Ok(event) if event.need_rescan() => overflowed.store(true, Ordering::Relaxed),
        Ok(event) if is_change(&event.kind) => {
            for path in event.paths {
                if sender.try_send(path).is_err() {
                    overflowed.store(true, Ordering::Relaxed);
                }
            }
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(%error, "watching the content directory");
            overflowed.store(true, Ordering::Relaxed);
        }
    };
    // Links may lead anywhere, and what they lead to is not shared.
    Ok(RecommendedWatcher::new(handler, notify::Config::default().with_follow_symlinks(false))?)
}

fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(MetadataKind::AccessTime)) => false,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    }
}
