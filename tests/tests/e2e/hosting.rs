//! A host decides what it carries and how much it sends, and leaves without a failed request.

use std::time::Duration;

use futures_util::future::join_all;
use http::{HeaderMap, Method};
use p2pcdn_core::object::Sha256;
use p2pcdn_tests::client::{self, Client};
use p2pcdn_tests::content::noise;
use p2pcdn_tests::load::{Generator, Sample};
use p2pcdn_tests::{Lab, Signal, Site, poll};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{
    IN_A_ROW, PATIENCE, assert_sound, befriend, busy, fill, get, introduce, lab, load, location, names, observe,
    p2pcdn, peer, placed, printed, redirects_to, replica_url, under_load,
};

/// Runs a command that prints JSON.
fn command(lab: &Lab, site: &Site, arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(p2pcdn(lab, site, arguments))).unwrap()
}

/// Waits until a site says of a peer what `is_so` looks for.
async fn says(site: &Site, other: &Site, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    poll(PATIENCE, format!("{what} at {} about {}", site.name, other.name), async || {
        let said = peer(site, other).await?;
        if is_so(&said) { Ok(said) } else { Err(said.to_string()) }
    })
    .await
    .unwrap()
}

async fn departed(site: &Site) {
    poll(PATIENCE, format!("departure of {}", site.name), async || {
        let departure = site.local("/v1/leave").await.map_err(|error| error.to_string())?;
        let departure: Value = serde_json::from_slice(departure.body()).map_err(|error| error.to_string())?;
        if departure["state"] == "left" { Ok(()) } else { Err(departure.to_string()) }
    })
    .await
    .unwrap();
}

async fn status_of(client: &Client, url: &str) -> u16 {
    get(client, url, &HeaderMap::new()).await.status().as_u16()
}

fn has_bytes(host: &Site, sha256: Sha256) -> bool {
    let hex = sha256.to_string();
    host.directory().join("state/replicas/blobs").join(&hex[..2]).join(hex).exists()
}

async fn bytes_gone(host: &Site, sha256: Sha256) {
    poll(PATIENCE, "end of the bytes", async || if has_bytes(host, sha256) { Err("there") } else { Ok(()) })
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_denied_is_not_served_from_that_moment_and_its_origin_hears_why() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let load = under_load(&lab, &mut sites, 3).await;
    let [alpha, beta] = &sites;
    let [denied, other] = [0, 1].map(|at| alpha.content.objects().swap_remove(at));
    let [url, other_url] = [&denied, &other].map(|object| replica_url(beta, alpha, object.versions[0], &object.path));
    assert_eq!(status_of(&lab.client, &url).await, 200);

    let start = Instant::now();
    let entry = format!("{}{}", alpha.domain, denied.path);
    let done = command(&lab, beta, &["deny", "path", &entry, "--json"]);
    assert_eq!(done, json!({ "changed": 1, "replicas": 1 }));
    let back = get(&lab.client, &url, &HeaderMap::new()).await;
    assert_eq!(back.status(), 302, "from that very moment");
    assert_eq!(location(&back), format!("https://{}/.well-known/p2pcdn/v1/back{}", alpha.domain, denied.path));
    assert_eq!(status_of(&lab.client, &other_url).await, 200);
    bytes_gone(beta, denied.versions[0]).await;
    // The origin has been told why, and offers it once more.
    let is_refused = |peer: &Value| peer["withdrawn_for"]["denied"] == 1 && peer["declined_for"]["denied"] == 1;
    says(alpha, beta, "refusal", is_refused).await;
    let mut row = 0;
    poll(PATIENCE, "end of redirects for the path", async || {
        row = if status_of(&lab.client, &alpha.url(&denied.path)).await == 200 { row + 1 } else { 0 };
        if row > IN_A_ROW { Ok(()) } else { Err(row) }
    })
    .await
    .unwrap();
    redirects_to(&load, beta).await;
    let (tally, _) = observe(&load, alpha, start, IN_A_ROW).await;
    assert_sound(&tally);

    let list = command(&lab, beta, &["deny", "list", "--json"]);
    assert_eq!(list[0]["denial"], entry.as_str());
    assert_eq!(command(&lab, beta, &["deny", "remove", &entry, "--json"])["changed"], 1);
    placed(alpha, beta).await;
}

#[tokio::test]
async fn a_takedown_by_digest_holds_for_all_origins_that_share_the_bytes() {
    let (lab, mut sites) = lab(["alpha", "beta", "gamma"]);
    sites.iter_mut().for_each(|site| site.set("public.contact", "mailto:abuse@example.org"));
    for (at, path) in [(0, "/images/a.png"), (2, "/pictures/c.png")] {
        sites[at].content.put(path, &noise(7, 20 << 10)).unwrap();
    }
    befriend(&mut sites).await;
    let [alpha, beta, gamma] = &sites;
    placed(gamma, beta).await;
    let sha256 = alpha.content.objects()[0].versions[0];
    let urls = [(alpha, "/images/a.png"), (gamma, "/pictures/c.png")].map(|(o, p)| replica_url(beta, o, sha256, p));
    for url in &urls {
        assert_eq!(status_of(&lab.client, url).await, 200);
    }
    let done = command(&lab, beta, &["deny", "digest", &sha256.to_string(), "--json"]);
    assert_eq!(done["replicas"], 2);
    for url in &urls {
        assert_eq!(status_of(&lab.client, url).await, 302);
    }
    bytes_gone(beta, sha256).await;
    for origin in [alpha, gamma] {
        says(origin, beta, "withdrawal", |peer| peer["withdrawn_for"]["denied"] == 1).await;
    }
    assert_eq!(peer(alpha, beta).await.unwrap()["contact"], "mailto:abuse@example.org");
}

