//! What several stories need.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderMap, Response, Uri};
use p2pcdn_core::object::Sha256;
use p2pcdn_tests::client::{self, Client};
use p2pcdn_tests::content::{digest, noise};
use p2pcdn_tests::load::{Generator, Missed, Sample};
use p2pcdn_tests::tally::{Tally, tally};
use p2pcdn_tests::{Lab, Nginx, Site, invite_each_other, poll};
use serde_json::Value;
use tokio::time::Instant;

/// For whatever has to happen at all; far more than it takes, since machines can be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Answers in a row that show that something has ended in every worker.
pub(crate) const IN_A_ROW: usize = 40;
/// Requests per second that put a [`busy`] site far over its target, and that a small machine carries with ease.
pub(crate) const PRESSURE: f64 = 60.0;

/// A lab with sites of these names, not started; periods pass 20 times as fast as in life.
pub(crate) fn lab<const N: usize>(names: [&str; N]) -> (Lab, [Site; N]) {
    let lab = Lab::new().unwrap();
    let sites = sites(&lab, names);
    (lab, sites)
}

/// The sites of [`lab`], in a lab that is there already.
pub(crate) fn sites<const N: usize>(lab: &Lab, names: [&str; N]) -> [Site; N] {
    names.map(|name| adapt(lab.site(name).unwrap()))
}

/// Like [`lab`], with nginx in place of Envoy at the first site.
pub(crate) fn nginx_lab<const N: usize>(nginx: Nginx, names: [&str; N]) -> (Lab, [Site; N]) {
    let lab = Lab::new().unwrap();
    let mut sites = names
        .into_iter()
        .enumerate()
        .map(|(at, name)| adapt(if at == 0 { lab.nginx_site(name, nginx) } else { lab.site(name) }.unwrap()));
    let sites = std::array::from_fn(|_| sites.next().unwrap());
    (lab, sites)
}

/// Fits a site for most stories.
pub(crate) fn adapt(mut site: Site) -> Site {
    site.set("lab.time_scale", 0.05);
    site.set("host.lease", "1GB");
    // Most stories are about objects alone: their sites have no pages that a policy could be read from.
    site.set("site.csp", "none");
    site
}

/// Makes the site call more than one request per second too much, and redirect from an object's first request on.
pub(crate) fn busy(site: &mut Site) {
    site.decide("target.requests_per_s", 1);
    site.decide("stay_local_s", 0);
    site.decide("pure_balancer_at", 2);
    // Elsewhere it is not the proxy's tick.
    if site.nginx.is_none() {
        site.decide("tick_ms", 50);
    }
}

/// Has the site audit nobody, for stories of what visitors meet before anybody else does.
pub(crate) fn trusting(site: &mut Site) {
    for constant in ["first_audits", "floor_per_day", "floor_without_budget", "audits_least", "audits_most"] {
        site.set(&format!("trust.formulas.{constant}"), 0);
    }
}

/// Puts `count` images of 20 KiB on the site.
pub(crate) fn fill(site: &Site, count: u64) {
    for number in 0..count {
        site.content.put(&format!("/images/{number}.png"), &noise(number, 20 << 10)).unwrap();
    }
}

/// Makes all of them peers of each other, starts them, and waits until the first one's objects are where they can be redirected to.
pub(crate) async fn befriend(sites: &mut [Site]) {
    introduce(sites).await;
    let (origin, hosts) = sites.split_first().unwrap();
    for host in hosts {
        placed(origin, host).await;
    }
}

/// What many stories begin with: the first site has so many images and is [`busy`], all are friends, and visitors are about, whom it redirects
/// to each of the others.
pub(crate) async fn under_load(lab: &Lab, sites: &mut [Site], images: u64) -> Generator {
    busy(&mut sites[0]);
    fill(&sites[0], images);
    befriend(sites).await;
    let load = load(lab, &sites[0]);
    for host in &sites[1..] {
        redirects_to(&load, host).await;
    }
    load
}

