//! What the learner does next. Pure: time is an argument, in milliseconds of the monotonic clock.

use std::collections::{BTreeSet, HashMap, HashSet};

use http::HeaderMap;
use p2pcdn_core::lookup::canonical_target;

use crate::demand::Demand;

/// Requests that still count after which a path is worth a fetch: one visitor may never come back.
const WORTH: f64 = 2.0;
/// The same while the site is loaded: about one request in one and a half seconds.
const WORTH_UNDER_LOAD: f64 = 60.0;
/// Requests that still count as long as freshness is worth renewing.
const WARM: f64 = 0.5;
/// Fetches at the same time.
const MAX_RUNNING: usize = 2;
/// The same while the site is loaded.
const MAX_RUNNING_UNDER_LOAD: usize = 1;
/// Between two looks at an object whose answers were questioned.
const QUESTIONED_AGAIN_MS: u64 = 1_000;
/// An object that is stale and not asked for is looked at again after this time.
const COLD_AGAIN_MS: u64 = 30_000;
/// One that has been stale and hardly asked for as long is forgotten.
const FORGET_MS: u64 = 600_000;
/// What the site has answered so that it cannot be shared is asked for again after this time.
const REFUSED_AGAIN_MS: u64 = 600_000;
/// First pause after a failure that may pass; doubles up to [`REFUSED_AGAIN_MS`].
const FAILED_AGAIN_MS: u64 = 1_000;
/// Contradictions that are further apart than this are none of flapping backends.
const FLAPPING_MS: u64 = 600_000;
/// Paths that wait for another try; beyond that, those whose turn is next lose their record.
const MAX_PAUSED: usize = 16_384;
/// Looks that one call decides on.
const MAX_LOOKS: usize = 64;

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Job {
    /// Fetch a path that is not catalogued.
    Learn(String),
    /// See whether an object is still what the catalogue says; the head of its last answer comes along.
    Revalidate(String, HeaderMap),
}

/// Demand, what was learned, and when to look at it.
#[derive(Default)]
pub(super) struct Schedule {
    demand: Demand,
    held: HashMap<String, Held>,
    /// When to look at what is held; one entry for each.
    looks: BTreeSet<(u64, String)>,
    /// Held objects that left the table and come back only once they were looked at.
    urgent: BTreeSet<String>,
    running: HashSet<String>,
    paused: HashMap<String, Pause>,
    forgotten: Vec<String>,
    time_scale: f64,
}

/// What is known of an object beyond its record.
#[derive(Debug)]
struct Held {
    head: HeaderMap,
    stale_ms: u64,
    look_ms: u64,
    checked_ms: u64,
    is_questioned: bool,
    contradictions: u32,
    contradicted_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    until_ms: u64,
    failures: u32,
}

impl Schedule {
    pub(super) fn new(time_scale: f64) -> Self {
        Self { time_scale, ..Self::default() }
    }

    /// Visitors ask for a path.
    pub(super) fn wanted(&mut self, path: &str, requests: u32, now_ms: u64) {
        if canonical_target(path.as_bytes()).is_err() {
            return;
        }
        self.demand.note(path, requests, 0, now_ms);
        // What has gone stale for lack of demand has waited long enough.
        if self.held.get(path).is_some_and(|held| held.stale_ms <= now_ms) && !self.paused.contains_key(path) {
            self.look_at(path, now_ms);
        }
    }

    /// The table no longer has the object.
    pub(super) fn contradicted(&mut self, path: &str, now_ms: u64) {
        let Some(held) = self.held.get_mut(path) else { return };
        let is_flapping = held.contradictions > 0 && now_ms < held.contradicted_ms + FLAPPING_MS;
        held.contradictions = if is_flapping { held.contradictions.saturating_add(1) } else { 1 };
        held.contradicted_ms = now_ms;
        let failures = held.contradictions - 1;
        self.urgent.insert(path.to_owned());
        if failures > 0 {
            // Servers that contradict each other: redirects are the exception then.
            self.pause(path, failures, now_ms);
        }
    }

