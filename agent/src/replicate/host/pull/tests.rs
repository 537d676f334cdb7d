//! Sources that fail in every way that they can, over real connections.

mod lab;
mod offers;

use std::time::{Duration, Instant};

use bytes::Bytes;
use p2pcdn_core::object::{CHUNK_BYTES, Sha256};
use tokio_util::sync::CancellationToken;

use self::lab::{HostLab, Manner, Source, noise, until};
use super::{Ends, Running};
use crate::replicate::messages::{Decline, MAX_BATCH, Verdict};
use crate::telemetry::PeerLabel;

const CHUNK: usize = CHUNK_BYTES as usize;

/// An origin, a holder of its object, and a host that is offered it and takes it in; what both were asked for.
async fn pull_from(holder_sends: Manner, origin_sends: Manner, object: &Bytes) -> (HostLab, Source, Source) {
    let (origin, holder) =
        (Source::start("origin.test", origin_sends).await, Source::start("b.test", holder_sends).await);
    let record = origin.object("/x.png", object, 1);
    holder.has(object);
    let host = HostLab::start(&[&origin, &holder]).await;
    host.accepts(&origin, &record, &["b.test"]).await;
    host.takes_in(&origin, "/x.png", object).await;
    host.at_rest().await;
    until("the origin hears of it", || origin.acknowledged().len() == 1).await;
    assert_eq!(host.unfinished(), [] as [u64; 0]);
    (host, origin, holder)
}

fn from(chunk: usize) -> String {
    format!("bytes={}-", chunk * CHUNK)
}

#[tokio::test]
async fn a_holder_is_asked_before_the_origin() {
    let object = noise(1, 3 * CHUNK + 5);
    let (host, origin, holder) = pull_from(Manner::Honestly, Manner::Honestly, &object).await;
    assert_eq!((origin.asked().len(), holder.asked()), (0, vec![String::new()]));
    let pulled = host.metrics.pulled_bytes.get(&PeerLabel::of("b.test")).unwrap().get();
    assert_eq!(pulled, object.len() as u64);
}

#[tokio::test]
async fn a_source_that_dies_within_a_chunk_costs_that_chunk() {
    let object = noise(2, 4 * CHUNK);
    let dies = Manner::UpTo(2 * CHUNK_BYTES + 1000);
    let (_, origin, holder) = pull_from(dies, Manner::Honestly, &object).await;
    assert_eq!((holder.asked(), origin.asked()), (vec![String::new()], vec![from(2)]));
}

#[tokio::test]
async fn wrong_bytes_cost_one_chunk_and_their_source_the_rest() {
    let object = noise(3, 4 * CHUNK);
    let wrong = Manner::WrongAt(3 * CHUNK_BYTES + 7);
    let (_, origin, holder) = pull_from(wrong, Manner::Honestly, &object).await;
    assert_eq!((holder.asked().len(), origin.asked()), (1, vec![from(3)]));
}

#[tokio::test]
async fn a_source_without_end_is_left_when_the_object_is_complete() {
    let object = noise(4, 2 * CHUNK + 1);
    let (_, origin, _) = pull_from(Manner::Endlessly, Manner::Honestly, &object).await;
    assert_eq!(origin.asked().len(), 0);
}