/// Makes all of them peers of each other, starts them, and waits until they answer.
pub(crate) async fn introduce(sites: &mut [Site]) {
    invite_each_other(sites);
    for site in sites.iter_mut() {
        site.start_agent().unwrap();
        site.start_envoy().unwrap();
    }
    for site in sites.iter_mut() {
        site.ready().await.unwrap();
    }
}

/// Waits until the host holds everything of the origin and is well.
pub(crate) async fn placed(origin: &Site, host: &Site) {
    poll(PATIENCE, format!("replicas of {} at {}", origin.name, host.name), async || {
        let peer = peer(origin, host).await?;
        let is_placed = peer["holds"] == origin.content.len() && peer["weight"].as_u64() > Some(0);
        if is_placed { Ok(()) } else { Err(peer.to_string()) }
    })
    .await
    .unwrap();
}

/// Waits until nothing is held against the host any more.
pub(crate) async fn full_weight(origin: &Site, host: &Site) {
    poll(PATIENCE, format!("full weight of {}", host.name), async || {
        match peer(origin, host).await?["weight"].as_u64() {
            Some(1000) => Ok(()),
            weight => Err(format!("{weight:?}")),
        }
    })
    .await
    .unwrap();
}

/// What a site says about a peer.
pub(crate) async fn peer(site: &Site, other: &Site) -> Result<Value, String> {
    let status = site.status().await.map_err(|e| e.to_string())?;
    let peers = status["peers"].as_array().into_iter().flatten();
    let found = peers.into_iter().find(|peer| peer["domain"] == other.domain.as_str());
    found.cloned().ok_or_else(|| format!("{} is unknown", other.domain))
}

/// The sum of one of the agent's metrics over all its labels; 0 if there is none yet.
pub(crate) async fn metric(site: &Site, name: &str) -> u64 {
    let answer = site.local("/metrics").await.unwrap();
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    let value = |line: &str| {
        let (metric, value) = line.rsplit_once(' ')?;
        (metric.split('{').next() == Some(name)).then(|| value.parse::<u64>().unwrap())
    };
    text.lines().filter_map(value).sum()
}

/// Background load on all objects of the site.
pub(crate) fn load(lab: &Lab, site: &Site) -> Generator {
    let generator = Generator::new(lab.client.clone(), site.domain.clone(), site.content.clone());
    generator.offer(PRESSURE);
    generator
}

/// Like [`load`], but never more than [`PRESSURE`], not even after the machine has stalled.
pub(crate) fn steady_load(lab: &Lab, site: &Site) -> Generator {
    let generator = Generator::with_missed(lab.client.clone(), site.domain.clone(), site.content.clone(), Missed::Skip);
    generator.offer(PRESSURE);
    generator
}

/// Asks for a path until the answer is a redirect; returns that.
pub(crate) async fn redirect(client: &Client, site: &Site, path: &str) -> Response<Bytes> {
    redirect_as(client, site, path, &HeaderMap::new()).await
}

/// Like [`redirect`], for a request with these headers.
pub(crate) async fn redirect_as(client: &Client, site: &Site, path: &str, headers: &HeaderMap) -> Response<Bytes> {
    poll(PATIENCE, format!("redirect for {path}"), async || {
        let response = get(client, &site.url(path), headers).await;
        if response.status() == 307 { Ok(response) } else { Err(response.status()) }
    })
    .await
    .unwrap()
}

/// Waits until some request is redirected, whoever the load asks for.
pub(crate) async fn redirects_to(generator: &Generator, host: &Site) {
    poll(PATIENCE, format!("redirect to {}", host.name), async || {
        let samples = generator.take();
        if samples.iter().any(|sample| names(sample, host)) { Ok(()) } else { Err(samples.len()) }
    })
    .await
    .unwrap();
}

