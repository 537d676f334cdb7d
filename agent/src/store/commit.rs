//! From verified bytes to replicas: bytes and record durable in their places first, then the row, then the index.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use p2pcdn_core::object::Sha256;

use super::blobs::{Kind, Put, Source};
use super::error::{IncomingError, StoreError};
use super::incoming::{Incoming, check_small};
use super::index::Replica;
use super::rows::Change;
use super::{ReplicaStore, Reservation, Stamp, blocking};
use crate::identity::Signed;

/// A whole object of at most one chunk.
pub struct Small {
    /// All its bytes.
    pub bytes: Bytes,
    /// The origin's statement about them.
    pub signed: Signed,
    /// What was set aside for it.
    pub reservation: Reservation,
}

/// One verified object that is to become a replica.
struct Item {
    replica: Arc<Replica>,
    blob: Put,
    statement: Put,
    reservation: Reservation,
}

/// Blobs that are not removed meanwhile.
struct Pins {
    store: Arc<ReplicaStore>,
    digests: Vec<Sha256>,
}

impl ReplicaStore {
    /// Makes a completely received object a replica, in place of an earlier version of the same path.
    ///
    /// Once begun it goes on to the end, whatever becomes of the caller.
    pub async fn commit(
        self: &Arc<Self>,
        incoming: Incoming,
        signed: Signed,
        reservation: Reservation,
    ) -> Result<(), IncomingError> {
        let store = self.clone();
        let committing = async move {
            let (item, complete) = blocking(move || {
                let replica = Replica::new(signed).map_err(StoreError::from)?;
                if !incoming.is_about(&replica.record) {
                    return Err(IncomingError::OtherBytes);
                }
                let complete = incoming.complete()?;
                let source = Source::File(complete.path().to_owned());
                Ok((Item::new(replica, source, reservation)?, complete))
            })
            .await??;
            let digest = item.replica.record.sha256;
            let results = store.take_in(vec![item]).await;
            let result = results.into_iter().next().unwrap_or(Err(StoreError::Stopping.into()));
            // A failing store leaves the bytes for another attempt; in any other case nobody wants them there any more.
            if !matches!(result, Err(IncomingError::Store(_))) {
                blocking(move || complete.discard()).await??;
            }
            if result.is_ok()
                && let Some(meta) = store.blobs.head(&digest).await?
            {
                store.verified().insert(digest, Stamp::of(&meta));
            }
            result
        };
        tokio::spawn(committing).await.unwrap_or(Err(StoreError::Stopping.into()))
    }

