use std::path::{Path, PathBuf};

use futures_util::TryStreamExt;
use p2pcdn_core::object::CHUNK_BYTES;
use sha2::Digest;

use super::*;
use crate::identity::{NodeKey, sign, testing};

mod quota;

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
        let record = ObjectRecord { expires_s: u64::MAX, ..testing::object_record(origin, path, bytes) };
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

    /// Files of the store by the first directory of their path; the metadata is not among them.
    fn below(&self, directory: &str) -> Vec<PathBuf> {
        let below = walkdir::WalkDir::new(self.directory.path().join(directory)).into_iter().filter_map(Result::ok);
        below.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
    }

    /// Every file with bytes of objects.
    fn files(&self) -> Vec<PathBuf> {
        ["blobs", "incoming", "staging"].into_iter().flat_map(|directory| self.below(directory)).collect()
    }
}

pub(crate) fn location(directory: &Path) -> Location {
    let access =
        BucketAccess { endpoint: String::new(), region: String::new(), tls: testing::Authority::new().trusting() };
    Location { directory: directory.into(), place: Place::State, access, max_unfinished_bytes: 1 << 20 }
}

async fn open(directory: &Path) -> Arc<ReplicaStore> {
    Arc::new(ReplicaStore::open(location(directory)).await.unwrap())
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
async fn wrong_bytes_are_noticed_in_their_chunk_and_another_source_goes_on_from_there() {
    let lab = Lab::new().await;
    let content = bytes(1, 2 * CHUNK_BYTES as usize + 9);
    let (record, signed) = lab.object("a.test", "/x", &content);
    let reservation = lab.reserve(&record);
    let mut wrong = content.clone();
    wrong[CHUNK_BYTES as usize + 7] ^= 1;
    let mut incoming = lab.store.begin(&record).await.unwrap();
    let error = incoming.push(wrong.into()).await.unwrap_err();
    assert!(matches!(error, IncomingError::WrongBytes { chunk: 1 }), "{error}");
    assert_eq!(incoming.rewind(), CHUNK_BYTES);
    incoming.push(Bytes::copy_from_slice(&content[CHUNK_BYTES as usize..])).await.unwrap();
    lab.store.commit(incoming, signed, reservation).await.unwrap();
    assert_eq!(read(&lab.store, &record).await, content);
    assert_eq!(lab.files().len(), 1);
}

#[tokio::test]
async fn an_interrupted_object_goes_on_where_it_was_verified_also_after_a_restart() {
    let lab = Lab::new().await;
    let content = bytes(1, 3 * CHUNK_BYTES as usize + 9);
    let (record, signed) = lab.object("a.test", "/x", &content);
    let mut incoming = lab.store.begin(&record).await.unwrap();
    incoming.push(Bytes::copy_from_slice(&content[..2 * CHUNK_BYTES as usize + 1])).await.unwrap();
    assert_eq!(incoming.received(), 2 * CHUNK_BYTES);
    incoming.suspend().await;

    let lab = lab.restart().await;
    // What a crash tears, or somebody else changes, is hashed before it is believed.
    let part = &lab.below("incoming")[0];
    let mut torn = std::fs::read(part).unwrap();
    torn[CHUNK_BYTES as usize] ^= 1;
    torn.extend([0; 1000]);
    std::fs::write(part, torn).unwrap();
    let mut incoming = lab.store.begin(&record).await.unwrap();
    assert_eq!(incoming.received(), CHUNK_BYTES);
    let again = lab.store.begin(&record).await.unwrap();
    assert_eq!(again.received(), 0, "two fetch the same bytes, each into a file of its own");
    again.discard().await;
    incoming.push(Bytes::copy_from_slice(&content[CHUNK_BYTES as usize..])).await.unwrap();
    lab.store.commit(incoming, signed, lab.reserve(&record)).await.unwrap();
    assert_eq!(read(&lab.store, &record).await, content);
    assert_eq!(lab.files().len(), 1);
}

#[tokio::test]
async fn what_is_given_up_leaves_nothing() {
    let lab = Lab::new().await;
    let content = bytes(1, 2 * CHUNK_BYTES as usize);
    let (record, _) = lab.object("a.test", "/x", &content);
    let mut incoming = lab.store.begin(&record).await.unwrap();
    incoming.push(content.into()).await.unwrap();
    assert_eq!(lab.files().len(), 1);
    incoming.discard().await;
    assert_eq!(lab.files(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn bytes_under_another_statement_are_refused() {
    let lab = Lab::new().await;
    let (record, _) = lab.object("a.test", "/x", b"bytes");
    let (other, signed) = lab.object("a.test", "/x", b"other");
    let mut incoming = lab.store.begin(&record).await.unwrap();
    incoming.push(Bytes::from_static(b"bytes")).await.unwrap();
    let refused = lab.store.commit(incoming, signed, lab.reserve(&other)).await;
    assert!(matches!(refused, Err(IncomingError::OtherBytes)));
    assert_eq!(lab.store.usage(), Usage::default());
}

#[tokio::test]
async fn small_objects_are_committed_together_and_fail_one_by_one() {
    let lab = Lab::new().await;
    let small = |path: &str, signed_bytes: &'static [u8], sequence, bytes: &'static [u8]| {
        let record = ObjectRecord { sequence, ..lab.object("a.test", path, signed_bytes).0 };
        let signed = sign(&lab.key, &record).unwrap();
        Small { bytes: Bytes::from_static(bytes), signed, reservation: lab.reserve(&record) }
    };
    lab.take_in("a.test", "/x", b"first").await;
    let outcomes = lab.store.commit_small(vec![
        small("/x", b"second", 3, b"second"),
        small("/x", b"late", 2, b"late"),
        small("/y", b"right", 1, b"wrong"),
        small("/y", b"long", 1, b"longer"),
        small("/y", b"cut", 1, b"cu"),
        small("/z", b"second", 1, b"second"),
    ]);
    let outcomes: Vec<_> = outcomes.await.into_iter().map(|outcome| outcome.err().map(|e| e.to_string())).collect();
    let expected = [
        None,
        Some("a newer version has come in meanwhile"),
        Some("wrong bytes in chunk 0"),
        Some("more bytes than the record says"),
        Some("the body ended after 0 bytes"),
        None,
    ];
    assert_eq!(outcomes, expected.map(|text| text.map(String::from)));
    assert_eq!(lab.store.usage().total_bytes, 12);
    assert_eq!((lab.files().len(), lab.below("records").len()), (1, 2));

    let lab = lab.restart().await;
    let record = &lab.store.find("a.test", "/z").unwrap().record;
    assert_eq!(read(&lab.store, record).await, b"second");
    assert_eq!((lab.store.list().len(), lab.store.usage().total_bytes), (2, 12));
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
    assert!(matches!(error, IncomingError::CutOff { received: 0 }));
    assert!(lab.store.find("a.test", "/x").is_none());
    assert_eq!(lab.store.usage(), Usage::default());
}

#[tokio::test]
async fn what_a_crash_leaves_half_is_gone_after_a_restart() {
    let lab = Lab::new().await;
    let record = lab.take_in("a.test", "/x", b"whole").await;
    let root = lab.directory.path();
    std::fs::write(root.join("staging/7"), "half").unwrap();
    std::fs::write(root.join("incoming/strange"), "half").unwrap();
    std::fs::create_dir_all(root.join("records/ab")).unwrap();
    std::fs::write(root.join(format!("records/ab/{}", Sha256([0xab; 32]))), "no record").unwrap();
    std::fs::create_dir_all(root.join("blobs/ab")).unwrap();
    std::fs::write(root.join(format!("blobs/ab/{}", Sha256([0xab; 32]))), "renamed but never recorded").unwrap();
    std::fs::write(root.join("blobs/ab/no-digest"), "strange").unwrap();

    let lab = lab.restart().await;
    assert_eq!((lab.files().len(), lab.below("records").len()), (1, 1));
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
async fn a_large_blob_that_is_read_holds_up_no_small_one() {
    let lab = Lab::new().await;
    let record = lab.take_in("a.test", "/x", b"whole").await;
    let lab = lab.restart().await;
    let _reading = lab.store.verifying.of(1 << 30).lock().await;
    lab.store.verify(&record).await.unwrap();
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
    assert!(lab.store.open.find(&other.sha256).is_some());
    lab.give_up("b.test", "/y").await;
    assert!(lab.store.open.find(&other.sha256).is_none());
    assert!(matches!(lab.store.open_content(&other).await, Err(ReadError::Missing)));
}

#[tokio::test]
async fn damage_that_leaves_no_trace_is_no_longer_served_once_the_scrub_has_found_it() {
    let lab = Lab::new().await;
    let record = lab.take_in("a.test", "/x", b"whole").await;
    std::fs::write(&lab.files()[0], "wrong").unwrap();
    let open = &lab.store.open;
    // As if the disk had changed by itself, and nothing but the bytes.
    let file = open.open(lab.store.blobs.file_of(&record.sha256).unwrap()).await.unwrap();
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

#[tokio::test]
async fn metadata_that_is_lost_is_rebuilt_from_records_whose_bytes_are_right() {
    let lab = Lab::new().await;
    let kept = lab.take_in("a.test", "/kept", b"kept").await;
    lab.take_in("a.test", "/rotten", b"rotten").await;
    lab.take_in("b.test", "/forged", b"forged").await;
    let gone = lab.take_in("a.test", "/gone", b"gone").await;
    let forged = lab.store.find("b.test", "/forged").unwrap().signed.digest().to_string();
    let rotten = Sha256(sha2::Sha256::digest(b"rotten").into()).to_string();
    let named =
        |directory: &str, name: &str| lab.below(directory).into_iter().find(|path| path.ends_with(name)).unwrap();
    std::fs::write(named("blobs", &rotten), "rotted").unwrap();
    let record = std::fs::read_to_string(named("records", &forged)).unwrap().replace("/forged", "/stolen");
    std::fs::write(named("records", &forged), record).unwrap();
    lab.give_up("a.test", "/gone").await;
    std::fs::write(lab.directory.path().join("replicas.redb"), "no database").unwrap();

    let lab = lab.restart().await;
    let held: Vec<String> = lab.store.list().iter().map(|replica| replica.record.path.clone()).collect();
    assert_eq!(held, ["/kept"]);
    assert_eq!(read(&lab.store, &kept).await, b"kept");
    assert_eq!(lab.store.usage().total_bytes, kept.size);
    assert_eq!((lab.files().len(), lab.below("records").len()), (1, 1));
    assert!(lab.store.find("a.test", &gone.path).is_none());
}

#[tokio::test]
async fn a_retirement_that_a_crash_cut_off_is_finished_at_the_start() {
    let lab = Lab::new().await;
    lab.take_in("a.test", "/x", b"bytes").await;
    std::fs::remove_file(&lab.below("records")[0]).unwrap();
    let lab = lab.restart().await;
    assert!(lab.store.find("a.test", "/x").is_none());
    assert_eq!(lab.files(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn unfinished_objects_are_bounded_in_bytes_and_age() {
    let lab = Lab::new().await;
    let begin = async |number: u8| {
        let content = bytes(number, 3 * CHUNK_BYTES as usize);
        let (record, _) = lab.object("a.test", &format!("/{number}"), &content);
        let mut incoming = lab.store.begin(&record).await.unwrap();
        incoming.push(Bytes::copy_from_slice(&content[..2 * CHUNK_BYTES as usize])).await.unwrap();
        incoming.suspend().await;
        record
    };
    let first = begin(1).await;
    let day_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 3600);
    std::fs::File::open(&lab.below("incoming")[0]).unwrap().set_modified(day_ago).unwrap();
    let mut rest = Vec::new();
    for number in 2..=4 {
        rest.push(begin(number).await);
    }
    // The bound is 1 MiB, two of half a MiB.
    assert_eq!(lab.below("incoming").len(), 2);
    assert_eq!(lab.store.begin(&first).await.unwrap().received(), 0);
    assert_eq!(lab.store.begin(&rest[2]).await.unwrap().received(), 2 * CHUNK_BYTES);
}
