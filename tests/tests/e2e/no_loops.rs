//! Two sites that redirect everything to each other, whatever fails: every request comes to an end after two redirects at most.

use std::collections::HashSet;

use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use p2pcdn_tests::client::Client;
use p2pcdn_tests::{Site, poll};

use crate::support::{PATIENCE, befriend, busy, damage, fill, get, lab, load, placed, redirects_to, trusting};

const OBJECTS: u64 = 24;
/// The request itself, a redirect to a host, and the way back.
const MOST_HOPS: usize = 3;
/// A port that nobody listens on.
const NOBODY: &str = "port_value: 1";
const BACK: &str = "/.well-known/p2pcdn/v1/back";

#[tokio::test]
async fn sites_that_redirect_everything_to_each_other_do_not_loop() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    for site in &mut sites {
        busy(site);
        trusting(site);
        // A worker that has served nothing yet knows no replicas.
        site.workers(1);
        fill(site, OBJECTS);
    }
    befriend(&mut sites).await;
    placed(&sites[1], &sites[0]).await;
    let client = &lab.client;
    {
        let [alpha, beta] = &sites;
        let loads = [load(&lab, alpha), load(&lab, beta)];
        redirects_to(&loads[0], beta).await;
        redirects_to(&loads[1], alpha).await;

        all_redirected(client, &sites).await;

        lose_replicas(&sites);
        let returned = walk_all(client, &sites).await;
        assert!(returned.iter().all(|walk| walk.ends_with(&[200])), "{returned:?}");
        assert!(returned.contains(&vec![307, 302, 200]), "{returned:?}");
        never_redirected(client, &sites).await;
        for load in loads {
            load.finish().await;
        }
    }

    // With dead origins there is nothing but the hosts, and then not even those: first redirected by load, then since the origin fails.
    for target in ["1", "0"] {
        for site in &mut sites {
            site.edit(r#""requests_per_s": 0"#, format!(r#""requests_per_s": {target}"#));
            site.edit("port_value: 7083", NOBODY);
            site.start_envoy().unwrap();
        }
        for site in &mut sites {
            site.ready().await.unwrap();
        }
        placed(&sites[0], &sites[1]).await;
        placed(&sites[1], &sites[0]).await;
        let [alpha, beta] = &sites;
        let loads = [load(&lab, alpha), load(&lab, beta)];
        redirects_to(&loads[0], beta).await;
        redirects_to(&loads[1], alpha).await;
        all_redirected(client, &sites).await;
        lose_replicas(&sites);
        let lost = poll(PATIENCE, "a return to a dead origin", async || {
            let walks = walk_all(client, &sites).await;
            if walks.contains(&vec![307, 302, 503]) { Ok(()) } else { Err(format!("{walks:?}")) }
        });
        lost.await.unwrap();
        never_redirected(client, &sites).await;
    }
}

/// Waits until everything is redirected: where a probe came late, a host gets nothing until the next one.
async fn all_redirected(client: &Client, sites: &[Site]) {
    let all = poll(PATIENCE, "a redirect for every object", async || {
        let walks = walk_all(client, sites).await;
        if walks.iter().all(|walk| walk == &[307, 200]) { Ok(()) } else { Err(format!("{walks:?}")) }
    });
    all.await.unwrap();
}

/// Asks both sites for everything and follows by hand; returns the statuses on each way.
async fn walk_all(client: &Client, sites: &[Site]) -> Vec<Vec<u16>> {
    let mut walks = Vec::new();
    for object in 0..OBJECTS {
        for site in sites {
            walks.push(walk(client, site.url(&format!("/images/{object}.png"))).await);
        }
    }
    walks
}

async fn walk(client: &Client, start: String) -> Vec<u16> {
    let mut asked = HashSet::new();
    let mut statuses = Vec::new();
    let mut next = Some(start);
    while let Some(url) = next.take() {
        let answer = get(client, &url, &HeaderMap::new()).await;
        statuses.push(answer.status().as_u16());
        assert!(statuses.len() <= MOST_HOPS, "{url}: {statuses:?}");
        next = answer.headers().get(LOCATION).map(|location| location.to_str().unwrap().to_owned());
        assert!(next.is_none() || !url.contains(BACK), "{url} was redirected to {next:?}");
        assert!(asked.insert(url), "{asked:?}: {next:?}");
    }
    statuses
}

/// Return URLs stay, however they are written, and so do the URLs of replicas under a site's own name.
async fn never_redirected(client: &Client, sites: &[Site]) {
    for site in sites {
        let object = &site.content.objects()[0];
        let paths = [
            format!("{BACK}{}", object.path),
            format!("{BACK}/{BACK}{}", object.path),
            format!("/.well-known/p2pcdn/v1/r/{}/{}{}", site.domain, object.versions[0], object.path),
        ];
        for path in paths {
            for _ in 0..20 {
                let answer = get(client, &site.url(&path), &HeaderMap::new()).await;
                assert_ne!(answer.status(), StatusCode::TEMPORARY_REDIRECT, "{path}");
                assert!(!answer.headers().contains_key(LOCATION), "{path}: {answer:?}");
            }
        }
    }
}

/// Makes both sites unable to serve what they hold, without their knowing.
fn lose_replicas(sites: &[Site]) {
    let [alpha, beta] = sites else { unreachable!("two sites") };
    for (origin, host) in [(alpha, beta), (beta, alpha)] {
        origin.content.objects().iter().for_each(|object| damage(host, object.versions[0]));
    }
}
