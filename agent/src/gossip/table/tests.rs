use std::sync::Arc;

use p2pcdn_core::object::Sha256;
use proptest::prelude::*;

use super::*;
use crate::gossip::messages::{MAX_CLOSING_BYTES, MAX_LAST_BYTES, MAX_OPENING_BYTES, MAX_REPLY_BYTES};
use crate::gossip::statements::Observation;
use crate::identity::rotation::Rotation;
use crate::identity::sequence::at;
use crate::identity::{NodeKey, Statement, sign, testing};

const NOW_S: u64 = 1_800_000_000;

/// A record of a statement with a signature that nobody has made.
fn unsigned<T: Statement>(kind: Kind, key: PublicKey, mark: u8, statement: &T) -> Record {
    let payload = serde_json::to_string(statement).unwrap();
    let mut signature = [mark; 64];
    // Real ones differ in every byte.
    signature[48..56].copy_from_slice(&id_of(kind, payload.as_bytes()).to_be_bytes());
    let blob: Blob = [&[kind as u8][..], &key.0, &signature, payload.as_bytes()].concat().into();
    Record::read(blob, NOW_S).unwrap()
}

fn key(number: u16) -> PublicKey {
    let mut key = [7; 32];
    key[..2].copy_from_slice(&number.to_be_bytes());
    Sha256(key)
}

fn domain(number: u16) -> String {
    format!("site-{number}.example-{number}.org")
}

fn peer_at(number: u16, sequence: u64) -> Record {
    let record = PeerRecord {
        issued_s: NOW_S,
        expires_s: NOW_S + 7 * 86_400,
        ..testing::peer_record(&domain(number), key(number), sequence)
    };
    unsigned(Kind::Peer, key(number), 0, &record)
}

fn list(number: u16, sequence: u64, entries: u16) -> Record {
    let entries = (0..entries).map(|n| Observation { subject: domain(n), good: 100, bad: 0, wrong: 0 });
    let list = Observations::of(entries.collect(), sequence, NOW_S);
    unsigned(Kind::Observations, key(number), 0, &list)
}

fn net(number: u16) -> Option<Network> {
    let [high, low] = number.to_be_bytes();
    Some(Network::V4([10, high, low]))
}

fn good(_: &Claim<'_>) -> Check {
    Check::Good
}

fn table() -> Table {
    Table::new(Bounds::default(), 1 << 40)
}

/// One exchange; the bytes that each side has sent.
fn exchange(a: &mut Table, b: &mut Table, salt: u64) -> [usize; 2] {
    let opening = a.offer_window(salt);
    let reply = b.answer(&opening);
    let (closing, _) = a.close(salt, &reply, NOW_S, &mut good);
    let (last, _) = b.finish(&closing, NOW_S, &mut good);
    a.take(&last.records, NOW_S, &mut good);
    assert!(opening.bytes() <= MAX_OPENING_BYTES && reply.bytes() <= MAX_REPLY_BYTES);
    assert!(closing.bytes() <= MAX_CLOSING_BYTES && last.bytes() <= MAX_LAST_BYTES);
    [opening.bytes() + closing.bytes(), reply.bytes() + last.bytes()]
}

#[test]
fn only_members_are_heard_and_only_with_their_own_signature() {
    let mut table = table();
    let said = list(1, at(NOW_S), 3);
    assert_eq!(table.insert(&said, &mut good), Outcome::Stranger(None));
    assert_eq!(table.insert(&peer_at(1, at(NOW_S)), &mut good), Outcome::Stranger(Some(domain(1).into())));
    assert!(table.is_empty(), "nothing of a stranger is passed on");
    table.admit(&peer_at(1, at(NOW_S)), net(1), false).unwrap();
    assert_eq!(table.insert(&said, &mut |_| Check::Bad), Outcome::BadSignature);
    assert_eq!(table.insert(&said, &mut |_| Check::Later), Outcome::Later);
    assert_eq!(table.insert(&said, &mut good), Outcome::Accepted);
    assert_eq!(table.insert(&said, &mut |_| panic!("verified twice")), Outcome::Known);
    assert_eq!(table.insert(&list(1, at(NOW_S) - 16, 3), &mut |_| panic!("it is older")), Outcome::Known);
    assert_eq!(table.observations(&key(1)).unwrap().entries.len(), 3);
    assert_eq!(table.peer(&key(1)).unwrap().domain, domain(1));
}