/// Waits until so many requests in a row have ended without any redirect.
pub(crate) async fn no_more_redirects(generator: &Generator) {
    let mut row = 0;
    poll(PATIENCE, "end of redirects", async || {
        for sample in generator.take() {
            row = if sample.redirects.is_empty() { row + 1 } else { 0 };
        }
        if row >= IN_A_ROW { Ok(()) } else { Err(row) }
    })
    .await
    .unwrap();
}

/// Whether the request was redirected to the host.
pub(crate) fn names(sample: &Sample, host: &Site) -> bool {
    sample.redirects.iter().any(|redirect| redirect.to == host.replica_name)
}

/// Lets the load go on for a while and sums up what was asked for after `start`.
pub(crate) async fn observe(
    generator: &Generator,
    site: &Site,
    start: Instant,
    requests: usize,
) -> (Tally, Vec<Sample>) {
    let mut samples = Vec::new();
    poll(PATIENCE, format!("{requests} requests"), async || {
        samples.extend(generator.take().into_iter().filter(|sample| sample.due >= start));
        if samples.len() >= requests { Ok(()) } else { Err(samples.len()) }
    })
    .await
    .unwrap();
    (tally(&site.domain, &samples), samples)
}

/// Every request was answered with the present bytes.
pub(crate) fn assert_sound(tally: &Tally) {
    assert_eq!((tally.failed, tally.corrupt, tally.stale), (0, 0, 0), "{tally:#?}");
}

/// Gets a URL with headers, following nothing.
pub(crate) async fn get(client: &Client, url: &str, headers: &HeaderMap) -> Response<Bytes> {
    let mut request = client::get(url).unwrap();
    request.headers_mut().extend(headers.clone());
    client.send(request).await.unwrap()
}

/// Gets a URL, following redirects, and returns the last answer.
pub(crate) async fn fetch(client: &Client, url: &str) -> Response<Bytes> {
    client.follow(client::get(url).unwrap()).await.unwrap().pop().unwrap().response
}

/// Where an answer leads to.
pub(crate) fn location(response: &Response<Bytes>) -> String {
    response.headers()[LOCATION].to_str().unwrap().to_owned()
}

/// The URL of a replica.
pub(crate) fn replica_url(host: &Site, origin: &Site, sha256: Sha256, path: &str) -> String {
    format!("https://{}/.well-known/p2pcdn/v1/r/{}/{sha256}{path}", host.replica_name, origin.domain)
}

/// Headers by name, from what a test writes down.
pub(crate) fn headers<const N: usize>(pairs: [(&'static str, &str); N]) -> HeaderMap {
    pairs.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

/// SHA-256 of an answer's body.
pub(crate) fn body_digest(response: &Response<Bytes>) -> Sha256 {
    digest(response.body())
}

/// The host of a URL.
pub(crate) fn authority_of(url: &str) -> String {
    url.parse::<Uri>().unwrap().authority().unwrap().to_string()
}

/// Runs the agent's program for a site, as an operator would in the site's directory.
pub(crate) fn p2pcdn<A: AsRef<OsStr>>(lab: &Lab, site: &Site, arguments: impl IntoIterator<Item = A>) -> Output {
    let mut command = Command::new(&lab.dist.agent);
    command.args(arguments).current_dir(site.directory()).output().unwrap()
}

/// What a command printed to standard output; the command has to succeed.
pub(crate) fn printed(output: Output) -> String {
    let Output { status, stdout, stderr } = output;
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Where a program is that the machine has to have.
pub(crate) fn installed(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed: apt-get install {package}"))
}

/// Turns over one bit of what a host keeps under this digest.
pub(crate) fn damage(host: &Site, sha256: Sha256) {
    let hex = sha256.to_string();
    let blob = host.directory().join("state/replicas/blobs").join(&hex[..2]).join(hex);
    let mut bytes = std::fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(blob, bytes).unwrap();
}

/// What the agent has in memory.
pub(crate) fn resident_bytes(site: &Site) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", site.agent.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
