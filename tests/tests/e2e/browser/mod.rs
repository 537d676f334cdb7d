//! Pages in a real browser, at a site that redirects everything it may: each cell goes the way that is meant for it, and comes to what it
//! comes to without redirects.

mod cells;
mod chromium;
mod evidence;
mod fate;
mod kept_redirects;
mod loads;
mod page;
mod video;
mod visit;

use p2pcdn_tests::Site;
use p2pcdn_tests::content::Content;
use p2pcdn_tests::load::Generator;
use serde_json::{Value, json};

use crate::support::{PRESSURE, befriend, busy, damage, fill, lab, placed, redirects_to, replica_url, trusting};
use cells::pages;
use chromium::{Browser, Driver};
use fate::{Accesses, Wrong};
use page::{PADDING, Page};
use visit::{Results, visit};

/// Where the site's own routes come in.
const ROUTES: &str = "                        # Static content. Large files";
/// A site that redirects everything at once, and what its operator allows beyond the defaults.
const SETTINGS: &str = r#""stay_local_s": 0, "pure_balancer_at": 2, "tick_ms": 50, "fetch_paths": ["/opted/fetch-"],
                              "download_paths": ["/opted/"], "plain_style_paths": ["/declared/plain-"],
                              "cross_site_paths": ["/shared/", "/open/", "/corp/"], "exclude": []"#;
const SCRIPTED: &str = "/scripted.svg";
/// Visits to a page of which none may go as it should.
const ATTEMPTS: usize = 3;
/// Shows on the page itself that its script has run.
const SCRIPTED_SVG: &str = "<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'>\
    <script>document.documentElement.setAttribute('data-ran', '')</script></svg>";

