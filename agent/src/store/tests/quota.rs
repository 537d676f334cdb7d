//! Quotas hold to the byte, whatever is reserved, committed, interrupted and given up in whatever order.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// Reserves room and receives a half.
    Begin(usize, Object),
    /// Keeps what is there, gives the room back.
    Suspend(usize),
    Discard(usize),
    /// Receives the rest and commits.
    Finish(usize),
    Small(Vec<Object>),
    Renew(Object),
    Retire(Object),
    Restart,
}

/// Origin, path and content, as small numbers.
type Object = (usize, usize, usize);

const ORIGINS: [&str; 2] = ["a.test", "b.test"];
const TOTAL: u64 = CHUNK_BYTES * 2 + 20_000;
const PER_ORIGIN: u64 = CHUNK_BYTES + 12_000;

fn content(number: usize) -> Vec<u8> {
    bytes(number as u8, [1, 4096, 7777, CHUNK_BYTES as usize + 5][number])
}

fn object() -> impl Strategy<Value = Object> {
    (0..ORIGINS.len(), 0..3_usize, 0..4_usize)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize, object()).prop_map(|(slot, object)| Step::Begin(slot, object)),
        1 => (0..3_usize).prop_map(Step::Suspend),
        1 => (0..3_usize).prop_map(Step::Discard),
        3 => (0..3_usize).prop_map(Step::Finish),
        3 => prop::collection::vec((0..ORIGINS.len(), 0..3_usize, 0..3_usize), 1..4).prop_map(Step::Small),
        1 => object().prop_map(Step::Renew),
        2 => object().prop_map(Step::Retire),
        1 => Just(Step::Restart),
    ]
}

/// What is under way in a slot.
struct Slot {
    incoming: Incoming,
    rest: Vec<u8>,
    record: ObjectRecord,
    reservation: Reservation,
}

/// What the store should say.
#[derive(Default)]
struct Model {
    /// Origin and path to sequence and size.
    held: HashMap<(String, String), (u64, u64)>,
    /// By slot; small objects are never between steps.
    reserved: HashMap<usize, (String, u64)>,
}

impl Model {
    fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        let held = self.held.iter().map(|((origin, _), (_, size))| (origin, *size));
        for (origin, bytes) in held.chain(self.reserved.values().map(|(origin, bytes)| (origin, *bytes))) {
            usage.total_bytes += bytes;
            *usage.by_origin.entry(origin.clone()).or_default() += bytes;
        }
        usage
    }

    fn hold(&mut self, record: &ObjectRecord) {
        self.held.insert((record.origin.clone(), record.path.clone()), (record.sequence, record.size));
    }
}

fn fits(usage: &Usage, record: &ObjectRecord) -> Result<(), ()> {
    let of_origin = usage.by_origin.get(&record.origin).copied().unwrap_or(0);
    if usage.total_bytes + record.size <= TOTAL && of_origin + record.size <= PER_ORIGIN { Ok(()) } else { Err(()) }
}

