//! Without its agent a site serves itself: redirects end with the table's time to live, and nothing else changes.

use std::time::Duration;

use p2pcdn_tests::poll;
use p2pcdn_tests::stalls::Stalls;
use p2pcdn_tests::{Signal, Site, tally::tally};
use tokio::time::Instant;

use crate::file_server;
use crate::support::{IN_A_ROW, PATIENCE, assert_sound, befriend, busy, fill, lab, load, observe, redirects_to};

/// The table's time to live, an exchange that times out, and then some for a busy machine.
const ENDED: Duration = Duration::from_secs(6);

/// Content comes from a web server of its own, so that it is there without the agent.
async fn with_own_origin(site: &mut Site) {
    fill(site, 3);
    let port = file_server::serve(site.directory().join("srv")).await;
    site.edit("port_value: 7083", format!("port_value: {port}"));
}

#[tokio::test]
async fn a_killed_or_hung_agent_ends_redirects_and_they_come_back_with_it() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    busy(&mut sites[0]);
    with_own_origin(&mut sites[0]).await;
    befriend(&mut sites).await;
    let [alpha, beta] = &mut sites;
    let load = load(&lab, alpha);
    redirects_to(&load, beta).await;

    let stalls = Stalls::watch();
    alpha.agent.kill();
    let killed = Instant::now();
    let (_, samples) = observe(&load, alpha, killed, 10 * IN_A_ROW).await;
    assert_sound(&tally(&alpha.domain, &samples));
    let (local, _) = observe(&load, alpha, stalls.passed(killed, ENDED).await, IN_A_ROW).await;
    assert_sound(&local);
    assert_eq!(local.redirected, 0);
    alpha.start_agent().unwrap();
    redirects_to(&load, beta).await;

    alpha.agent.signal(Signal::STOP).unwrap();
    let stopped = Instant::now();
    let (_, samples) = observe(&load, alpha, stopped, 10 * IN_A_ROW).await;
    assert_sound(&tally(&alpha.domain, &samples));
    let (local, _) = observe(&load, alpha, stalls.passed(stopped, ENDED).await, IN_A_ROW).await;
    assert_sound(&local);
    assert_eq!(local.redirected, 0);
    alpha.agent.signal(Signal::CONT).unwrap();
    redirects_to(&load, beta).await;
    assert_sound(&tally(&alpha.domain, &load.finish().await));
}

#[tokio::test]
async fn a_site_whose_agent_never_ran_serves_itself() {
    let (lab, [mut alpha]) = lab(["alpha"]);
    busy(&mut alpha);
    with_own_origin(&mut alpha).await;
    alpha.start_envoy().unwrap();
    let path = alpha.content.path(0);
    poll(PATIENCE, "the proxy", async || lab.client.get(&alpha.url(&path)).await).await.unwrap();
    let load = load(&lab, &alpha);
    let (tally, _) = observe(&load, &alpha, Instant::now(), 3 * IN_A_ROW).await;
    assert_sound(&tally);
    assert_eq!((tally.redirected, tally.local), (0, tally.requests));
}