#[tokio::test]
async fn every_cell_goes_its_way_and_works_as_without_redirects() {
    let pages = pages();
    let (lab, mut sites) = lab(["alpha", "bravo", "charlie"]);
    let policy = policy(&sites[1..]);
    sites.iter_mut().for_each(Site::log_accesses);
    sites[1..].iter_mut().for_each(|host| host.set("host.downloads", true));
    let [alpha, bravo, _] = &mut sites;
    alpha.set("site.csp", &*policy);
    alpha.set("share.code_paths", vec!["/declared/"]);
    fill(alpha, 4);
    let hot = Content::scan(&alpha.directory().join("srv")).unwrap();
    alpha.content.put(SCRIPTED, format!("{SCRIPTED_SVG:PADDING$}").as_bytes()).unwrap();
    for page in &pages {
        page.write(if page.is_foreign { bravo } else { alpha }, alpha);
    }
    let isolated = [("cross-origin-embedder-policy", "require-corp"), ("cross-origin-opener-policy", "same-origin")];
    let routes = [
        route("/isolated", &isolated),
        route("/policy/", &[("content-security-policy", &policy)]),
        route("/open/", &[("access-control-allow-origin", "*")]),
        route("/corp/", &[("cross-origin-resource-policy", "cross-origin")]),
        route("/cookie/page.html", &[("set-cookie", "visitor=1; path=/cookie/; secure")]),
    ];
    alpha.edit(ROUTES, format!("{}{ROUTES}", routes.concat()));
    bravo.edit(ROUTES, format!("{}{ROUTES}", route("/corp/", &isolated)));
    alpha.edit(r#""mode": "on""#, r#""mode": "off""#);
    trusting(alpha);
    befriend(&mut sites).await;
    let driver = Driver::start(&sites).await;
    let without = visit(&driver.browser("without").await, &sites, &pages).await;

    let [alpha, ..] = &mut sites;
    busy(alpha);
    // A worker that has served nothing yet knows no replicas.
    alpha.workers(1);
    alpha.edit(r#""mode": "on""#, r#""mode": "on""#);
    alpha.edit(r#""exclude": []"#, SETTINGS);
    alpha.start_envoy().unwrap();
    alpha.ready().await.unwrap();
    let load = Generator::new(lab.client.clone(), alpha.domain.clone(), hot);
    load.offer(PRESSURE);
    redirects_to(&load, &sites[1]).await;
    redirects_to(&load, &sites[2]).await;
    let (own, returned): (Vec<_>, Vec<_>) = pages.iter().partition(|page| !page.is_returned);
    for (kind, mut pages) in [("own", own), ("returned", returned)] {
        // A probe of a host that is late on a busy machine keeps some request at the site, but not that of the same page each time.
        for attempt in 1.. {
            if kind == "returned" {
                placed(&sites[0], &sites[1]).await;
                placed(&sites[0], &sites[2]).await;
                lose_replicas(&sites, &pages);
            }
            let browser = driver.browser(&format!("{kind}-{attempt}")).await;
            let wrong = wrong(&browser, &sites, &pages, &without).await;
            browser.close().await;
            if wrong.is_empty() {
                break;
            }
            assert!(attempt < ATTEMPTS && wrong.iter().all(|wrong| wrong.may_be_chance), "{wrong:#?}");
            eprintln!("once more: {wrong:#?}");
            pages.retain(|page| wrong.iter().any(|wrong| wrong.page == page.name));
        }
    }

    let browser = driver.browser("with").await;
    nothing_acts_as_part_of_its_host(&browser, &sites).await;
    browser.close().await;
}

/// Visits the pages; says what did not go the way that was meant for it, or came to something else.
async fn wrong(browser: &Browser, sites: &[Site], pages: &[&Page], without: &Results) -> Vec<Wrong> {
    let accesses = Accesses::from_now_on(sites);
    let with = visit(browser, sites, pages.iter().copied()).await;
    let mut wrong = accesses.wrong(sites, pages).await;
    for (page, cell) in pages.iter().flat_map(|page| page.cells.iter().map(move |cell| (page, cell))) {
        let at = (page.name, cell.name.clone());
        let (without, with) = (&without[&at], &with[&at]);
        let wanted = cell.breaks.unwrap_or(without);
        if with != wanted {
            let what = format!("{at:?}: {with:?} in place of {wanted:?}");
            wrong.push(Wrong { page: page.name, what, may_be_chance: true });
        }
    }
    wrong
}

/// Makes the hosts unable to serve what these pages load, without their knowing.
fn lose_replicas(sites: &[Site], pages: &[&Page]) {
    let (origin, hosts) = sites.split_first().unwrap();
    let paths: Vec<_> = pages.iter().flat_map(|page| page.files()).map(|(path, _)| path).collect();
    for object in origin.content.objects().iter().filter(|object| paths.contains(&object.path)) {
        hosts.iter().for_each(|host| damage(host, object.versions[0]));
    }
}

/// A replica is no page, no script and no worker at the site that carries it.
async fn nothing_acts_as_part_of_its_host(browser: &Browser, sites: &[Site]) {
    let [alpha, bravo, _] = sites else { unreachable!("three sites") };
    let replica = |path: &str| {
        let object = alpha.content.objects().into_iter().find(|object| object.path == path).unwrap();
        replica_url(bravo, alpha, object.versions[0], path)
    };
    let picture = replica(SCRIPTED);
    let has_run = "return document.documentElement.hasAttribute('data-ran')";

    browser.open(&alpha.url(SCRIPTED)).await;
    assert_eq!(browser.run(has_run).await, true, "the script does not even run at home");
    browser.open(&picture).await;
    assert_eq!(browser.run(has_run).await, false);
    // Whatever such a page were to load from the replica name is refused, too.
    let status =
        browser.run(&format!("return fetch('{picture}').then((answer) => answer.status, (error) => error.name)")).await;
    assert!(status == 403 || status == "TypeError", "{status}");

    browser.open(&bravo.url("/third/page.html")).await;
    // The script runs wherever it is let: in a page, as a module, in a worker.
    for replica in [picture, replica("/declared/worker/worker.js")] {
        for attempt in attempts(&replica) {
            let said = browser.run(&format!("return (async () => {{ {attempt} }})()")).await;
            assert_eq!(said, "error", "{attempt}");
        }
    }
}

/// Ways to make a replica do something, each of which comes to `error` if it does not.
fn attempts(replica: &str) -> [String; 9] {
    [
        format!("return script('{replica}')"),
        format!("return script('{replica}', {{ type: 'module' }})"),
        format!("return script('{replica}', {{ crossOrigin: 'anonymous' }})"),
        format!("return import('{replica}').then(() => 'imported', () => 'error')"),
        format!("try {{ return await message(new Worker('{replica}'), () => {{}}) }} catch {{ return 'error' }}"),
        format!("return navigator.serviceWorker.register('{replica}').then(() => 'registered', () => 'error')"),
        format!(
            "const blob = new Blob([`importScripts('{replica}'); postMessage('imported')`], {{ type: 'text/javascript' }}); \
                 return message(new Worker(URL.createObjectURL(blob)), () => {{}})"
        ),
        format!("return (await fetched('{replica}')).replace('TypeError', 'error')"),
        format!(
            "const frame = node('iframe'); \
                 return settled(frame, () => (frame.src = '{replica}'), () => frame.contentDocument ? 'same origin' : 'error')"
        ),
    ]
}

/// What a strict policy of a site allows that lets its hosts help.
fn policy(hosts: &[Site]) -> String {
    let hosts: Vec<_> = hosts.iter().map(|host| format!("https://{}", host.replica_name)).collect();
    let hosts = hosts.join(" ");
    format!(
        "default-src 'none'; script-src 'self' {hosts}; style-src 'self' {hosts}; connect-src 'self' {hosts}; worker-src 'self'; \
         img-src 'self' {hosts}; font-src 'self' {hosts}; media-src 'self' {hosts}; base-uri 'none'"
    )
}

/// A static route whose answers have more headers.
fn route(prefix: &str, headers: &[(&str, &str)]) -> String {
    let header = |(key, value): &(&str, &str)| json!({ "header": { "key": key, "value": value } });
    let headers: Vec<_> = headers.iter().map(header).collect();
    format!(
        r#"                        - match: {{ prefix: "{prefix}" }}
                          route: {{ cluster: origin, timeout: 0s }}
                          response_headers_to_add: {}
                          typed_per_filter_config: *with_p2pcdn
"#,
        Value::from(headers),
    )
}
