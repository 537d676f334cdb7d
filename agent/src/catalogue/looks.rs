//! Which files of the directory are asked for next, as a stranger would ask; nothing is offered before. Pure: time is an argument, in
//! milliseconds of the monotonic clock.

use std::collections::{BTreeSet, HashMap};

use super::files::FileStamp;
use crate::demand::Demand;

/// Objects whose answers were questioned and that wait for a look; further ones are questioned again.
const MAX_QUESTIONED: usize = 1024;
/// Between two looks at an object whose answers were questioned.
const QUESTIONED_AGAIN_MS: u64 = 1_000;
/// What is not for strangers is asked for again after this time.
const REFUSED_AGAIN_MS: u64 = 600_000;
/// First pause after a failure that may pass; doubles up to [`REFUSED_AGAIN_MS`].
const FAILED_AGAIN_MS: u64 = 1_000;
/// First pause while the site cannot be reached at all; doubles up to [`UNREACHED_MOST_MS`].
const UNREACHED_AGAIN_MS: u64 = 1_000;
const UNREACHED_MOST_MS: u64 = 60_000;

/// Files that wait for a look, those that one asks for most first.
#[derive(Default)]
pub(super) struct Looks {
    demand: Demand,
    /// Files of which nothing is offered; the caller bounds their number.
    waiting: BTreeSet<String>,
    /// Objects that are offered, and may have become private.
    questioned: BTreeSet<String>,
    /// And whether they wait to be offered.
    running: HashMap<String, bool>,
    /// Files that were not for strangers, or that could not be asked for, as they were then.
    paused: HashMap<String, Pause>,
    /// When each of these is asked for again.
    again: BTreeSet<(u64, String)>,
    /// Number of paused files that were refused.
    kept: usize,
    questioned_ms: HashMap<String, u64>,
    outage: Outage,
    time_scale: f64,
}

struct Pause {
    stamp: Option<FileStamp>,
    until_ms: u64,
    failures: u32,
    is_refused: bool,
}

/// How long nothing has come from the site at all.
#[derive(Default)]
struct Outage {
    failures: u32,
    until_ms: u64,
}

impl Looks {
    /// Nothing waits; `time_scale` is a factor on pauses.
    pub(super) fn new(time_scale: f64) -> Self {
        Self { time_scale, ..Self::default() }
    }

    /// Visitors ask for a path.
    pub(super) fn wanted(&mut self, path: &str, requests: u32, now_ms: u64) {
        // Whatever else visitors ask for would only make the search longer.
        if self.waiting.contains(path) {
            self.demand.note(path, requests, 0, now_ms);
        }
    }

    /// A file has come to rest and waits, unless it was looked at as it is and its time has not come.
    pub(super) fn wait(&mut self, path: String, stamp: FileStamp, now_ms: u64) {
        match self.paused.get(&path) {
            Some(pause) if pause.stamp == Some(stamp) && pause.until_ms > now_ms => {}
            _ => {
                self.end_pause(&path);
                self.waiting.insert(path);
            }
        }
    }

    /// The origin was seen to answer for an object otherwise than with the object.
    pub(super) fn questioned(&mut self, path: String, now_ms: u64) {
        self.questioned_ms.retain(|_, at_ms| now_ms < *at_ms + QUESTIONED_AGAIN_MS);
        if self.questioned.len() < MAX_QUESTIONED && !self.questioned_ms.contains_key(&path) {
            self.questioned.insert(path);
        }
    }

    /// The file is gone, or has been touched and has to come to rest first; what was found out about it is void.
    pub(super) fn forget(&mut self, path: &str) {
        self.waiting.remove(path);
        self.demand.forget(path);
        self.questioned.remove(path);
        self.end_pause(path);
    }

    /// At most `most` paths to look at, each of which then runs until one of the ends below: what was questioned, then what is asked for
    /// most, then the rest. While the site cannot be reached, one at a time tries it.
    pub(super) fn next(&mut self, most: usize, now_ms: u64) -> Vec<String> {
        let most = match self.outage {
            Outage { until_ms, .. } if until_ms > now_ms => 0,
            Outage { failures: 1.., .. } => most.min(usize::from(self.running.is_empty())),
            Outage { .. } => most,
        };
        while let Some((_, path)) = self.again.first().filter(|(at_ms, _)| *at_ms <= now_ms).cloned() {
            self.again.pop_first();
            self.waiting.insert(path);
        }
        let mut next = Vec::new();
        while next.len() < most
            && let Some(path) = self.pick(now_ms)
        {
            let waits = self.waiting.remove(&path);
            self.demand.forget(&path);
            self.running.insert(path.clone(), waits);
            next.push(path);
        }
        next
    }

