//! What the operator no longer believes is redirected nowhere, in any worker, within three ticks.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use p2pcdn_tests::client::Client;
use p2pcdn_tests::content::{digest, noise};
use p2pcdn_tests::poll;
use p2pcdn_tests::stalls::Stalls;
use tokio::time::{Instant, sleep};

use crate::origin_server::{OriginServer, Page};
use crate::support::{
    PATIENCE, befriend, busy, fill, get, headers, introduce, lab, location, p2pcdn, placed, printed, redirect,
};

const PATH: &str = "/object.png";
/// Long, so that what lies between ticks is little beside one.
const TICK: Duration = Duration::from_secs(1);
/// One exchange between filter and agent.
const EXCHANGE: Duration = Duration::from_millis(200);

fn page(version: u64) -> Page {
    let body: Bytes = noise(version, 20 << 10).into();
    let etag = format!("\"{version}\"");
    Page { body, headers: headers([("cache-control", "max-age=3600"), ("etag", &etag)]), ..Page::default() }
}

fn old() -> String {
    digest(&page(1).body).to_string()
}

#[tokio::test]
async fn a_purge_is_in_force_in_every_worker_within_three_ticks() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let server = OriginServer::start().await;
    server.put(PATH, page(1));
    // No first-hand look would notice the change that the operator knows of.
    let keys = r#""exclude": [], "stay_local_s": 0, "pure_balancer_at": 2, "tick_ms": 1000"#;
    busy(&mut sites[0]);
    sites[0].edit(r#""exclude": []"#, keys);
    server.serve(&mut sites[0]);
    introduce(&mut sites).await;
    let [alpha, _beta] = &sites;
    let leads_to_old = async |connection: &Client| {
        let answer = get(connection, &alpha.url(PATH), &HeaderMap::new()).await;
        answer.status() == 307 && location(&answer).contains(&old())
    };
    redirect(&lab.client, alpha, PATH).await;
    // Each connection stays with one worker, and the kernel chooses which.
    let mut connections = Vec::new();
    poll(PATIENCE, "connections to both workers", async || {
        let connection = Client::new(lab.ca.roots());
        leads_to_old(&connection).await;
        connections.push(connection);
        let workers = alpha.status().await.unwrap()["load"]["workers"].clone();
        if workers == 2 && connections.len() >= 8 { Ok(()) } else { Err(workers) }
    })
    .await
    .unwrap();
    // Nobody but the operator knows of the change. Only while a probe of the host is late does it show, so once more then.
    poll(PATIENCE, "redirects on every connection, before the change and after", async || {
        for version in [1, 2] {
            server.put(PATH, page(version));
            for connection in &connections {
                if !leads_to_old(connection).await {
                    return Err(format!("one is local with version {version}"));
                }
            }
        }
        Ok(())
    })
    .await
    .unwrap();

    let stalls = Stalls::watch();
    let said = printed(p2pcdn(&lab, alpha, ["purge", PATH]));
    assert!(said.starts_with("purged 1 object;"), "{said}");
    let purged = Instant::now();
    let mut last = purged;
    while purged.elapsed() < 2 * (3 * TICK + EXCHANGE) {
        for connection in &connections {
            let asked = Instant::now();
            if leads_to_old(connection).await {
                last = asked;
            }
        }
        sleep(Duration::from_millis(5)).await;
    }
    let took = stalls.worked(purged, last);
    assert!(took <= 3 * TICK + EXCHANGE, "the old version was still handed out after {took:?}");

    let new = digest(&page(2).body).to_string();
    let answer = redirect(&lab.client, alpha, PATH).await;
    assert!(location(&answer).contains(&new), "it is fetched anew once it is asked for");
}

#[tokio::test]
async fn purged_files_are_read_anew_and_come_back() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    fill(&sites[0], 3);
    sites[0].content.put("/other.png", &noise(9, 20 << 10)).unwrap();
    befriend(&mut sites).await;
    let [alpha, beta] = &sites;
    let purge = |arguments: &[&str]| p2pcdn(&lab, alpha, ["purge"].iter().chain(arguments));
    for (arguments, want) in [
        (&["/images/0.png", "/images/1.png"][..], "purged 2 objects;"),
        (&["--prefix", "/images/"], "purged 3 objects;"),
        (&["--prefix", "/nothing/"], "purged 0 objects;"),
        (&["--all"], "purged 4 objects;"),
    ] {
        let said = printed(purge(arguments));
        assert!(said.starts_with(want), "{arguments:?}: {said}");
        placed(alpha, beta).await;
    }
    for (arguments, status) in [
        (&["/images/0.png", "/no/such.png"][..], 4),
        (&[], 2),
        (&["images/0.png"], 2),
        (&["--all", "--prefix", "/"], 2),
        (&["/images/0.png", "--all"], 2),
    ] {
        let output = purge(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(status != 4 || said.contains("no such object: /no/such.png;"), "{said}");
    }
    placed(alpha, beta).await;
}