async fn play(steps: Vec<Step>) {
    let mut lab = Lab::new().await;
    let mut model = Model::default();
    let mut slots: HashMap<usize, Slot> = HashMap::new();
    for (sequence, step) in steps.into_iter().enumerate() {
        let record = |(origin, path, number): Object| {
            let (record, _) = lab.object(ORIGINS[origin], &format!("/{path}"), &content(number));
            let record = ObjectRecord { sequence: sequence as u64 + 1, ..record };
            (sign(&lab.key, &record).unwrap(), record, content(number))
        };
        match step {
            Step::Begin(slot, object) if !slots.contains_key(&slot) => {
                let (_, record, bytes) = record(object);
                let reserved = lab.store.reserve(&record, |usage| fits(usage, &record));
                assert_eq!(reserved.is_ok(), fits(&model.usage(), &record).is_ok());
                if let Ok(reservation) = reserved {
                    let mut incoming = lab.store.begin(&record).await.unwrap();
                    let at = incoming.received() as usize;
                    let half = at + (bytes.len() - at) / 2;
                    incoming.push(Bytes::copy_from_slice(&bytes[at..half])).await.unwrap();
                    model.reserved.insert(slot, (record.origin.clone(), record.size));
                    slots.insert(slot, Slot { incoming, rest: bytes[half..].to_vec(), record, reservation });
                }
            }
            Step::Suspend(slot) | Step::Discard(slot) => {
                model.reserved.remove(&slot);
                if let Some(taken) = slots.remove(&slot) {
                    match step {
                        Step::Suspend(_) => taken.incoming.suspend().await,
                        _ => taken.incoming.discard().await,
                    }
                }
            }
            Step::Finish(slot) => {
                model.reserved.remove(&slot);
                if let Some(Slot { mut incoming, rest, record, reservation }) = slots.remove(&slot) {
                    incoming.push(rest.into()).await.unwrap();
                    let signed = sign(&lab.key, &record).unwrap();
                    let committed = lab.store.commit(incoming, signed, reservation).await;
                    let held = model.held.get(&(record.origin.clone(), record.path.clone()));
                    assert_eq!(committed.is_ok(), held.is_none_or(|(sequence, _)| *sequence <= record.sequence));
                    if committed.is_ok() {
                        model.hold(&record);
                    }
                }
            }
            Step::Small(objects) => {
                let (mut batch, mut records) = (Vec::new(), Vec::new());
                for object in objects {
                    let (signed, record, bytes) = record(object);
                    if let Ok(reservation) = lab.store.reserve(&record, |usage| fits(usage, &record)) {
                        batch.push(Small { bytes: bytes.into(), signed, reservation });
                        records.push(record);
                    }
                }
                let outcomes = lab.store.commit_small(batch).await;
                outcomes.into_iter().for_each(|outcome| outcome.unwrap());
                records.iter().for_each(|record| model.hold(record));
            }
            Step::Renew((origin, path, _)) => {
                if let Some(held) = lab.store.find(ORIGINS[origin], &format!("/{path}")) {
                    let record = ObjectRecord { sequence: sequence as u64 + 1, ..held.record.clone() };
                    assert!(lab.store.renew(sign(&lab.key, &record).unwrap()).await.unwrap());
                    model.hold(&record);
                }
            }
            Step::Retire((origin, path, _)) => {
                let key = (ORIGINS[origin].to_owned(), format!("/{path}"));
                assert_eq!(lab.store.find(&key.0, &key.1).is_some(), model.held.remove(&key).is_some());
                if let Some(held) = lab.store.find(&key.0, &key.1) {
                    assert!(lab.store.retire(&held).await.unwrap());
                    lab.store.remove_unused(&held.record.sha256).await.unwrap();
                }
            }
            Step::Restart => {
                slots.clear();
                model.reserved.clear();
                lab = lab.restart().await;
            }
            Step::Begin(..) => {}
        }
        let usage = lab.store.usage();
        assert_eq!(usage, model.usage());
        assert!(usage.total_bytes <= TOTAL && usage.by_origin.values().all(|bytes| *bytes <= PER_ORIGIN));
        let distinct: HashMap<Sha256, u64> =
            lab.store.list().iter().map(|replica| (replica.record.sha256, replica.record.size)).collect();
        let stored: u64 = lab.below("blobs").iter().map(|file| std::fs::metadata(file).unwrap().len()).sum();
        assert_eq!(stored, distinct.values().sum::<u64>(), "shared bytes are stored once, and nothing else is");
    }
}

proptest! {
    // Each case synchronises the disk some dozen times.
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn usage_is_what_is_held_and_reserved_at_any_time(steps in prop::collection::vec(step(), 1..24)) {
        tokio::runtime::Runtime::new().unwrap().block_on(play(steps));
    }
}
