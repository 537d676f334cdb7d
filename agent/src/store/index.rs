//! Which replicas there are, in memory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use p2pcdn_core::object::{ObjectRecord, Sha256};

use super::blobs::{Kind, Put, Source};
use crate::identity::{Signed, SignedError};

/// One verified copy of one version of one object.
#[derive(Debug, PartialEq, Eq)]
pub struct Replica {
    /// What the origin says about it.
    pub record: ObjectRecord,
    /// The statement as the origin signed it.
    pub signed: Signed,
}

impl Replica {
    /// Opens the origin's statement.
    pub fn new(signed: Signed) -> Result<Self, SignedError> {
        Ok(Self { record: signed.open()?, signed })
    }

    pub(super) fn is_same_bytes(&self, other: &Self) -> bool {
        let (own, other) = (&self.record, &other.record);
        (own.sha256, own.size, &own.chunks) == (other.sha256, other.size, &other.chunks)
    }

    /// The statement as it lies beside the bytes.
    pub(super) fn statement(&self) -> Result<Put, serde_json::Error> {
        let json = serde_json::to_vec(&self.signed)?;
        Ok(Put { kind: Kind::Record, digest: self.signed.digest(), source: Source::Bytes(json.into()) })
    }

    /// Whether the origin's statement no longer holds, at seconds since the Unix epoch.
    pub fn is_expired(&self, now_s: u64) -> bool {
        self.record.expires_s <= now_s
    }

    /// Authority and path of the object; neither can contain a space.
    pub(super) fn key(&self) -> String {
        key(&self.record.origin, &self.record.path)
    }
}

/// Bytes in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of all origins.
    pub total_bytes: u64,
    /// By origin.
    pub by_origin: HashMap<String, u64>,
}

#[derive(Default)]
pub(super) struct Index {
    replicas: HashMap<String, Arc<Replica>>,
    references: HashMap<Sha256, usize>,
    /// Keys of the replicas with these bytes.
    by_digest: HashMap<Sha256, HashSet<String>>,
    usage: Usage,
}

impl Index {
    pub(super) fn find(&self, origin: &str, path: &str) -> Option<Arc<Replica>> {
        self.replicas.get(&key(origin, path)).cloned()
    }

    /// One of those with these bytes that `is_fine`.
    pub(super) fn find_digest(&self, digest: &Sha256, is_fine: impl Fn(&Replica) -> bool) -> Option<Arc<Replica>> {
        let mut replicas = self.by_digest.get(digest)?.iter().filter_map(|key| self.replicas.get(key));
        replicas.find(|replica| is_fine(replica)).cloned()
    }

    pub(super) fn list(&self) -> Vec<Arc<Replica>> {
        self.replicas.values().cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.replicas.len()
    }

    pub(super) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Whether a replica needs the blob, or one that is just coming in.
    pub(super) fn uses(&self, digest: &Sha256) -> bool {
        self.references.contains_key(digest)
    }

    /// Returns the version that it replaces.
    pub(super) fn insert(&mut self, replica: Arc<Replica>) -> Option<Arc<Replica>> {
        self.charge(&replica.record.origin, replica.record.size);
        self.pin(replica.record.sha256);
        let (key, digest) = (replica.key(), replica.record.sha256);
        let old = self.replicas.insert(key.clone(), replica);
        if let Some(old) = &old {
            self.account_removed(old);
        }
        self.by_digest.entry(digest).or_default().insert(key);
        old
    }

    /// Whether exactly this version was there.
    pub(super) fn remove(&mut self, replica: &Replica) -> bool {
        let key = replica.key();
        let held = self.replicas.get(&key).is_some_and(|held| held.record == replica.record);
        if held {
            self.replicas.remove(&key);
            self.account_removed(replica);
        }
        held
    }

    pub(super) fn charge(&mut self, origin: &str, bytes: u64) {
        self.usage.total_bytes += bytes;
        *self.usage.by_origin.entry(origin.to_owned()).or_default() += bytes;
    }

    pub(super) fn discharge(&mut self, origin: &str, bytes: u64) {
        self.usage.total_bytes -= bytes;
        if let Some(used) = self.usage.by_origin.get_mut(origin) {
            *used -= bytes;
            if *used == 0 {
                self.usage.by_origin.remove(origin);
            }
        }
    }

    fn account_removed(&mut self, replica: &Replica) {
        self.discharge(&replica.record.origin, replica.record.size);
        let digest = &replica.record.sha256;
        if let Some(keys) = self.by_digest.get_mut(digest) {
            keys.remove(&replica.key());
            if keys.is_empty() {
                self.by_digest.remove(digest);
            }
        }
        self.unpin(digest);
    }

    /// Keeps a blob from being removed as unused.
    pub(super) fn pin(&mut self, digest: Sha256) {
        *self.references.entry(digest).or_default() += 1;
    }

    pub(super) fn unpin(&mut self, digest: &Sha256) {
        if let Some(count) = self.references.get_mut(digest) {
            *count -= 1;
            if *count == 0 {
                self.references.remove(digest);
            }
        }
    }
}

fn key(origin: &str, path: &str) -> String {
    format!("{origin} {path}")
}
