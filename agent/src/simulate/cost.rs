//! What gossip costs among very many peers, with statements of their full size.
//!
//! Of the tables of all peers, a sample is real. Each knows everybody; its partners are drawn from the sample, and whatever somebody
//! without a table has to say, it says to one of the sample.

use fastrand::Rng;
use p2pcdn_core::object::Sha256;
use p2pcdn_core::peer::PeerRecord;

use super::outcome::Outcome;
use super::scenario::World;
use super::statements::{check, list, signed};
use super::trust::START_MS;
use crate::gossip::record::Kind;
use crate::gossip::statements::LIST_PERIOD_S;
use crate::gossip::{Blob, Bounds, Observation, Record, Table};
use crate::identity::neighbourhood::network;
use crate::identity::sequence;

/// A peer renews its record when a quarter of its seven days is left.
const RENEWAL_S: u64 = 7 * 24 * 3600 * 3 / 4;
const LIFE_S: u64 = 7 * 24 * 3600;
/// One exchange of each peer.
const ROUND_S: u64 = 60;
/// Rounds that are not counted, until news are on their way everywhere.
const WARM_UP: u64 = 20;

/// Runs as many rounds as the world's days have minutes.
pub(super) fn run(world: &World, seed: u64, tick: &mut dyn FnMut()) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let start_s = START_MS / 1000;
    let (peers, count) = (u64::from(world.peers), world.full_tables as usize);
    let mut tables = tables(world, &mut rng, start_s);
    let rounds = ((world.days * 86_400.0) as u64 / ROUND_S).max(WARM_UP + 1);
    let (mut sent, mut bytes) = (0_usize, 0_usize);
    for round in 0..rounds {
        let now_s = start_s + round * ROUND_S;
        for (number, due) in (0..peers).flat_map(|number| due_in(number, peers, now_s).map(move |due| (number, due))) {
            let blob = match due {
                Kind::Peer => own_record(number, now_s),
                _ => own_list(number, world.peers, now_s),
            };
            tables[number as usize % count].take(&[blob], now_s, &mut |claim| check(claim));
        }
        for caller in 0..count {
            let answerer = (caller + 1 + rng.usize(..count - 1)) % count;
            let exchanged = exchange(&mut tables, caller, answerer, &mut rng, now_s);
            sent += if round < WARM_UP { 0 } else { exchanged };
        }
        bytes = tables.iter_mut().map(|table| table.bytes()).max().unwrap_or(0);
    }
    tick();
    let seconds = ((rounds - WARM_UP) * ROUND_S) as f64;
    // Both directions of every exchange are counted, and every byte sent is one received.
    let gossip_bytes_per_s = sent as f64 / seconds / count as f64;
    Outcome { gossip_bytes_per_s, table_bytes: bytes as f64, ..Outcome::default() }
}

/// One exchange; returns the bytes that both sides send.
fn exchange(tables: &mut [Table], caller: usize, answerer: usize, rng: &mut Rng, now_s: u64) -> usize {
    let Ok([ours, theirs]) = tables.get_disjoint_mut([caller, answerer]) else { return 0 };
    let salt = rng.u64(..);
    let opening = ours.offer_window(salt);
    let reply = theirs.answer(&opening);
    let (closing, _) = ours.close(salt, &reply, now_s, &mut |claim| check(claim));
    let mut bytes = opening.bytes() + reply.bytes();
    if !closing.is_empty() {
        let (last, _) = theirs.finish(&closing, now_s, &mut |claim| check(claim));
        ours.take(&last.records, now_s, &mut |claim| check(claim));
        bytes += closing.bytes() + last.bytes();
    }
    bytes
}

/// Tables that know everybody, and what everybody said last.
fn tables(world: &World, rng: &mut Rng, start_s: u64) -> Vec<Table> {
    let mut tables: Vec<Table> = (0..world.full_tables).map(|_| Table::new(Bounds::default(), rng.u64(..))).collect();
    let peers = u64::from(world.peers);
    for number in 0..peers {
        let said_s = |period_s: u64| start_s - period_s + 1 + number * period_s / peers;
        let Ok(record) = Record::read(own_record(number, said_s(RENEWAL_S)), start_s) else { continue };
        let Ok(list) = Record::read(own_list(number, world.peers, said_s(LIST_PERIOD_S)), start_s) else { continue };
        let address = std::net::Ipv4Addr::from(0x0b00_0000 + ((number as u32) << 8));
        for table in &mut tables {
            let _ = table.admit(&record, Some(network(address.into())), false);
            table.insert(&list, &mut |claim| check(claim));
        }
    }
    tables
}

/// What of its own a peer says anew within the round that begins at `now_s`.
fn due_in(number: u64, peers: u64, now_s: u64) -> impl Iterator<Item = Kind> {
    let start_s = START_MS / 1000;
    [(Kind::Observations, LIST_PERIOD_S), (Kind::Peer, RENEWAL_S)].into_iter().filter_map(move |(kind, period_s)| {
        let due_s = number * period_s / peers;
        let passed_s = (now_s - start_s) % period_s;
        (passed_s <= due_s && due_s < passed_s + ROUND_S).then_some(kind)
    })
}

fn key(number: u64) -> Sha256 {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Sha256(key)
}

fn domain(number: u64) -> String {
    format!("www.example-{number}.org")
}

fn own_record(number: u64, now_s: u64) -> Blob {
    let domain = domain(number);
    let record = PeerRecord {
        node_key: key(number),
        sequence: sequence::at(now_s),
        issued_s: now_s,
        expires_s: now_s + LIFE_S,
        endpoint: domain.clone(),
        replica_name: format!("replica.{domain}"),
        versions: vec![1],
        capabilities: vec!["attachments".to_owned()],
        contact: format!("mailto:operator@{domain}"),
        domain,
    };
    signed(Kind::Peer, &key(number), &record, true)
}

/// As long as a list may be.
fn own_list(number: u64, peers: u32, now_s: u64) -> Blob {
    let seen = (1..60).map(|step| Observation {
        subject: domain((number + step * 97) % u64::from(peers)),
        good: 120,
        bad: 1,
        wrong: 0,
    });
    list(&key(number), seen.collect(), now_s)
}
