//! Statements as gossip carries them, with a stand-in for signatures: a keyed hash, which nobody in the simulator makes for a key that is
//! not its own, and which costs next to nothing. Everything else about them is real.

use std::hash::Hasher;

use p2pcdn_core::object::Sha256;
use p2pcdn_core::peer::PeerRecord;
use serde::Serialize;
use siphasher::sip::SipHasher13;

use crate::gossip::record::Kind;
use crate::gossip::{Blob, Check, Claim, Observation, Observations};
use crate::identity::rotation::Rotation;
use crate::identity::sequence;

/// A statement with the right signature, or with one that its maker could not make.
pub(super) fn signed(kind: Kind, key: &Sha256, statement: &impl Serialize, is_genuine: bool) -> Blob {
    let payload = serde_json::to_string(statement).unwrap_or_default();
    let mut signature = [0; 64];
    let seal = if is_genuine { seal(key, &payload) } else { 0 };
    for (place, word) in signature.chunks_mut(8).enumerate() {
        word.copy_from_slice(&seal.wrapping_add(place as u64).to_le_bytes());
    }
    [&[kind as u8][..], &key.0, &signature, payload.as_bytes()].concat().into()
}

/// What the agent asks Ed25519.
pub(super) fn check(claim: &Claim<'_>) -> Check {
    if claim.signature[..8] == seal(claim.key, claim.payload).to_le_bytes() { Check::Good } else { Check::Bad }
}

/// What a peer says about itself, as long as the agent's own records are.
pub(super) fn peer_record(domain: &str, key: Sha256, now_s: u64, number: u64) -> PeerRecord {
    PeerRecord {
        domain: domain.to_owned(),
        node_key: key,
        sequence: sequence_at(now_s, number),
        issued_s: now_s,
        expires_s: now_s + p2pcdn_core::peer::MAX_RECORD_LIFE_S,
        endpoint: domain.to_owned(),
        replica_name: format!("replica.{domain}"),
        versions: vec![1],
        capabilities: vec!["replica".to_owned(), "gossip".to_owned()],
        contact: format!("mailto:abuse@{domain}"),
    }
}

/// What a peer says about others.
pub(super) fn list(key: &Sha256, seen: Vec<Observation>, now_s: u64) -> Blob {
    signed(Kind::Observations, key, &Observations::of(seen, sequence_at(now_s, 0), now_s), true)
}

/// A rotation from a key that its maker does not have.
pub(super) fn stolen(domain: &str, old_key: Sha256, new_key: Sha256, now_s: u64) -> Blob {
    let rotation =
        Rotation { domain: domain.to_owned(), old_key, new_key, sequence: sequence_at(now_s, 0), issued_s: now_s };
    signed(Kind::Rotation, &old_key, &rotation, false)
}

fn sequence_at(now_s: u64, number: u64) -> u64 {
    sequence::at(now_s) + number * sequence::STEP
}

/// Never 0, which stands for a signature that was made up.
fn seal(key: &Sha256, payload: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x7032_7063, 0x646e);
    hasher.write(&key.0);
    hasher.write(payload.as_bytes());
    hasher.finish() | 1
}
