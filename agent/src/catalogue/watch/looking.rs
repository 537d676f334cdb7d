//! Files at rest are looked at as a stranger before they are hashed and offered, and again when an answer of the origin was questioned.

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Pending, Watcher};
use crate::catalogue::cacheable::WhyNot;
use crate::catalogue::fetch::FetchError;
use crate::catalogue::files::FileStamp;
use crate::catalogue::stranger::{MAX_LOOKING, Seen, TICK};
use crate::clock::monotonic_ms;

/// Files that strangers can have and that wait to be hashed; looking waits for them.
const MAX_SEEN: usize = 256;

/// Files that have come to rest and are taken in at once.
const MAX_RESTED: usize = 1024;

/// What came of looking at a path.
pub(super) struct Looked {
    path: String,
    /// The file as it was before.
    stamp: Option<FileStamp>,
    answer: Result<Result<Seen, WhyNot>, FetchError>,
}

impl Watcher {
    /// What has come to rest waits for a look, or is hashed at once where nobody looks.
    pub(super) fn note_rested(&self, pending: &mut Pending) {
        let now = Instant::now();
        let rested: Vec<String> =
            pending.due.iter().filter(|(_, at)| **at <= now).map(|(path, _)| path.clone()).take(MAX_RESTED).collect();
        for path in rested {
            pending.due.remove(&path);
            let stamp = self.stamp_of(&path).filter(|stamp| self.catalogue.is_shared_size(stamp.size()));
            let Some(stamp) = stamp.filter(|_| self.class_of(&path).is_some()) else {
                pending.looks.forget(&path);
                continue;
            };
            if self.stranger.is_none() {
                pending.has_seen(path, None);
            } else if self.catalogue.len() + pending.looks.waiting() < self.catalogue.share.max_objects {
                pending.looks.wait(path, stamp, monotonic_ms());
            }
        }
        self.show(pending);
    }

    /// A tick has passed.
    pub(super) fn allow_looks(&self, pending: &mut Pending) {
        if let Some(stranger) = &self.stranger {
            pending.allowance = stranger.allowance(std::mem::take(&mut pending.asked), TICK.as_secs_f64());
        }
    }

    /// Starts looks, as many as may be.
    pub(super) fn look(&self, pending: &mut Pending, looking: &mut JoinSet<Looked>) {
        let Some(stranger) = &self.stranger else { return };
        let most = (MAX_LOOKING - looking.len()).min(pending.allowance);
        if pending.seen.len() >= MAX_SEEN {
            return;
        }
        for path in pending.looks.next(most, monotonic_ms()) {
            pending.allowance -= 1;
            pending.asked += 1;
            let (stranger, stamp) = (stranger.clone(), self.stamp_of(&path));
            looking.spawn(async move {
                let answer = stranger.look(&path).await;
                Looked { path, stamp, answer }
            });
        }
    }

    /// Takes in what came of a look.
    pub(super) fn take_look(&self, looked: Looked, pending: &mut Pending) {
        let Looked { path, stamp, answer } = looked;
        let now_ms = monotonic_ms();
        let mut trouble = None;
        match answer {
            // What was touched meanwhile has its turn later.
            Ok(Ok(seen)) => {
                if pending.looks.open(&path) && !pending.due.contains_key(&path) {
                    pending.has_seen(path, Some(seen));
                }
            }
            Ok(Err(why)) => self.keep(&path, stamp, &why, pending),
            Err(FetchError::Egress(error)) => {
                trouble = self.stranger.as_ref().map(|stranger| stranger.trouble(&error));
                pending.looks.unreached(&path, now_ms);
            }
            Err(error) => {
                tracing::debug!(%path, %error, "not looked at for the moment");
                pending.looks.failed(&path, stamp, now_ms);
            }
        }
        let mut looks = self.catalogue.looks();
        if let Some(trouble) = trouble.as_ref().filter(|_| looks.trouble.is_none()) {
            tracing::warn!(%trouble, "nothing new is shared");
        }
        looks.trouble = trouble;
        drop(looks);
        self.show(pending);
    }

    /// What strangers cannot have stays here.
    pub(super) fn keep(&self, path: &str, stamp: Option<FileStamp>, why: &WhyNot, pending: &mut Pending) {
        tracing::info!(%path, %why, "stays local");
        self.catalogue.retract(path);
        pending.looks.refused(path, stamp, monotonic_ms());
    }

    fn show(&self, pending: &Pending) {
        let mut looks = self.catalogue.looks();
        (looks.waiting, looks.not_public) = (pending.looks.waiting(), pending.looks.kept());
    }
}
