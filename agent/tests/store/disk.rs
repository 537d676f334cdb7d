//! Real small disks, in a namespace of their own so that mounting needs no rights.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use p2pcdn_agent::identity::{Counter, NodeKey};
use p2pcdn_agent::replicate::host::deny::{Denial, DenyList};
use p2pcdn_agent::replicate::host::outbox::Outbox;
use p2pcdn_agent::replicate::messages::{Withdrawal, WithdrawalReason};
use p2pcdn_agent::state_db::StateDb;
use p2pcdn_agent::store::{IncomingError, StoreError};
use p2pcdn_core::object::{CHUNK_BYTES, Sha256};

use crate::lab::{assert_no_orphans, assert_whole, noise, object, open, small, take_in};
use crate::{PART, runtime};

pub(crate) fn full_disk() {
    in_namespace("disk");
}

pub(crate) fn full_state() {
    in_namespace("state");
}

pub(crate) fn permissions() {
    in_namespace("permissions");
}

/// Runs a part as the root of a user namespace who may mount but has no rights over files that are not his.
fn in_namespace(part: &str) {
    let directory = tempfile::tempdir().unwrap();
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "setpriv", "--bounding-set=-dac_override,-dac_read_search"]);
    let output = command.arg(own).arg(directory.path()).env(PART, part).output().expect("unshare of util-linux runs");
    assert!(
        output.status.success(),
        "This test mounts a small tmpfs in a user namespace. If that is forbidden here, allow it \
         (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0) or run as root.\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

fn mount(arguments: &[&str], target: &Path) {
    let Output { status, stderr, .. } = Command::new("mount").args(arguments).arg(target).output().unwrap();
    assert!(status.success(), "mount {arguments:?}: {}", String::from_utf8_lossy(&stderr));
}

fn store_error(result: Result<(), IncomingError>) -> StoreError {
    match result {
        Err(IncomingError::Store(error)) => error,
        other => panic!("expected the store to fail, not {other:?}"),
    }
}

pub(crate) fn child(directory: &Path) {
    let disk = directory.join("disk");
    std::fs::create_dir(&disk).unwrap();
    mount(&["-t", "tmpfs", "-o", "size=8m", "tmpfs"], &disk);
    runtime().block_on(async {
        let key = NodeKey::load_or_create(&directory.join("key")).unwrap();
        let replicas = disk.join("replicas");
        let store = open(&replicas).await.unwrap();
        let large = |number: u64| noise(number, CHUNK_BYTES as usize * 5 / 4);
        let offered = |number: u64| object(&key, "a.test", &format!("/{number}"), number, &large(number));

        // Room for some; then the disk is full to the last block.
        for number in 1..=3 {
            take_in(&store, offered(number), &large(number)).await.unwrap();
        }
        let filler = disk.join("filler");
        assert!(std::fs::write(&filler, vec![0; 8 << 20]).is_err(), "the disk is larger than it should be");
        let held = assert_whole(&store).await;
        let error = store_error(take_in(&store, offered(4), &large(4)).await);
        assert!(error.is_full(), "{error}");
        assert!(error.to_string().contains("lower host.quota"), "{error}");
        assert!(store.declines() && store.trouble().is_some());
        let bytes = noise(9, 4096);
        let (record, signed) = object(&key, "a.test", "/small", 9, &bytes);
        let outcomes = store.commit_small(vec![small(&store, &record, signed, bytes.clone())]).await;
        assert!(outcomes.into_iter().all(|outcome| store_error(outcome).is_full()));
        // What was held is served, and nothing half is visible.
        assert_eq!(assert_whole(&store).await, held);

        // Giving something up works on a full disk, and makes room.
        let given_up = store.find("a.test", "/1").unwrap();
        assert!(store.retire(&given_up).await.unwrap());
        store.remove_unused(&given_up.record.sha256).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), async {
            while store.declines() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .expect("the store tries again");
        let (record, signed) = object(&key, "a.test", "/small", 10, &bytes);
        let outcomes = store.commit_small(vec![small(&store, &record, signed, bytes)]).await;
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
        assert_eq!(store.trouble(), None);
        std::fs::remove_file(&filler).unwrap();
        take_in(&store, offered(4), &large(4)).await.unwrap();
        let held = assert_whole(&store).await;
        assert_eq!(held.len(), 4);
        drop(store);
        let store = open(&replicas).await.unwrap();
        assert_eq!(assert_whole(&store).await, held);
        assert_no_orphans(&store, &replicas);

        // As after an error of the disk: everything can be read, nothing written.
        mount(&["--bind", replicas.to_str().unwrap()], &replicas);
        mount(&["-o", "remount,bind,ro"], &replicas);
        let error = store_error(take_in(&store, offered(5), &large(5)).await);
        assert!(!error.is_full() && error.to_string().contains("mount it for writing"), "{error}");
        assert_eq!(assert_whole(&store).await, held);
        mount(&["-o", "remount,bind,rw"], &replicas);
        take_in(&store, offered(5), &large(5)).await.unwrap();
        assert_eq!(assert_whole(&store).await.len(), 5);
    });
}

pub(crate) fn state(directory: &Path) {
    let disk = directory.join("disk");
    std::fs::create_dir(&disk).unwrap();
    mount(&["-t", "tmpfs", "-o", "size=8m", "tmpfs"], &disk);
    let path = disk.join("state.redb");
    let open = || Arc::new(StateDb::open(&path).unwrap());
    let db = open();
    let (deny, outbox) = (DenyList::open(db.clone(), Vec::new()).unwrap(), Outbox::open(db.clone()).unwrap());
    let counter = Counter::new(db.clone(), "object");
    let first = counter.next(1).unwrap();
    let digest = |number: u64| Sha256(std::array::from_fn(|at| number.to_le_bytes()[at % 8]));
    let denials = |numbers: std::ops::Range<u64>| numbers.map(digest).map(Denial::Digest).collect::<Vec<_>>();
    let gone: Vec<Withdrawal> = (0..5000)
        .map(|number| Withdrawal { origin: "a.test".into(), path: format!("/{number}"), sha256: digest(number) })
        .collect();
    deny.add(&denials(0..10), 1).unwrap();
    outbox.put(&gone[..10], WithdrawalReason::Denied);
    assert!(deny.is_saved());

    let filler = disk.join("filler");
    assert!(std::fs::write(&filler, vec![0; 8 << 20]).is_err(), "the disk is larger than it should be");
    // Enough to need blocks that the file does not have yet; and again, after the first write that failed.
    for number in 1..4 {
        let more = denials(number * 5000..(number + 1) * 5000);
        assert_eq!(deny.add(&more, 2).unwrap(), 5000);
        assert!(!deny.is_saved());
        assert!(deny.covers("a.test", "/x", &digest(number * 5000)), "it holds at once");
    }
    assert_eq!(deny.remove(&denials(0..1)).unwrap(), 1);
    outbox.put(&gone, WithdrawalReason::Denied);
    outbox.told(&gone[..1]);
    assert_eq!(outbox.len(), gone.len() - 1);
    deny.save();
    assert!(!deny.is_saved(), "the disk is full still");

    std::fs::remove_file(&filler).unwrap();
    deny.save();
    outbox.save();
    assert!(deny.is_saved());
    assert!(counter.next(1).unwrap() > first, "others who write there go on, too");
    drop((deny, outbox, counter, db));
    let db = open();
    let (deny, outbox) = (DenyList::open(db.clone(), Vec::new()).unwrap(), Outbox::open(db).unwrap());
    assert_eq!((deny.len(), outbox.len()), (15_009, gone.len() - 1));
    assert!(!deny.covers("a.test", "/x", &digest(0)) && deny.covers("a.test", "/x", &digest(19_999)));
}

pub(crate) fn without_permission(directory: &Path) {
    let replicas = directory.join("replicas");
    std::fs::create_dir(&replicas).unwrap();
    let mode = |mode| std::fs::set_permissions(&replicas, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o500);
    runtime().block_on(async {
        let error = open(&replicas).await.err().expect("nothing can be written").to_string();
        assert!(error.contains(replicas.to_str().unwrap()), "{error}");
        assert!(error.contains("make it readable and writable for the user who runs p2pcdn"), "{error}");
        mode(0o700);
        assert!(open(&replicas).await.is_ok());
    });
}
