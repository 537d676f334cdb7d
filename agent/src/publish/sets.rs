//! Distinct sets of holders, numbered, since most objects share theirs with many others.

use std::collections::HashMap;

use p2pcdn_core::replica_table::MAX_SETS;

#[derive(Default)]
pub(super) struct Sets {
    numbers: HashMap<Vec<u16>, u16>,
    uses: HashMap<u16, (Vec<u16>, usize)>,
    next: u16,
}

/// A set to refer to, and whether it has to be described first.
pub(super) struct Acquired {
    pub(super) id: u16,
    pub(super) is_new: bool,
}

impl Sets {
    /// Counts one more user of the set; `None` if all numbers are taken.
    pub(super) fn acquire(&mut self, holders: &[u16]) -> Option<Acquired> {
        if let Some(id) = self.numbers.get(holders) {
            if let Some((_, count)) = self.uses.get_mut(id) {
                *count += 1;
            }
            return Some(Acquired { id: *id, is_new: false });
        }
        if self.uses.len() >= MAX_SETS {
            return None;
        }
        // Going round keeps a freed number unused for as long as possible.
        while self.uses.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.numbers.insert(holders.to_vec(), id);
        self.uses.insert(id, (holders.to_vec(), 1));
        Some(Acquired { id, is_new: true })
    }

    /// Counts one user less.
    pub(super) fn release(&mut self, id: u16) {
        let Some((holders, count)) = self.uses.get_mut(&id) else { return };
        *count -= 1;
        if *count == 0 {
            self.numbers.remove(holders);
            self.uses.remove(&id);
        }
    }

    pub(super) fn get(&self, id: u16) -> Option<&[u16]> {
        self.uses.get(&id).map(|(holders, _)| holders.as_slice())
    }
}