#[test]
fn real_signatures_are_what_is_verified() {
    let (own, other) = (testing::node_key(), testing::node_key());
    let blob =
        |key: &NodeKey| Record::of(&sign(key, &testing::peer_record("a.test", own.public(), 7)).unwrap()).unwrap();
    let now_s = crate::clock::now_s();
    assert_eq!(Record::read(blob(&other), now_s).unwrap_err(), super::super::record::Unfit::Key);
    let record = Record::read(blob(&own), now_s).unwrap();
    let holds = |claim: &Claim<'_>| {
        let holds = crate::identity::signed::holds(claim.kind, claim.payload, claim.key, claim.signature);
        if holds { Check::Good } else { Check::Bad }
    };
    let mut table = table();
    assert_eq!(table.insert(&record, &mut { holds }), Outcome::Stranger(Some("a.test".into())));
    let mut forged = record.blob.to_vec();
    forged[50] ^= 1;
    let forged = Record::read(forged.into(), now_s).unwrap();
    assert_eq!(table.insert(&forged, &mut { holds }), Outcome::BadSignature);
}

#[test]
fn strangers_of_one_owner_and_of_one_network_are_only_so_many() {
    let mut table = table();
    let named = |name: &str, number: u16| {
        let record =
            PeerRecord { issued_s: NOW_S, expires_s: NOW_S + 99, ..testing::peer_record(name, key(number), 9) };
        unsigned(Kind::Peer, key(number), 0, &record)
    };
    let admitted = |table: &mut Table, name: &str, n: u16, network| table.admit(&named(name, n), network, false);
    for n in 0..4 {
        admitted(&mut table, &format!("s{n}.swarm.test"), n, net(n)).unwrap();
    }
    assert_eq!(admitted(&mut table, "s4.swarm.test", 4, net(4)), Err(Refused::Owner));
    admitted(&mut table, "s1.swarm.test", 1, net(9)).unwrap();
    for n in 10..26 {
        admitted(&mut table, &format!("x{n}.test"), n, net(77)).unwrap();
    }
    assert_eq!(admitted(&mut table, "x26.test", 26, net(77)), Err(Refused::Network));
    table.admit(&named("friend.swarm.test", 27), net(77), true).unwrap();
    table.expel("s0.swarm.test");
    admitted(&mut table, "s4.swarm.test", 4, net(4)).unwrap();
}

#[test]
fn a_full_table_refuses_strangers_and_keeps_a_place_for_peers_of_this_site() {
    let bounds = Bounds { subjects: 3, ..Bounds::default() };
    let mut table = Table::new(bounds, 0);
    for n in 0..3 {
        table.admit(&peer_at(n, at(NOW_S)), net(n), n == 0).unwrap();
        table.insert(&list(n, at(NOW_S), 1), &mut good);
    }
    assert_eq!(table.admit(&peer_at(3, at(NOW_S)), net(3), false), Err(Refused::Full));
    table.admit(&peer_at(4, at(NOW_S)), net(4), true).unwrap();
    assert_eq!((table.subjects(), table.len()), (3, 5));
    assert!(table.knows(&key(0)) && table.knows(&key(4)));
    let bounds = Bounds { bytes: 1000, ..Bounds::default() };
    let mut table = Table::new(bounds, 0);
    table.admit(&peer_at(1, at(NOW_S)), net(1), false).unwrap();
    assert_eq!(table.insert(&list(1, at(NOW_S), 30), &mut good), Outcome::Full);
}

#[test]
fn another_key_is_a_matter_between_this_site_and_the_domain() {
    let mut table = table();
    table.admit(&peer_at(1, at(NOW_S)), net(1), false).unwrap();
    table.insert(&list(1, at(NOW_S), 1), &mut good);
    let theft = PeerRecord {
        issued_s: NOW_S,
        expires_s: NOW_S + 99,
        ..testing::peer_record(&domain(1), key(2), at(NOW_S) + 16)
    };
    let theft = unsigned(Kind::Peer, key(2), 0, &theft);
    assert_eq!(table.insert(&theft, &mut good), Outcome::OtherKey(domain(1).into()));
    assert_eq!(table.peer(&key(1)).unwrap().node_key, key(1));
    let rotation =
        Rotation { domain: domain(1), old_key: key(1), new_key: key(2), sequence: at(NOW_S), issued_s: NOW_S };
    let rotation = unsigned(Kind::Rotation, key(1), 0, &rotation);
    assert_eq!(table.insert(&rotation, &mut good), Outcome::OtherKey(domain(1).into()));
    assert!(!table.knows(&key(2)));
    // The domain itself has shown the new key.
    table.admit(&theft, net(1), false).unwrap();
    assert!(table.knows(&key(2)) && !table.knows(&key(1)));
    assert_eq!(table.observations(&key(1)), None);
}

