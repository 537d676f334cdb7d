//! A host that dies under load is noticed within seconds, and comes back slowly.

use std::time::Duration;

use http::HeaderMap;
use p2pcdn_tests::stalls::Stalls;
use p2pcdn_tests::tally::tally;
use p2pcdn_tests::{Signal, Site, poll};
use tokio::time::Instant;

use crate::support::{
    IN_A_ROW, PATIENCE, assert_sound, full_weight, get, lab, names, observe, peer, redirects_to, under_load,
};

/// A probe is due every second and takes 0.7 s at most; workers hear within a tick. Nothing of that is scaled.
const NOTICED: Duration = Duration::from_secs(2);
/// Three more good probes, one each 0.9 s, bring a recovered host to full weight; no less than this.
const RECOVERED: Duration = Duration::from_millis(2500);

/// Waits until a host that was out of redirects has weight again, and less than all of it at first.
async fn recovers_slowly(origin: &Site, host: &Site) {
    let mut out = Instant::now();
    let (first, unseen) = poll(PATIENCE, "recovery", async || {
        let asked = Instant::now();
        match peer(origin, host).await?["weight"].as_u64() {
            Some(weight) if weight > 0 => Ok((weight, out.elapsed())),
            weight => {
                out = asked;
                Err(format!("{weight:?}"))
            }
        }
    })
    .await
    .unwrap();
    // Who did not look for so long has missed the beginning.
    assert!(first < 1000 || unseen >= RECOVERED, "began with weight {first}");
}

#[tokio::test]
async fn a_dead_host_gets_no_more_redirects_and_a_recovered_one_starts_slowly() {
    let (lab, mut sites) = lab(["alpha", "beta", "gamma"]);
    let load = under_load(&lab, &mut sites, 4).await;
    let [alpha, beta, gamma] = &mut sites;

    let stalls = Stalls::watch();
    beta.kill();
    let noticed = stalls.passed(Instant::now(), NOTICED).await;
    let (_, samples) = observe(&load, alpha, noticed, 3 * IN_A_ROW).await;
    assert_sound(&tally(&alpha.domain, &samples));
    assert!(!samples.iter().any(|sample| names(sample, beta)), "redirected to a dead host");
    redirects_to(&load, gamma).await;

    beta.start().await.unwrap();
    let recovered = Instant::now();
    recovers_slowly(alpha, beta).await;
    redirects_to(&load, beta).await;
    full_weight(alpha, beta).await;
    let samples = load.finish().await;
    assert_sound(&tally(&alpha.domain, samples.iter().filter(|sample| sample.due >= recovered)));
}

#[tokio::test]
async fn a_host_that_only_falls_silent_is_out_of_redirects_within_two_seconds_of_its_last_good_probe() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let _load = under_load(&lab, &mut sites, 2).await;
    let [alpha, beta] = &mut sites;

    // Its connections stay open: only a probe that is not answered can tell. The last good one was before this.
    let stalls = Stalls::watch();
    let silent = Instant::now();
    beta.envoy.signal(Signal::STOP).unwrap();
    beta.agent.signal(Signal::STOP).unwrap();
    let mut last = silent;
    let mut row = 0;
    poll(PATIENCE, "end of redirects", async || {
        // Who was sent there waits: asking anew each time, and following nobody, shows what the origin says now.
        let asked = Instant::now();
        let answer = get(&lab.client, &alpha.url(&alpha.content.path(0)), &HeaderMap::new()).await;
        (last, row) = if answer.status() == 307 { (asked, 0) } else { (last, row + 1) };
        if row > IN_A_ROW { Ok(()) } else { Err(row) }
    })
    .await
    .unwrap();
    let took = stalls.worked(silent, last);
    eprintln!("last redirect {took:?} after the host fell silent, and {:?} with stalls", last - silent);
    assert!(took <= NOTICED, "{took:?}");
    beta.envoy.signal(Signal::CONT).unwrap();
    beta.agent.signal(Signal::CONT).unwrap();
    recovers_slowly(alpha, beta).await;
}