    /// The origin was seen to answer otherwise.
    pub(super) fn questioned(&mut self, path: &str, now_ms: u64) {
        let Some(held) = self.held.get_mut(path) else { return };
        held.is_questioned = true;
        let again_ms = (held.checked_ms + QUESTIONED_AGAIN_MS).max(now_ms);
        if again_ms < held.look_ms {
            self.look_at(path, again_ms);
        }
    }

    /// The operator does not believe what is known of the path.
    pub(super) fn purged(&mut self, path: &str) {
        self.drop_held(path);
        self.demand.forget(path);
        self.paused.remove(path);
    }

    /// The next job, which then runs until [`Schedule::learned`] or another end. `has_room` says whether further objects are taken.
    pub(super) fn next(&mut self, now_ms: u64, is_loaded: bool, has_room: bool) -> Option<Job> {
        let most = if is_loaded { MAX_RUNNING_UNDER_LOAD } else { MAX_RUNNING };
        if self.running.len() >= most {
            return None;
        }
        let path = match self.next_urgent(now_ms).or_else(|| self.next_look(now_ms, is_loaded)) {
            Some(path) => path,
            None => {
                // Nothing has a copy of these: under load, sharing the hottest of them is the cure.
                let least = if is_loaded { WORTH_UNDER_LOAD } else { WORTH };
                let (held, running, paused) = (&self.held, &self.running, &self.paused);
                let is_paused = |path: &str| paused.get(path).is_some_and(|pause| pause.until_ms > now_ms);
                let is_new = |path: &str| !held.contains_key(path) && !running.contains(path) && !is_paused(path);
                self.demand.hottest(least, now_ms, is_new).filter(|_| has_room)?.to_owned()
            }
        };
        self.running.insert(path.clone());
        Some(match self.held.get(&path) {
            Some(held) => Job::Revalidate(path, held.head.clone()),
            None => Job::Learn(path),
        })
    }

    fn next_urgent(&mut self, now_ms: u64) -> Option<String> {
        let is_due = |path: &&String| {
            !self.running.contains(*path) && self.paused.get(*path).is_none_or(|pause| pause.until_ms <= now_ms)
        };
        self.urgent.iter().find(is_due).cloned()
    }

    fn next_look(&mut self, now_ms: u64, is_loaded: bool) -> Option<String> {
        for _ in 0..MAX_LOOKS {
            let (_, path) = self.looks.first().filter(|(at_ms, _)| *at_ms <= now_ms)?.clone();
            let held = self.held.get(&path)?;
            let demand = self.demand.of(&path, now_ms);
            let is_fresh = held.stale_ms > now_ms;
            if self.running.contains(&path) || (held.is_questioned && is_fresh && is_loaded) {
                self.look_at(&path, now_ms + QUESTIONED_AGAIN_MS);
            } else if demand >= WARM || (held.is_questioned && is_fresh) {
                // Looked at again at its new end of freshness, or after a failure.
                self.look_at(&path, now_ms + COLD_AGAIN_MS);
                return Some(path);
            } else if held.stale_ms + self.scaled(FORGET_MS) <= now_ms {
                self.drop_held(&path);
                self.forgotten.push(path);
            } else {
                self.look_at(&path, held.stale_ms.max(now_ms + COLD_AGAIN_MS));
            }
        }
        None
    }

    /// A job has ended with an object that is fresh for `fresh_ms`; `look_within_ms` bounds the time until the next look.
    pub(super) fn learned(&mut self, path: &str, head: HeaderMap, fresh_ms: u64, look_within_ms: u64, now_ms: u64) {
        self.running.remove(path);
        self.urgent.remove(path);
        self.paused.remove(path);
        let former = self.held.remove(path);
        let (contradictions, contradicted_ms) =
            former.as_ref().map_or((0, 0), |former| (former.contradictions, former.contradicted_ms));
        if let Some(former) = former {
            self.looks.remove(&(former.look_ms, path.to_owned()));
        }
        // A little before the end, so that what is asked for all the time does not go stale in between.
        let lead_ms = (fresh_ms / 10).clamp(1_000, 30_000).min(fresh_ms / 2);
        let look_ms = now_ms + (fresh_ms - lead_ms).min(look_within_ms);
        let held = Held {
            head,
            stale_ms: now_ms + fresh_ms,
            look_ms,
            checked_ms: now_ms,
            is_questioned: false,
            contradictions,
            contradicted_ms,
        };
        self.looks.insert((look_ms, path.to_owned()));
        self.held.insert(path.to_owned(), held);
    }

