//! What gates and the operator tell the catalogue: what is asked for, and what may not be as it says.

use p2pcdn_core::sync::{MAX_HOT, MAX_RETURNED, MAX_WANTED, Report, Wanted};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{Catalogue, Source};
use crate::clock::monotonic_ms;

/// What others have noticed about objects.
#[derive(Debug)]
pub(super) enum Hint {
    /// Visitors asked for the path so often.
    Wanted(String, u32),
    /// The origin was seen to answer with another version, and the table has been told.
    Contradicted(String),
    /// The origin was seen to answer otherwise, which proves nothing.
    Questioned(String),
    /// The operator wants these found out anew; the table has been told.
    Purged(Vec<String>),
}

/// The queue of hints, for whoever finds things out.
pub struct Hints(pub(super) mpsc::Receiver<Hint>);

/// Which objects a purge concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purge {
    /// These.
    Paths(Vec<String>),
    /// Those whose path begins like this.
    Prefix(String),
    /// All.
    All,
}

/// What a purge came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Objects that were taken out of the table.
    pub objects: usize,
    /// Paths that name no object.
    pub unknown: Vec<String>,
}

/// Hints that wait; further ones are dropped, and what matters is noticed again.
const MAX_HINTS: usize = 4096;
/// Places of these that only contradictions take.
const RESERVED_HINTS: usize = 1024;
/// The queue, and its other end.
pub(super) fn queue() -> (mpsc::Sender<Hint>, Hints) {
    let (hints, waiting) = mpsc::channel(MAX_HINTS);
    (hints, Hints(waiting))
}

impl Catalogue {
    /// Takes in what a VM has noticed; `is_ours` says whether its keys are those of the present table.
    pub fn observe(&self, report: &Report, is_ours: bool) {
        // What is in a directory is catalogued, wanted or not, but what is wanted is looked at first.
        let learns = matches!(self.source, Source::Site(_));
        let now_ms = monotonic_ms();
        // Without holders a gate does not know an object, and says so by `wanted`.
        for Wanted { target, requests } in report.wanted.iter().take(MAX_WANTED) {
            self.count(target, *requests, now_ms);
            if (learns || !self.share.unchecked) && !self.is_excluded(target) {
                self.hint(Hint::Wanted(target.clone(), *requests));
            }
        }
        if !is_ours {
            return;
        }
        for (key, requests) in report.hot.iter().take(MAX_HOT) {
            let path = self.board.path_of(*key).filter(|path| self.board.is_held(path));
            let Some(path) = path else { continue };
            self.count(&path, *requests, now_ms);
            if learns {
                self.hint(Hint::Wanted(path.to_string(), *requests));
            }
        }
        let path_of = |key: &u64| self.board.path_of(*key).map(|path| path.to_string());
        for path in report.contradicted.iter().take(MAX_RETURNED).filter_map(path_of) {
            // Only with a place in the queue: what left the table has to be looked at, or it would never come back.
            if let Ok(place) = self.hints.try_reserve() {
                self.board.remove_object(&path);
                place.send(Hint::Contradicted(path));
            }
        }
        for path in report.questioned.iter().take(MAX_RETURNED).filter_map(path_of) {
            self.hint(Hint::Questioned(path));
        }
    }

    fn count(&self, path: &str, requests: u32, now_ms: u64) {
        // Whatever else visitors ask for must not fill the counts.
        if let Some(object) = self.find(path) {
            self.demand().note(path, requests, object.record.size, now_ms);
        }
    }

    fn hint(&self, hint: Hint) {
        // A queue that fills says that finding out is behind already; what is left of it is for contradictions.
        if self.hints.capacity() > RESERVED_HINTS {
            let _ = self.hints.try_send(hint);
        }
    }

    /// Takes objects out of the table at once and has them found out anew.
    pub async fn purge(&self, purge: &Purge) -> Purged {
        let (paths, unknown) = {
            let mut objects = self.write();
            // What is being found out just now is what the operator no longer believes.
            objects.purges += 1;
            let known = |path: &&String| objects.by_path.contains_key(*path);
            match purge {
                Purge::Paths(paths) => paths.iter().cloned().partition(|path| known(&path)),
                Purge::Prefix(prefix) => {
                    let below = objects.by_path.keys().filter(|path| path.starts_with(&**prefix));
                    (below.cloned().collect(), Vec::new())
                }
                Purge::All => (objects.by_path.keys().cloned().collect::<Vec<_>>(), Vec::new()),
            }
        };
        paths.iter().for_each(|path| drop(self.retract(path)));
        let purged = Purged { objects: paths.len(), unknown };
        // The other end is gone only when the agent stops.
        let _ = self.hints.send(Hint::Purged(paths)).await;
        purged
    }
}
