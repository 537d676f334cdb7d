//! What a start finds: rows, records and blobs are brought to agree, whatever a crash or a loss has left of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use p2pcdn_core::object::Sha256;

use super::ReplicaStore;
use super::blobs::Kind;
use super::error::StoreError;
use super::index::Replica;
use super::rows::Change;
use crate::identity::Signed;

/// Rows that are written at a time.
const BATCH: usize = 1024;

impl ReplicaStore {
    pub(super) async fn reconcile(&self) -> Result<(), StoreError> {
        let (blobs, mut records) = match self.listed().await.map_err(StoreError::sort_out) {
            Err(error @ StoreError::Bytes(_)) if self.blobs.is_remote() => {
                tracing::error!(%error, "the store of replicas does not answer, going by the metadata alone");
                let rows = self.rows().await?.into_iter().filter_map(|(_, signed)| Replica::new(signed?).ok());
                rows.for_each(|replica| drop(self.index().insert(Arc::new(replica))));
                return Ok(());
            }
            listed => listed?,
        };
        let mut lost = Vec::new();
        for (key, signed) in self.rows().await? {
            match signed.and_then(|signed| Replica::new(signed).ok()).map(Arc::new) {
                // Without its record, it was just being retired.
                Some(replica)
                    if blobs.get(&replica.record.sha256) == Some(&replica.record.size)
                        && records.remove(&replica.signed.digest()).is_some() =>
                {
                    self.index().insert(replica);
                }
                _ => {
                    tracing::warn!(replica = %key, "the bytes or the record of a replica are gone, forgetting it");
                    lost.push(Change::Remove(key));
                }
            }
        }
        for change in batches(lost) {
            self.change(change).await?;
        }
        self.rebuild(&blobs, records.into_keys().collect()).await?;
        for digest in blobs.keys() {
            self.remove_unused(digest).await?;
        }
        Ok(())
    }

    /// Makes rows from records that have none, as far as their bytes are there and right; other records are removed.
    async fn rebuild(&self, blobs: &HashMap<Sha256, u64>, records: Vec<Sha256>) -> Result<(), StoreError> {
        let mut intact = HashMap::new();
        let mut stale = HashSet::new();
        let mut rebuilt: HashMap<String, Arc<Replica>> = HashMap::new();
        for name in records {
            let Some(replica) = self.recorded(&name, blobs, &mut intact).await? else {
                stale.insert(name);
                continue;
            };
            let key = replica.key();
            let record = &replica.record;
            let held = rebuilt.get(&key).cloned().or_else(|| self.find(&record.origin, &record.path));
            match held {
                Some(held) if held.record.sequence >= record.sequence => drop(stale.insert(name)),
                held => {
                    stale.extend(held.map(|held| held.signed.digest()));
                    rebuilt.insert(key, replica);
                }
            }
        }
        if !rebuilt.is_empty() {
            tracing::warn!(replicas = rebuilt.len(), "rebuilt metadata of replicas from their records");
        }
        for replicas in batches(rebuilt.into_values().collect()) {
            self.change(replicas.iter().cloned().map(Change::Insert).collect()).await?;
            let mut index = self.index();
            replicas.into_iter().for_each(|replica| drop(index.insert(replica)));
        }
        for name in stale {
            self.blobs.delete(Kind::Record, &name).await?;
        }
        Ok(())
    }

    /// The replica that a record stands for, if the record is what it should be and the bytes match it.
    async fn recorded(
        &self,
        name: &Sha256,
        blobs: &HashMap<Sha256, u64>,
        intact: &mut HashMap<Sha256, bool>,
    ) -> Result<Option<Arc<Replica>>, StoreError> {
        let json = self.blobs.record(name).await?;
        let signed = serde_json::from_slice::<Signed>(&json).ok().filter(|signed| signed.digest() == *name);
        let Some(replica) = signed.and_then(|signed| Replica::new(signed).ok()) else { return Ok(None) };
        let record = &replica.record;
        if record.validate().is_err() || blobs.get(&record.sha256) != Some(&record.size) {
            return Ok(None);
        }
        let is_intact = match intact.get(&record.sha256) {
            Some(is_intact) => *is_intact,
            None => {
                let is_intact = self.blobs.digest_of(&record.sha256).await? == Some(record.sha256);
                intact.insert(record.sha256, is_intact);
                is_intact
            }
        };
        Ok(is_intact.then(|| Arc::new(replica)))
    }

    async fn listed(&self) -> Result<(HashMap<Sha256, u64>, HashMap<Sha256, u64>), StoreError> {
        Ok((self.blobs.list(Kind::Blob).await?, self.blobs.list(Kind::Record).await?))
    }

    async fn rows(&self) -> Result<Vec<(String, Option<Signed>)>, StoreError> {
        let rows = self.rows.clone();
        super::blocking(move || rows.read()).await?
    }
}

fn batches<T>(items: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut items = items.into_iter();
    std::iter::from_fn(move || Some(items.by_ref().take(BATCH).collect::<Vec<_>>()).filter(|batch| !batch.is_empty()))
}
