//! What hosts really serve is looked at, and whoever serves wrong bytes gets no more visitors.

use std::time::Duration;

use http::Request;
use http::header::RANGE;
use p2pcdn_tests::content::noise;
use p2pcdn_tests::stalls::Stalls;
use p2pcdn_tests::tally::tally;
use p2pcdn_tests::{Site, poll};
use serde_json::Value;
use tokio::time::Instant;

use crate::support::{
    IN_A_ROW, PATIENCE, assert_sound, befriend, busy, fill, introduce, lab, load, names, no_more_redirects, observe,
    p2pcdn, printed, redirects_to, under_load,
};
use crate::two_faced::{Lie, corrupt};

/// A day passes in 86 s, and holds ten times as many audits as it would.
fn watchful(site: &mut Site) {
    site.set("lab.time_scale", 1e-3);
    site.set("trust.formulas.floor_per_day", 80);
}

/// What the site thinks of another one.
async fn thought_of(site: &Site, other: &Site) -> Result<Value, String> {
    let answer = site.local("/v1/trust").await.map_err(|e| e.to_string())?;
    let trust: Value = serde_json::from_slice(answer.body()).map_err(|e| e.to_string())?;
    let found = trust["peers"].as_array().into_iter().flatten().find(|peer| peer["domain"] == other.domain.as_str());
    found.cloned().ok_or_else(|| format!("nothing is thought of {}", other.domain))
}

async fn until(site: &Site, other: &Site, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    poll(PATIENCE, format!("{what} of {} at {}", other.name, site.name), async || {
        let peer = thought_of(site, other).await?;
        if holds(&peer) { Ok(peer) } else { Err(peer.to_string()) }
    })
    .await
    .unwrap()
}

