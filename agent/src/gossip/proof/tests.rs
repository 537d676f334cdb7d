use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::identity::sequence::{Counter, at};
use crate::identity::{NodeKey, sign, testing};

const NOW_S: u64 = 1_800_000_000;
static HOST: LazyLock<NodeKey> = LazyLock::new(testing::node_key);
static ORIGIN: LazyLock<NodeKey> = LazyLock::new(testing::node_key);

fn record(path: &str, content: u8, sequence: u64) -> ObjectRecord {
    ObjectRecord {
        sha256: Sha256([content; 32]),
        max_age_s: 60,
        chunks: vec![Sha256([content; 32])],
        sequence,
        expires_s: NOW_S + 3600,
        ..testing::object_record("origin.test", path, b"x")
    }
}

/// What an honest host says of a record.
fn honest(record: &Signed) -> Acknowledgement {
    let object: ObjectRecord = record.open().unwrap();
    Acknowledgement {
        record: record.digest(),
        origin: object.origin,
        path: object.path,
        sha256: object.sha256,
        sequence: object.sequence,
        host: "host.test".into(),
    }
}

fn word(acknowledgement: &Acknowledgement) -> Signed {
    sign(&HOST, acknowledgement).unwrap()
}

#[test]
fn an_origin_that_signs_two_records_as_one_version_convicts_itself() {
    let pair = [1, 2].map(|content| sign(&ORIGIN, &record("/a.png", content, at(NOW_S))).unwrap());
    let proof = contradiction(&pair[0], &pair[1]).unwrap();
    let accused = proof.verify().unwrap();
    assert_eq!((accused.key, accused.at_s), (ORIGIN.public(), NOW_S));
    assert!(accused.text.contains("https://origin.test/a.png"), "{}", accused.text);
    let elsewhere = sign(&ORIGIN, &record("/b.png", 2, at(NOW_S))).unwrap();
    assert_eq!(contradiction(&pair[0], &elsewhere), None, "another object may have the same sequence");
    assert_eq!(contradiction(&pair[0], &pair[0]), None, "the same again is no contradiction");
    let later = sign(&ORIGIN, &record("/a.png", 2, at(NOW_S) + 16)).unwrap();
    assert_eq!(contradiction(&pair[0], &later), None, "nor is a later version");
}

#[test]
fn a_peer_that_shows_different_records_to_different_peers_convicts_itself() {
    let signed = |contact: &str| {
        let record = PeerRecord { contact: contact.into(), ..testing::peer_record("a.test", HOST.public(), at(NOW_S)) };
        sign(&HOST, &record).unwrap()
    };
    assert_eq!(contradiction(&signed("a"), &signed("b")).unwrap().verify().unwrap().key, HOST.public());
}

#[test]
fn a_host_that_acknowledges_what_the_record_does_not_say_convicts_itself() {
    let signed = sign(&ORIGIN, &record("/a.png", 1, at(NOW_S))).unwrap();
    let lie = Acknowledgement { sha256: Sha256([9; 32]), ..honest(&signed) };
    let proof = false_acknowledgement(&signed, &word(&lie)).unwrap();
    assert_eq!(proof.verify().unwrap().key, HOST.public());
    assert_eq!(false_acknowledgement(&signed, &word(&honest(&signed))), None);
    let proof = contradiction(&word(&lie), &word(&honest(&signed))).unwrap();
    assert_eq!(proof.verify().unwrap().key, HOST.public());
}

#[test]
fn a_malicious_origin_cannot_frame_a_host_with_two_records_of_one_sequence() {
    let pair = [1, 2].map(|content| sign(&ORIGIN, &record("/a.png", content, at(NOW_S))).unwrap());
    let words = [0, 1].map(|n| word(&honest(&pair[n])));
    assert_eq!(contradiction(&words[0], &words[1]), None, "the host said what each record says");
    for record in &pair {
        for word in &words {
            assert_eq!(false_acknowledgement(record, word), None);
        }
    }
    assert_eq!(contradiction(&pair[0], &pair[1]).unwrap().verify().unwrap().key, ORIGIN.public());
}

