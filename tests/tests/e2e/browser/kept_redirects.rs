//! A redirect that a browser keeps for a while is used for the same request again, and for no other that would have stayed.

use std::time::Duration;

use p2pcdn_tests::Site;
use p2pcdn_tests::access::Access;
use p2pcdn_tests::content::{Content, noise};
use p2pcdn_tests::load::Generator;
use p2pcdn_tests::poll;

use super::chromium::{Browser, Driver};
use super::page::{PADDING, PNG, RUNNER};
use crate::support::{PRESSURE, befriend, busy, fill, lab, redirects_to};

/// For the last lines of the log to be written, on a busy machine, too.
const LOGGED: Duration = Duration::from_secs(15);
/// A probe of the host that is late on a busy machine keeps some request at the site, but not each time.
const ATTEMPTS: usize = 3;
/// What [`busy`] says, and that browsers keep redirects.
const KEPT: &str =
    r#""exclude": [], "stay_local_s": 0, "pure_balancer_at": 2, "tick_ms": 50, "redirect_max_age_s": 30"#;
const IMAGE: &str = "image(URL)";
const CORS_IMAGE: &str = "readback(URL, { crossOrigin: 'anonymous' })";
const AWAY: (u16, &str, &str) = (307, "no-cors", "image");

/// What a page does after another one has been redirected for the same URL.
struct Case {
    name: &'static str,
    first: &'static str,
    then: &'static str,
    says: &'static str,
    /// What the origin was asked for: status, mode and destination.
    asked: &'static [(u16, &'static str, &'static str)],
}

const CASES: [Case; 9] = [
    Case { name: "image", first: IMAGE, then: IMAGE, says: "64x64", asked: &[AWAY] },
    Case { name: "cors-image", first: IMAGE, then: CORS_IMAGE, says: "read 4", asked: &[AWAY, (307, "cors", "image")] },
    Case {
        name: "cors-image-with-cookie",
        first: CORS_IMAGE,
        then: "(document.cookie = 'a=1; path=' + URL, readback(URL, { crossOrigin: 'anonymous' }))",
        says: "read 4",
        asked: &[(307, "cors", "image"), (200, "cors", "image")],
    },
    Case {
        name: "fetch-error",
        first: IMAGE,
        then: "fetched(URL, { redirect: 'error' })",
        says: "basic 200",
        asked: &[AWAY, (200, "cors", "empty")],
    },
    Case {
        name: "fetch-manual",
        first: IMAGE,
        then: "fetched(URL, { redirect: 'manual' })",
        says: "basic 200",
        asked: &[AWAY, (200, "cors", "empty")],
    },
    Case {
        name: "fetch-no-cors",
        first: IMAGE,
        then: "fetched(URL, { mode: 'no-cors', redirect: 'error' })",
        says: "basic 200",
        asked: &[AWAY, (200, "no-cors", "empty")],
    },
    Case {
        name: "fetch-after-cors-image",
        first: CORS_IMAGE,
        then: "fetched(URL, { redirect: 'error' })",
        says: "basic 200",
        asked: &[(307, "cors", "image"), (200, "cors", "empty")],
    },
    Case {
        name: "fetch-of-what-is-kept",
        first: IMAGE,
        then: "fetched(URL, { redirect: 'error', cache: 'force-cache' })",
        says: "basic 200",
        asked: &[AWAY, (200, "cors", "empty")],
    },
    Case {
        name: "object",
        first: IMAGE,
        then: "settled(object, () => { object.data = URL; document.body.append(object) }, \
               () => object.contentDocument ? 'same origin' : 'opaque')",
        says: "opaque",
        asked: &[AWAY, (200, "no-cors", "object")],
    },
];

#[tokio::test]
async fn a_kept_redirect_is_used_for_no_request_that_stays() {
    let (lab, mut sites) = lab(["alpha", "bravo"]);
    sites[0].log_accesses();
    busy(&mut sites[0]);
    sites[0].edit(r#""exclude": []"#, KEPT);
    // A worker that has served nothing yet knows no replicas.
    sites[0].workers(1);
    fill(&sites[0], 4);
    let srv = sites[0].directory().join("srv");
    let hot = Content::scan(&srv).unwrap();
    let paths = CASES.iter().flat_map(|case| (0..ATTEMPTS).map(|attempt| path(case, attempt)));
    for (path, seed) in paths.zip(40..) {
        sites[0].content.put(&path, &[PNG, &noise(seed, PADDING)].concat()).unwrap();
    }
    let page = "<!doctype html><meta charset=utf-8><title>kept</title><link rel=icon href=data:,><body><script src=page.js></script>";
    std::fs::write(srv.join("page.html"), page).unwrap();
    std::fs::write(srv.join("page.js"), format!("{RUNNER}\nconst object = document.createElement('object');")).unwrap();
    befriend(&mut sites).await;
    let load = Generator::new(lab.client.clone(), sites[0].domain.clone(), hot);
    load.offer(PRESSURE);
    redirects_to(&load, &sites[1]).await;
    let driver = Driver::start(&sites).await;
    let browser = driver.browser("kept").await;

    let mut wrong = Vec::new();
    for case in &CASES {
        let mut tried = Vec::new();
        for path in (0..ATTEMPTS).map(|attempt| path(case, attempt)) {
            say(&browser, &sites[0], &path, case.first).await;
            let says = say(&browser, &sites[0], &path, case.then).await;
            let asked = asked(&sites[0], &path, case.asked.len()).await;
            let asked_as = asked.iter().map(|(status, mode, dest)| (*status, &**mode, &**dest));
            if says == case.says && asked_as.eq(case.asked.iter().copied()) {
                tried.clear();
                break;
            }
            tried.push(format!("{path}: {says}, {asked:?}"));
        }
        wrong.extend(tried);
    }
    // As a page of its own, it stays as well.
    let url = sites[0].url(&path(&CASES[0], 0));
    browser.open(&url).await;
    assert_eq!(browser.run("return location.href").await, url);
    assert!(wrong.is_empty(), "{wrong:#?}");
    browser.close().await;
}

/// Does something in a new page.
async fn say(browser: &Browser, site: &Site, path: &str, script: &str) -> String {
    // Elsewhere in between, since what a page's process has in memory is used again without asking any cache.
    browser.open("about:blank").await;
    browser.open(&site.url("/page.html")).await;
    let said = browser.run(&format!("return {}", script.replace("URL", &format!("'{path}'")))).await;
    said.as_str().unwrap_or("nothing").to_owned()
}

/// What the browser asked the origin for, once the log has it all.
async fn asked(site: &Site, path: &str, most: usize) -> Vec<(u16, String, String)> {
    // The site's agent looks at every file, too.
    let is_it = |access: &Access| {
        access.path == path && access.agent.as_deref().is_some_and(|agent| agent.contains("HeadlessChrome/"))
    };
    let seen = || -> Vec<Access> { site.accesses().unwrap().into_iter().filter(is_it).collect() };
    let all = poll(LOGGED, "what was asked for", async || {
        let seen = seen().len();
        if seen >= most { Ok(()) } else { Err(seen) }
    });
    // Too few are as wrong as any others.
    let _ = all.await;
    seen().into_iter().map(|a| (a.status, a.mode.unwrap_or_default(), a.dest.unwrap_or_default())).collect()
}

fn path(case: &Case, attempt: usize) -> String {
    format!("/{}/{attempt}.png", case.name)
}
