//! Page views of a real browser at a site that redirects everything it may, under each policy for redirects: what `cargo xtask bench
//! caching` runs and sums up.
//!
//! `browser_caching ROUNDS PAUSE_MS FILE` writes what it measured to the file, as JSON. Needs Chromium and chromedriver on the path, and
//! agent, filter and Envoy where the tests find them.

#[path = "../../tests/e2e/browser/chromium.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
mod chromium;
mod network;
mod session;
#[path = "../../tests/e2e/support.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
mod support;

use std::env;
use std::error::Error;
use std::fs;
use std::time::Duration;

use p2pcdn_tests::content::{Content, noise};
use p2pcdn_tests::load::Generator;
use p2pcdn_tests::{Lab, Site, poll};
use serde::Serialize;

use chromium::Driver;
use session::Session;
use support::{PATIENCE, befriend, peer};

/// Name of a policy, and the filter's keys for it.
const POLICIES: [(&str, &str); 4] = [
    ("off", r#""redirect_max_age_s": 0"#),
    ("no-store", r#""affinity": "none", "redirect_max_age_s": 0"#),
    ("no-store, affinity", r#""affinity": "client", "redirect_max_age_s": 0"#),
    ("30 s, affinity", r#""affinity": "client", "redirect_max_age_s": 30"#),
];
/// Images of a page, and bytes of each.
const IMAGES: u64 = 20;
const IMAGE_BYTES: usize = 40 << 10;
/// Pages of a session while all holders live.
const PAGES: u32 = 5;
/// Requests per second that keep the site far over its target, which is 1, and that leave the machine to the browser.
const PRESSURE: f64 = 10.0;
const PNG: &[u8] = include_bytes!("../../fixtures/noise.png");
const HEAD: &str = "<!doctype html><meta charset=utf-8><title>page</title><link rel=icon href=data:,>\
    <script>broken = []; addEventListener('error', (event) => broken.push(event.target.src), true)</script>";

/// One session of one browser.
#[derive(Debug, Serialize)]
struct Round {
    round: u32,
    policy: &'static str,
    #[serde(flatten)]
    session: Session,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [rounds, pause_ms, file] = &arguments[..] else { return Err("expected ROUNDS PAUSE_MS FILE".into()) };
    let (rounds, pause) = (rounds.parse()?, Duration::from_millis(pause_ms.parse()?));

    let lab = Lab::new()?;
    let mut sites = [lab.site("alpha")?, lab.site("bravo")?, lab.site("charlie")?];
    let hot = fill(&sites[0])?;
    for site in &mut sites {
        site.set("host.lease", "1GB");
        site.set("site.csp", "none");
        site.set("site.max_age", "1h");
    }
    sites[0].edit(r#""requests_per_s": 0"#, r#""requests_per_s": 1"#);
    // A worker that has served nothing yet knows no replicas.
    sites[0].workers(1);
    befriend(&mut sites).await;
    let driver = Driver::start(&sites).await;
    let load = Generator::new(lab.client.clone(), sites[0].domain.clone(), hot);
    load.offer(PRESSURE);

    let mut measured = Vec::new();
    for round in 1..=rounds {
        for (number, (policy, keys)) in POLICIES.into_iter().enumerate() {
            let is_off = number == 0;
            apply(&mut sites[0], keys, is_off).await?;
            if !is_off {
                redirects(&load, &sites[1..]).await?;
            }
            let browser = driver.browser_with(&format!("{round}-{number}"), network::logging()).await;
            let session = session::run(&browser, &mut sites, pause, is_off).await?;
            browser.close().await;
            println!("round {round}, {policy}: {session}");
            measured.push(Round { round, policy, session });
            recover(&mut sites).await?;
        }
    }
    Ok(fs::write(file, serde_json::to_vec_pretty(&measured)?)?)
}

/// Puts pages and images on the site; returns the images that no page has, for the load.
fn fill(site: &Site) -> Result<Content, Box<dyn Error>> {
    let srv = site.directory().join("srv");
    for number in 0..4 {
        site.content.put(&format!("/load/{number}.png"), &noise(number, 20 << 10))?;
    }
    let hot = Content::scan(&srv)?;
    for (at, name) in ["seen", "unseen"].into_iter().enumerate() {
        for number in 0..IMAGES {
            let seed = 1000 * (at as u64 + 1) + number;
            site.content
                .put(&format!("/{name}/{number}.png"), &[PNG, &noise(seed, IMAGE_BYTES - PNG.len())].concat())?;
        }
    }
    let images = |name: &str| (0..IMAGES).map(|n| format!("<img src=/{name}/{n}.png>")).collect::<String>();
    for page in 1..=PAGES {
        fs::write(srv.join(format!("page{page}.html")), format!("{HEAD}{}", images("seen")))?;
    }
    fs::write(srv.join("more.html"), format!("{HEAD}{}{}", images("seen"), images("unseen")))?;
    Ok(hot)
}

/// Starts the site's proxy anew with these keys.
async fn apply(site: &mut Site, keys: &str, is_off: bool) -> Result<(), p2pcdn_tests::Error> {
    let filter = format!(r#""exclude": [], "stay_local_s": 0, "pure_balancer_at": 2, {keys}"#);
    site.edit(r#""exclude": []"#, filter);
    site.edit(r#""mode": "on""#, if is_off { r#""mode": "off""# } else { r#""mode": "on""# });
    site.start_envoy()?;
    site.ready().await
}

/// Waits until everything that can be redirected is.
async fn redirects(load: &Generator, hosts: &[Site]) -> Result<(), p2pcdn_tests::Error> {
    load.take();
    let mut row = 0;
    poll(PATIENCE, "nothing but redirects", async || {
        for sample in load.take() {
            let is_away = sample.redirects.iter().any(|to| hosts.iter().any(|host| host.replica_name == to.to));
            row = if is_away { row + 1 } else { 0 };
        }
        if row >= 10 { Ok(()) } else { Err(row) }
    })
    .await
}

/// Starts whatever has been killed, and waits until it is in full health.
async fn recover(sites: &mut [Site]) -> Result<(), p2pcdn_tests::Error> {
    let (origin, hosts) = sites.split_first_mut().expect("an origin and its hosts");
    for host in hosts {
        if !host.agent.check()? {
            host.start().await?;
        }
        poll(PATIENCE, format!("health of {}", host.name), async || {
            let peer = peer(origin, host).await?;
            if peer["weight"] == 1000 { Ok(()) } else { Err(peer.to_string()) }
        })
        .await?;
    }
    Ok(())
}
