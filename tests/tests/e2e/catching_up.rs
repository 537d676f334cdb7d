//! Workers that lag behind their agent, or meet another one, come to know everything that it knows.

use http::HeaderMap;
use p2pcdn_tests::content::noise;
use p2pcdn_tests::{Lab, Signal, Site, poll};
use tokio::time::Instant;

use crate::support::{
    IN_A_ROW, PATIENCE, assert_sound, befriend, busy, fetch, get, lab, load, location, observe, placed, replica_url,
};

const OBJECTS: usize = 300;

fn fill_with(site: &Site, seed: u64) {
    for number in 0..OBJECTS {
        let bytes = noise(seed + number as u64, 9000);
        site.content.put(&format!("/images/{number}.png"), &bytes).unwrap();
    }
}

/// Waits until every object, in its present version, is redirected to the host.
async fn all_redirected(lab: &Lab, site: &Site, host: &Site) {
    for object in site.content.objects() {
        let want = replica_url(host, site, *object.versions.last().unwrap(), &object.path);
        poll(PATIENCE, format!("redirect to {want}"), async || {
            let answer = get(&lab.client, &site.url(&object.path), &HeaderMap::new()).await;
            let found = if answer.status() == 307 { location(&answer) } else { answer.status().to_string() };
            if found == want { Ok(()) } else { Err(found) }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn workers_that_lag_behind_or_meet_a_new_agent_catch_up() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    busy(&mut sites[0]);
    // Nobody can ask a proxy that stands still whether a stranger may have what has changed.
    sites[0].set("share.unchecked", true);
    fill_with(&sites[0], 0);
    befriend(&mut sites).await;
    let [alpha, beta] = &mut sites;
    let load = load(&lab, alpha);
    all_redirected(&lab, alpha, beta).await;

    // Another run of the agent: what the workers have is of no use to it.
    alpha.agent.kill();
    alpha.start_agent().unwrap();
    placed(alpha, beta).await;
    all_redirected(&lab, alpha, beta).await;

    // Everything changes while the workers stand still.
    alpha.envoy.signal(Signal::STOP).unwrap();
    fill_with(alpha, 1 << 32);
    poll(PATIENCE, "catalogued changes", async || {
        let listed = alpha.local("/v1/objects").await.map_err(|e| e.to_string())?;
        let listed = String::from_utf8_lossy(listed.body()).into_owned();
        let objects = alpha.content.objects();
        let known = objects.iter().filter(|o| listed.contains(&o.versions.last().unwrap().to_string())).count();
        if known == OBJECTS { Ok(()) } else { Err(known.to_string()) }
    })
    .await
    .unwrap();
    alpha.envoy.signal(Signal::CONT).unwrap();
    placed(alpha, beta).await;
    all_redirected(&lab, alpha, beta).await;
    let last = alpha.content.objects().pop().unwrap();
    let body = fetch(&lab.client, &alpha.url(&last.path)).await;
    assert_eq!(crate::support::body_digest(&body), *last.versions.last().unwrap());
    let (tally, _) = observe(&load, alpha, Instant::now(), IN_A_ROW).await;
    assert_sound(&tally);
}
