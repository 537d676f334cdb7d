use std::path::PathBuf;

use futures_util::TryStreamExt;
use p2pcdn_core::object::{CHUNK_BYTES, Embedding, Sharing};
use sha2::Digest;

use super::*;
use crate::identity::{NodeKey, sign, testing};

struct Lab {
    directory: tempfile::TempDir,
    key: NodeKey,
    store: Arc<ReplicaStore>,
}

impl Lab {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path()).await;
        Self { directory, key: testing::node_key(), store }
    }

    async fn restart(self) -> Self {
        let Self { directory, key, store } = self;
        drop(store);
        Self { store: open(directory.path()).await, directory, key }
    }

    fn object(&self, origin: &str, path: &str, bytes: &[u8]) -> (ObjectRecord, Signed) {
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
            sequence: 1,
            expires_s: u64::MAX,
        };
        let signed = sign(&self.key, &record).unwrap();
        (record, signed)
    }

    fn reserve(&self, record: &ObjectRecord) -> Reservation {
        let Ok(reservation) = self.store.reserve(record, |_| Ok::<_, std::convert::Infallible>(()));
        reservation
    }

    async fn take_in(&self, origin: &str, path: &str, bytes: &[u8]) -> ObjectRecord {
        let (record, signed) = self.object(origin, path, bytes);
        let reservation = self.reserve(&record);
        let mut incoming = self.store.begin(&record).await.unwrap();
        for part in bytes.chunks(100_000) {
            incoming.push(Bytes::copy_from_slice(part)).await.unwrap();
        }
        self.store.commit(incoming, signed, reservation).await.unwrap();
        record
    }

    async fn give_up(&self, origin: &str, path: &str) {
        let replica = self.store.find(origin, path).unwrap();
        assert!(self.store.retire(&replica).await.unwrap());
        self.store.remove_unused(&replica.record.sha256).await.unwrap();
    }

    /// Files below the store, staging included.
    fn files(&self) -> Vec<PathBuf> {
        let below = walkdir::WalkDir::new(self.directory.path().join("replicas")).into_iter().filter_map(Result::ok);
        below.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
    }
}

async fn open(directory: &Path) -> Arc<ReplicaStore> {
    let db = Arc::new(Database::create(directory.join("state.redb")).unwrap());
    Arc::new(ReplicaStore::open(db, &directory.join("replicas")).await.unwrap())
}

async fn read(store: &Arc<ReplicaStore>, record: &ObjectRecord) -> Vec<u8> {
    store.verify(record).await.unwrap();
    let parts: Vec<Bytes> = store.read(&record.sha256, 0..record.size).await.unwrap().try_collect().await.unwrap();
    parts.concat()
}