    /// A job has ended with an answer that cannot be shared.
    pub(super) fn refused(&mut self, path: &str, now_ms: u64) {
        self.running.remove(path);
        self.drop_held(path);
        let until_ms = now_ms + self.scaled(REFUSED_AGAIN_MS);
        self.put_pause(path, Pause { until_ms, failures: 0 });
    }

    /// A job has come to nothing, which may pass.
    pub(super) fn failed(&mut self, path: &str, now_ms: u64) {
        self.running.remove(path);
        let failures = self.paused.get(path).map_or(0, |pause| pause.failures).saturating_add(1);
        self.pause(path, failures, now_ms);
        let again_ms = self.paused.get(path).map_or(now_ms, |pause| pause.until_ms);
        if let Some(held) = self.held.get_mut(path) {
            held.checked_ms = now_ms;
            self.look_at(path, again_ms);
        }
    }

    /// A job has ended with what is void already.
    pub(super) fn abandoned(&mut self, path: &str, now_ms: u64) {
        self.running.remove(path);
        self.look_at(path, now_ms);
    }

    /// Objects that nobody asks for, each named once.
    pub(super) fn forgotten(&mut self) -> Vec<String> {
        std::mem::take(&mut self.forgotten)
    }

    /// Gives up the held object that is asked for least, if that is less than `path` is.
    pub(super) fn give_up_one_for(&mut self, path: &str, now_ms: u64) -> Option<String> {
        let demand = self.demand.of(path, now_ms);
        let others = self.held.keys().filter(|other| *other != path && !self.running.contains(*other));
        let coldest =
            others.map(|other| (other, self.demand.of(other, now_ms))).min_by(|(_, a), (_, b)| a.total_cmp(b));
        let coldest = coldest.filter(|(_, coldest)| *coldest < demand)?.0.clone();
        self.drop_held(&coldest);
        Some(coldest)
    }

    /// Number of objects held.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    fn drop_held(&mut self, path: &str) {
        self.urgent.remove(path);
        if let Some(held) = self.held.remove(path) {
            self.looks.remove(&(held.look_ms, path.to_owned()));
        }
    }

    fn look_at(&mut self, path: &str, at_ms: u64) {
        let Some(held) = self.held.get_mut(path) else { return };
        self.looks.remove(&(held.look_ms, path.to_owned()));
        held.look_ms = at_ms;
        self.looks.insert((at_ms, path.to_owned()));
    }

    fn pause(&mut self, path: &str, failures: u32, now_ms: u64) {
        let pause_ms = (FAILED_AGAIN_MS << failures.min(20)).min(REFUSED_AGAIN_MS);
        self.put_pause(path, Pause { until_ms: now_ms + self.scaled(pause_ms), failures });
    }

    fn put_pause(&mut self, path: &str, pause: Pause) {
        if self.paused.len() >= MAX_PAUSED && !self.paused.contains_key(path) {
            let mut ends: Vec<u64> = self.paused.values().map(|pause| pause.until_ms).collect();
            let middle = ends.len() / 2;
            let median = *ends.select_nth_unstable(middle).1;
            self.paused.retain(|_, pause| pause.until_ms > median);
        }
        self.paused.insert(path.to_owned(), pause);
    }

    fn scaled(&self, ms: u64) -> u64 {
        (ms as f64 * self.time_scale) as u64
    }
}

#[cfg(test)]
mod tests;
