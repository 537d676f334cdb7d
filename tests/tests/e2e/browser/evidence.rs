//! What visitors' browsers find out about hosts, and that looking for it never disturbs a page.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use p2pcdn_tests::access::Access;
use p2pcdn_tests::content::noise;
use p2pcdn_tests::tunnel::Tunnel;
use p2pcdn_tests::{Lab, Site, client, poll};
use serde_json::{Value, json};

use super::chromium::{Browser, Driver};
use super::page::{PADDING, PNG};
use crate::support::{PATIENCE, befriend, get, headers, lab};
use crate::two_faced::{Lie, corrupt, is_from_afar, is_headless};

const SCRIPT: &str = "/.well-known/p2pcdn/v1/evidence.js";
const WHERE: &str = "/.well-known/p2pcdn/v1/evidence/where?path=/images/0.png";
const REPORT: &str = "/.well-known/p2pcdn/v1/evidence";
const IMAGES: u64 = 12;

/// Puts a page with images on a site that asks its visitors' browsers to look at each of them.
fn furnish(site: &mut Site) {
    site.set("evidence.enabled", true);
    site.set("evidence.sample", 1);
    for seed in 0..IMAGES {
        site.content.put(&format!("/images/{seed}.png"), &[PNG, &noise(seed, PADDING)].concat()).unwrap();
    }
    put_page(site, "page.html", "");
}

fn put_page(site: &Site, name: &str, head: &str) {
    let images: String = (0..IMAGES).map(|seed| format!("<img src=/images/{seed}.png>")).collect();
    let html = format!(
        "<!doctype html><meta charset=utf-8>{head}<title>evidence</title><link rel=icon href=data:,><body>\
         <script>const troubles = []; addEventListener('error', (event) => event.message && troubles.push(event.message)); \
         addEventListener('unhandledrejection', (event) => troubles.push(String(event.reason)));</script>\
         <script async src={SCRIPT}></script>{images}"
    );
    std::fs::write(site.directory().join("srv").join(name), html).unwrap();
}

