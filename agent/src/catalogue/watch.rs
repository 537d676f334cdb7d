//! Follows the content directory: what changes leaves the table at once and comes back, described anew, when it has come to rest.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::event::{EventKind, MetadataKind, ModifyKind};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use p2pcdn_core::lookup::canonical_path;
use p2pcdn_core::object::{Class, Embedding, Sharing, content_type_of_extension};
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use walkdir::WalkDir;

use super::cacheable::WhyNot;
use super::describe::{Described, describe};
use super::files::{ContentDirectory, FileStamp};
use super::hints::Hint;
use super::looks::Looks;
use super::references::{self, MAX_CODE_BYTES, Reference};
use super::stranger::{Seen, Stranger, TICK};
use super::{Catalogue, CatalogueError, Description, Hints, etag_of, is_in_time};
use crate::clock::{monotonic_ms, now_s};

mod looking;

/// A file is described once nothing has touched it for so long.
const REST: Duration = Duration::from_millis(200);
/// The whole directory is compared with the catalogue so often, since watching can miss changes (network file systems do).
const RESCAN: Duration = Duration::from_secs(20);
/// A contradiction of an object that was described so long ago, and whose file is the same, comes from a server with other tags.
const SETTLED_MS: u64 = 5_000;
/// Files that are hashed at the same time.
const MAX_HASHING: usize = 4;
/// Changes that wait to be looked at; if there are more, the whole directory is.
const MAX_EVENTS: usize = 8192;

/// A file that was read, or could not be.
struct Hashed {
    path: String,
    seen: Option<Seen>,
    described: io::Result<Option<(Described, Result<(), Reference>)>>,
    purges: u64,
}

/// Fills the catalogue from the content directory.
pub struct Watcher {
    /// What it fills.
    pub catalogue: Arc<Catalogue>,
    /// Where the files are.
    pub directory: Arc<ContentDirectory>,
    /// Who looks whether strangers can have them; none if the operator says that they can.
    pub stranger: Option<Arc<Stranger>>,
}

/// What has to be looked at.
#[derive(Default)]
struct Pending {
    /// When each path is due.
    due: BTreeMap<String, Instant>,
    /// Paths that another web server answers for, with entity tags of its own.
    foreign: BTreeSet<String>,
    /// Files at rest that nobody has looked at.
    looks: Looks,
    /// Paths that looks started for since the last tick.
    asked: usize,
    /// Looks that may start before the next tick.
    allowance: usize,
    /// Files to hash, with what a stranger is told of them.
    seen: VecDeque<(String, Option<Seen>)>,
    /// These, and files that are being hashed.
    unfinished: HashSet<String>,
}

