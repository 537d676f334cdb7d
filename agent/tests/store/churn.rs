//! A process that commits, renews, replaces, interrupts and gives up replicas until it is killed, and says what it does, before and after.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use p2pcdn_agent::identity::NodeKey;
use p2pcdn_agent::store::ReplicaStore;
use p2pcdn_core::object::CHUNK_BYTES;

use crate::lab::{ORIGINS, noise, object, open, reserve, small};
use crate::runtime;

/// Paths of which each is held or not.
pub(crate) const PATHS: u64 = 24;
/// Few contents for many paths, so that paths and origins share bytes.
const CONTENTS: u64 = 12;

/// Runs until killed; the random numbers come from the system.
pub(crate) fn run(directory: &Path) {
    runtime().block_on(async {
        let key = NodeKey::load_or_create(&directory.join("key")).unwrap();
        let store = open(&directory.join("replicas")).await.unwrap();
        let mut sequence = store.list().iter().map(|replica| replica.record.sequence).max().unwrap_or(0);
        loop {
            sequence += 1;
            let dice = getrandom::u64().unwrap();
            let (origin, path) = (ORIGINS[(dice % 2) as usize], format!("/{}", dice / 2 % PATHS));
            let content = dice / 1000 % CONTENTS;
            match dice / 100_000 % 8 {
                0..3 => batch(&store, &key, sequence, dice).await,
                3..5 => whole(&store, &key, (origin, &path), sequence, content).await,
                5 => interrupted(&store, &key, (origin, &path), sequence, content).await,
                6 => renew(&store, &key, (origin, &path), sequence).await,
                _ => give_up(&store, (origin, &path)).await,
            }
        }
    });
}

/// Where the parent reads it even after this process is gone.
fn say(what: &str, origin: &str, path: &str, digest: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} {origin} {path} {digest}").and_then(|()| out.flush()).unwrap();
}

async fn batch(store: &Arc<ReplicaStore>, key: &NodeKey, sequence: u64, dice: u64) {
    let mut objects = Vec::new();
    let mut said = Vec::new();
    for number in 0..=dice % 7 {
        let (origin, path) = (ORIGINS[(number % 2) as usize], format!("/{}", (dice / 10 + number) % PATHS));
        let bytes = noise(dice / 1000 % CONTENTS + number % 3, 4096);
        let (record, signed) = object(key, origin, &path, sequence, &bytes);
        say("begin", origin, &path, record.sha256);
        objects.push(small(store, &record, signed, bytes));
        said.push((origin, path, record.sha256));
    }
    let outcomes = store.commit_small(objects).await;
    for (outcome, (origin, path, digest)) in outcomes.into_iter().zip(said) {
        outcome.unwrap();
        say("held", origin, &path, digest);
    }
}

async fn whole(store: &Arc<ReplicaStore>, key: &NodeKey, (origin, path): (&str, &str), sequence: u64, content: u64) {
    let bytes = noise(content, (content + 1) as usize * CHUNK_BYTES as usize / 4 + 1);
    let (record, signed) = object(key, origin, path, sequence, &bytes);
    say("begin", origin, path, record.sha256);
    let reservation = reserve(store, &record);
    let mut incoming = store.begin(&record).await.unwrap();
    let at = incoming.received() as usize;
    incoming.push(bytes[at..].to_vec().into()).await.unwrap();
    store.commit(incoming, signed, reservation).await.unwrap();
    say("held", origin, path, record.sha256);
}

async fn interrupted(
    store: &Arc<ReplicaStore>,
    key: &NodeKey,
    (origin, path): (&str, &str),
    sequence: u64,
    content: u64,
) {
    let bytes = noise(content, (content + 1) as usize * CHUNK_BYTES as usize / 4 + 1);
    let (record, _) = object(key, origin, path, sequence, &bytes);
    let mut incoming = store.begin(&record).await.unwrap();
    let at = incoming.received() as usize;
    incoming.push(bytes[at..at + (bytes.len() - at) / 2].to_vec().into()).await.unwrap();
    incoming.suspend().await;
}

async fn renew(store: &Arc<ReplicaStore>, key: &NodeKey, (origin, path): (&str, &str), sequence: u64) {
    let Some(held) = store.find(origin, path) else { return };
    let record = p2pcdn_core::object::ObjectRecord { sequence, ..held.record.clone() };
    assert!(store.renew(p2pcdn_agent::identity::sign(key, &record).unwrap()).await.unwrap());
    say("held", origin, path, record.sha256);
}

async fn give_up(store: &Arc<ReplicaStore>, (origin, path): (&str, &str)) {
    let Some(held) = store.find(origin, path) else { return };
    say("begin", origin, path, held.record.sha256);
    assert!(store.retire(&held).await.unwrap());
    say("gone", origin, path, held.record.sha256);
    store.remove_unused(&held.record.sha256).await.unwrap();
}