/// The site's count of one outcome.
async fn counted(site: &Site, metric: &str, outcome: &str) -> u64 {
    let answer = site.local("/metrics").await.unwrap();
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    let (start, label) = (format!("{metric}{{"), format!("\"{outcome}\""));
    let line = text.lines().find(|line| line.starts_with(&start) && line.contains(&label));
    line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

async fn reported(site: &Site, outcome: &str) -> u64 {
    counted(site, "p2pcdn_evidence_total", outcome).await
}

async fn found(site: &Site, finding: &str) -> u64 {
    counted(site, "p2pcdn_evidence_findings_total", finding).await
}

/// Waits until a count is reached.
async fn until(what: &str, least: u64, mut count: impl AsyncFnMut() -> u64) {
    poll(PATIENCE, what, async || match count().await {
        count if count >= least => Ok(()),
        count => Err(count),
    })
    .await
    .unwrap();
}

/// The page is what it would be without the script.
async fn assert_whole(browser: &Browser) {
    let said = browser
        .run(
            "return { troubles, images: [...document.images].filter((image) => image.naturalWidth == 64).length, \
             elements: document.body.children.length }",
        )
        .await;
    assert_eq!(said, json!({ "troubles": [], "images": IMAGES, "elements": IMAGES + 2 }));
}

#[tokio::test]
async fn browsers_find_good_hosts_good_and_hosts_see_nothing_but_images_of_a_page() {
    let (_lab, mut sites) = lab(["alpha", "bravo"]);
    sites[1].log_accesses();
    furnish(&mut sites[0]);
    befriend(&mut sites).await;
    let [alpha, bravo] = &sites;
    let driver = Driver::start(&sites).await;
    // An image stays at the site while a probe of the host is late, and a look fails on a machine that is: then another visitor comes.
    let mut visitors = 0;
    let browser = loop {
        visitors += 1;
        let browser = driver.browser(&format!("visitor-{visitors}")).await;
        browser.open(&alpha.url("/page.html")).await;
        let all = poll(PATIENCE / 2, "good reports", async || match reported(alpha, "good").await {
            good if good >= IMAGES => Ok(()),
            good => Err(good),
        });
        let all = all.await;
        assert_whole(&browser).await;
        if all.is_ok() {
            break browser;
        }
        assert!(visitors < 3, "{all:?}");
        browser.close().await;
    };
    for outcome in ["wrong", "resent", "integrity"] {
        assert_eq!(reported(alpha, outcome).await, 0, "{outcome}");
    }

    let by_browser = |bravo: &Site| -> Vec<(u16, String, String)> {
        // Audits say that they are another Chrome.
        let is_it = |access: &Access| access.agent.as_deref().is_some_and(|agent| agent.contains("HeadlessChrome/"));
        let accesses = bravo.accesses().unwrap().into_iter().filter(|access| is_it(access) && access.dest.is_some());
        let seen = |value: Option<String>| value.unwrap_or_default();
        accesses.map(|access| (access.status, seen(access.mode), seen(access.dest))).collect()
    };
    let good = reported(alpha, "good").await;
    let count = |wanted: (u16, &str, &str)| {
        let is_it = |seen: &&(u16, String, String)| (seen.0, &*seen.1, &*seen.2) == wanted;
        by_browser(bravo).iter().filter(is_it).count() as u64
    };
    let (as_images, as_looks) = ((200, "no-cors", "image"), (304, "cors", "empty"));
    until("the looks that the host saw", good, async || count(as_looks)).await;
    let (images, looks) = (count(as_images), count(as_looks));
    assert!(
        images >= looks,
        "the bytes of {looks} looks come from the browser's cache, as the page's own {images} images"
    );
    let seen = by_browser(bravo);
    let is_either =
        |(status, mode, dest): &(u16, String, String)| [as_images, as_looks].contains(&(*status, &**mode, &**dest));
    assert!(seen.iter().all(is_either), "{seen:?}");
    assert!(visitors > 1 || (images, looks) == (IMAGES, IMAGES), "{seen:?}");

    // A script that was promised to be another one.
    let script = "const script = Object.assign(document.createElement('script'), \
                  { src: '/code.js', integrity: 'sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=' }); \
                  return new Promise((done) => { script.onerror = () => done('error'); document.head.append(script); })";
    std::fs::write(alpha.directory().join("srv/code.js"), "1").unwrap();
    assert_eq!(browser.run(script).await, "error");
    until("integrity report", 1, async || reported(alpha, "integrity").await).await;
    browser.close().await;
}

#[tokio::test]
async fn a_host_that_serves_pages_badly_and_agents_well_is_suspected_and_then_suspended() {
    let (_lab, mut sites) = lab(["alpha", "bravo", "charlie", "delta"]);
    furnish(&mut sites[0]);
    sites[0].set("share.replicas", 3);
    // A day within a minute and a half, and two hours within seven seconds.
    sites[0].set("lab.time_scale", 1e-3);
    corrupt(&mut sites[1], Lie::Plain, is_from_afar).await;
    befriend(&mut sites).await;
    let alpha = &sites[0];
    let driver = Driver::start(&sites).await;
    let visit = async |network: u8| {
        let before = reported(alpha, "good").await + reported(alpha, "wrong").await;
        let tunnel = Tunnel::open_from(Ipv4Addr::new(127, 0, network, 1)).await.unwrap();
        let browser = driver.browser_through(&format!("visitor-{network}"), &tunnel).await;
        browser.open(&alpha.url("/page.html")).await;
        until("reports", before + IMAGES, async || reported(alpha, "good").await + reported(alpha, "wrong").await)
            .await;
        assert_whole(&browser).await;
        browser.close().await;
    };

    visit(1).await;
    visit(2).await;
    assert_eq!((found(alpha, "suspect").await, found(alpha, "suspend").await), (0, 0), "two networks are too few");
    let (mut network, mut since) = (3, Instant::now());
    while found(alpha, "suspect").await == 0 {
        assert!(network < 10, "{} wrong reports", reported(alpha, "wrong").await);
        // The suspicion falls into this visit, which may take long.
        since = Instant::now();
        visit(network).await;
        network += 1;
    }
    let suspected_by = network;
    while found(alpha, "suspend").await == 0 {
        assert!(since.elapsed() < 3 * PATIENCE, "{} wrong reports", reported(alpha, "wrong").await);
        visit(network).await;
        network += 1;
    }
    assert!(network >= suspected_by + 3, "it takes three further networks");
    assert!(since.elapsed() >= Duration::from_millis(3 * 7200), "hours apart");
    assert_eq!((found(alpha, "suspect").await, found(alpha, "suspend").await), (1, 1), "and nobody else");
    poll(PATIENCE, "what an operator reads", async || match alpha.agent.tail() {
        log if log
            .contains("host tells audits from visitors, no more redirects: visitors' browsers got wrong bytes") =>
        {
            Ok(())
        }
        log => Err(log),
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_host_that_keeps_browsers_from_keeping_its_bytes_does_not_pass_for_good() {
    let (_lab, mut sites) = lab(["alpha", "bravo"]);
    furnish(&mut sites[0]);
    corrupt(&mut sites[1], Lie::Hidden, is_headless).await;
    befriend(&mut sites).await;
    let alpha = &sites[0];
    let driver = Driver::start(&sites).await;
    let browser = driver.browser("visitor").await;
    browser.open(&alpha.url("/page.html")).await;
    until("reports", IMAGES, async || reported(alpha, "resent").await).await;
    assert_eq!((reported(alpha, "good").await, reported(alpha, "wrong").await), (0, 0));
    browser.close().await;
}

#[tokio::test]
async fn a_page_is_whole_where_the_script_is_blocked_or_nobody_answers_it() {
    let (lab, mut sites) = lab(["alpha", "bravo"]);
    sites[0].log_accesses();
    furnish(&mut sites[0]);
    let policy = |policy: &str| format!("<meta http-equiv=Content-Security-Policy content=\"{policy}\">");
    put_page(&sites[0], "no-script.html", &policy("script-src 'unsafe-inline'"));
    put_page(&sites[0], "no-fetch.html", &policy("connect-src 'none'"));
    befriend(&mut sites).await;
    let driver = Driver::start(&sites).await;
    let [alpha, _] = &mut sites;
    let browser = driver.browser("blocked").await;
    for page in ["/no-script.html", "/no-fetch.html"] {
        browser.open(&alpha.url(page)).await;
        assert_whole(&browser).await;
    }
    browser.close().await;
    let asked = |alpha: &Site, path: &str| {
        let accesses = alpha.accesses().unwrap();
        accesses.into_iter().filter(|access| access.path.starts_with(path)).map(|a| a.status).collect::<Vec<_>>()
    };
    assert_eq!(asked(alpha, WHERE.split('?').next().unwrap()), [] as [u16; 0]);

    // The browser has the script still; whom it asks is gone.
    let browser = driver.browser("nobody").await;
    browser.open(&alpha.url("/no-fetch.html")).await;
    let route = "- match: { prefix: /.well-known/p2pcdn/v1/evidence }\n                          route: { cluster: p2pcdn_replica, timeout: 5s }";
    let down = "- match: { path: /.well-known/p2pcdn/v1/evidence.js }\n                          route: { cluster: p2pcdn_replica, timeout: 5s }\n                        \
                - match: { prefix: /.well-known/p2pcdn/v1/evidence }\n                          direct_response: { status: 503 }";
    alpha.edit(route, down);
    alpha.envoy.stop().await.unwrap();
    alpha.start_envoy().unwrap();
    alpha.ready().await.unwrap();
    browser.open(&alpha.url("/page.html")).await;
    until("the one question", 1, async || asked(alpha, WHERE.split('?').next().unwrap()).len() as u64).await;
    assert_whole(&browser).await;
    browser.open(&alpha.url("/page.html")).await;
    assert_whole(&browser).await;
    let statuses = asked(alpha, WHERE.split('?').next().unwrap());
    assert!(statuses.len() <= 2 && statuses.iter().all(|status| *status == 503), "one a page: {statuses:?}");
    browser.close().await;

    alpha.set("evidence.enabled", false);
    alpha.edit(route, route);
    alpha.stop().await.unwrap();
    alpha.start().await.unwrap();
    let own = headers([("sec-fetch-site", "same-origin")]);
    for path in [SCRIPT, WHERE, REPORT] {
        assert_eq!(get(&lab.client, &alpha.url(path), &own).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn whoever_forges_reports_gets_no_further_than_one_visitor() {
    let (lab, mut sites) = lab(["alpha", "bravo"]);
    furnish(&mut sites[0]);
    befriend(&mut sites).await;
    let [alpha, _] = &sites;
    let own = headers([("sec-fetch-site", "same-origin")]);
    let place: Value = {
        let answer = get(&lab.client, &alpha.url(WHERE), &own).await;
        assert_eq!(answer.status(), StatusCode::OK);
        serde_json::from_slice(answer.body()).unwrap()
    };
    let holder = place["url"].as_str().unwrap().split('/').nth(2).unwrap();
    let report = json!({
        "path": "/images/0.png", "outcome": "wrong", "sha256": place["sha256"], "holder": holder, "token": place["token"],
    });
    for site in [None, Some("cross-site"), Some("same-site")] {
        let headers = site.map(|site| headers([("sec-fetch-site", site)])).unwrap_or_default();
        assert_eq!(post(&lab, alpha, &headers, report.to_string()).await, StatusCode::FORBIDDEN, "{site:?}");
    }
    for bad in ["", "{}", r#"{"path":1}"#, &format!("{report}{}", " ".repeat(1024))] {
        assert_eq!(post(&lab, alpha, &own, bad.to_owned()).await, StatusCode::BAD_REQUEST, "{bad}");
    }
    let with = |key: &str, value: Value| {
        let mut changed = report.clone();
        changed[key] = value;
        changed
    };
    let unknown = [with("holder", "replica.stranger.localhost".into()), with("token", Value::Null)];
    let foreign = [
        with("sha256", "ab".repeat(32).into()),
        with("path", "/images/1.png".into()),
        with("token", "0123456789abcdef".into()),
    ];
    for forged in unknown.iter().chain(&foreign) {
        assert_eq!(post(&lab, alpha, &own, forged.to_string()).await, StatusCode::NO_CONTENT);
    }
    assert_eq!(reported(alpha, "wrong").await, 0);
    // Whatever addresses it claims to come from.
    for address in 0..5 {
        let mut headers = own.clone();
        headers.insert("x-forwarded-for", format!("192.0.{address}.1").parse().unwrap());
        assert_eq!(post(&lab, alpha, &headers, report.to_string()).await, StatusCode::NO_CONTENT);
    }
    let ignored = async |reason: &str| counted(alpha, "p2pcdn_evidence_ignored_total", reason).await;
    assert_eq!((ignored("repeated").await, ignored("unknown").await, ignored("malformed").await), (4, 2, 4));
    assert_eq!((ignored("token").await, reported(alpha, "wrong").await), (3, 1));

    // Junk without end is not read at last, and costs nobody else.
    let mut junk = 0;
    while post(&lab, alpha, &own, "x".to_owned()).await != StatusCode::TOO_MANY_REQUESTS {
        junk += 1;
        assert!(junk < 300, "no bound on one network");
    }
    let driver = Driver::start(&sites).await;
    let tunnel = Tunnel::open_from(Ipv4Addr::new(127, 0, 2, 1)).await.unwrap();
    let browser = driver.browser_through("visitor", &tunnel).await;
    browser.open(&sites[0].url("/page.html")).await;
    until("good reports", IMAGES, async || reported(&sites[0], "good").await).await;
    browser.close().await;
}

async fn post(lab: &Lab, site: &Site, headers: &HeaderMap, body: String) -> StatusCode {
    let mut request = client::get(&site.url(REPORT)).unwrap();
    *request.method_mut() = Method::POST;
    request.headers_mut().extend(headers.clone());
    *request.body_mut() = Bytes::from(body);
    lab.client.send(request).await.unwrap().status()
}