#[tokio::test]
async fn drips_and_silence_are_soon_left() {
    let object = noise(5, 2 * CHUNK);
    for manner in [Manner::InDrips, Manner::Never] {
        let begun = Instant::now();
        let (_, origin, holder) = pull_from(manner, Manner::Honestly, &object).await;
        assert_eq!((holder.asked().len(), origin.asked()), (1, vec![String::new()]));
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_source_that_knows_no_ranges_is_good_for_the_rest() {
    let object = noise(6, 3 * CHUNK);
    let dies = Manner::UpTo(CHUNK_BYTES + 1);
    let (_, origin, _) = pull_from(dies, Manner::InWhole, &object).await;
    assert_eq!(origin.asked(), [from(1)]);
}

#[tokio::test]
async fn strangers_are_never_asked() {
    let object = noise(7, CHUNK + 1);
    let (origin, stranger) =
        (Source::start("origin.test", Manner::Honestly).await, Source::start("b.test", Manner::Honestly).await);
    stranger.has(&object);
    let record = origin.object("/x.png", &object, 1);
    let host = HostLab::start(&[&origin]).await;
    host.accepts(&origin, &record, &["b.test", "nowhere.test", "host.test"]).await;
    host.takes_in(&origin, "/x.png", &object).await;
    assert_eq!((stranger.asked().len(), origin.asked().len()), (0, 1));
}

#[tokio::test]
async fn what_no_source_has_is_given_back_and_goes_on_when_it_is_offered_again() {
    let object = noise(8, 3 * CHUNK);
    let origin = Source::start("origin.test", Manner::WrongAt(2 * CHUNK_BYTES)).await;
    let record = origin.object("/x.png", &object, 1);
    let host = HostLab::start(&[&origin]).await;
    host.accepts(&origin, &record, &[]).await;
    host.at_rest().await;
    assert_eq!(host.store.usage().total_bytes, 0);
    assert_eq!(host.unfinished(), [2 * CHUNK_BYTES]);

    // Not even a restart loses what is there already.
    let host = host.restart(&[&origin]).await;
    origin.set(Manner::Honestly);
    host.accepts(&origin, &record, &[]).await;
    host.takes_in(&origin, "/x.png", &object).await;
    assert_eq!(origin.asked(), [String::new(), from(2)]);
    assert_eq!(host.store.usage().total_bytes, object.len() as u64);
}

#[tokio::test]
async fn a_newer_version_ends_the_pull_of_the_older() {
    let (old, new) = (noise(9, 2 * CHUNK), noise(10, 2 * CHUNK));
    let origin = Source::start("origin.test", Manner::UpTo(CHUNK_BYTES)).await;
    let holder = Source::start("b.test", Manner::InDrips).await;
    holder.has(&old);
    let host = HostLab::start(&[&origin, &holder]).await;
    let (first, second) = (origin.object("/x.png", &old, 1), origin.object("/x.png", &new, 2));
    host.accepts(&origin, &first, &["b.test"]).await;
    until("the holder drips", || !holder.asked().is_empty()).await;
    origin.set(Manner::Honestly);
    host.accepts(&origin, &second, &[]).await;
    host.takes_in(&origin, "/x.png", &new).await;
    host.at_rest().await;
    assert_eq!(origin.asked(), [String::new()], "the older version was asked for");
    assert_eq!(host.unfinished(), [] as [u64; 0]);
    assert_eq!(host.store.usage().total_bytes, new.len() as u64);
}

#[tokio::test]
async fn a_denial_reaches_what_is_under_way_what_waits_and_what_was_left_for_another_attempt() {
    let origin = Source::start("origin.test", Manner::UpTo(CHUNK_BYTES + 1)).await;
    let other = Source::start("other.test", Manner::Slowly).await;
    let host = HostLab::start(&[&origin, &other]).await;
    let deny = async |entry: &str| {
        host.puller.terms.deny.add(&[entry.parse().unwrap()], 1).unwrap();
        host.puller.reconsider().await;
    };
    // Cut off after its first chunk, which is kept.
    let cut_off = noise(20, 2 * CHUNK);
    host.accepts(&origin, &origin.object("/cut-off.png", &cut_off, 1), &[]).await;
    host.at_rest().await;
    assert_eq!(host.unfinished(), [CHUNK_BYTES]);
    deny(&lab::digest(&cut_off).to_string()).await;
    assert_eq!(host.unfinished(), [] as [u64; 0]);

    // More than what is fetched from one origin at the same time.
    let objects: Vec<Bytes> = (0..8).map(|n| noise(30 + n, 12 * CHUNK)).collect();
    for (n, bytes) in (0u64..).zip(&objects) {
        host.accepts(&other, &other.object(&format!("/{n}.png"), bytes, n), &[]).await;
    }
    until("bytes have come", || host.unfinished().iter().any(|length| *length > 0)).await;
    deny("other.test").await;
    let denied = Instant::now();
    host.at_rest().await;
    assert!(denied.elapsed().as_secs() < 2, "{:?}", denied.elapsed());
    assert_eq!((host.unfinished(), host.store.usage().total_bytes), (vec![], 0));
    assert!(host.store.is_empty() && other.acknowledged().is_empty());
    assert_eq!(other.asked().len(), 4, "what waited was never asked for");
}

#[tokio::test]
async fn a_denial_reaches_into_a_batch_and_leaves_the_rest_of_it() {
    let origin = Source::start("origin.test", Manner::Slowly).await;
    let host = HostLab::idle(&[&origin]).await;
    let objects: Vec<Bytes> = (0..10).map(|n| noise(40 + n, 30_000)).collect();
    for (n, bytes) in (0u64..).zip(&objects) {
        host.accepts(&origin, &origin.object(&format!("/{n}.png"), bytes, n), &[]).await;
    }
    host.go();
    let pulled = || host.metrics.pulled_bytes.get(&PeerLabel::of("origin.test")).map_or(0, |bytes| bytes.get());
    until("the batch is under way", || pulled() > 0).await;
    host.puller.terms.deny.add(&["origin.test/3".parse().unwrap()], 1).unwrap();
    host.puller.reconsider().await;
    host.at_rest().await;
    until("the rest is acknowledged", || !origin.acknowledged().is_empty()).await;
    assert_eq!((host.store.len(), host.holds(&origin, "/3.png", &objects[3])), (9, false));
    assert!(origin.acknowledged().concat().iter().all(|told| told.path != "/3.png"));
}

#[tokio::test]
async fn offers_may_come_twice_and_in_any_order() {
    let (old, new) = (noise(11, CHUNK + 1), noise(12, CHUNK + 1));
    let origin = Source::start("origin.test", Manner::InDrips).await;
    let host = HostLab::start(&[&origin]).await;
    let (first, second) = (origin.object("/x.png", &old, 1), origin.object("/x.png", &new, 2));
    for _ in 0..5 {
        host.accepts(&origin, &second, &[]).await;
    }
    host.declines(&origin, &first, Decline::Outdated).await;
    assert_eq!(host.store.usage().total_bytes, new.len() as u64);
    host.at_rest().await;
    origin.set(Manner::Honestly);
    host.accepts(&origin, &second, &[]).await;
    host.takes_in(&origin, "/x.png", &new).await;
    host.at_rest().await;
    assert_eq!(origin.asked().len(), 2);
    host.declines(&origin, &first, Decline::Outdated).await;
    assert!(matches!(host.offer(&origin, &second, &[]).await, Verdict::Held { .. }));
}

#[tokio::test]
async fn small_objects_come_together_and_what_a_holder_lacks_from_the_origin() {
    let origin = Source::start("origin.test", Manner::Honestly).await;
    let holder = Source::start("b.test", Manner::Honestly).await;
    let host = HostLab::idle(&[&origin, &holder]).await;
    let objects: Vec<Bytes> = (0..600).map(|n| noise(100 + n, 1000 + n as usize)).collect();
    let records: Vec<_> =
        (0u64..).zip(&objects).map(|(n, bytes)| origin.object(&format!("/{n}.png"), bytes, n)).collect();
    objects.iter().skip(10).for_each(|bytes| holder.has(bytes));
    for record in &records {
        host.accepts(&origin, record, &["b.test"]).await;
    }
    host.go();
    for (n, bytes) in objects.iter().enumerate() {
        host.takes_in(&origin, &format!("/{n}.png"), bytes).await;
    }
    host.at_rest().await;
    until("all are acknowledged", || origin.acknowledged().concat().len() == 600).await;
    let (asked, told) = (holder.asked().len() + origin.asked().len(), origin.acknowledged().len());
    assert!(asked <= 4 && told <= 4, "{asked} requests, {told} messages");
    assert!(origin.acknowledged().iter().all(|message| message.len() <= MAX_BATCH));
    assert_eq!(host.store.usage().total_bytes, objects.iter().map(|bytes| bytes.len() as u64).sum::<u64>());
}

#[tokio::test]
async fn a_batch_survives_sources_that_lie_or_stop() {
    // The first frame's length, the first object, the fifth; half a batch; none.
    let manners = [Manner::WrongAt(3), Manner::WrongAt(4), Manner::WrongAt(4100), Manner::UpTo(2000), Manner::Never];
    for manner in manners {
        let origin = Source::start("origin.test", Manner::Honestly).await;
        let holder = Source::start("b.test", manner).await;
        let host = HostLab::idle(&[&origin, &holder]).await;
        let objects: Vec<Bytes> = (0..8).map(|n| noise(200 + n, 1000)).collect();
        for (n, bytes) in (0u64..).zip(&objects) {
            holder.has(bytes);
            host.accepts(&origin, &origin.object(&format!("/{n}.png"), bytes, n), &["b.test"]).await;
        }
        host.go();
        for (n, bytes) in objects.iter().enumerate() {
            host.takes_in(&origin, &format!("/{n}.png"), bytes).await;
        }
    }
}

#[tokio::test]
async fn a_storm_of_offers_from_one_peer_leaves_others_alone() {
    let stormy = Source::start("origin.test", Manner::Never).await;
    let calm = Source::start("calm.test", Manner::Honestly).await;
    let host = HostLab::start(&[&stormy, &calm]).await;
    let object = noise(13, 2 * CHUNK);
    let records: Vec<_> = (0..40).map(|n| stormy.object(&format!("/{n}.png"), &noise(300 + n, CHUNK + 1), n)).collect();
    let storm = async {
        let (mut accepted, mut busy) = (0, 0);
        for n in 0..5_000 {
            match host.offer(&stormy, &records[n % records.len()], &[]).await {
                Verdict::Accepted => accepted += 1,
                Verdict::Declined { reason: Decline::Busy } => busy += 1,
                other => panic!("{other:?}"),
            }
        }
        (accepted, busy)
    };
    let quiet = async {
        let begun = Instant::now();
        host.accepts(&calm, &calm.object("/x.png", &object, 1), &[]).await;
        host.takes_in(&calm, "/x.png", &object).await;
        begun.elapsed()
    };
    let ((accepted, busy), took) = tokio::join!(storm, quiet);
    // A few more for the seconds that passed.
    assert!((1000..1100).contains(&accepted) && accepted + busy == 5000, "{accepted} accepted, {busy} busy");
    assert!(took.as_secs() < 10, "{took:?}");
    assert!(host.puller.state().jobs.values().all(|jobs| *jobs <= 4));
}

#[tokio::test]
async fn origins_that_are_only_just_fast_enough_make_way_for_one_that_has_nothing_under_way() {
    let mut slow = Vec::new();
    for n in 0..4 {
        slow.push(Source::start(&format!("slow{n}.test"), Manner::Slowly).await);
    }
    let calm = Source::start("calm.test", Manner::Honestly).await;
    let peers: Vec<&Source> = slow.iter().chain([&calm]).collect();
    let host = HostLab::patient(&peers).await;
    let objects: Vec<Bytes> = (0..4).map(|n| noise(600 + n, 12 * CHUNK)).collect();
    for (origin, n) in slow.iter().flat_map(|origin| (0..4).map(move |n| (origin, n))) {
        host.accepts(origin, &origin.object(&format!("/{n}.png"), &objects[n], n as u64), &[]).await;
    }
    // So that there is something to keep of each.
    let has_begun = |lengths: &[u64]| lengths.len() == 16 && lengths.iter().all(|length| *length > CHUNK_BYTES);
    until("every job is under way", || has_begun(&host.unfinished())).await;
    let object = noise(700, 2 * CHUNK);
    host.accepts(&calm, &calm.object("/x.png", &object, 1), &[]).await;
    host.takes_in(&calm, "/x.png", &object).await;
    let is_held = |origin: &Source, n: usize| host.holds(origin, &format!("/{n}.png"), &objects[n]);
    let held = slow.iter().map(|origin| (0..4).filter(|n| is_held(origin, *n)).count()).sum::<usize>();
    assert_eq!(held, 0, "it waited until others were through");
    for (origin, n) in slow.iter().flat_map(|origin| (0..4).map(move |n| (origin, n))) {
        host.takes_in(origin, &format!("/{n}.png"), &objects[n]).await;
    }
    let again: Vec<String> = slow.iter().flat_map(|origin| origin.asked().split_off(4)).collect();
    let goes_on = again.iter().all(|range| range.starts_with("bytes="));
    assert!(!again.is_empty() && goes_on, "whoever made way went on where it was: {again:?}");
}

#[tokio::test]
async fn no_turn_ends_while_a_job_is_free() {
    let calm = Source::start("calm.test", Manner::Honestly).await;
    let host = HostLab::idle(&[&calm]).await;
    host.accepts(&calm, &calm.object("/x.png", &noise(701, 2 * CHUNK), 1), &[]).await;
    let (cancel, turn) = (CancellationToken::new(), CancellationToken::new());
    let ends = Some(Ends { cancel, turn: turn.clone() });
    let running = Running { sha256: Sha256([0; 32]), sequence: 1, begun: Instant::now(), ends };
    let mut state = host.puller.state();
    state.running.insert("slow.test".into(), [("/y.png".to_owned(), running)].into());
    for (jobs, ended) in [(15, false), (16, true)] {
        state.jobs.insert("slow.test".into(), jobs);
        state.end_turn(Duration::ZERO);
        assert_eq!(turn.is_cancelled(), ended, "{jobs} jobs");
    }
}