impl Watcher {
    /// Scans the directory, then follows it until cancelled.
    pub async fn run(self: Arc<Self>, mut hints: Hints, cancel: CancellationToken) -> Result<(), CatalogueError> {
        let (sender, mut events) = mpsc::channel(MAX_EVENTS);
        let overflowed = Arc::new(AtomicBool::new(false));
        let mut watcher = watcher(sender, overflowed.clone())?;
        let time_scale = self.stranger.as_ref().map_or(1.0, |stranger| stranger.time_scale);
        let mut pending = Pending { looks: Looks::new(time_scale), ..Pending::default() };
        let mut hashing = JoinSet::new();
        let mut looking = JoinSet::new();
        let mut tick = tokio::time::interval(TICK);
        let mut rescan = tokio::time::interval(RESCAN);
        self.watch(&mut watcher);
        loop {
            let next = pending.due.values().min().copied();
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
                    self.mark_changed(&mut pending).await;
                }
                Some(path) = events.recv() => self.touched(&path, &mut pending),
                Some(hint) = hints.0.recv() => self.take_hint(hint, &mut pending),
                Some(Ok(hashed)) = hashing.join_next() => self.take_in(hashed, &mut pending),
                Some(Ok(looked)) = looking.join_next() => self.take_look(looked, &mut pending),
                _ = tick.tick(), if self.stranger.is_some() => self.allow_looks(&mut pending),
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    self.note_rested(&mut pending);
                }
            }
            if overflowed.swap(false, Ordering::Relaxed) {
                self.mark_changed(&mut pending).await;
            }
            self.look(&mut pending, &mut looking);
            self.hash(&mut pending, &mut hashing);
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
    fn touched(&self, file: &Path, pending: &mut Pending) {
        let Some(path) = self.directory.site_path(file) else { return };
        // A directory that was moved away or in concerns all that is below it.
        let below = format!("{path}/");
        let known = |path: &String| path.starts_with(&below);
        let inside: Vec<String> = self
            .catalogue
            .read()
            .by_path
            .range(below.clone()..)
            .map(|(path, _)| path.clone())
            .take_while(known)
            .collect();
        let found = if file.is_dir() { self.files_below(file) } else { vec![path] };
        // A directory's own rights and times say nothing about its files.
        let changed = |path: &String| {
            let stamp = self.stamp_of(path);
            self.catalogue.find(path).is_none_or(|known| known.stamp != stamp)
        };
        for path in inside.into_iter().chain(found).filter(changed) {
            self.catalogue.retract(&path);
            pending.looks.forget(&path);
            pending.due.insert(path, Instant::now() + REST);
        }
    }

    /// Marks every path whose file is not what the catalogue says.
    async fn mark_changed(self: &Arc<Self>, pending: &mut Pending) {
        let watcher = self.clone();
        let scan = tokio::task::spawn_blocking(move || watcher.compare());
        for path in scan.await.unwrap_or_default() {
            if !pending.unfinished.contains(&path) {
                pending.due.entry(path).or_insert_with(Instant::now);
            }
        }
    }

    fn compare(&self) -> Vec<String> {
        let known: BTreeSet<String> = self.catalogue.read().by_path.keys().cloned().collect();
        let files = self.files_below(&self.directory.path());
        let now_s = now_s();
        let changed = |path: &String| {
            let stamp = self.stamp_of(path);
            let known = self.catalogue.find(path);
            let same = known.as_ref().and_then(|object| object.stamp) == stamp;
            if !same {
                self.catalogue.retract(path);
            }
            !same || known.is_some_and(|object| !is_in_time(&object.record, now_s))
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

    /// Starts to describe files.
    fn hash(self: &Arc<Self>, pending: &mut Pending, hashing: &mut JoinSet<Hashed>) {
        while hashing.len() < MAX_HASHING
            && let Some((path, seen)) = pending.seen.pop_front()
        {
            let watcher = self.clone();
            hashing.spawn_blocking(move || {
                let purges = watcher.catalogue.purges();
                let described = watcher.describe(&path);
                Hashed { path, seen, described, purges }
            });
        }
    }

    fn take_in(&self, hashed: Hashed, pending: &mut Pending) {
        let Hashed { path, seen, described, purges } = hashed;
        pending.unfinished.remove(&path);
        // Touched again while it was read: its turn will come.
        if pending.due.contains_key(&path) {
            return;
        }
        match described {
            Ok(Some((_, Err(why)))) => tracing::info!(%path, %why, "stays local"),
            Ok(Some((described, Ok(())))) => match seen.and_then(|seen| seen.size) {
                Some(sent) if sent != described.size => {
                    let why = WhyNot::Other { sent, file: described.size };
                    self.keep(&path, Some(described.stamp), &why, pending);
                }
                _ => self.put(path, described, seen, purges, pending),
            },
            Ok(None) => drop(pending.due.insert(path, Instant::now() + REST)),
            Err(error) if is_absence(&error) => {}
            Err(error) => tracing::warn!(%path, %error, "a file stays local until the next comparison"),
        }
    }

    fn put(&self, path: String, described: Described, seen: Option<Seen>, purges: u64, pending: &mut Pending) {
        let Some((class, content_type)) = self.class_of(&path) else { return };
        if !self.catalogue.has_room(&path) || !self.catalogue.is_shared_size(described.size) {
            return;
        }
        let description = Description {
            class,
            content_type,
            sha256: described.sha256,
            size: described.size,
            etag: (!pending.foreign.contains(&path)).then(|| etag_of(&described.sha256)),
            max_age_s: u32::try_from(self.catalogue.site.max_age.as_secs()).unwrap_or(u32::MAX),
            fresh_until_s: u32::MAX,
            stale_if_error_s: 0,
            sharing: seen.map_or(Sharing::SameOrigin, |seen| seen.sharing),
            embedding: seen.map_or(Embedding::Unstated, |seen| seen.embedding),
            chunks: described.chunks,
            stamp: Some(described.stamp),
            purges,
        };
        match self.catalogue.put(&path, description) {
            Ok(()) => {}
            Err(CatalogueError::Purged) => drop(pending.due.insert(path, Instant::now())),
            Err(error) => tracing::error!(%path, %error, "an object stays local"),
        }
    }

    /// Reads a file; says of styles and scripts whether they work from any place. Blocks.
    fn describe(&self, path: &str) -> io::Result<Option<(Described, Result<(), Reference>)>> {
        let Some(described) = describe(&self.directory, path)? else { return Ok(None) };
        let class = self.class_of(path).map(|(class, _)| class).filter(|class| !class.is_leaf());
        let Some(class) = class else { return Ok(Some((described, Ok(())))) };
        let (file, stamp) = self.directory.open_unlinked(path)?;
        let mut code = Vec::new();
        file.take(MAX_CODE_BYTES as u64 + 1).read_to_end(&mut code)?;
        let checked = references::check(class, &code);
        Ok((stamp == described.stamp).then_some((described, checked)))
    }

    fn take_hint(&self, hint: Hint, pending: &mut Pending) {
        match hint {
            Hint::Wanted(path, requests) => pending.looks.wanted(&path, requests, monotonic_ms()),
            Hint::Contradicted(path) => {
                let known = self.catalogue.find(&path);
                // Not of a file that has just changed, which this may be about.
                let is_settled = |since_ms| monotonic_ms() >= since_ms + SETTLED_MS;
                let stamp = self.stamp_of(&path);
                if known.is_some_and(|known| known.stamp == stamp && is_settled(known.since_ms)) {
                    pending.foreign.insert(path.clone());
                }
                pending.due.insert(path, Instant::now());
            }
            Hint::Questioned(path) => {
                let stamp = self.stamp_of(&path);
                match self.catalogue.find(&path) {
                    Some(known) if known.stamp != stamp => {
                        self.catalogue.retract(&path);
                        pending.due.insert(path, Instant::now() + REST);
                    }
                    // The file is the same, but strangers may no longer have it.
                    Some(_) if self.stranger.is_some() => pending.looks.questioned(path, monotonic_ms()),
                    _ => {}
                }
            }
            Hint::Purged(paths) => pending.due.extend(paths.into_iter().map(|path| (path, Instant::now()))),
        }
    }

    fn stamp_of(&self, path: &str) -> Option<FileStamp> {
        self.directory.open_unlinked(path).ok().map(|(_, stamp)| stamp)
    }

    fn class_of(&self, path: &str) -> Option<(Class, &'static str)> {
        canonical_path(path.as_bytes()).ok()?;
        let content_type = content_type_of_extension(Path::new(path).extension()?.to_str()?)?;
        let class = Class::of_content_type(content_type)?;
        self.catalogue.is_offered(path, class).then_some((class, content_type))
    }
}

impl Pending {
    fn has_seen(&mut self, path: String, seen: Option<Seen>) {
        if self.unfinished.insert(path.clone()) {
            self.seen.push_back((path, seen));
        }
    }
}

/// Gone, a directory, or a link.
fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
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