    fn pick(&mut self, now_ms: u64) -> Option<String> {
        let is_idle = |path: &&String| !self.running.contains_key(*path);
        if let Some(path) = self.questioned.iter().find(is_idle).cloned() {
            self.questioned.remove(&path);
            self.questioned_ms.insert(path.clone(), now_ms);
            return Some(path);
        }
        let waits = |path: &str| self.waiting.contains(path) && !self.running.contains_key(path);
        let hottest = self.demand.hottest(0.0, now_ms, waits).map(str::to_owned);
        hottest.or_else(|| self.waiting.iter().find(is_idle).cloned())
    }

    /// A stranger may have it; whether that was waited for to offer it.
    pub(super) fn open(&mut self, path: &str) -> bool {
        self.outage = Outage::default();
        self.end_pause(path);
        self.running.remove(path).unwrap_or(false)
    }

    /// A stranger may not have it as it is.
    pub(super) fn refused(&mut self, path: &str, stamp: Option<FileStamp>, now_ms: u64) {
        self.outage = Outage::default();
        self.running.remove(path);
        let until_ms = now_ms + self.scaled(REFUSED_AGAIN_MS);
        self.pause(path, Pause { stamp, until_ms, failures: 0, is_refused: true });
    }

    /// The site answers, but with a failure that may pass.
    pub(super) fn failed(&mut self, path: &str, stamp: Option<FileStamp>, now_ms: u64) {
        self.outage = Outage::default();
        self.running.remove(path);
        let failures = self.paused.get(path).map_or(0, |pause| pause.failures).saturating_add(1);
        let until_ms = now_ms + self.scaled(doubled(FAILED_AGAIN_MS, failures, REFUSED_AGAIN_MS));
        self.pause(path, Pause { stamp, until_ms, failures, is_refused: false });
    }

    /// Nothing came from the site at all; the path waits on.
    pub(super) fn unreached(&mut self, path: &str, now_ms: u64) {
        let waits = self.running.remove(path).unwrap_or(true);
        if waits { &mut self.waiting } else { &mut self.questioned }.insert(path.to_owned());
        if self.outage.until_ms <= now_ms {
            let failures = self.outage.failures.saturating_add(1);
            let until_ms = now_ms + self.scaled(doubled(UNREACHED_AGAIN_MS, failures, UNREACHED_MOST_MS));
            self.outage = Outage { failures, until_ms };
        }
    }

    /// Number of files that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    /// Number of files that are not for strangers.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    fn pause(&mut self, path: &str, pause: Pause) {
        self.end_pause(path);
        self.again.insert((pause.until_ms, path.to_owned()));
        self.kept += usize::from(pause.is_refused);
        self.paused.insert(path.to_owned(), pause);
    }

    fn end_pause(&mut self, path: &str) {
        if let Some(pause) = self.paused.remove(path) {
            self.again.remove(&(pause.until_ms, path.to_owned()));
            self.kept -= usize::from(pause.is_refused);
        }
    }

    fn scaled(&self, ms: u64) -> u64 {
        (ms as f64 * self.time_scale) as u64
    }
}

