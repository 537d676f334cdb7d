//! What every [gate](p2pcdn_core::gate) is told, the filter's and the agent's own: which objects have replicas, who holds them and how much
//! may be sent there.

mod log;
mod peers;
mod sets;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pcdn_core::destination::Destinations;
use p2pcdn_core::lookup::HashKey;
use p2pcdn_core::object::{Class, ObjectRecord, Sha256};
use p2pcdn_core::replica_table::MAX_SET_HOLDERS;
use p2pcdn_core::sync::{Have, HolderRow, ObjectRow, Op};
use tokio::sync::Notify;

use crate::replicate::origin::holders::Copy;
use log::ChangeLog;
use peers::Peers;

/// The replica table as the agent keeps it.
pub struct Board {
    hash_key: HashKey,
    origin: String,
    inner: Mutex<Inner>,
    touched: Notify,
}

#[derive(Default)]
struct Inner {
    objects: HashMap<Arc<str>, Object>,
    paths: HashMap<u64, Arc<str>>,
    peers: Peers,
    blocked_at_first: Destinations,
    log: ChangeLog,
    /// Each path once, so never more than there are objects, and those that went since somebody looked.
    touched: HashSet<Arc<str>>,
}

struct Object {
    row: ObjectRow,
    holders: BTreeSet<u16>,
}

/// What a peer may get of the site's visitors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exposure {
    /// 0 to 1000.
    pub weight: u16,
    /// See [`HolderRow::newcomer`].
    pub newcomer: bool,
    /// Bytes per second that it grants.
    pub lease_bytes_per_s: u64,
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

/// Where an object can be had.
#[derive(Debug, PartialEq)]
pub struct Whereabouts {
    /// Digest of the present version.
    pub sha256: Sha256,
    /// Its bytes.
    pub size: u64,
    /// Its class.
    pub class: Class,
    /// The holders that gates are told of.
    pub holders: Vec<HolderRow>,
}

/// Sizes of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TableSize {
    /// Objects with at least one holder.
    pub objects: usize,
    /// Peers that were described, those included that are none any more.
    pub holders: usize,
    /// Number of the last change.
    pub version: u64,
}

impl Board {
    /// An empty table of the site `origin`. `session` tells this run from earlier ones and is not 0.
    pub fn new(origin: String, session: u64, hash_key: HashKey) -> Self {
        let inner = Inner { log: ChangeLog::new(session), ..Inner::default() };
        Self { hash_key, origin, inner: Mutex::new(inner), touched: Notify::new() }
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
        let key = self.key_of(&record.path);
        let (path, known) = match inner.objects.remove_entry(&*record.path) {
            Some((path, known)) if known.row.sha256 == record.sha256 => (path, Some(known)),
            Some((path, former)) => {
                inner.release(key, &former.holders);
                (path, None)
            }
            None => (Arc::from(&*record.path), None),
        };
        let row = ObjectRow {
            key,
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
        inner.paths.insert(key, path.clone());
        inner.objects.insert(path.clone(), object);
        self.touch(inner, path);
    }

    /// Whether the object is described at present.
    pub fn has_object(&self, path: &str) -> bool {
        self.inner().objects.contains_key(path)
    }

    /// Takes an object out of the table, at once and whatever comes next.
    pub fn remove_object(&self, path: &str) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        if let Some((path, former)) = inner.objects.remove_entry(path) {
            let key = former.row.key;
            inner.paths.remove(&key);
            inner.release(key, &former.holders);
            inner.log.remove(key);
            self.touch(inner, path);
        }
    }

