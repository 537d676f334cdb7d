//! A site whose content comes from a web server that knows nothing of p2pcdn: its agent learns what visitors ask for.

use bytes::Bytes;
use http::HeaderMap;
use p2pcdn_tests::content::{digest, noise};
use p2pcdn_tests::poll;

use crate::origin_server::{OriginServer, Page};
use crate::support::{PATIENCE, busy, get, headers, introduce, lab, location, redirect, replica_url};

const PUBLIC: &str = "/public.png";

#[tokio::test]
async fn an_agent_that_starts_again_learns_again() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let server = OriginServer::start().await;
    let body: Bytes = noise(1, 600 << 10).into();
    server.put(
        PUBLIC,
        Page { body: body.clone(), headers: headers([("cache-control", "max-age=3600")]), ..Page::default() },
    );
    busy(&mut sites[0]);
    server.serve(&mut sites[0]);
    introduce(&mut sites).await;
    redirect(&lab.client, &sites[0], PUBLIC).await;

    sites[0].agent.kill();
    let asked_before = server.asked_by_agent(PUBLIC).len();
    sites[0].start_agent().unwrap();
    sites[0].ready().await.unwrap();
    let [alpha, beta] = &sites;
    poll(PATIENCE, "an empty catalogue, then the object", async || {
        let asked = server.asked_by_agent(PUBLIC).len();
        get(&lab.client, &alpha.url(PUBLIC), &HeaderMap::new()).await;
        if asked > asked_before { Ok(()) } else { Err(asked) }
    })
    .await
    .unwrap();
    let answer = redirect(&lab.client, alpha, PUBLIC).await;
    assert_eq!(location(&answer), replica_url(beta, alpha, digest(&body), PUBLIC));
}