fn doubled(first_ms: u64, failures: u32, most_ms: u64) -> u64 {
    (first_ms << failures.saturating_sub(1).min(20)).min(most_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(content: &str) -> FileStamp {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("f"), content).unwrap();
        super::super::files::ContentDirectory::at(directory.path()).unwrap().open_file("/f").unwrap().1
    }

    fn looks(paths: &[&str]) -> Looks {
        let mut looks = Looks::new(1.0);
        let stamp = stamp("x");
        paths.iter().for_each(|path| looks.wait((*path).to_owned(), stamp, 0));
        looks
    }

    #[test]
    fn what_is_asked_for_most_is_looked_at_first_and_everything_in_the_end() {
        let mut looks = looks(&["/a", "/b", "/c", "/d"]);
        looks.wanted("/c", 2, 0);
        looks.wanted("/d", 5, 0);
        looks.wanted("/no-file", 9, 0);
        assert_eq!(looks.next(3, 0), ["/d", "/c", "/a"]);
        looks.questioned("/offered".into(), 0);
        assert_eq!(looks.next(9, 0), ["/offered", "/b"]);
        assert_eq!(looks.next(9, 0), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_for_strangers_is_asked_for_again_when_it_has_changed_or_after_a_while() {
        let mut looks = looks(&["/a"]);
        let (before, after) = (stamp("x"), stamp("another"));
        assert_eq!(looks.next(1, 0), ["/a"]);
        looks.refused("/a", Some(before), 0);
        assert_eq!((looks.kept(), looks.waiting()), (1, 0));
        looks.wait("/a".into(), before, 1);
        assert!(looks.next(1, 1).is_empty(), "nothing has changed");
        looks.wait("/a".into(), after, 2);
        assert_eq!(looks.next(1, 2), ["/a"]);
        looks.refused("/a", Some(after), 2);
        assert!(looks.next(1, REFUSED_AGAIN_MS).is_empty());
        assert_eq!(looks.next(1, REFUSED_AGAIN_MS + 2), ["/a"]);
        assert!(looks.open("/a"));
        assert_eq!((looks.kept(), looks.waiting()), (0, 0));
    }

    #[test]
    fn a_site_that_cannot_be_reached_is_tried_ever_less_often_and_by_one_look_alone() {
        let mut looks = looks(&["/a", "/b", "/c"]);
        let mut now_ms = 0;
        let mut pauses = Vec::new();
        assert_eq!(looks.next(2, 0).len(), 2);
        looks.unreached("/a", 0);
        looks.unreached("/b", 0);
        for _ in 0..8 {
            let before_ms = now_ms;
            while looks.next(9, now_ms).is_empty() {
                now_ms += 500;
            }
            pauses.push((now_ms - before_ms) / 1000);
            assert!(looks.next(9, now_ms).is_empty(), "one is enough to find out");
            let path = looks.running.keys().next().unwrap().clone();
            looks.unreached(&path, now_ms);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        now_ms += UNREACHED_MOST_MS;
        assert_eq!(looks.next(9, now_ms), ["/a"]);
        looks.open("/a");
        assert_eq!(looks.next(9, now_ms), ["/b", "/c"]);
    }

    #[test]
    fn failures_of_one_path_hold_up_no_other() {
        let mut looks = looks(&["/a", "/b"]);
        let stamp = stamp("x");
        assert_eq!(looks.next(1, 0), ["/a"]);
        looks.failed("/a", Some(stamp), 0);
        assert_eq!(looks.next(9, 0), ["/b"]);
        assert_eq!(looks.next(9, FAILED_AGAIN_MS), ["/a"]);
        looks.failed("/a", Some(stamp), FAILED_AGAIN_MS);
        assert!(looks.next(9, 3 * FAILED_AGAIN_MS - 1).is_empty());
        assert_eq!(looks.next(9, 3 * FAILED_AGAIN_MS), ["/a"]);
    }

    #[test]
    fn an_object_is_not_questioned_all_the_time() {
        let mut looks = Looks::new(1.0);
        looks.questioned("/a".into(), 0);
        assert_eq!(looks.next(1, 0), ["/a"]);
        assert!(!looks.open("/a"), "it has been offered all the time");
        looks.questioned("/a".into(), QUESTIONED_AGAIN_MS - 1);
        assert!(looks.next(1, QUESTIONED_AGAIN_MS).is_empty());
        looks.questioned("/a".into(), QUESTIONED_AGAIN_MS);
        assert_eq!(looks.next(1, QUESTIONED_AGAIN_MS), ["/a"]);
    }

    #[test]
    fn what_is_touched_or_gone_is_forgotten() {
        let mut looks = looks(&["/a", "/b"]);
        looks.forget("/a");
        assert_eq!(looks.next(9, 0), ["/b"]);
        looks.refused("/b", Some(stamp("x")), 0);
        looks.forget("/b");
        assert!(looks.next(9, 2 * REFUSED_AGAIN_MS).is_empty() && looks.kept() == 0);
    }
}
