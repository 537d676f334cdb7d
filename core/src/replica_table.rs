//! Who holds a verified replica of what: the table that a filter VM looks every request up in.
//!
//! Built for a million objects in a proxy's memory. An entry is 56 bytes; an index of 4-byte positions finds it by key. The index is in 256
//! shards that grow one after the other, so that no insertion moves the whole of it. Paths are not stored: keys are keyed
//! 64-bit hashes, and the redirect is written from the request's own path.

mod blocks;

use hashbrown::HashTable;

use crate::decide::Lease;
use crate::destination::Destinations;
use crate::object::{Class, Embedding, Sha256, Sharing, is_authority};
use crate::sync::{HolderRow, ObjectRow, Op};
use blocks::Blocks;

/// Most holders of one object that the table keeps; the agent picks which.
pub const MAX_SET_HOLDERS: usize = 32;
/// Most holders in one table.
pub const MAX_HOLDERS: usize = 4096;
/// Most distinct sets of holders in one table.
pub const MAX_SETS: usize = 1 << 16;
/// Sizes are kept in five bytes.
const MAX_SIZE: u64 = (1 << 40) - 1;
const SHARDS: usize = 256;

/// The replica table of one VM.
#[derive(Debug)]
pub struct ReplicaTable {
    /// Positions of the entries.
    shards: Vec<HashTable<u32>>,
    entries: Blocks<Entry>,
    holders: Vec<Option<Holder>>,
    sets: Vec<Box<[u16]>>,
    max_objects: usize,
    refused: u64,
}

/// A holder as the table keeps it.
#[derive(Debug)]
pub struct Holder {
    /// Its replica name, checked to be a plain authority.
    pub authority: Box<str>,
    /// 0 to 1000.
    pub weight: u16,
    /// See [`HolderRow::newcomer`].
    pub newcomer: bool,
    /// Bytes per second that it grants to the whole site.
    pub lease_bytes_per_s: u64,
    /// What the site's Content-Security-Policy keeps browsers from loading there.
    pub blocked: Destinations,
    /// What this VM may still send there.
    pub lease: Lease,
}

/// What the table knows about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// The version that the holders have.
    pub sha256: &'a Sha256,
    /// Bytes.
    pub size: u64,
    /// What kind of object.
    pub class: Class,
    /// See [`ObjectRow::validator`].
    pub validator: u32,
    /// See [`ObjectRow::fresh_until_s`].
    pub fresh_until_s: u32,
    /// [`ObjectRow::stale_if_error_s`], rounded down to nothing, a minute, an hour or a day.
    pub stale_if_error_s: u32,
    /// Who may read it across origins.
    pub sharing: Sharing,
    /// Who may embed it.
    pub embedding: Embedding,
    /// Numbers of the holders.
    pub holders: &'a [u16],
}

/// Why a change was not applied; always the agent's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The authority could not stand in a `location` header.
    #[error("holder {0} has no plain authority")]
    Authority(u16),
    /// Above [`MAX_HOLDERS`], or a weight above 1000.
    #[error("holder {0} is out of bounds")]
    Holder(u16),
    /// Larger than [`MAX_SET_HOLDERS`].
    #[error("set {0} has too many holders")]
    Set(u16),
    /// Above 2^40 bytes.
    #[error("an object of {0} bytes")]
    Size(u64),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: u64,
    sha256: Sha256,
    validator: u32,
    fresh_until_s: u32,
    size: [u8; 5],
    traits: Traits,
    set: u16,
}

const _: () = assert!(size_of::<Entry>() == 56);

/// In one byte: class (3 bits), sharing (1), embedding (2), stale-if-error (2).
#[derive(Debug, Clone, Copy)]
struct Traits(u8);

/// Seconds that the two bits stand for.
const STALE_IF_ERROR_S: [u32; 4] = [0, 60, 3600, 86_400];

impl Traits {
    fn of(row: &ObjectRow) -> Self {
        let stale = STALE_IF_ERROR_S.iter().rposition(|s| *s <= row.stale_if_error_s).unwrap_or_default() as u8;
        Self(row.class as u8 | u8::from(row.sharing == Sharing::Anyone) << 3 | (row.embedding as u8) << 4 | stale << 6)
    }

    fn class(self) -> Class {
        Class::ALL.get(usize::from(self.0 & 7)).copied().unwrap_or(Class::Archive)
    }

    fn sharing(self) -> Sharing {
        if self.0 & 8 == 0 { Sharing::SameOrigin } else { Sharing::Anyone }
    }

    fn embedding(self) -> Embedding {
        match self.0 >> 4 & 3 {
            0 => Embedding::Unstated,
            1 => Embedding::Own,
            _ => Embedding::Anyone,
        }
    }

    fn stale_if_error_s(self) -> u32 {
        STALE_IF_ERROR_S.get(usize::from(self.0 >> 6)).copied().unwrap_or_default()
    }
}