fn bytes(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

#[tokio::test]
async fn a_committed_replica_is_found_also_after_a_restart() {
    let lab = Lab::new().await;
    let content = bytes(1, 3 * CHUNK_BYTES as usize + 5);
    let record = lab.take_in("a.test", "/x", &content).await;
    assert_eq!(read(&lab.store, &record).await, content);
    assert_eq!(lab.store.usage().total_bytes, record.size);

    let lab = lab.restart().await;
    assert_eq!(lab.store.find("a.test", "/x").unwrap().record, record);
    assert_eq!(read(&lab.store, &record).await, content);
    assert_eq!(lab.store.usage().total_bytes, record.size);
}

#[tokio::test]
async fn wrong_bytes_are_noticed_in_the_chunk_where_they_are_and_leave_nothing() {
    let lab = Lab::new().await;
    let content = bytes(1, 2 * CHUNK_BYTES as usize);
    let (record, _) = lab.object("a.test", "/x", &content);
    let mut wrong = content.clone();
    wrong[CHUNK_BYTES as usize + 7] ^= 1;
    let mut incoming = lab.store.begin(&record).await.unwrap();
    let error = incoming.push(wrong.into()).await.unwrap_err();
    assert!(matches!(error, IncomingError::WrongBytes { chunk: 1 }), "{error}");
    incoming.discard().await;
    assert_eq!(lab.files(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn too_many_and_too_few_bytes_are_refused() {
    let lab = Lab::new().await;
    let (record, signed) = lab.object("a.test", "/x", b"0123456789");
    let mut incoming = lab.store.begin(&record).await.unwrap();
    assert!(matches!(incoming.push(Bytes::from_static(b"0123456789a")).await, Err(IncomingError::TooLong)));
    incoming.discard().await;

    let reservation = lab.reserve(&record);
    let mut incoming = lab.store.begin(&record).await.unwrap();
    incoming.push(Bytes::from_static(b"01234")).await.unwrap();
    let error = lab.store.commit(incoming, signed, reservation).await.unwrap_err();
    assert!(matches!(error, IncomingError::CutOff { received: 5 }));
    assert!(lab.store.find("a.test", "/x").is_none());
    assert_eq!(lab.store.usage(), Usage::default());
}

#[tokio::test]
async fn what_a_crash_leaves_half_is_gone_after_a_restart() {
    let lab = Lab::new().await;
    let record = lab.take_in("a.test", "/x", b"whole").await;
    let root = lab.directory.path().join("replicas");
    std::fs::write(root.join("staging/left-over#1"), "half").unwrap();
    std::fs::create_dir_all(root.join("blobs/ab")).unwrap();
    std::fs::write(root.join(format!("blobs/ab/{}", Sha256([0xab; 32]))), "renamed but never recorded").unwrap();
    std::fs::write(root.join("blobs/ab/no-digest"), "strange").unwrap();

    let lab = lab.restart().await;
    assert_eq!(lab.files().len(), 1);
    assert_eq!(read(&lab.store, &record).await, b"whole");
}

#[tokio::test]
async fn a_replica_whose_bytes_are_gone_is_forgotten_at_the_start() {
    let lab = Lab::new().await;
    lab.take_in("a.test", "/x", b"whole").await;
    std::fs::remove_file(&lab.files()[0]).unwrap();
    let lab = lab.restart().await;
    assert!(lab.store.find("a.test", "/x").is_none());
    assert_eq!(lab.store.usage(), Usage::default());
}

#[tokio::test]
async fn changed_bytes_on_disk_are_noticed_before_they_are_served() {
    let lab = Lab::new().await;
    let record = lab.take_in("a.test", "/x", b"whole").await;
    lab.store.verify(&record).await.unwrap();
    std::fs::write(&lab.files()[0], "wrong").unwrap();
    assert!(matches!(lab.store.verify(&record).await, Err(ReadError::Corrupt)));
    std::fs::remove_file(&lab.files()[0]).unwrap();
    assert!(matches!(lab.store.verify(&record).await, Err(ReadError::Missing)));
}

#[tokio::test]
async fn open_replicas_are_served_until_they_change_and_closed_when_they_go() {
    let lab = Lab::new().await;
    let record = lab.take_in("a.test", "/x", b"whole").await;
    for _ in 0..2 {
        let content = lab.store.open_content(&record).await.unwrap();
        assert!(matches!(content, Content::File(_)));
        let parts: Vec<Bytes> = content.read(1..4).await.unwrap().try_collect().await.unwrap();
        assert_eq!(parts.concat(), b"hol");
    }
    std::fs::write(&lab.files()[0], "wrong").unwrap();
    assert!(matches!(lab.store.open_content(&record).await, Err(ReadError::Corrupt)));

    let other = lab.take_in("b.test", "/y", b"other").await;
    lab.store.open_content(&other).await.unwrap();
    assert!(lab.store.open.as_ref().unwrap().find(&other.sha256).is_some());
    lab.give_up("b.test", "/y").await;
    assert!(lab.store.open.as_ref().unwrap().find(&other.sha256).is_none());
    assert!(matches!(lab.store.open_content(&other).await, Err(ReadError::Missing)));
}

#[tokio::test]
async fn damage_that_leaves_no_trace_is_no_longer_served_once_the_scrub_has_found_it() {
    let lab = Lab::new().await;
    let record = lab.take_in("a.test", "/x", b"whole").await;
    std::fs::write(&lab.files()[0], "wrong").unwrap();
    let open = lab.store.open.as_ref().unwrap();
    // As if the disk had changed by itself, and nothing but the bytes.
    let file = open.open(place(&record.sha256).as_ref()).await.unwrap();
    assert!(open.keep(record.sha256, &file));
    assert!(matches!(lab.store.scrub(&record).await, Err(ReadError::Corrupt)));
    assert!(open.find(&record.sha256).is_none());
    assert!(matches!(lab.store.open_content(&record).await, Err(ReadError::Corrupt)));
}

#[tokio::test]
async fn origins_that_share_bytes_share_the_blob_and_are_each_charged() {
    let lab = Lab::new().await;
    lab.take_in("a.test", "/x", b"same").await;
    let second = lab.take_in("b.test", "/y", b"same").await;
    assert_eq!(lab.files().len(), 1);
    let usage = lab.store.usage();
    assert_eq!((usage.total_bytes, usage.by_origin["a.test"], usage.by_origin["b.test"]), (8, 4, 4));

    lab.give_up("a.test", "/x").await;
    assert_eq!(read(&lab.store, &second).await, b"same");
    lab.give_up("b.test", "/y").await;
    assert!(lab.files().is_empty());
    assert_eq!(lab.store.usage(), Usage::default());
}

#[tokio::test]
async fn a_new_version_takes_the_place_of_the_old_one() {
    let lab = Lab::new().await;
    lab.take_in("a.test", "/x", b"old").await;
    let new = lab.take_in("a.test", "/x", b"newer").await;
    assert_eq!(lab.store.find("a.test", "/x").unwrap().record, new);
    assert_eq!(lab.files().len(), 1);
    assert_eq!(lab.store.usage().total_bytes, 5);
}

#[tokio::test]
async fn an_older_version_that_comes_late_does_not_replace_a_newer_one() {
    let lab = Lab::new().await;
    let (old, old_signed) = lab.object("a.test", "/x", b"old");
    let reservation = lab.reserve(&old);
    let mut incoming = lab.store.begin(&old).await.unwrap();
    incoming.push(Bytes::from_static(b"old")).await.unwrap();
    let new = ObjectRecord { sequence: 2, ..lab.object("a.test", "/x", b"new").0 };
    let new_signed = sign(&lab.key, &new).unwrap();
    let new_reservation = lab.reserve(&new);
    let mut new_incoming = lab.store.begin(&new).await.unwrap();
    new_incoming.push(Bytes::from_static(b"new")).await.unwrap();
    lab.store.commit(new_incoming, new_signed, new_reservation).await.unwrap();
    let late = lab.store.commit(incoming, old_signed, reservation).await;
    assert!(matches!(late, Err(IncomingError::Outdated)));
    assert_eq!(read(&lab.store, &new).await, b"new");
    assert_eq!((lab.files().len(), lab.store.usage().total_bytes), (1, 3));
}

#[tokio::test]
async fn bytes_set_aside_are_given_back_when_nothing_comes() {
    let lab = Lab::new().await;
    let (record, _) = lab.object("a.test", "/x", b"0123456789");
    let reservation = lab.reserve(&record);
    assert_eq!(lab.store.usage().total_bytes, 10);
    assert!(lab.store.reserve(&record, |usage| if usage.total_bytes < 10 { Ok(()) } else { Err("full") }).is_err());
    drop(reservation);
    assert_eq!(lab.store.usage(), Usage::default());
}

#[tokio::test]
async fn a_blob_that_is_being_published_again_is_not_removed_under_it() {
    let lab = Lab::new().await;
    for _ in 0..20 {
        let record = lab.take_in("a.test", "/x", b"same").await;
        let replica = lab.store.find("a.test", "/x").unwrap();
        lab.store.retire(&replica).await.unwrap();
        let (again, removed) =
            tokio::join!(lab.take_in("a.test", "/x", b"same"), lab.store.remove_unused(&record.sha256));
        removed.unwrap();
        assert_eq!(read(&lab.store, &again).await, b"same");
        lab.give_up("a.test", "/x").await;
    }
}
