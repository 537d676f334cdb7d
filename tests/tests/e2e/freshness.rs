//! The table never outlives what the origin declares, follows what the origin is seen to serve, and stands in only where that is allowed.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use p2pcdn_tests::content::{digest, noise};
use p2pcdn_tests::stalls::Stalls;
use p2pcdn_tests::{Lab, Site, poll};
use tokio::time::Instant;

use crate::origin_server::{Failing, Failure, OriginServer, Page};
use crate::support::{IN_A_ROW, PATIENCE, befriend, busy, get, headers, introduce, lab, location, redirect};

const PATH: &str = "/object.png";
const OTHER: &str = "/other.png";
/// How long the objects of these stories are fresh, in seconds.
const LIFETIME: Duration = Duration::from_secs(2);
/// Between what the origin notes and what a client sees, on a machine that does not stall.
const SLACK: Duration = Duration::from_millis(500);

fn page(version: u64, caching: &str) -> Page {
    let etag = format!("\"{version}\"");
    Page { body: body(version), headers: headers([("cache-control", caching), ("etag", &etag)]), ..Page::default() }
}

fn body(version: u64) -> Bytes {
    noise(version, 20 << 10).into()
}

async fn two_sites() -> (Lab, [Site; 2], OriginServer) {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let server = OriginServer::start().await;
    busy(&mut sites[0]);
    server.serve(&mut sites[0]);
    (lab, sites, server)
}

/// Asks once; when, and whether it was redirected.
async fn ask(lab: &Lab, site: &Site, path: &str) -> (Instant, StatusCode) {
    let status = get(&lab.client, &site.url(path), &HeaderMap::new()).await.status();
    (Instant::now(), status)
}

#[tokio::test]
async fn nothing_is_redirected_after_its_freshness_ended_unless_the_origin_has_confirmed_it() {
    let (lab, mut sites, server) = two_sites().await;
    server.put(PATH, page(1, "max-age=2"));
    introduce(&mut sites).await;
    let [alpha, _beta] = &sites;
    redirect(&lab.client, alpha, PATH).await;

    // As long as it is asked for, it is confirmed in time, mostly without its bytes: redirects go on for longer than it is fresh.
    let stalls = Stalls::watch();
    let mut redirected = Vec::new();
    let mut since = Instant::now();
    poll(PATIENCE, "confirmation in time", async || {
        let asked = Instant::now();
        let (at, status) = ask(&lab, alpha, PATH).await;
        if status == 307 {
            redirected.push((asked, at));
        } else {
            since = at;
        }
        if stalls.worked(since, at) > LIFETIME + 2 * SLACK { Ok(()) } else { Err(status) }
    })
    .await
    .unwrap();
    let confirmed = server.asked_by_agent(PATH);
    assert!(confirmed.iter().any(|asked| asked.status == 304), "{confirmed:?}");

    // Without a word from the origin it ends, and comes back with it.
    server.fail(Failing::Agent);
    let mut row = 0;
    poll(PATIENCE, "end of redirects", async || {
        let asked = Instant::now();
        let (at, status) = ask(&lab, alpha, PATH).await;
        redirected.extend((status == 307).then_some((asked, at)));
        row = if status == 200 { row + 1 } else { 0 };
        if row >= IN_A_ROW { Ok(()) } else { Err(row) }
    })
    .await
    .unwrap();
    server.fail(Failing::Nobody);
    redirect(&lab.client, alpha, PATH).await;

    let confirmed = server.asked_by_agent(PATH);
    for (asked, at) in redirected {
        let fresh = |asked: &&crate::origin_server::Asked| matches!(asked.status, 200 | 304) && asked.at <= at;
        let last = confirmed.iter().rev().find(fresh).unwrap().at;
        let age = stalls.worked(last, asked);
        assert!(age <= LIFETIME + SLACK, "redirected {age:?} after the last confirmation");
    }
}

