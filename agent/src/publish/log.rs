//! The table's rows and its latest changes, from which every VM is brought up to date.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use p2pcdn_core::sync::{Have, HolderRow, ObjectRow, Op, Progress};

use super::Changes;
use super::sets::Sets;

/// Changes that are remembered; a VM that is further behind gets a snapshot.
const MAX_LOG: usize = 1 << 16;
/// About how many bytes of objects and changes one answer carries, so that a worker applies it in about 1 ms.
const PAGE_BYTES: usize = 40 * 1024;

#[derive(Default)]
pub(super) struct ChangeLog {
    session: u64,
    version: u64,
    log: VecDeque<Op>,
    rows: BTreeMap<u64, ObjectRow>,
    holders: BTreeMap<u16, HolderRow>,
    sets: Sets,
}

impl ChangeLog {
    pub(super) fn new(session: u64) -> Self {
        Self { session, ..Self::default() }
    }

    pub(super) fn session(&self) -> u64 {
        self.session
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn put_holder(&mut self, row: HolderRow) {
        self.holders.insert(row.id, row.clone());
        self.record(Op::Holder(row));
    }

    /// Makes the object visible with these holders, or removes it if there are none or no number is left for their set.
    pub(super) fn publish(&mut self, row: ObjectRow, holders: &[u16]) {
        let acquired = if holders.is_empty() { None } else { self.sets.acquire(holders) };
        let Some(set) = acquired else {
            self.remove(row.key);
            return;
        };
        if set.is_new {
            self.record(Op::Set { id: set.id, holders: holders.to_vec() });
        }
        let row = ObjectRow { set: set.id, ..row };
        let old = self.rows.insert(row.key, row);
        self.record(Op::Object(row));
        if let Some(old) = old {
            self.sets.release(old.set);
        }
    }

    pub(super) fn remove(&mut self, key: u64) {
        if let Some(old) = self.rows.remove(&key) {
            self.record(Op::Remove { key });
            self.sets.release(old.set);
        }
    }

    /// See [`Have`]: first what has changed in what the VM has, then the next objects that it lacks.
    pub(super) fn changes_since(&self, have: Have) -> Changes {
        let oldest = self.version - self.log.len() as u64;
        let known = have.session == self.session && (oldest..=self.version).contains(&have.version);
        let start = Have { session: self.session, version: self.version, progress: Progress::Empty };
        let mut page = Page::default();
        let mut now = if known { have } else { start };
        for op in self.log.iter().skip((now.version - oldest) as usize) {
            if page.is_full() {
                return Changes { now, clear: !known, more: true, ops: page.ops };
            }
            now.version += 1;
            match op {
                Op::Object(row) if now.progress.covers(row.key) => self.push_object(&mut page, row),
                Op::Remove { key } if now.progress.covers(*key) => page.push(op.clone()),
                Op::Holder(_) | Op::Set { .. } => page.push(op.clone()),
                Op::Object(_) | Op::Remove { .. } => {}
            }
        }
        if now.progress != Progress::Complete {
            now.progress = self.push_snapshot(&mut page, now.progress);
        }
        Changes { now, clear: !known, more: now.progress != Progress::Complete, ops: page.ops }
    }

    fn push_snapshot(&self, page: &mut Page, progress: Progress) -> Progress {
        let after = match progress {
            Progress::Empty => {
                self.holders.values().for_each(|row| page.push(Op::Holder(row.clone())));
                Bound::Unbounded
            }
            Progress::UpTo(key) => Bound::Excluded(key),
            Progress::Complete => return progress,
        };
        let mut reached = progress;
        for (key, row) in self.rows.range((after, Bound::Unbounded)) {
            // At least one object a page, or loading would not end.
            if page.is_full() && reached != progress {
                return reached;
            }
            self.push_object(page, row);
            reached = Progress::UpTo(*key);
        }
        Progress::Complete
    }

    /// A VM that is still loading may not have met the set yet.
    fn push_object(&self, page: &mut Page, row: &ObjectRow) {
        if page.sets.insert(row.set)
            && let Some(holders) = self.sets.get(row.set)
        {
            page.push(Op::Set { id: row.set, holders: holders.to_vec() });
        }
        page.push(Op::Object(*row));
    }

    fn record(&mut self, op: Op) {
        self.version += 1;
        self.log.push_back(op);
        if self.log.len() > MAX_LOG {
            self.log.pop_front();
        }
    }
}

#[derive(Default)]
struct Page {
    ops: Vec<Op>,
    sets: BTreeSet<u16>,
    bytes: usize,
}

impl Page {
    fn push(&mut self, op: Op) {
        // Upper bounds of the encoded sizes.
        self.bytes += match &op {
            Op::Holder(row) => 24 + row.authority.len(),
            Op::Set { holders, .. } => 6 + 3 * holders.len(),
            Op::Object(_) => 72,
            Op::Remove { .. } => 11,
        };
        self.ops.push(op);
    }

    fn is_full(&self) -> bool {
        self.bytes >= PAGE_BYTES
    }
}