impl ReplicaTable {
    /// An empty table that takes in at most `max_objects`.
    pub fn new(max_objects: usize) -> Self {
        let shards = (0..SHARDS).map(|_| HashTable::new()).collect();
        Self { shards, entries: Blocks::default(), holders: Vec::new(), sets: Vec::new(), max_objects, refused: 0 }
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Most objects that it takes in.
    pub fn max_objects(&self) -> usize {
        self.max_objects
    }

    /// Objects that were not taken in because the table was full; those stay local.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.max_objects);
    }

    /// Applies changes in their order, all of them or, if one is malformed, none.
    pub fn apply(&mut self, ops: Vec<Op>) -> Result<(), TableError> {
        ops.iter().try_for_each(check)?;
        for op in ops {
            match op {
                Op::Holder(row) => self.put_holder(row),
                Op::Set { id, holders } => {
                    let at = usize::from(id);
                    if self.sets.len() <= at {
                        self.sets.resize_with(at + 1, Box::default);
                    }
                    if let Some(set) = self.sets.get_mut(at) {
                        *set = holders.into_boxed_slice();
                    }
                }
                Op::Object(row) => self.put_object(&row),
                Op::Remove { key } => self.remove_object(key),
            }
        }
        Ok(())
    }

    /// Looks an object up.
    pub fn find(&self, key: u64) -> Option<Found<'_>> {
        let entry = self.entries.get(self.position(key)? as usize)?;
        let [a, b, c, d, e] = entry.size;
        Some(Found {
            sha256: &entry.sha256,
            size: u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]),
            class: entry.traits.class(),
            validator: entry.validator,
            fresh_until_s: entry.fresh_until_s,
            stale_if_error_s: entry.traits.stale_if_error_s(),
            sharing: entry.traits.sharing(),
            embedding: entry.traits.embedding(),
            holders: self.sets.get(usize::from(entry.set))?,
        })
    }

    /// A holder by its number.
    pub fn holder(&self, id: u16) -> Option<&Holder> {
        self.holders.get(usize::from(id))?.as_ref()
    }

    /// A holder by its number, to draw on its lease.
    pub fn holder_mut(&mut self, id: u16) -> Option<&mut Holder> {
        self.holders.get_mut(usize::from(id))?.as_mut()
    }

    /// Every holder, to refill the leases.
    pub fn holders_mut(&mut self) -> impl Iterator<Item = &mut Holder> {
        self.holders.iter_mut().flatten()
    }

    fn position(&self, key: u64) -> Option<u32> {
        self.shards.get(shard_of(key))?.find(key, |at| key_at(&self.entries, *at) == Some(key)).copied()
    }

    fn put_holder(&mut self, row: HolderRow) {
        let at = usize::from(row.id);
        if self.holders.len() <= at {
            self.holders.resize_with(at + 1, || None);
        }
        let Some(slot) = self.holders.get_mut(at) else { return };
        let lease = slot.as_ref().map_or_else(|| Lease::full(row.lease_bytes_per_s), |known| known.lease);
        *slot = Some(Holder {
            authority: row.authority.into_boxed_str(),
            weight: row.weight,
            newcomer: row.newcomer,
            lease_bytes_per_s: row.lease_bytes_per_s,
            blocked: row.blocked,
            lease,
        });
    }

    fn put_object(&mut self, row: &ObjectRow) {
        let [a, b, c, d, e, ..] = row.size.to_le_bytes();
        let entry = Entry {
            key: row.key,
            sha256: row.sha256,
            validator: row.validator,
            fresh_until_s: row.fresh_until_s,
            size: [a, b, c, d, e],
            traits: Traits::of(row),
            set: row.set,
        };
        if let Some(known) = self.position(row.key).and_then(|at| self.entries.get_mut(at as usize)) {
            *known = entry;
            return;
        }
        let (at, Some(shard)) = (u32::try_from(self.len()), self.shards.get_mut(shard_of(row.key))) else { return };
        match at {
            Ok(at) if self.entries.len() < self.max_objects => {
                self.entries.push(entry);
                shard.insert_unique(entry.key, at, |at| key_at(&self.entries, *at).unwrap_or_default());
            }
            _ => self.refused = self.refused.saturating_add(1),
        }
    }

    /// The last entry takes the place of the one that goes.
    fn remove_object(&mut self, key: u64) {
        let Self { shards, entries, .. } = self;
        let Some(shard) = shards.get_mut(shard_of(key)) else { return };
        let Ok(found) = shard.find_entry(key, |at| key_at(entries, *at) == Some(key)) else { return };
        let (at, _) = found.remove();
        let last = entries.len().saturating_sub(1) as u32;
        if let Some(moved) = key_at(entries, last).filter(|_| at != last)
            && let Some(shard) = shards.get_mut(shard_of(moved))
            && let Some(position) = shard.find_mut(moved, |position| *position == last)
        {
            *position = at;
        }
        entries.swap_remove(at as usize);
    }
}

fn key_at(entries: &Blocks<Entry>, at: u32) -> Option<u64> {
    entries.get(at as usize).map(|entry| entry.key)
}

