//! What the filter is told: which objects have replicas, who holds them and how much may be sent there.

mod log;
mod sets;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2pcdn_core::destination::Destinations;
use p2pcdn_core::lookup::HashKey;
use p2pcdn_core::object::{Class, ObjectRecord, Sha256};
use p2pcdn_core::replica_table::{MAX_HOLDERS, MAX_SET_HOLDERS};
use p2pcdn_core::sync::{Have, HolderRow, ObjectRow, Op};

use crate::replicate::holders::Copy;
use log::ChangeLog;

/// The replica table as the agent keeps it.
pub struct Board {
    hash_key: HashKey,
    origin: String,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    objects: HashMap<String, Object>,
    paths: HashMap<u64, String>,
    peers: Vec<Peer>,
    blocked_at_first: Destinations,
    log: ChangeLog,
}

struct Object {
    row: ObjectRow,
    holders: BTreeSet<u16>,
}

/// A peer's number is its place in the list and is never given to another one.
struct Peer {
    domain: String,
    row: HolderRow,
}

/// The part of an [`p2pcdn_core::sync::Update`] that concerns the table.
#[derive(Debug, PartialEq)]
pub struct Changes {
    /// See [`p2pcdn_core::sync::Update::now`].
    pub now: Have,
    /// See [`p2pcdn_core::sync::Update::clear`].
    pub clear: bool,
    /// See [`p2pcdn_core::sync::Update::more`].
    pub more: bool,
    /// See [`p2pcdn_core::sync::Update::ops`].
    pub ops: Vec<Op>,
}

/// Sizes of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TableSize {
    /// Objects with at least one holder.
    pub objects: usize,
    /// Peers that were ever described.
    pub holders: usize,
    /// Number of the last change.
    pub version: u64,
}

impl Board {
    /// An empty table of the site `origin`. `session` tells this run from earlier ones and is not 0.
    pub fn new(origin: String, session: u64, hash_key: HashKey) -> Self {
        Self { hash_key, origin, inner: Mutex::new(Inner { log: ChangeLog::new(session), ..Inner::default() }) }
    }

    /// Key of the hash over authority and path.
    pub fn hash_key(&self) -> HashKey {
        self.hash_key
    }