    /// Notes that a described peer has acknowledged this version, or that it no longer has it.
    pub fn set_holder(&self, path: &str, sha256: &Sha256, domain: &str, holds: bool) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let Some(peer) = inner.peers.number(domain) else { return };
        let Some(object) = inner.objects.get_mut(path).filter(|object| object.row.sha256 == *sha256) else { return };
        let changed = if holds { object.holders.insert(peer) } else { object.holders.remove(&peer) };
        if changed {
            let key = object.row.key;
            inner.log.publish(object.row, &pick(object));
            if let Some(peer) = inner.peers.get_mut(peer) {
                if holds {
                    peer.held.insert(key)
                } else {
                    peer.held.remove(&key)
                };
            }
            if let Some(path) = inner.paths.get(&key).cloned() {
                self.touch(inner, path);
            }
        }
    }

    /// Paths that were described, taken out, or gained or lost a holder since this was last asked, in any order.
    pub fn take_touched(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.inner().touched).into_iter().collect()
    }

    /// Returns once there is something for [`Self::take_touched`]; for one waiter.
    pub async fn touched(&self) {
        self.touched.notified().await;
    }

    fn touch(&self, inner: &mut Inner, path: Arc<str>) {
        if inner.touched.insert(path) && inner.touched.len() == 1 {
            self.touched.notify_one();
        }
    }

    /// Describes a peer; `false` if there are as many as gates take already, which leaves it out of redirects.
    pub fn set_peer(&self, domain: &str, authority: &str, exposure: Exposure) -> bool {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let Some((id, peer)) = inner.peers.assign(domain) else { return false };
        // What a policy says about one name says nothing about another.
        let blocked = if peer.row.authority == authority { peer.row.blocked } else { inner.blocked_at_first };
        let Exposure { weight, newcomer, lease_bytes_per_s } = exposure;
        let row = HolderRow { id, authority: authority.to_owned(), weight, newcomer, lease_bytes_per_s, blocked };
        if peer.row == row {
            return true;
        }
        peer.row = row.clone();
        inner.log.put_holder(row);
        true
    }

    /// Says what browsers cannot load from a described peer under this replica name; of no effect on one that has another by now.
    pub fn set_blocked(&self, domain: &str, authority: &str, blocked: Destinations) {
        let mut inner = self.inner();
        let Some(at) = inner.peers.number(domain) else { return };
        let Some(peer) = inner.peers.get_mut(at) else { return };
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
        let peer = inner.peers.find(domain);
        peer.map_or(inner.blocked_at_first, |peer| peer.row.blocked)
    }

    /// Forgets a peer and every copy that it holds.
    pub fn forget_holder(&self, domain: &str) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let Some(number) = inner.peers.number(domain) else { return };
        for key in inner.peers.forget(number) {
            let Some(path) = inner.paths.get(&key).cloned() else { continue };
            if let Some(object) = inner.objects.get_mut(&path).filter(|object| object.holders.contains(&number)) {
                object.holders.remove(&number);
                inner.log.publish(object.row, &pick(object));
                self.touch(inner, path);
            }
        }
    }

    /// Which run of the agent this table belongs to.
    pub fn session(&self) -> u64 {
        self.inner().log.session()
    }

    /// Domain of a peer by the number that gates report.
    pub fn domain_of(&self, holder: u16) -> Option<String> {
        self.inner().peers.get(holder).map(|peer| peer.domain.clone())
    }

    /// Whether the peer is known to hold this version.
    pub fn holds(&self, path: &str, sha256: &Sha256, domain: &str) -> bool {
        let inner = self.inner();
        let object = inner.objects.get(path).filter(|object| object.row.sha256 == *sha256);
        inner.peers.number(domain).zip(object).is_some_and(|(peer, object)| object.holders.contains(&peer))
    }

    /// Where an object can be had that is fresh at `now_s`, in seconds since the Unix epoch.
    pub fn whereabouts(&self, path: &str, now_s: u64) -> Option<Whereabouts> {
        let inner = self.inner();
        let object = inner.objects.get(path).filter(|object| u64::from(object.row.fresh_until_s) > now_s)?;
        let holder = |id: u16| Some(inner.peers.get(id)?.row.clone());
        let holders = pick(object).into_iter().filter_map(holder).collect();
        let ObjectRow { sha256, size, class, .. } = object.row;
        Some(Whereabouts { sha256, size, class, holders })
    }

    /// Domains of all peers that say they serve replicas under this authority, of which it need be that of one only.
    pub fn domains_at(&self, authority: &str) -> Vec<String> {
        let inner = self.inner();
        let peers = inner.peers.iter().filter(|peer| peer.row.authority == authority);
        peers.map(|peer| peer.domain.clone()).collect()
    }

    /// Domains of all peers that hold the object.
    pub fn holders_of(&self, path: &str) -> Vec<String> {
        let inner = self.inner();
        inner.objects.get(path).map(|object| inner.peers.domains(&object.holders)).unwrap_or_default()
    }

    /// Path of the object that gates know by this number.
    pub fn path_of(&self, key: u64) -> Option<Arc<str>> {
        self.inner().paths.get(&key).cloned()
    }

    /// Whether anybody holds the object.
    pub fn is_held(&self, path: &str) -> bool {
        self.inner().objects.get(path).is_some_and(|object| !object.holders.is_empty())
    }

    /// The present version of the object that gates know by this number, and the domains of its holders.
    pub fn by_key(&self, key: u64) -> Option<(Copy, Vec<String>)> {
        let inner = self.inner();
        let path = inner.paths.get(&key)?;
        let object = inner.objects.get(path)?;
        Some((Copy { path: path.to_string(), sha256: object.row.sha256 }, inner.peers.domains(&object.holders)))
    }

    /// An object's row and the numbers of the holders that gates are told of; `None` if it is not described.
    pub fn described(&self, path: &str) -> Option<(ObjectRow, Vec<u16>)> {
        self.inner().objects.get(path).map(|object| (object.row, pick(object)))
    }

    /// Shows every object that anybody holds, in any order; nothing else happens meanwhile.
    pub fn each(&self, mut show: impl FnMut(&str, &ObjectRow, &[u16])) {
        for (path, object) in self.inner().objects.iter().filter(|(_, object)| !object.holders.is_empty()) {
            show(path, &object.row, &pick(object));
        }
    }

    /// Every peer that was described.
    pub fn holders(&self) -> Vec<HolderRow> {
        self.inner().peers.iter().map(|peer| peer.row.clone()).collect()
    }

    /// The number of the peer with this replica name; where several say that it is theirs, of the one that gets redirects, which nobody does
    /// before it has shown that.
    pub fn number_of_authority(&self, authority: &str) -> Option<u16> {
        let inner = self.inner();
        let peers = inner.peers.iter().filter(|peer| peer.row.authority == authority);
        peers.min_by_key(|peer| std::cmp::Reverse(peer.row.weight)).map(|peer| peer.row.id)
    }

    /// Number of objects that a peer holds.
    pub fn held_by(&self, domain: &str) -> usize {
        let inner = self.inner();
        inner.peers.find(domain).map_or(0, |peer| peer.held.len())
    }

    /// A copy that the peer should have, each in its turn.
    pub fn sample(&self, domain: &str) -> Option<Copy> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let at = inner.peers.number(domain)?;
        let peer = inner.peers.get_mut(at)?;
        let next = peer.held.range((Bound::Excluded(peer.sampled), Bound::Unbounded)).next();
        peer.sampled = *next.or_else(|| peer.held.first())?;
        let path = inner.paths.get(&peer.sampled)?;
        Some(Copy { path: path.to_string(), sha256: inner.objects.get(path)?.row.sha256 })
    }

    /// A copy that the peer should have, each as likely as any other; `draw` is uniform.
    pub fn any_of(&self, domain: &str, draw: u64) -> Option<Copy> {
        let inner = self.inner();
        let peer = inner.peers.find(domain)?;
        // Keys are keyed hashes, so the next one after any number is anyone's.
        let key = peer.held.range(draw..).next().or_else(|| peer.held.first())?;
        let path = inner.paths.get(key)?;
        Some(Copy { path: path.to_string(), sha256: inner.objects.get(path)?.row.sha256 })
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

    /// The number that gates know an own path by.
    fn key_of(&self, path: &str) -> u64 {
        self.hash_key.of(self.origin.as_bytes(), path.as_bytes())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// An object is held no more.
    fn release(&mut self, key: u64, holders: &BTreeSet<u16>) {
        for id in holders {
            if let Some(peer) = self.peers.get_mut(*id) {
                peer.held.remove(&key);
            }
        }
    }
}

/// The holders that gates are told of: beyond their limit another choice for each object, so that all share the load.
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
