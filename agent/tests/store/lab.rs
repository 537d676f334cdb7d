//! Objects to store, and what must hold of a store at any time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use p2pcdn_agent::identity::{NodeKey, Signed, sign, web_client_config};
use p2pcdn_agent::store::{BucketAccess, Location, Place, ReplicaStore, Reservation, Small, StoreError};
use p2pcdn_core::object::{CHUNK_BYTES, Embedding, ObjectRecord, Sha256, Sharing};
use sha2::Digest;

pub(crate) const ORIGINS: [&str; 2] = ["a.test", "b.test"];

/// A location whose metadata and bytes lie in `directory`.
pub(crate) fn location(directory: &Path) -> Location {
    let access = BucketAccess {
        endpoint: String::new(),
        region: String::new(),
        tls: web_client_config(&[]).expect("the system has root certificates"),
    };
    Location { directory: directory.into(), place: Place::State, access, max_unfinished_bytes: 64 << 20 }
}

pub(crate) async fn open(directory: &Path) -> Result<Arc<ReplicaStore>, StoreError> {
    Ok(Arc::new(ReplicaStore::open(location(directory)).await?))
}

/// Bytes that differ by their seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn object(key: &NodeKey, origin: &str, path: &str, sequence: u64, bytes: &[u8]) -> (ObjectRecord, Signed) {
    let hash = |bytes: &[u8]| Sha256(sha2::Sha256::digest(bytes).into());
    let record = ObjectRecord {
        origin: origin.into(),
        path: path.into(),
        sha256: hash(bytes),
        size: bytes.len() as u64,
        content_type: "image/png".into(),
        etag: "\"x\"".into(),
        max_age_s: 1,
        stale_if_error_s: 0,
        sharing: Sharing::SameOrigin,
        embedding: Embedding::Unstated,
        chunks: bytes.chunks(CHUNK_BYTES as usize).map(hash).collect(),
        sequence,
        expires_s: u64::MAX,
    };
    let signed = sign(key, &record).unwrap();
    (record, signed)
}

pub(crate) fn reserve(store: &Arc<ReplicaStore>, record: &ObjectRecord) -> Reservation {
    store.reserve(record, |_| Ok::<_, std::convert::Infallible>(())).unwrap()
}

pub(crate) fn small(store: &Arc<ReplicaStore>, record: &ObjectRecord, signed: Signed, bytes: Vec<u8>) -> Small {
    Small { bytes: bytes.into(), signed, reservation: reserve(store, record) }
}

/// Commits an object of any size.
pub(crate) async fn take_in(
    store: &Arc<ReplicaStore>,
    (record, signed): (ObjectRecord, Signed),
    bytes: &[u8],
) -> Result<(), p2pcdn_agent::store::IncomingError> {
    let reservation = reserve(store, &record);
    let mut incoming = store.begin(&record).await?;
    let at = incoming.received() as usize;
    let pushed = incoming.push(Bytes::copy_from_slice(&bytes[at..])).await;
    match pushed {
        Ok(()) => store.commit(incoming, signed, reservation).await,
        Err(error) => {
            incoming.discard().await;
            Err(error)
        }
    }
}

/// Reads every visible replica, and compares the store's account of itself with the replicas; returns what is held by origin and path.
pub(crate) async fn assert_whole(store: &Arc<ReplicaStore>) -> HashMap<(String, String), Sha256> {
    let mut held = HashMap::new();
    let (mut total, mut by_origin) = (0, HashMap::<String, u64>::new());
    for replica in store.list() {
        let record = &replica.record;
        store.verify(record).await.unwrap_or_else(|error| panic!("{}{}: {error}", record.origin, record.path));
        let read: Vec<Bytes> = store.read(&record.sha256, 0..record.size).await.unwrap().try_collect().await.unwrap();
        assert_eq!(Sha256(sha2::Sha256::digest(read.concat()).into()), record.sha256);
        total += record.size;
        *by_origin.entry(record.origin.clone()).or_default() += record.size;
        held.insert((record.origin.clone(), record.path.clone()), record.sha256);
    }
    let usage = store.usage();
    assert_eq!((usage.total_bytes, &usage.by_origin), (total, &by_origin));
    held
}

/// Files below a directory with their sizes.
pub(crate) fn files(directory: &Path) -> Vec<(PathBuf, u64)> {
    let entries = walkdir::WalkDir::new(directory).into_iter().filter_map(Result::ok);
    let files = entries.filter(|entry| entry.file_type().is_file());
    files.map(|file| (file.path().to_owned(), file.metadata().unwrap().len())).collect()
}

/// No bytes that no replica needs, besides what waits for another attempt.
pub(crate) fn assert_no_orphans(store: &Arc<ReplicaStore>, directory: &Path) {
    let replicas = store.list();
    let distinct: HashMap<Sha256, u64> =
        replicas.iter().map(|replica| (replica.record.sha256, replica.record.size)).collect();
    let blobs = files(&directory.join("blobs"));
    assert_eq!(blobs.len(), distinct.len());
    assert_eq!(blobs.iter().map(|(_, size)| size).sum::<u64>(), distinct.values().sum::<u64>());
    assert_eq!(files(&directory.join("records")).len(), replicas.len());
    assert_eq!(files(&directory.join("staging")), []);
    let strange =
        files(&directory.join("incoming")).into_iter().find(|(path, _)| path.extension() != Some("part".as_ref()));
    assert_eq!(strange, None);
}