#[test]
fn two_records_of_one_sequence_convict_their_signer_wherever_they_meet() {
    let (mut a, mut b) = (table(), table());
    for table in [&mut a, &mut b] {
        table.admit(&peer_at(1, at(NOW_S)), net(1), false).unwrap();
        table.admit(&peer_at(2, at(NOW_S)), net(2), false).unwrap();
    }
    assert_eq!(a.insert(&list(1, at(NOW_S), 1), &mut good), Outcome::Accepted);
    assert_eq!(b.insert(&list(1, at(NOW_S), 2), &mut good), Outcome::Accepted);
    let opening = a.offer_window(3);
    let reply = b.answer(&opening);
    let (closing, _) = a.close(3, &reply, NOW_S, &mut good);
    let (_, taken) = b.finish(&closing, NOW_S, &mut good);
    let outcomes: Vec<_> = taken.into_iter().map(|taken| taken.unwrap().1).collect();
    let [Outcome::Contradiction(proof)] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(proof.1.key, key(1));
    // Somebody who knows both tells others, who need not know the finder's reasons.
    let record = unsigned(Kind::Proof, key(2), 0, &proof.0);
    assert_eq!(a.insert(&record, &mut good), Outcome::Accepted);
    let again = unsigned(Kind::Proof, key(1), 0, &proof.0);
    assert_eq!(a.insert(&again, &mut good), Outcome::Known, "whoever repeats it");
    let mut asked = 0;
    let mut last_is_forged = |_: &Claim<'_>| {
        asked += 1;
        if asked < 3 { Check::Good } else { Check::Bad }
    };
    assert_eq!(b.insert(&record, &mut last_is_forged), Outcome::BadSignature, "all of its signatures count");
    let opening = a.offer_window(4);
    assert!(b.answer(&opening).wants.contains(&record.id));
}

#[test]
fn what_ends_is_gone_with_its_stranger_and_a_peer_of_this_site_stays() {
    let mut table = table();
    table.admit(&peer_at(1, at(NOW_S)), net(1), false).unwrap();
    table.admit(&peer_at(2, at(NOW_S)), net(2), true).unwrap();
    for n in [1, 2] {
        table.insert(&list(n, at(NOW_S), 1), &mut good);
    }
    table.expire(NOW_S + 86_400);
    assert_eq!(table.len(), 2, "lists last a day");
    table.expire(NOW_S + 7 * 86_400);
    assert_eq!((table.len(), table.bytes(), table.summary()), (0, 0, 0));
    assert!(!table.knows(&key(1)) && table.knows(&key(2)));
}

#[test]
fn equal_tables_have_nothing_to_say() {
    let (mut a, mut b) = (table(), table());
    for number in 0..50 {
        a.admit(&peer_at(number, at(NOW_S)), net(number), false).unwrap();
        b.admit(&peer_at(49 - number, at(NOW_S)), net(49 - number), false).unwrap();
    }
    assert_eq!(a.summary(), b.summary());
    assert_eq!(b.answer(&a.offer_window(1)), super::super::messages::Reply::default());
}

#[test]
fn large_tables_become_equal_within_as_many_exchanges_as_there_are_windows_and_records_to_carry() {
    let (mut a, mut b) = (table(), table());
    for number in 0..3000 {
        for table in [&mut a, &mut b] {
            table.admit(&peer_at(number, at(NOW_S)), net(number), false).unwrap();
        }
        let has = if number % 2 == 0 { &mut a } else { &mut b };
        has.insert(&list(number, at(NOW_S), 8), &mut good);
    }
    let mut exchanges = 0;
    while a.summary() != b.summary() {
        exchanges += 1;
        assert!(exchanges <= 40, "{} and {} records", a.len(), b.len());
        let bytes = exchange(&mut a, &mut b, exchanges);
        assert!(bytes.iter().all(|bytes| *bytes <= 64 << 10), "{bytes:?}");
    }
    assert_eq!(a.len(), 6000);
}