#[tokio::test]
async fn a_host_that_leaves_is_empty_in_the_end_and_no_request_has_failed() {
    let (lab, mut sites) = lab(["alpha", "beta", "gamma"]);
    // Like `busy`, but ticks are as long as in life, so that visitors come between the origin's hearing and its workers'.
    for (key, value) in [("target.requests_per_s", 1), ("stay_local_s", 0), ("pure_balancer_at", 2)] {
        sites[0].decide(key, value);
    }
    fill(&sites[0], 4);
    befriend(&mut sites).await;
    let [alpha, beta, gamma] = &sites;
    let load = load(&lab, alpha);
    redirects_to(&load, beta).await;
    redirects_to(&load, gamma).await;

    let start = Instant::now();
    let leaving = command(&lab, beta, &["leave", "--no-wait", "--json"]);
    assert_eq!((&leaving["state"], &leaving["replicas"]), (&json!("leaving"), &json!(4)));
    departed(beta).await;
    let left = Instant::now();
    // What was asked for while it left; to observe is to take, and leaves out what is older.
    let mut samples = load.take();
    let (tally, after) = observe(&load, alpha, left, 3 * IN_A_ROW).await;
    assert_sound(&tally);
    assert!(!after.iter().any(|sample| names(sample, beta)), "redirected to a host that has left");
    assert!(after.iter().any(|sample| names(sample, gamma)));
    samples.extend(after);
    let said = says(alpha, beta, "departure", |peer| peer["withdrawn_for"]["leaving"] == 4).await;
    assert_eq!((&said["holds"], &said["lease_bytes_per_s"]), (&json!(0), &json!(0)), "{said}");
    assert_eq!(beta.status().await.unwrap()["objects"]["hosted"], 0);
    // Once more, as one who waits for it.
    assert_eq!(command(&lab, beta, &["leave", "--json"])["state"], "left");
    samples.extend(load.finish().await);
    samples.retain(|sample| sample.due >= start);
    assert!(samples.iter().any(|sample| names(sample, beta)), "it carried on until its origin had heard");
    assert_sound(&p2pcdn_tests::tally::tally(&alpha.domain, &samples));
    // Redirects on their way have three seconds, which pass while the machine stalls, too. Whoever was sent back within one second of being
    // due was redirected too late.
    let is_prompt = |sample: &&Sample| match &sample.redirects[..] {
        [_, back, ..] => back.at - sample.due < Duration::from_secs(1),
        _ => false,
    };
    assert_eq!(samples.iter().filter(is_prompt).count(), 0, "nobody had to come back");
}

#[tokio::test]
async fn leaving_goes_on_after_a_crash_and_can_be_taken_back() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    fill(&sites[0], 4);
    befriend(&mut sites).await;
    let [alpha, beta] = &mut sites;
    // As long as the origin does not hear, nothing goes.
    alpha.agent.freeze().await.unwrap();
    assert_eq!(command(&lab, beta, &["leave", "--no-wait", "--json"])["state"], "leaving");
    beta.agent.kill();
    assert!(has_bytes(beta, alpha.content.objects()[0].versions[0]), "it was killed before the end");
    alpha.agent.signal(Signal::CONT).unwrap();
    beta.start_agent().unwrap();
    beta.ready().await.unwrap();
    departed(beta).await;
    says(alpha, beta, "no replicas", |peer| peer["holds"] == 0).await;

    assert_eq!(command(&lab, beta, &["leave", "--cancel", "--json"])["state"], "staying");
    placed(alpha, beta).await;
}

#[tokio::test]
async fn a_host_whose_quota_was_cut_gives_up_what_no_longer_fits() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    busy(&mut sites[0]);
    fill(&sites[0], 4);
    befriend(&mut sites).await;
    let [alpha, beta] = &mut sites;
    beta.agent.stop().await.unwrap();
    // Each object has 20 KiB.
    beta.set("host.quota", 50_000);
    beta.start_agent().unwrap();
    beta.ready().await.unwrap();
    let load = load(&lab, alpha);
    let said = says(alpha, beta, "eviction", |peer| peer["withdrawn_for"]["quota"] == 2).await;
    assert_eq!(said["holds"], 2);
    poll(PATIENCE, "room", async || {
        let status = beta.status().await.map_err(|error| error.to_string())?;
        if status["objects"]["hosted"] == 2 { Ok(()) } else { Err(status["objects"].to_string()) }
    })
    .await
    .unwrap();
    says(alpha, beta, "refusal", |peer| peer["declined_for"]["quota"].as_u64() >= Some(2)).await;
    redirects_to(&load, beta).await;
    let (tally, _) = observe(&load, alpha, Instant::now(), IN_A_ROW).await;
    assert_sound(&tally);
}

