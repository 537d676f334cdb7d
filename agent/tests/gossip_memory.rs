//! What ten thousand peers take in memory, counted by the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use p2pcdn_agent::gossip::{Blob, Bounds, Check, Observation, Observations, Outcome, Record, Table};
use p2pcdn_agent::identity::{Network, Statement, sequence};
use p2pcdn_core::object::Sha256;
use p2pcdn_core::peer::PeerRecord;

const NOW_S: u64 = 1_800_000_000;

struct Counting;
static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// What an allocation takes beyond what was asked for, rounded up as common allocators do.
fn taken(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16)
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(taken(layout), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(taken(layout), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn record<T: Statement>(kind: u8, key: Sha256, statement: &T) -> Record {
    let payload = serde_json::to_string(statement).unwrap();
    let signature: [u8; 64] = std::array::from_fn(|at| key.0[at % 32]);
    let blob: Blob = [&[kind][..], &key.0, &signature, payload.as_bytes()].concat().into();
    Record::read(blob, NOW_S).unwrap()
}

fn key(number: u16) -> Sha256 {
    let [high, low] = number.to_be_bytes();
    Sha256(std::array::from_fn(|at| if at % 2 == 0 { high } else { low }))
}

#[test]
fn ten_thousand_peers_with_full_lists_take_24_mib_at_most() {
    let before = IN_USE.load(Ordering::Relaxed);
    let mut table = Table::new(Bounds::default(), 0);
    for number in 0..10_000u16 {
        let domain = format!("www.example-{number}.org");
        let peer = PeerRecord {
            domain: domain.clone(),
            node_key: key(number),
            sequence: sequence::at(NOW_S),
            issued_s: NOW_S,
            expires_s: NOW_S + 7 * 86_400,
            endpoint: domain.clone(),
            replica_name: format!("replica.{domain}"),
            versions: vec![1],
            capabilities: vec!["attachments".into()],
            contact: format!("mailto:operator@example-{number}.org"),
        };
        let [high, low] = number.to_be_bytes();
        table.admit(&record(1, key(number), &peer), Some(Network::V4([10, high, low])), false).unwrap();
        let seen =
            (0..100).map(|n| Observation { subject: format!("www.example-{n}.org"), good: 120, bad: 1, wrong: 0 });
        let list = Observations::of(seen.collect(), sequence::at(NOW_S), NOW_S);
        assert_eq!(table.insert(&record(3, key(number), &list), &mut |_| Check::Good), Outcome::Accepted);
    }
    let taken = IN_USE.load(Ordering::Relaxed) - before;
    println!("10,000 peers: {:.1} MiB in memory, {:.1} MiB accounted", mib(taken), mib(table.bytes()));
    assert_eq!((table.subjects(), table.len()), (10_000, 20_000));
    assert!(taken <= 24 << 20, "{:.1} MiB", mib(taken));
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