    /// Describes the present version of an object; holders of another version are forgotten.
    ///
    /// `etag` is the strong entity tag that the origin answers with, if that is known; `fresh_until_s` is in seconds since the
    /// Unix epoch, `u32::MAX` for a file that the agent watches.
    pub fn put_object(&self, record: &ObjectRecord, class: Class, etag: Option<&str>, fresh_until_s: u32) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let known = inner.objects.remove(&record.path).filter(|known| known.row.sha256 == record.sha256);
        let row = ObjectRow {
            key: self.key_of(&record.path),
            sha256: record.sha256,
            size: record.size,
            class,
            validator: etag.map_or(0, |etag| self.hash_key.validator(etag.as_bytes())),
            fresh_until_s,
            stale_if_error_s: record.stale_if_error_s,
            sharing: record.sharing,
            embedding: record.embedding,
            set: 0,
        };
        let object = Object { row, holders: known.map(|known| known.holders).unwrap_or_default() };
        inner.log.publish(object.row, &pick(&object));
        inner.paths.insert(row.key, record.path.clone());
        inner.objects.insert(record.path.clone(), object);
    }

    /// Whether the object is described at present.
    pub fn has_object(&self, path: &str) -> bool {
        self.inner().objects.contains_key(path)
    }

    /// Takes an object out of the table, at once and whatever comes next.
    pub fn remove_object(&self, path: &str) {
        let mut inner = self.inner();
        if inner.objects.remove(path).is_some() {
            let key = self.key_of(path);
            inner.paths.remove(&key);
            inner.log.remove(key);
        }
    }

    /// Notes that a described peer has acknowledged this version, or that it no longer has it.
    pub fn set_holder(&self, path: &str, sha256: &Sha256, domain: &str, holds: bool) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let Some(peer) = inner.number(domain) else { return };
        let Some(object) = inner.objects.get_mut(path).filter(|object| object.row.sha256 == *sha256) else { return };
        let changed = if holds { object.holders.insert(peer) } else { object.holders.remove(&peer) };
        if changed {
            inner.log.publish(object.row, &pick(object));
        }
    }

    /// Describes a peer; `false` if there are [`MAX_HOLDERS`] already, which leaves it out of redirects.
    pub fn set_peer(&self, domain: &str, authority: &str, weight: u16, lease_bytes_per_s: u64) -> bool {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let at = inner.number(domain).map_or(inner.peers.len(), usize::from);
        if at >= MAX_HOLDERS {
            return false;
        }
        // What a policy says about one name says nothing about another.
        let known = inner.peers.get(at).filter(|peer| peer.row.authority == authority);
        let blocked = known.map_or(inner.blocked_at_first, |peer| peer.row.blocked);
        let row = HolderRow { id: at as u16, authority: authority.to_owned(), weight, lease_bytes_per_s, blocked };
        match inner.peers.get_mut(at) {
            Some(peer) if peer.row == row => return true,
            Some(peer) => peer.row = row.clone(),
            None => inner.peers.push(Peer { domain: domain.to_owned(), row: row.clone() }),
        }
        inner.log.put_holder(row);
        true
    }

    /// Says what browsers cannot load from a described peer under this replica name; of no effect on one that has another by now.
    pub fn set_blocked(&self, domain: &str, authority: &str, blocked: Destinations) {
        let mut inner = self.inner();
        let Some(at) = inner.number(domain) else { return };
        let Some(peer) = inner.peers.get_mut(usize::from(at)) else { return };
        if peer.row.authority == authority && peer.row.blocked != blocked {
            peer.row.blocked = blocked;
            let row = peer.row.clone();
            inner.log.put_holder(row);
        }
    }

    /// Says what is blocked at peers, or names of peers, that are described from now on, until [`Self::set_blocked`] says more.
    pub fn set_blocked_at_first(&self, blocked: Destinations) {
        self.inner().blocked_at_first = blocked;
    }

    /// What browsers cannot load from a peer.
    pub fn blocked(&self, domain: &str) -> Destinations {
        let inner = self.inner();
        let peer = inner.number(domain).and_then(|at| inner.peers.get(usize::from(at)));
        peer.map_or(inner.blocked_at_first, |peer| peer.row.blocked)
    }

    /// Forgets every copy that a peer holds.
    pub fn forget_holder(&self, domain: &str) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let Some(peer) = inner.number(domain) else { return };
        for object in inner.objects.values_mut() {
            if object.holders.remove(&peer) {
                inner.log.publish(object.row, &pick(object));
            }
        }
    }

    /// Which run of the agent this table belongs to.
    pub fn session(&self) -> u64 {
        self.inner().log.session()
    }

    /// Domain of a peer by the number that the filter reports.
    pub fn domain_of(&self, holder: u16) -> Option<String> {
        self.inner().peers.get(usize::from(holder)).map(|peer| peer.domain.clone())
    }

    /// Whether the peer is known to hold this version.
    pub fn holds(&self, path: &str, sha256: &Sha256, domain: &str) -> bool {
        let inner = self.inner();
        let object = inner.objects.get(path).filter(|object| object.row.sha256 == *sha256);
        inner.number(domain).zip(object).is_some_and(|(peer, object)| object.holders.contains(&peer))
    }

    /// Domains of all peers that hold the object.
    pub fn holders_of(&self, path: &str) -> Vec<String> {
        let inner = self.inner();
        inner.objects.get(path).map(|object| inner.domains(&object.holders)).unwrap_or_default()
    }

    /// The present version of the object that the filter knows by this number, and the domains of its holders.
    pub fn by_key(&self, key: u64) -> Option<(Copy, Vec<String>)> {
        let inner = self.inner();
        let path = inner.paths.get(&key)?;
        let object = inner.objects.get(path)?;
        Some((Copy { path: path.clone(), sha256: object.row.sha256 }, inner.domains(&object.holders)))
    }

    /// Number of objects that each peer holds, by domain.
    pub fn holdings(&self) -> HashMap<String, usize> {
        let inner = self.inner();
        let mut counts = vec![0; inner.peers.len()];
        for id in inner.objects.values().flat_map(|object| &object.holders) {
            counts[usize::from(*id)] += 1;
        }
        inner.peers.iter().map(|peer| peer.domain.clone()).zip(counts).collect()
    }

    /// A copy that the peer should have, the `nth` of them modulo their number.
    pub fn sample(&self, domain: &str, nth: usize) -> Option<Copy> {
        let inner = self.inner();
        let peer = inner.number(domain)?;
        let held = || inner.objects.iter().filter(|(_, object)| object.holders.contains(&peer));
        let (path, object) = held().nth(nth.checked_rem(held().count())?)?;
        Some(Copy { path: path.clone(), sha256: object.row.sha256 })
    }

    /// What a VM with that state of the table has to be told; bounded, so several answers may be needed.
    pub fn changes_since(&self, have: Have) -> Changes {
        self.inner().log.changes_since(have)
    }

    /// Sizes of the table.
    pub fn size(&self) -> TableSize {
        let inner = self.inner();
        TableSize { objects: inner.log.len(), holders: inner.peers.len(), version: inner.log.version() }
    }

    /// The number that the filter knows an own path by.
    fn key_of(&self, path: &str) -> u64 {
        self.hash_key.of(self.origin.as_bytes(), path.as_bytes())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn number(&self, domain: &str) -> Option<u16> {
        self.peers.iter().position(|peer| peer.domain == domain).map(|at| at as u16)
    }

    fn domains(&self, holders: &BTreeSet<u16>) -> Vec<String> {
        holders.iter().filter_map(|id| Some(self.peers.get(usize::from(*id))?.domain.clone())).collect()
    }
}

/// The holders that the filter is told of: beyond its limit another choice for each object, so that all share the load.
fn pick(object: &Object) -> Vec<u16> {
    let mut holders: Vec<u16> = object.holders.iter().copied().collect();
    if holders.len() > MAX_SET_HOLDERS {
        holders.sort_by_key(|id| HashKey([object.row.key, 0]).of(b"", &id.to_le_bytes()));
        holders.truncate(MAX_SET_HOLDERS);
        holders.sort_unstable();
    }
    holders
}

#[cfg(test)]
mod tests;