#[tokio::test]
async fn an_origin_that_is_seen_to_serve_another_version_is_believed_at_once() {
    let (lab, mut sites, server) = two_sites().await;
    sites[0].edit(r#""exclude": []"#, r#""exclude": [], "stay_local_s": 1, "pure_balancer_at": 2, "tick_ms": 50"#);
    server.put(PATH, page(1, "max-age=3600"));
    introduce(&mut sites).await;
    let [alpha, _beta] = &sites;
    redirect(&lab.client, alpha, PATH).await;
    let asked = server.asked_by_agent(PATH).len();

    server.put(PATH, page(2, "max-age=3600"));
    let new = digest(&body(2)).to_string();
    poll(PATIENCE, "a redirect to the new version", async || {
        let answer = redirect(&lab.client, alpha, PATH).await;
        if location(&answer).contains(&new) { Ok(()) } else { Err(location(&answer)) }
    })
    .await
    .unwrap();
    assert!(server.asked_by_agent(PATH).len() > asked);
    let mut row = 0;
    poll(PATIENCE, "only the new version", async || {
        let answer = get(&lab.client, &alpha.url(PATH), &HeaderMap::new()).await;
        let is_new = if answer.status() == 307 { location(&answer).contains(&new) } else { *answer.body() == body(2) };
        row = if is_new { row + 1 } else { 0 };
        if row >= IN_A_ROW { Ok(()) } else { Err(row) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_directory_that_another_server_serves_with_tags_of_its_own_is_shared_all_the_same() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    busy(&mut sites[0]);
    sites[0].edit(r#""exclude": []"#, r#""exclude": [], "stay_local_s": 1, "pure_balancer_at": 2, "tick_ms": 50"#);
    let server = OriginServer::start().await;
    server.put(PATH, page(1, "max-age=3600"));
    sites[0].edit("port_value: 7083", format!("port_value: {}", server.port));
    sites[0].content.put(PATH, &body(1)).unwrap();
    befriend(&mut sites).await;
    let [alpha, _beta] = &sites;
    redirect(&lab.client, alpha, PATH).await;

    // The first contradictions could be about a file that has just changed; from then on the tags are known to be another server's.
    // Every contradiction has the agent look at the object anew, so these looks end, though visitors go on to see both kinds of answers.
    let (mut looks, mut since, mut seen) = (0, Instant::now(), (0, 0));
    poll(PATIENCE, "an end of contradictions", async || {
        let (at, status) = ask(&lab, alpha, PATH).await;
        let present = server.asked_by_agent(PATH).len();
        if present != looks {
            (looks, since, seen) = (present, at, (0, 0));
        }
        seen.0 += usize::from(status == 307);
        seen.1 += usize::from(status == 200);
        // The first request in each second stays.
        let is_over = at - since > 2 * LIFETIME && seen.0 > IN_A_ROW && seen.1 > 1;
        if is_over { Ok(()) } else { Err(format!("{looks} looks, redirected and local since: {seen:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_stale_copy_stands_in_for_a_failing_origin_only_where_the_origin_said_so() {
    let (lab, mut sites, server) = two_sites().await;
    server.put(PATH, page(1, "max-age=2, stale-if-error=600"));
    server.put(OTHER, page(2, "max-age=2"));
    introduce(&mut sites).await;
    let [alpha, _beta] = &sites;
    let mut redirected = [false; 2];
    poll(PATIENCE, "redirects for both", async || {
        for (path, redirected) in [PATH, OTHER].into_iter().zip(&mut redirected) {
            *redirected |= ask(&lab, alpha, path).await.1 == 307;
        }
        if redirected == [true; 2] { Ok(()) } else { Err(format!("{redirected:?}")) }
    })
    .await
    .unwrap();

    server.fail(Failing::Everybody);
    let mut row = 0;
    poll(PATIENCE, "the end of freshness", async || {
        let (_, status) = ask(&lab, alpha, OTHER).await;
        row = if status == 503 { row + 1 } else { 0 };
        if row >= IN_A_ROW { Ok(()) } else { Err(status) }
    })
    .await
    .unwrap();
    let mut row = 0;
    poll(PATIENCE, "a stale copy that stands in", async || {
        let answer = get(&lab.client, &alpha.url(PATH), &HeaderMap::new()).await;
        if answer.status() != 307 {
            // Nobody is redirected while a probe of the host is late.
            row = 0;
            return Err(answer.status());
        }
        let copy = get(&lab.client, &location(&answer), &HeaderMap::new()).await;
        assert_eq!((copy.status(), copy.body()), (StatusCode::OK, &body(1)));
        row += 1;
        if row >= IN_A_ROW { Ok(()) } else { Err(answer.status()) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_replica_stands_in_however_the_origin_fails_load_or_no_load() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let server = OriginServer::start().await;
    server.serve(&mut sites[0]);
    let timeout =
        "timeout: 0s\n                            idle_timeout: 60s\n                            retry_policy";
    sites[0].edit(timeout, timeout.replace("0s", "0.5s").replace("60.5s", "60s"));
    server.put(PATH, page(1, "max-age=3600"));
    introduce(&mut sites).await;
    let [alpha, beta] = &sites;
    poll(PATIENCE, "a replica", async || {
        let (_, status) = ask(&lab, alpha, PATH).await;
        assert_eq!(status, 200, "nothing is redirected without load");
        let hosted = beta.status().await.unwrap()["objects"]["hosted"].clone();
        if hosted == 1 { Ok(()) } else { Err(hosted) }
    })
    .await
    .unwrap();

    let internal = Failure::Status(StatusCode::INTERNAL_SERVER_ERROR);
    let gateway = Failure::Status(StatusCode::BAD_GATEWAY);
    for failure in [internal, gateway, Failure::Reset, Failure::Silence] {
        server.fail(Failing::By(failure));
        let answer = poll(PATIENCE, format!("rescue from {failure:?}"), async || {
            let answer = get(&lab.client, &alpha.url(PATH), &HeaderMap::new()).await;
            if answer.status() == 307 { Ok(answer) } else { Err(answer.status()) }
        });
        let copy = get(&lab.client, &location(&answer.await.unwrap()), &HeaderMap::new()).await;
        assert_eq!((copy.status(), copy.body()), (StatusCode::OK, &body(1)), "{failure:?}");
        server.fail(Failing::Nobody);
        assert_eq!(ask(&lab, alpha, PATH).await.1, 200, "after {failure:?}");
    }
}