/// By bits that hashbrown uses neither for the position in a shard nor for its tags, on 32-bit and 64-bit machines alike.
///
/// The first shard gets twice as many objects as the last one, and the others something between. Were all alike, all of them would outgrow
/// their index within the same few insertions: the worst page of a million took 2.4 ms instead of 0.7 ms, compiled natively.
fn shard_of(key: u64) -> usize {
    let x = (key >> 32) & 0xffff;
    let bent = x + ((x * (0x1_0000 - x)) >> 16) / 3;
    (bent >> 8) as usize % SHARDS
}

fn check(op: &Op) -> Result<(), TableError> {
    match op {
        Op::Holder(row) if usize::from(row.id) >= MAX_HOLDERS || row.weight > 1000 => Err(TableError::Holder(row.id)),
        Op::Holder(row) if !is_authority(&row.authority) => Err(TableError::Authority(row.id)),
        Op::Set { id, holders } if holders.len() > MAX_SET_HOLDERS => Err(TableError::Set(*id)),
        Op::Object(row) if row.size > MAX_SIZE => Err(TableError::Size(row.size)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn object(key: u64, size: u64) -> Op {
        let row = ObjectRow {
            key,
            sha256: Sha256([1; 32]),
            size,
            class: Class::Font,
            validator: 2,
            fresh_until_s: 3,
            stale_if_error_s: 4000,
            sharing: Sharing::Anyone,
            embedding: Embedding::Own,
            set: 0,
        };
        Op::Object(row)
    }

    fn holder(id: u16, authority: &str, weight: u16) -> Op {
        Op::Holder(HolderRow {
            id,
            authority: authority.into(),
            weight,
            newcomer: false,
            lease_bytes_per_s: 10,
            blocked: Destinations::NONE,
        })
    }

    fn table(ops: Vec<Op>) -> ReplicaTable {
        let mut table = ReplicaTable::new(100);
        table.apply(ops).unwrap();
        table
    }

    #[test]
    fn an_object_is_found_with_its_holders() {
        let table = table(vec![holder(1, "b.test", 1000), Op::Set { id: 0, holders: vec![1] }, object(7, MAX_SIZE)]);
        let found = table.find(7).unwrap();
        assert_eq!((found.size, found.class, found.holders), (MAX_SIZE, Class::Font, &[1u16][..]));
        assert_eq!((found.sharing, found.embedding, found.stale_if_error_s), (Sharing::Anyone, Embedding::Own, 3600));
        assert_eq!(&*table.holder(1).unwrap().authority, "b.test");
        assert_eq!(table.find(8), None);
        assert!(table.holder(0).is_none());
    }

    #[test]
    fn a_malformed_change_leaves_the_table_as_it_was() {
        let mut table = table(vec![Op::Set { id: 0, holders: vec![] }, object(7, 1)]);
        let bad = [
            (holder(1, "b.test\r\nSet-Cookie: x", 1), TableError::Authority(1)),
            (holder(1, "b.test", 1001), TableError::Holder(1)),
            (holder(MAX_HOLDERS as u16, "b.test", 1), TableError::Holder(MAX_HOLDERS as u16)),
            (Op::Set { id: 2, holders: vec![0; MAX_SET_HOLDERS + 1] }, TableError::Set(2)),
            (object(9, MAX_SIZE + 1), TableError::Size(MAX_SIZE + 1)),
        ];
        for (op, error) in bad {
            assert_eq!(table.apply(vec![Op::Remove { key: 7 }, op]), Err(error));
            assert!(table.find(7).is_some());
        }
    }

    #[test]
    fn a_full_table_refuses_new_objects_and_still_takes_changes() {
        let mut table = ReplicaTable::new(1);
        table.apply(vec![Op::Set { id: 0, holders: vec![] }, object(1, 1), object(2, 1), object(1, 5)]).unwrap();
        assert_eq!((table.len(), table.refused()), (1, 1));
        assert_eq!(table.find(1).unwrap().size, 5);
    }

    #[test]
    fn a_holder_described_anew_keeps_its_debt() {
        let mut table = table(vec![holder(1, "b.test", 1000)]);
        table.holder_mut(1).unwrap().lease.draw(1000);
        table.apply(vec![holder(1, "b.test", 500)]).unwrap();
        assert!(!table.holder(1).unwrap().lease.is_open());
    }

    #[test]
    fn an_object_whose_set_is_unknown_is_not_found() {
        assert_eq!(table(vec![object(1, 1)]).find(1), None);
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_plain_map(
            changes in prop::collection::vec((0..40u64, prop::option::of(0..MAX_SIZE)), 0..300)
        ) {
            let mut table = ReplicaTable::new(1000);
            table.apply(vec![Op::Set { id: 0, holders: vec![] }]).unwrap();
            let mut model = HashMap::new();
            for (key, size) in changes {
                // Spread over shards and within them, with many collisions in the index.
                let key = (key % 3) << 40 | (key / 3) << 57;
                let op = match size {
                    Some(size) => { model.insert(key, size); object(key, size) }
                    None => { model.remove(&key); Op::Remove { key } }
                };
                table.apply(vec![op]).unwrap();
            }
            prop_assert_eq!(table.len(), model.len());
            for (key, size) in &model {
                prop_assert_eq!(table.find(*key).map(|f| f.size), Some(*size));
            }
        }
    }
}