#[tokio::test]
async fn a_hosts_own_visitors_come_first_and_what_they_leave_grows_back_slowly() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    fill(&sites[0], 1);
    let beta = &mut sites[1];
    beta.set("public.uplink", "2MB");
    beta.set("host.lease_total", "1MB");
    beta.set("share.min_object", "10MB");
    beta.content.put("/own.png", &noise(9, 500 << 10)).unwrap();
    introduce(&mut sites).await;
    let [alpha, beta] = &sites;
    placed(alpha, beta).await;
    says(alpha, beta, "lease", |peer| peer["lease_bytes_per_s"] == 1_000_000).await;
    let object = alpha.content.objects().swap_remove(0);
    let url = replica_url(beta, alpha, object.versions[0], &object.path);
    assert_eq!(status_of(&lab.client, &url).await, 200);

    let own = Generator::new(lab.client.clone(), beta.domain.clone(), beta.content.clone());
    own.offer(10.0);
    says(alpha, beta, "end of the lease", |peer| peer["lease_bytes_per_s"] == 0).await;
    assert_eq!(status_of(&lab.client, &url).await, 302, "the host keeps to it itself");
    let mut head = client::get(&url).unwrap();
    *head.method_mut() = Method::HEAD;
    assert_eq!(lab.client.send(head).await.unwrap().status(), 200, "the replica is there");
    assert_sound(&p2pcdn_tests::tally::tally(&beta.domain, &own.finish().await));

    let part = |peer: &Value| (1..1_000_000).contains(&peer["lease_bytes_per_s"].as_u64().unwrap_or(0));
    says(alpha, beta, "part of the lease", part).await;
    says(alpha, beta, "lease", |peer| peer["lease_bytes_per_s"] == 1_000_000).await;
}

#[tokio::test]
async fn requests_at_the_same_time_get_no_more_than_the_lease_between_them() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    sites[0].content.put("/large.png", &noise(1, 500_000)).unwrap();
    sites[1].set("host.lease", "500KB");
    // Audits take their part of a lease, too.
    sites[0].set("trust.formulas.first_audits", 0);
    befriend(&mut sites).await;
    let [alpha, beta] = &sites;
    let url = replica_url(beta, alpha, alpha.content.objects()[0].versions[0], "/large.png");
    let begun = Instant::now();
    let statuses = join_all((0..50).map(|_| status_of(&lab.client, &url))).await;
    let seconds = begun.elapsed().as_secs_f64();
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!(statuses.iter().all(|status| [200, 302].contains(status)), "{statuses:?}");
    // Two objects are at hand, and two more with each second.
    assert!((1..=3 + (2.0 * seconds) as usize).contains(&served), "{served} served in {seconds} s");
}

#[tokio::test]
async fn an_origin_that_only_takes_is_given_no_more_than_the_operator_allows() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    sites[1].set("host.debt_ratio", 2);
    sites[1].set("host.debt_allowance", "100KB");
    let load = under_load(&lab, &mut sites, 2).await;
    let [alpha, beta] = &sites;
    says(beta, alpha, "what was given", |peer| peer["given_bytes"].as_u64() > Some(100_000)).await;
    says(alpha, beta, "what was received", |peer| peer["received_bytes"].as_u64() > Some(100_000)).await;
    alpha.content.put("/images/new.png", &noise(77, 20 << 10)).unwrap();
    let said = says(alpha, beta, "refusal", |peer| peer["declined_for"]["reciprocity"] == 1).await;
    assert_eq!(said["holds"], 2, "what is there stays");
    redirects_to(&load, beta).await;
    assert_sound(&p2pcdn_tests::tally::tally(&alpha.domain, &load.finish().await));
}

#[tokio::test]
async fn what_an_origin_could_not_be_told_it_hears_once_it_answers_whoever_restarted() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    fill(&sites[0], 2);
    befriend(&mut sites).await;
    let [alpha, beta] = &mut sites;
    let object = alpha.content.objects().swap_remove(0);
    // Alpha's agent lives on, but nobody reaches it.
    alpha.envoy.kill();
    command(&lab, beta, &["deny", "digest", &object.versions[0].to_string(), "--json"]);
    bytes_gone(beta, object.versions[0]).await;
    let untold = async |site: &Site| {
        let status = site.status().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(status["hosting"]["departure"]["untold"].as_u64())
    };
    assert_eq!(untold(beta).await, Ok(Some(1)));
    beta.agent.kill();
    beta.start_agent().unwrap();
    beta.ready().await.unwrap();
    assert_eq!(untold(beta).await, Ok(Some(1)), "it is not forgotten");

    alpha.start_envoy().unwrap();
    alpha.ready().await.unwrap();
    poll(PATIENCE, "word to the origin", async || match untold(beta).await? {
        Some(0) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    says(alpha, beta, "one replica less", |peer| peer["holds"] == 1).await;
}
