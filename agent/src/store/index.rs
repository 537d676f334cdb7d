//! Which replicas there are, in memory.

use std::collections::HashMap;
use std::sync::Arc;

use p2pcdn_core::object::{ObjectRecord, Sha256};

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
    usage: Usage,
}

impl Index {
    pub(super) fn find(&self, origin: &str, path: &str) -> Option<Arc<Replica>> {
        self.replicas.get(&key(origin, path)).cloned()
    }

    pub(super) fn list(&self) -> Vec<Arc<Replica>> {
        self.replicas.values().cloned().collect()
    }

    pub(super) fn usage(&self) -> &Usage {
        &self.usage
    }

    pub(super) fn uses(&self, digest: &Sha256) -> bool {
        self.references.contains_key(digest)
    }

    /// Returns the version that it replaces.
    pub(super) fn insert(&mut self, replica: Replica) -> Option<Arc<Replica>> {
        self.charge(&replica.record.origin, replica.record.size);
        *self.references.entry(replica.record.sha256).or_default() += 1;
        let old = self.replicas.insert(replica.key(), Arc::new(replica));
        if let Some(old) = &old {
            self.account_removed(old);
        }
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
        if let Some(count) = self.references.get_mut(&replica.record.sha256) {
            *count -= 1;
            if *count == 0 {
                self.references.remove(&replica.record.sha256);
            }
        }
    }
}

fn key(origin: &str, path: &str) -> String {
    format!("{origin} {path}")
}
