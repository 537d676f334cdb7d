//! Sequence numbers: each statement of a signer has one of its own, and they grow with the time.
//!
//! A sequence counts 2^-20 of a second since the Unix epoch, a little less than a microsecond. Its lowest four bits say in which run of
//! the clock it was drawn: another run begins when the clock was set back, or a backup was restored, and no number of one run is one of
//! another. So a sequence is never used twice, whatever happened to clock and disk, and whoever signs two statements with the same one
//! contradicts itself. Numbers of before, which counted seconds, are smaller and remain valid.

use std::sync::Arc;

use redb::{ReadableTable, TableDefinition};

use crate::state_db::StateDb;

/// Distance of two sequences of one run.
pub const STEP: u64 = 16;
/// Statements whose sequence is further ahead of a verifier's clock than this are refused, in seconds.
pub const MAX_AHEAD_S: u64 = 600;
/// A signer whose own last sequence is further ahead of its clock begins another run.
const SET_BACK_S: u64 = 300;
/// What counted seconds lies below this, for another thousand years.
const FIRST: u64 = 1 << 45;
/// Sequences in one second.
const PER_SECOND: u64 = 1 << 20;

/// The first sequence of a second since the Unix epoch.
pub const fn at(second: u64) -> u64 {
    second.saturating_mul(PER_SECOND)
}

/// When a sequence was drawn, in seconds since the Unix epoch; `None` for one that does not say.
pub const fn drawn_at(sequence: u64) -> Option<u64> {
    if sequence < FIRST { None } else { Some(sequence / PER_SECOND) }
}

/// Whether a sequence is not too far ahead at `now_s` seconds since the Unix epoch.
pub const fn is_in_time(sequence: u64, now_s: u64) -> bool {
    sequence <= at(now_s.saturating_add(MAX_AHEAD_S))
}

/// The sequence after `last` at `now_s` seconds since the Unix epoch.
pub const fn after(last: u64, now_s: u64) -> u64 {
    let run = last % STEP;
    if last > at(now_s.saturating_add(SET_BACK_S)) {
        return at(now_s) + (run + 1) % STEP;
    }
    let (next, now) = (last.saturating_add(STEP), at(now_s) + run);
    if next > now { next } else { now }
}

/// What a restored signer has to take for its last sequence at `now_s`, so that its next one is above all that were used before by a
/// clock like its own, and in another run; `draw` is random.
pub const fn restored(last: u64, now_s: u64, draw: u64) -> u64 {
    let run = (last % STEP + 1 + draw % (STEP - 1)) % STEP;
    let now = at(now_s.saturating_add(1));
    let above = if last > now && last <= at(now_s.saturating_add(SET_BACK_S)) { last + STEP } else { now };
    above / STEP * STEP + run
}

/// Sequences that never repeat, whatever crashes: each is on disk before anybody sees it.
pub struct Counter {
    db: Arc<StateDb>,
    name: &'static str,
}

/// The sequence could not be made durable.
#[derive(Debug, thiserror::Error)]
#[error("storing the sequence {name:?}: {source}")]
pub struct CounterError {
    name: &'static str,
    source: Box<redb::Error>,
}

/// The last sequence of each counter that was reserved.
pub(super) const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");

impl Counter {
    /// The counter of that name; several may share one database.
    pub fn new(db: Arc<StateDb>, name: &'static str) -> Self {
        Self { db, name }
    }

    /// A sequence above every earlier one unless the clock was set back; blocks until it is on disk.
    pub fn next(&self, now_s: u64) -> Result<u64, CounterError> {
        self.reserve(now_s, 1)
    }

    /// The first of so many sequences, each [`STEP`] above the one before; blocks until they are on disk.
    pub fn reserve(&self, now_s: u64, count: u64) -> Result<u64, CounterError> {
        self.try_reserve(now_s, count).map_err(|source| CounterError { name: self.name, source: Box::new(source) })
    }

