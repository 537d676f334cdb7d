//! A host whose disk is full serves what it holds and obeys its operator, who need not restart anything once there is room.

use std::path::PathBuf;

use http::HeaderMap;
use p2pcdn_core::object::Sha256;
use p2pcdn_tests::content::{digest, noise};
use p2pcdn_tests::{Site, poll};
use serde_json::{Value, json};

use crate::support::{PATIENCE, befriend, fill, get, lab, p2pcdn, peer, placed, printed, replica_url};

/// The host's state as its agent sees it: a small disk of its own.
fn state(site: &Site) -> PathBuf {
    let seen = format!("/proc/{}/root", site.agent.id().unwrap());
    PathBuf::from(seen).join(site.directory().strip_prefix("/").unwrap()).join("state")
}

#[tokio::test]
async fn a_host_whose_disk_is_full_serves_on_and_its_operator_is_obeyed_at_once() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    fill(&sites[0], 4);
    let mount = "mkdir -p state && mount -t tmpfs -o size=16m tmpfs state && exec \"$0\" \"$@\"";
    sites[1].agent.wrap(["unshare", "--map-root-user", "--mount", "sh", "-c", mount].map(Into::into).into());
    befriend(&mut sites).await;
    let [alpha, beta] = &sites;
    let objects = alpha.content.objects();
    let urls: Vec<String> = objects.iter().map(|o| replica_url(beta, alpha, o.versions[0], &o.path)).collect();
    let statuses = async || {
        let mut statuses = Vec::new();
        for url in &urls {
            statuses.push(get(&lab.client, url, &HeaderMap::new()).await.status().as_u16());
        }
        statuses
    };
    assert_eq!(statuses().await, [200; 4]);
    let deny = |digests: &mut dyn Iterator<Item = Sha256>| {
        let digests: Vec<String> = digests.map(|digest| digest.to_string()).collect();
        let words = ["deny", "digest", "--json"].map(str::to_owned).into_iter().chain(digests);
        serde_json::from_str::<Value>(&printed(p2pcdn(&lab, beta, words))).unwrap()
    };

    let filler = state(beta).join("filler");
    assert!(std::fs::write(&filler, vec![0; 16 << 20]).is_err(), "the disk is larger than it should be");
    // The first one shows the host that there is no room, and what comes within two seconds of that is declined at once.
    let mut late = 100;
    poll(PATIENCE, "refusal for want of room", async || match peer(alpha, beta).await? {
        said if said["declined_for"]["store"].as_u64() > Some(0) => Ok(()),
        said if late < 140 => {
            alpha.content.put(&format!("/images/late-{late}.png"), &noise(late, 20 << 10)).unwrap();
            late += 1;
            Err(said.to_string())
        }
        said => Err(said.to_string()),
    })
    .await
    .unwrap();
    assert_eq!(statuses().await, [200; 4], "what is held is served");

    // So long a list that it needs room on the disk.
    let others = |seed: u64| (0..1000).map(move |number| digest(&noise(seed + number, 8)));
    let denied = deny(&mut others(0).chain([objects[0].versions[0]]));
    assert_eq!(denied, json!({ "changed": 1001, "replicas": 1, "unsaved": true }));
    assert_eq!(statuses().await, [302, 200, 200, 200], "at once");
    let denied = deny(&mut others(1000).chain([objects[1].versions[0]]));
    assert_eq!(denied["changed"], 1001, "and once more");
    assert_eq!(statuses().await, [302, 302, 200, 200]);
    poll(PATIENCE, "word to the origin", async || match peer(alpha, beta).await? {
        said if said["withdrawn_for"]["denied"].as_u64() >= Some(2) => Ok(()),
        said => Err(said.to_string()),
    })
    .await
    .unwrap();

    std::fs::remove_file(&filler).unwrap();
    poll(PATIENCE, "everything on disk", async || {
        let departure = beta.local("/v1/leave").await.map_err(|error| error.to_string())?;
        let departure: Value = serde_json::from_slice(departure.body()).map_err(|error| error.to_string())?;
        if departure["unsaved"] == Value::Null { Ok(()) } else { Err(departure.to_string()) }
    })
    .await
    .unwrap();
    printed(p2pcdn(
        &lab,
        beta,
        ["deny", "remove"]
            .map(str::to_owned)
            .into_iter()
            .chain([objects[0].versions[0].to_string(), objects[1].versions[0].to_string()]),
    ));
    placed(alpha, beta).await;
    assert_eq!(statuses().await, [200; 4]);
    assert!(!printed(p2pcdn(&lab, beta, ["leave", "--no-wait", "--json"])).contains("unsaved"));
}

/// Starts the host's agent again whenever it ends, with the same small disk.
const AGAIN: &str = "mkdir -p state && mount -t tmpfs -o size=16m tmpfs state && trap 'kill $agent; wait; exit' TERM
    while :; do setpriv --pdeathsig KILL \"$0\" \"$@\" & agent=$!; wait $agent; done";

#[tokio::test]
async fn a_host_whose_disk_is_full_starts_again_and_serves_what_it_holds() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    fill(&sites[0], 1);
    sites[1].agent.wrap(["unshare", "--map-root-user", "--mount", "sh", "-c", AGAIN].map(Into::into).into());
    befriend(&mut sites).await;
    let [alpha, beta] = &sites;
    let object = alpha.content.objects().swap_remove(0);
    let url = replica_url(beta, alpha, object.versions[0], &object.path);
    assert_eq!(get(&lab.client, &url, &HeaderMap::new()).await.status(), 200);
    assert!(
        std::fs::write(state(beta).join("filler"), vec![0; 16 << 20]).is_err(),
        "the disk is larger than it should be"
    );

    let shell = beta.agent.id().unwrap();
    let agent = || std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
    let first = agent();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(first.trim().parse().unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    poll(PATIENCE, "another agent that serves", async || {
        let served = lab.client.get(&url).await.map(|answer| answer.status().as_u16());
        if agent() != first && matches!(served, Ok(200)) { Ok(()) } else { Err(format!("{served:?}")) }
    })
    .await
    .unwrap();
}
