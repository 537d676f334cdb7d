//! A host that dies under load is noticed within seconds, and comes back slowly.

use std::time::Duration;

use p2pcdn_tests::poll;
use p2pcdn_tests::tally::tally;
use tokio::time::Instant;

use crate::support::{
    IN_A_ROW, PATIENCE, assert_sound, befriend, busy, fill, lab, load, names, observe, peer, redirects_to,
};

/// A probe is due every second and takes 0.7 s at most; the rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_dead_host_gets_no_more_redirects_and_a_recovered_one_starts_slowly() {
    let (lab, mut sites) = lab(["alpha", "beta", "gamma"]);
    busy(&mut sites[0]);
    fill(&sites[0], 4);
    befriend(&mut sites).await;
    let [alpha, beta, gamma] = &mut sites;
    let load = load(&lab, alpha);
    redirects_to(&load, beta).await;
    redirects_to(&load, gamma).await;

    beta.kill();
    let died = Instant::now();
    let (_, samples) = observe(&load, alpha, died + NOTICED, 3 * IN_A_ROW).await;
    assert_sound(&tally(&alpha.domain, &samples));
    assert!(!samples.iter().any(|sample| names(sample, beta)), "redirected to a dead host");
    assert!(samples.iter().any(|sample| names(sample, gamma)), "nobody was redirected to the living one");

    beta.start().await.unwrap();
    let recovered = Instant::now();
    let first = poll(PATIENCE, "recovery", async || match peer(alpha, beta).await?["weight"].as_u64() {
        Some(weight) if weight > 0 => Ok(weight),
        weight => Err(format!("{weight:?}")),
    });
    let first = first.await.unwrap();
    assert!(first < 1000, "began with weight {first}");
    redirects_to(&load, beta).await;
    poll(PATIENCE, "full weight", async || match peer(alpha, beta).await?["weight"].as_u64() {
        Some(1000) => Ok(()),
        weight => Err(format!("{weight:?}")),
    })
    .await
    .unwrap();
    let samples = load.finish().await;
    assert_sound(&tally(&alpha.domain, samples.iter().filter(|sample| sample.due >= recovered)));
}
