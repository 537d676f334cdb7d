//! A peer that offers far more than anybody could take costs its host little, and others nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use p2pcdn_agent::identity::sign;
use p2pcdn_agent::replicate::messages::{MAX_BATCH, OFFERS_PATH};
use p2pcdn_tests::content::noise;
use p2pcdn_tests::{invite_each_other, poll};
use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use crate::lab_peer::{AnyObject, LabPeer};
use crate::support::{PATIENCE, lab, placed, resident_bytes};

/// Records per second of the storm, as far as this machine makes them, all of them another object's; and then once more the same.
const PER_S: u32 = 10_000;
const RECORDS: usize = 3 * PER_S as usize;
/// What waits may take 32 MiB for one origin; the rest is for messages under way and what the allocator keeps of them.
const MOST_MEMORY: u64 = 160 << 20;

#[tokio::test]
async fn a_storm_of_offers_is_declined_as_busy_in_bounded_memory_while_another_sites_transfer_goes_on() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let stormy = LabPeer::start(&lab, "stormy", &[1]).await;
    invite_each_other(&mut sites);
    let invited = json!([sites[0].domain.as_str(), stormy.domain]);
    sites[1].set("peers.invited", invited);
    sites[1].set("host.quota", "10GB");
    sites[1].set("host.quota_per_origin", "5GB");
    for site in &mut sites {
        site.start().await.unwrap();
    }
    let [alpha, beta] = &sites;
    let host = stormy.meet(beta).await;
    let empty = json!({ "records": [] });
    let known = async || stormy.says(&host, OFFERS_PATH, &empty).await.map_err(|error| error.to_string());
    poll(PATIENCE, "acquaintance", known).await.unwrap();
    let bytes: Bytes = noise(1, 10 << 10).into();
    stormy.keep_waiting();
    let template = stormy.object("/", &bytes, 1);
    let offers: Vec<Value> = (0..RECORDS / MAX_BATCH)
        .map(|batch| {
            let offered = |at: usize| {
                let mut record = template.clone();
                record["path"] = json!(format!("/{batch}/{at}.png"));
                // Other bytes each time, which never come.
                record["sha256"] = json!(format!("{:064x}", batch * MAX_BATCH + at));
                json!({ "record": sign(&stormy.key, &AnyObject(record)).unwrap() })
            };
            json!({ "records": (0..MAX_BATCH).map(offered).collect::<Vec<_>>() })
        })
        .collect();

    let before = resident_bytes(beta);
    let begun = Instant::now();
    let mut peak = before;
    let storm = async {
        let mut verdicts = BTreeMap::<String, usize>::new();
        let mut tick = interval(Duration::from_secs(1) * MAX_BATCH as u32 / PER_S);
        for round in offers.iter().chain(&offers).collect::<Vec<_>>().chunks(8) {
            // Some at a time, as from somebody who does not wait for answers.
            let mut answers = Vec::new();
            for offer in round {
                tick.tick().await;
                answers.push(stormy.says(&host, OFFERS_PATH, offer));
            }
            for answer in join_all(answers).await {
                for verdict in answer.unwrap()["verdicts"].as_array().unwrap() {
                    let said = verdict.get("reason").unwrap_or(&verdict["verdict"]);
                    *verdicts.entry(said.as_str().unwrap().to_owned()).or_default() += 1;
                }
            }
            peak = peak.max(resident_bytes(beta));
        }
        (verdicts, begun.elapsed())
    };
    let transfer = async {
        alpha.content.put("/large.png", &noise(2, 8 << 20)).unwrap();
        placed(alpha, beta).await;
        begun.elapsed()
    };
    let ((verdicts, stormed), placed_after) = tokio::join!(storm, transfer);
    let sent = offers.len() * MAX_BATCH * 2;
    eprintln!(
        "{sent} records in {stormed:?}: {verdicts:?}; {} KiB more at most; the transfer took {placed_after:?}",
        peak.saturating_sub(before) >> 10
    );
    assert_eq!(verdicts.values().sum::<usize>(), sent);
    assert!(verdicts["busy"] > sent / 10 && verdicts["accepted"] > 0, "{verdicts:?}");
    assert!(verdicts.keys().all(|said| ["busy", "accepted"].contains(&said.as_str())), "{verdicts:?}");
    assert!(peak.saturating_sub(before) < MOST_MEMORY, "{} bytes more", peak.saturating_sub(before));
}