#[test]
fn a_host_that_moves_to_another_name_is_not_convicted_by_what_it_signed_under_the_old_one() {
    let signed = sign(&ORIGIN, &record("/a.png", 1, at(NOW_S))).unwrap();
    let moved = Acknowledgement { host: "new.test".into(), ..honest(&signed) };
    assert_eq!(contradiction(&word(&moved), &word(&honest(&signed))), None);
}

#[test]
fn a_restored_backup_does_not_convict_an_honest_operator() {
    use crate::identity::backup::Backup;
    use std::sync::Arc;

    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    let key = NodeKey::load_or_create(&old).unwrap();
    let next = |state: &std::path::Path, now_s: u64| {
        let db = crate::state_db::StateDb::open(&state.join("state.redb")).unwrap();
        Counter::new(Arc::new(db), "peer").next(now_s).unwrap()
    };
    let said = |key: &NodeKey, sequence: u64, contact: &str| {
        let record = PeerRecord { contact: contact.into(), ..testing::peer_record("a.test", key.public(), sequence) };
        sign(key, &record).unwrap()
    };
    let before = said(&key, next(&old, NOW_S), "before");
    drop(key);
    let backup = Backup::of("a.test", &old).unwrap();
    let key = NodeKey::load_or_create(&old).unwrap();
    let since: Vec<Signed> = (0..50).map(|n| said(&key, next(&old, NOW_S + n / 10), "since")).collect();
    drop(key);
    // The machine is lost, the backup restored, and restored once more.
    for at_s in [NOW_S + 6, NOW_S + 8] {
        backup.restore("a.test", &new, true, at_s).unwrap();
        let key = NodeKey::load_or_create(&new).unwrap();
        let after: Vec<Signed> = (0..50).map(|n| said(&key, next(&new, at_s + n / 10), "restored")).collect();
        for one in since.iter().chain([&before]) {
            assert!(after.iter().all(|other| contradiction(one, other).is_none()));
        }
    }
}

#[test]
fn what_was_signed_with_sequences_that_counted_seconds_proves_nothing() {
    let pair = [1, 2].map(|content| sign(&ORIGIN, &record("/a.png", content, NOW_S)).unwrap());
    assert_eq!(contradiction(&pair[0], &pair[1]), None);
}

#[test]
fn a_proof_with_a_forged_signature_convicts_nobody() {
    let own = sign(&HOST, &record("/a.png", 1, at(NOW_S))).unwrap();
    let forged = sign(&ORIGIN, &record("/a.png", 2, at(NOW_S))).unwrap();
    let forged = Signed { key: HOST.public(), ..forged };
    let proof = contradiction(&own, &forged).unwrap();
    assert!(matches!(proof.verify(), Err(ProofError::Signed(SignedError::Signature))));
}

#[test]
fn a_proof_is_the_same_after_its_journey() {
    let pair = [1, 2].map(|content| sign(&ORIGIN, &record("/a.png", content, at(NOW_S))).unwrap());
    let proof = contradiction(&pair[0], &pair[1]).unwrap();
    let json = serde_json::to_string(&proof).unwrap();
    assert!(json.len() < MAX_PROOF_BYTES, "{} bytes", json.len());
    assert_eq!(serde_json::from_str::<Proof>(&json).unwrap(), proof);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_records_that_an_origin_can_sign_convict_a_host_that_repeats_what_they_say(
        records in prop::collection::vec((0..2u8, 0..3u8, 0..3u64), 2..5),
    ) {
        let signed: Vec<Signed> = records
            .iter()
            .map(|(path, content, step)| {
                sign(&ORIGIN, &record(&format!("/{path}.png"), *content, at(NOW_S) + step * 16)).unwrap()
            })
            .collect();
        let words: Vec<Signed> = signed.iter().map(|record| word(&honest(record))).collect();
        for one in &words {
            prop_assert!(words.iter().all(|other| contradiction(one, other).is_none()));
            prop_assert!(signed.iter().all(|record| false_acknowledgement(record, one).is_none()));
        }
        for one in &signed {
            for other in &signed {
                if let Some(proof) = contradiction(one, other) {
                    prop_assert_eq!(proof.verify().unwrap().key, ORIGIN.public());
                }
            }
        }
    }
}