    /// Makes whole objects of at most one chunk replicas, together: all are written, the file system is synchronised once, and one
    /// transaction makes them visible. One outcome for each, in order.
    ///
    /// Once begun it goes on to the end, whatever becomes of the caller.
    pub async fn commit_small(self: &Arc<Self>, objects: Vec<Small>) -> Vec<Result<(), IncomingError>> {
        let count = objects.len();
        let store = self.clone();
        let committing = async move {
            let checked = blocking(move || objects.into_iter().map(check).collect::<Vec<_>>()).await?;
            let (mut items, mut outcomes) = (Vec::new(), Vec::new());
            for checked in checked {
                outcomes.push(checked.map(|item| items.push(item)));
            }
            let mut results = store.take_in(items).await.into_iter();
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_ok()) {
                *outcome = results.next().unwrap_or(Err(StoreError::Stopping.into()));
            }
            Ok::<_, StoreError>(outcomes)
        };
        let stopped = || (0..count).map(|_| Err(StoreError::Stopping.into())).collect();
        tokio::spawn(committing).await.unwrap_or(Err(StoreError::Stopping)).unwrap_or_else(|_| stopped())
    }

    async fn take_in(self: &Arc<Self>, items: Vec<Item>) -> Vec<Result<(), IncomingError>> {
        let pins = self.pin(items.iter().map(|item| item.replica.record.sha256).collect()).await;
        let (mut puts, mut replicas, mut reservations) = (Vec::new(), Vec::new(), Vec::new());
        for Item { replica, blob, statement, reservation } in items {
            puts.extend([blob, statement]);
            replicas.push(replica);
            reservations.push(Some(reservation));
        }
        let mut results = self.blobs.put(puts).await.into_iter();
        let mut both = || Ok(results.next().unwrap_or(Ok(())).and(results.next().unwrap_or(Ok(())))?);
        let mut outcomes: Vec<Result<(), IncomingError>> = replicas.iter().map(|_| both()).collect();

        let _changing = self.changing.lock().await;
        self.refuse_outdated(&replicas, &mut outcomes);
        let chosen =
            || replicas.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()).map(|(replica, _)| replica);
        let changes: Vec<_> = chosen().cloned().map(Change::Insert).collect();
        if !changes.is_empty()
            && let Err(error) = self.change(changes).await
        {
            let error = Arc::new(error);
            outcomes.iter_mut().filter(|outcome| outcome.is_ok()).for_each(|outcome| {
                *outcome = Err(StoreError::from(error.clone()).into());
            });
        }
        for outcome in &outcomes {
            match outcome {
                Ok(()) => self.health.wrote(),
                Err(IncomingError::Store(error)) => self.health.failed(error),
                Err(_) => {}
            }
        }
        let mut unwanted = Vec::new();
        {
            let mut index = self.index();
            for ((replica, outcome), reservation) in replicas.iter().zip(&outcomes).zip(&mut reservations) {
                if outcome.is_ok() {
                    reservation.take().into_iter().for_each(|reservation| reservation.release_into(&mut index));
                    unwanted.extend(index.insert(replica.clone()));
                } else {
                    unwanted.push(replica.clone());
                }
            }
        }
        drop(pins);
        for replica in unwanted {
            let removed = async {
                if !self.holds(&replica) {
                    self.blobs.delete(Kind::Record, &replica.signed.digest()).await?;
                }
                self.remove_unreferenced(&replica.record.sha256).await
            };
            if let Err(error) = removed.await {
                // The next start removes it.
                tracing::warn!(%error, "removing what is not held any more");
            }
        }
        outcomes
    }

    /// Of several versions of one path, those that are older than another in the same batch or than the one held.
    fn refuse_outdated(&self, replicas: &[Arc<Replica>], outcomes: &mut [Result<(), IncomingError>]) {
        let index = self.index();
        let mut newest = HashMap::new();
        for (replica, outcome) in replicas.iter().zip(outcomes) {
            if outcome.is_err() {
                continue;
            }
            let record = &replica.record;
            let held = index.find(&record.origin, &record.path).map_or(0, |held| held.record.sequence);
            let newest = newest.entry(replica.key()).or_insert(held);
            if *newest > record.sequence {
                *outcome = Err(IncomingError::Outdated);
            } else {
                *newest = record.sequence;
            }
        }
    }

    async fn pin(self: &Arc<Self>, digests: Vec<Sha256>) -> Pins {
        // A blob that is just being removed is gone before it is put anew.
        let _changing = self.changing.lock().await;
        digests.iter().for_each(|digest| self.index().pin(*digest));
        Pins { store: self.clone(), digests }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut index = self.store.index();
        self.digests.iter().for_each(|digest| index.unpin(digest));
    }
}

impl Item {
    fn new(replica: Replica, source: Source, reservation: Reservation) -> Result<Self, StoreError> {
        let blob = Put { kind: Kind::Blob, digest: replica.record.sha256, source };
        Ok(Self { statement: replica.statement()?, blob, replica: Arc::new(replica), reservation })
    }
}

fn check(small: Small) -> Result<Item, IncomingError> {
    let replica = Replica::new(small.signed).map_err(StoreError::from)?;
    check_small(&replica.record, &small.bytes)?;
    Ok(Item::new(replica, Source::Bytes(small.bytes), small.reservation)?)
}