#[test]
fn news_need_not_wait_for_the_window() {
    let (mut a, mut b) = (table(), table());
    for number in 0..3000 {
        for table in [&mut a, &mut b] {
            table.admit(&peer_at(number, at(NOW_S)), net(number), false).unwrap();
        }
    }
    a.insert(&list(5, at(NOW_S), 1), &mut good);
    b.insert(&list(6, at(NOW_S), 1), &mut good);
    exchange(&mut a, &mut b, 1);
    assert!(a.observations(&key(6)).is_some() && b.observations(&key(5)).is_some());
}

#[derive(Debug, Clone)]
enum Step {
    Admit(u16, u64, bool),
    Peer(u16, u64),
    List(u16, u64),
    Expel(u16),
    Exchange(u64),
}

fn steps() -> impl Strategy<Value = Vec<(bool, Step)>> {
    let (who, sequence) = (0..8u16, 0..4u64);
    let step = prop_oneof![
        (who.clone(), sequence.clone(), any::<bool>()).prop_map(|(n, s, p)| Step::Admit(n, s, p)),
        (who.clone(), sequence.clone()).prop_map(|(n, s)| Step::Peer(n, s)),
        (who.clone(), sequence).prop_map(|(n, s)| Step::List(n, s)),
        who.prop_map(Step::Expel),
        any::<u64>().prop_map(Step::Exchange),
    ];
    prop::collection::vec((any::<bool>(), step), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_order_of_events_breaks_a_bound_makes_a_member_or_takes_one_away(steps in steps()) {
        let bounds = Bounds { subjects: 5, bytes: 4096, per_owner: 1, per_network: 2, proofs: 1 };
        let mut tables = [Table::new(bounds, 3), Table::new(bounds, 5)];
        for (which, step) in steps {
            let [a, b] = &mut tables;
            let (table, other) = if which { (a, b) } else { (b, a) };
            let before: Vec<_> = table.candidates().map(|c| c.key).collect();
            let sequences: Vec<_> = table.entries.iter().map(|(id, entry)| (*id, entry.sequence)).collect();
            match &step {
                Step::Admit(n, s, is_peer) => drop(table.admit(&peer_at(*n, at(NOW_S) + s * 16), net(*n / 3), *is_peer)),
                Step::Peer(n, s) => drop(table.insert(&peer_at(*n, at(NOW_S) + s * 16), &mut good)),
                Step::List(n, s) => drop(table.insert(&list(*n, at(NOW_S) + s * 16, 1), &mut good)),
                Step::Expel(n) => table.expel(&domain(*n)),
                Step::Exchange(salt) => drop(exchange(table, other, *salt)),
            }
            for table in &tables {
                prop_assert!(table.subjects() <= 5 && table.proofs <= 1);
                prop_assert_eq!(table.bytes, table.entries.values().map(|entry| cost(&entry.blob)).sum::<usize>());
                let summary = table.entries.iter().fold(0, |sum, (id, entry)| sum ^ mix(*id, &entry.blob));
                prop_assert_eq!(table.summary(), summary);
                let strangers = table.members.iter().filter(|(_, member)| !member.is_peer);
                prop_assert!(strangers.filter(|(_, member)| member.network == net(0)).count() <= 2);
            }
            let table = if which { &tables[0] } else { &tables[1] };
            if matches!(step, Step::Peer(..) | Step::List(..) | Step::Exchange(_)) {
                let after: Vec<_> = table.candidates().map(|c| c.key).collect();
                prop_assert!(before.len() == after.len() && before.iter().all(|key| after.contains(key)));
                for (id, sequence) in sequences {
                    prop_assert!(table.entries.get(&id).is_some_and(|entry| entry.sequence >= sequence));
                }
            }
        }
    }

    #[test]
    fn hostile_records_are_refused_without_a_panic(bytes: Vec<u8>, flip: prop::sample::Index, to: u8) {
        let _ = Record::read(Arc::from(bytes), NOW_S);
        let mut blob = list(1, at(NOW_S), 3).blob.to_vec();
        let flip = flip.index(blob.len());
        blob[flip] = to;
        if let Ok(record) = Record::read(blob.into(), NOW_S) {
            let mut table = table();
            table.admit(&peer_at(1, at(NOW_S)), net(1), false).unwrap();
            table.insert(&record, &mut good);
        }
    }
}
