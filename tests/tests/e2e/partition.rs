//! Two of four sites cannot reach each other for a while: nobody is sent the wrong way, and it mends itself.

use std::time::Duration;

use http::HeaderMap;
use p2pcdn_core::object::Sha256;
use p2pcdn_tests::content::{digest, noise};
use p2pcdn_tests::network::{Network, Place};
use p2pcdn_tests::stalls::Stalls;
use p2pcdn_tests::tally::tally;
use p2pcdn_tests::{Lab, Site, poll};
use tokio::time::Instant;

use crate::support::{
    IN_A_ROW, PATIENCE, adapt, assert_sound, befriend, body_digest, busy, fill, full_weight, get, load, names, observe,
    redirects_to, replica_url,
};

/// A probe is due every second and takes 0.7 s at most; the rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(5);

/// What a host serves for a path, whichever version the origin has.
async fn serves(lab: &Lab, origin: &Site, host: &Site, sha256: Sha256, path: &str) -> bool {
    let answer = get(&lab.client, &replica_url(host, origin, sha256, path), &HeaderMap::new()).await;
    answer.status() == 200 && body_digest(&answer) == sha256
}

#[tokio::test]
async fn a_partition_costs_redirects_between_its_sides_and_heals_by_itself() {
    let mut network = Network::new().unwrap();
    let lab = Lab::new().unwrap();
    let places: [Place; 4] = std::array::from_fn(|_| network.place().unwrap());
    let mut at = places.iter();
    let mut sites =
        ["alpha", "beta", "gamma", "delta"].map(|name| adapt(lab.site_at(name, at.next().unwrap()).unwrap()));
    busy(&mut sites[0]);
    sites[0].set("share.replicas", 3);
    fill(&sites[0], 4);
    befriend(&mut sites).await;
    let [alpha, beta, gamma, delta] = &mut sites;
    let load = load(&lab, alpha);
    for host in [&*beta, &*gamma, &*delta] {
        redirects_to(&load, host).await;
    }

    network.part([&places[0], &places[1]]).unwrap();
    let noticed = Stalls::watch().passed(Instant::now(), NOTICED).await;
    let (_, samples) = observe(&load, alpha, noticed, 3 * IN_A_ROW).await;
    assert_sound(&tally(&alpha.domain, &samples));
    assert!(!samples.iter().any(|sample| names(sample, beta)), "redirected to a host that the origin cannot see");
    for host in [&*gamma, &*delta] {
        redirects_to(&load, host).await;
    }

    // What changes meanwhile is old at the host that did not hear of it, which nobody is sent to.
    let (path, new) = (alpha.content.path(0), noise(100, 20 << 10));
    alpha.content.put(&path, &new).unwrap();
    poll(PATIENCE, "the new version at the others", async || {
        for host in [&*gamma, &*delta] {
            if !serves(&lab, alpha, host, digest(&new), &path).await {
                return Err(format!("{} has the old one", host.name));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    assert!(!serves(&lab, alpha, beta, digest(&new), &path).await);

    network.heal([&places[0], &places[1]]).unwrap();
    let healed = Instant::now();
    poll(PATIENCE, "the new version behind the healed link", async || {
        if serves(&lab, alpha, beta, digest(&new), &path).await { Ok(()) } else { Err("not yet") }
    })
    .await
    .unwrap();
    redirects_to(&load, beta).await;
    full_weight(alpha, beta).await;
    let samples = load.finish().await;
    assert_sound(&tally(&alpha.domain, samples.iter().filter(|sample| sample.due >= healed)));
}
