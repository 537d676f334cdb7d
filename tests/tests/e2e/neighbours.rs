//! Sites of different releases get along, or are told why they do not.

use bytes::Bytes;
use http::HeaderMap;
use p2pcdn_agent::identity::hello::HELLO_PATH;
use p2pcdn_agent::identity::{PeerClientError, Signed, sign};
use p2pcdn_agent::replicate::messages::{ACKNOWLEDGEMENTS_PATH, Acknowledgement, OFFERS_PATH};
use p2pcdn_core::object::ObjectRecord;
use p2pcdn_tests::content::{digest, noise};
use p2pcdn_tests::{Lab, Site, poll};
use serde_json::{Value, json};

use crate::lab_peer::{AnyAcknowledgement, AnyObject, LabPeer};
use crate::support::{PATIENCE, fill, get, lab};

/// A site, and a peer that it has invited.
async fn acquainted(versions: &[u16]) -> (Lab, Site, LabPeer) {
    let (lab, [mut alpha]) = lab(["alpha"]);
    fill(&alpha, 1);
    let peer = LabPeer::start(&lab, "later", versions).await;
    alpha.set("peers.invited", json!([peer.domain]));
    alpha.start().await.unwrap();
    (lab, alpha, peer)
}

/// As a release might send it that has more to say.
fn with_more(signed: &Signed) -> Value {
    let mut envelope = serde_json::to_value(signed).unwrap();
    envelope["countersigned"] = json!(["x"]);
    envelope
}

async fn said_of(site: &Site, peer: &LabPeer) -> Result<Value, String> {
    let status = site.status().await.map_err(|error| error.to_string())?;
    let said = status["peers"].as_array().into_iter().flatten().find(|said| said["domain"] == peer.domain.as_str());
    said.cloned().ok_or_else(|| "it is unknown".to_owned())
}

#[tokio::test]
async fn a_peer_of_a_later_release_is_origin_and_host_whatever_it_adds_to_its_statements() {
    let (lab, alpha, later) = acquainted(&[1, 2]).await;
    let site = later.meet(&alpha).await;

    // As an origin: one object in pieces, and one that comes in a batch.
    let objects: [Bytes; 2] = [600 << 10, 20 << 10].map(|size| noise(size as u64, size).into());
    for (at, bytes) in objects.iter().enumerate() {
        let mut record = later.object(&format!("/{at}.png"), bytes, at as u64);
        record["priority"] = json!({ "high": [1, 2] });
        let offer = json!({ "records": [{ "record": with_more(&sign(&later.key, &AnyObject(record)).unwrap()) }] });
        poll(PATIENCE, "an offer that is accepted", async || {
            let answer = later.says(&site, OFFERS_PATH, &offer).await.map_err(|error| error.to_string())?;
            let verdict = &answer["verdicts"][0];
            if verdict["verdict"] == "accepted" { Ok(()) } else { Err(verdict.to_string()) }
        })
        .await
        .unwrap();
        poll(PATIENCE, "its acknowledgement", async || {
            let told = later.acknowledged();
            let is_it = |signed: &&Signed| signed.open::<Acknowledgement>().unwrap().sha256 == digest(bytes);
            told.iter().find(is_it).map(drop).ok_or(told.len())
        })
        .await
        .unwrap();
        let prefix = format!("https://{}/.well-known/p2pcdn/v1/r/{}", alpha.replica_name, later.domain);
        let served = get(&lab.client, &format!("{prefix}/{}/{at}.png", digest(bytes)), &HeaderMap::new()).await;
        assert_eq!((served.status().as_u16(), served.body()), (200, bytes));
    }

    // As a host.
    let offered = poll(PATIENCE, "an offer", async || later.offered().pop().ok_or("none")).await.unwrap();
    let record: ObjectRecord = offered.open().unwrap();
    let acknowledgement = AnyAcknowledgement(json!({
        "record": offered.digest(), "origin": record.origin, "path": record.path, "sha256": record.sha256,
        "sequence": record.sequence, "host": later.domain, "until_s": 7,
    }));
    let message = json!({ "acknowledgements": [with_more(&sign(&later.key, &acknowledgement).unwrap())] });
    assert_eq!(later.says(&site, ACKNOWLEDGEMENTS_PATH, &message).await.unwrap(), json!({ "taken": 1 }));
    assert_eq!(said_of(&alpha, &later).await.unwrap()["holds"], 1);
}

#[tokio::test]
async fn a_peer_without_a_version_in_common_is_refused_and_either_side_reads_what_to_do() {
    let (_lab, alpha, other) = acquainted(&[2]).await;
    let said = poll(PATIENCE, "a note", async || match said_of(&alpha, &other).await? {
        said if said["note"].as_str().is_some_and(|note| note.contains("version")) => Ok(said),
        said => Err(said.to_string()),
    });
    let said = said.await.unwrap();
    let note = said["note"].as_str().unwrap();
    assert!(note.contains("[1]") && note.contains("[2]") && note.contains("upgrade the older one"), "{note}");
    assert_eq!(said["key"], Value::Null, "it is not pinned");

    let hello = json!({ "record": other.record, "versions": [2] });
    let refused = other.says(&other.meet(&alpha).await, HELLO_PATH, &hello).await;
    let Err(PeerClientError::Refused { status, refusal }) = refused else { panic!("{refused:?}") };
    assert_eq!((status.as_u16(), refusal.error.as_str()), (400, "no_common_version"));
    assert!(refusal.remedy.contains("upgrade the older one"), "{}", refusal.remedy);
}