    fn try_reserve(&self, now_s: u64, count: u64) -> Result<u64, redb::Error> {
        let transaction = self.db.begin_write()?;
        let first = {
            let mut table = transaction.open_table(COUNTERS)?;
            let last = table.get(self.name)?.map_or(0, |last| last.value());
            let first = after(last, now_s);
            table.insert(self.name, first.saturating_add(count.saturating_sub(1).saturating_mul(STEP)))?;
            first
        };
        transaction.commit()?;
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::identity::testing;

    const NOW_S: u64 = 1_800_000_000;

    #[test]
    fn sequences_follow_the_time_and_those_that_counted_seconds_are_below() {
        let first = after(1_790_000_000, NOW_S);
        assert_eq!(first / STEP, at(NOW_S) / STEP);
        assert_eq!(after(first, NOW_S), first + STEP);
        assert_eq!((drawn_at(first), drawn_at(1_790_000_000)), (Some(NOW_S), None));
        assert!(is_in_time(first, NOW_S) && is_in_time(1_790_000_000, NOW_S));
        assert!(is_in_time(first, NOW_S - MAX_AHEAD_S + 1) && !is_in_time(first, NOW_S - MAX_AHEAD_S - 1));
    }

    #[test]
    fn a_clock_that_was_far_ahead_costs_nothing_once_it_is_right() {
        let wrong = after(0, NOW_S + 86_400);
        let right = after(wrong, NOW_S);
        assert!(is_in_time(right, NOW_S) && right % STEP != wrong % STEP);
        assert!(after(right, NOW_S) == right + STEP);
        // Clocks are put right by so little all the time.
        assert_eq!(after(after(0, NOW_S + 100), NOW_S), after(0, NOW_S + 100) + STEP);
    }

    #[test]
    fn what_was_reserved_is_not_drawn_again_after_a_crash() {
        let db = testing::database();
        let first = Counter::new(db.clone(), "x").reserve(NOW_S, 1000).unwrap();
        let next = Counter::new(db.clone(), "x").next(NOW_S).unwrap();
        assert_eq!(next, first + 1000 * STEP);
        assert!(Counter::new(db, "y").next(NOW_S).unwrap() < next, "each has its own");
    }

    proptest! {
        #[test]
        fn no_sequence_is_ever_drawn_twice_by_a_clock_that_is_set_back_at_most_as_often_as_there_are_runs(
            steps in prop::collection::vec(0..3u64, 1..200),
            jumps in prop::collection::vec((0..200usize, 301..2_000_000i64), 0..15),
        ) {
            let (mut used, mut last, mut now_s) = (BTreeSet::new(), 0, NOW_S + 40_000_000);
            for (at_step, step) in steps.into_iter().enumerate() {
                now_s += step;
                for (_, back) in jumps.iter().filter(|(at, _)| *at == at_step) {
                    now_s -= *back as u64;
                }
                last = after(last, now_s);
                prop_assert!(used.insert(last), "{last} twice");
                prop_assert!(is_in_time(last, now_s));
            }
        }

        #[test]
        fn a_restored_backup_uses_nothing_that_was_used_before(
            before in 0..100u64, after_backup in 0..100u64, pause_s in 1..100_000u64, draw: u64,
        ) {
            let draw_from = |last: &mut u64, now_s: u64, count: u64| -> BTreeSet<u64> {
                (0..count).map(|_| { *last = after(*last, now_s); *last }).collect()
            };
            let mut last = 0;
            let mut used = draw_from(&mut last, NOW_S, before + 1);
            let backup = last;
            used.extend(draw_from(&mut last, NOW_S + 1, after_backup));
            let mut again = restored(backup, NOW_S + pause_s, draw);
            let drawn = draw_from(&mut again, NOW_S + pause_s, 100);
            prop_assert!(drawn.is_disjoint(&used));
            prop_assert!(drawn.iter().all(|sequence| is_in_time(*sequence, NOW_S + pause_s)));
            prop_assert!(drawn.first() > used.last());
        }
    }
}