fn state(peer: &Value) -> &str {
    peer["standing"]["state"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_friend_that_announces_a_replica_is_audited_at_once_whether_anybody_comes_or_not() {
    let (_lab, mut sites) = lab(["alpha", "beta"]);
    fill(&sites[0], 2);
    befriend(&mut sites).await;
    let [alpha, beta] = &sites;
    let peer = until(alpha, beta, "five audits", |peer| peer["audits"]["good"].as_u64() >= Some(5)).await;
    assert_eq!(state(&peer), "trusted", "{peer}");
    assert!(peer["weight"].as_f64() > Some(0.5), "{peer}");
}

#[tokio::test]
async fn a_host_that_corrupts_a_tenth_of_its_objects_gets_no_redirect_after_the_first_wrong_audit_and_is_isolated() {
    let (lab, mut sites) = lab(["alpha", "beta", "gamma"]);
    busy(&mut sites[0]);
    watchful(&mut sites[0]);
    fill(&sites[0], 20);
    corrupt(&mut sites[1], Lie::Plain, |request| request.uri().path().ends_with("0.png")).await;
    befriend(&mut sites).await;
    let [alpha, beta, gamma] = &sites;
    let stalls = Stalls::watch();
    let load = load(&lab, alpha);
    redirects_to(&load, gamma).await;
    until(alpha, beta, "a wrong audit", |peer| peer["audits"]["wrong_bytes"].as_u64() >= Some(1)).await;
    // Workers hear within three ticks of 50 ms, and the rest is for a busy machine.
    let told = stalls.passed(Instant::now(), Duration::from_millis(600)).await;
    let (_, samples) = observe(&load, alpha, told, 2 * IN_A_ROW).await;
    assert!(!samples.iter().any(|sample| names(sample, beta)), "redirected to a host that was caught");
    assert_sound(&tally(&alpha.domain, &samples));
    until(alpha, beta, "isolation", |peer| state(peer) == "isolated").await;
    let honest = thought_of(alpha, gamma).await.unwrap();
    assert_eq!((state(&honest), honest["audits"].get("wrong_bytes")), ("trusted", None), "{honest}");
    let why = printed(p2pcdn(&lab, alpha, ["why", beta.domain.as_str()]));
    assert!(why.contains("wrong bytes at /images/") && why.contains("isolated until"), "{why}");
}

#[tokio::test]
async fn a_host_that_is_right_at_first_and_wrong_after_is_caught_though_ranges_show_nothing() {
    let (_lab, mut sites) = lab(["alpha", "beta", "gamma"]);
    // A lie that begins in the middle escapes six in ten audits.
    sites[0].set("trust.formulas.first_audits", 40);
    sites[0].content.put("/downloads/long.zip", &noise(1, 6 << 20)).unwrap();
    let lies = |request: &Request<_>| request.uri().path().ends_with(".zip") && !request.headers().contains_key(RANGE);
    corrupt(&mut sites[1], Lie::HalfWay, lies).await;
    befriend(&mut sites).await;
    let [alpha, beta, gamma] = &sites;
    until(alpha, beta, "a wrong audit", |peer| peer["audits"]["wrong_bytes"].as_u64() >= Some(1)).await;
    let honest = until(alpha, gamma, "every audit", |peer| peer["audits"]["good"].as_u64() >= Some(40)).await;
    assert_eq!((state(&honest), honest["audits"].get("wrong_bytes")), ("trusted", None), "{honest}");
}

#[tokio::test]
async fn wrong_bytes_are_wrong_in_a_coding_and_as_an_error_since_browsers_show_them() {
    let (_lab, mut sites) = lab(["alpha", "beta", "gamma"]);
    fill(&sites[0], 2);
    corrupt(&mut sites[1], Lie::Coded, |request| request.uri().path().ends_with(".png")).await;
    corrupt(&mut sites[2], Lie::Error, |request| request.uri().path().ends_with(".png")).await;
    introduce(&mut sites).await;
    let [alpha, beta, gamma] = &sites;
    for liar in [beta, gamma] {
        let found = until(alpha, liar, "a wrong audit", |peer| peer["audits"]["wrong_bytes"].as_u64() >= Some(1)).await;
        assert_eq!(found["audits"].get("good"), None, "{found}");
    }
}

#[tokio::test]
async fn of_two_hosts_the_dead_one_is_not_taken_for_a_fault_of_ones_own() {
    let (lab, mut sites) = lab(["alpha", "beta", "gamma"]);
    busy(&mut sites[0]);
    // A day passes in 86 s, and audits go on whether there are redirects or not.
    sites[0].set("lab.time_scale", 1e-3);
    for (constant, value) in
        [("floor_per_day", 800.0), ("floor_share", 1.0), ("audits_most", 0.01), ("audits_least", 0.01)]
    {
        sites[0].set(&format!("trust.formulas.{constant}"), value);
    }
    fill(&sites[0], 4);
    befriend(&mut sites).await;
    let [alpha, beta, gamma] = &mut sites;
    let load = load(&lab, alpha);
    redirects_to(&load, beta).await;
    until(alpha, beta, "audits", |peer| peer["audits"]["good"].as_u64() >= Some(20)).await;
    beta.kill();
    let before = thought_of(alpha, beta).await.unwrap();
    // An audit may have failed before on a busy machine, and one that was good may end after this.
    let unreachable = |peer: &Value| peer["audits"]["unreachable"].as_u64().unwrap_or(0);
    let has_failed =
        |peer: &Value| unreachable(peer) > unreachable(&before) && peer["weight"].as_f64() < before["weight"].as_f64();
    let after = until(alpha, beta, "a failed audit that counts", has_failed).await;
    assert_eq!(state(&after), "trusted", "who is away is no liar: {after}");
    redirects_to(&load, gamma).await;
}

#[tokio::test]
async fn a_ban_ends_redirects_at_once_and_is_forgiven() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let load = under_load(&lab, &mut sites, 2).await;
    let [alpha, beta] = &sites;
    let banned = printed(p2pcdn(&lab, alpha, ["ban", beta.domain.as_str()]));
    assert!(banned.contains("banned"), "{banned}");
    no_more_redirects(&load).await;
    let peers = printed(p2pcdn(&lab, alpha, ["peers"]));
    assert!(peers.contains(beta.domain.as_str()) && peers.contains("banned"), "{peers}");
    printed(p2pcdn(&lab, alpha, ["forgive", beta.domain.as_str()]));
    redirects_to(&load, beta).await;
    let unknown = p2pcdn(&lab, alpha, ["why", "nobody.example"]);
    assert_eq!(unknown.status.code(), Some(4), "{}", String::from_utf8_lossy(&unknown.stderr));
}

#[tokio::test]
async fn a_site_that_only_observes_sees_corruption_and_redirects_as_before() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    busy(&mut sites[0]);
    watchful(&mut sites[0]);
    sites[0].set("trust.mode", "observe");
    fill(&sites[0], 2);
    corrupt(&mut sites[1], Lie::Plain, |request| request.uri().path().ends_with("0.png")).await;
    befriend(&mut sites).await;
    let [alpha, beta] = &sites;
    let load = load(&lab, alpha);
    until(alpha, beta, "isolation", |peer| state(peer) == "isolated").await;
    load.take();
    redirects_to(&load, beta).await;
}
