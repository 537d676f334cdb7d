//! One visitor: five pages of the same images, then the death of the host that served most, then a page with new images, again and again
//! until it is whole.

use std::fmt;
use std::time::Duration;

use p2pcdn_tests::{Signal, Site};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::chromium::Browser;
use crate::network::{self, Hop};
use crate::{IMAGES, PAGES};

/// How long the visitor waits before he tries again.
const RETRY: Duration = Duration::from_secs(1);
/// How long he tries; longer than any redirect is kept.
const GIVES_UP: Duration = Duration::from_secs(45);

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Session {
    /// While all hosts lived.
    views: Vec<View>,
    /// From the first page to the last one, pauses included.
    took_ms: u64,
    /// After the death, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    death: Option<Death>,
}

/// One page view: its images, and what the browser fetched for them.
#[derive(Debug, Serialize)]
struct View {
    took_ms: u64,
    origin_requests: usize,
    origin_bytes: u64,
    holder_requests: usize,
    holder_bytes: u64,
    new_connections: usize,
    broken: usize,
}

/// The page with the new images, from the moment at which the host died.
#[derive(Debug, Serialize)]
struct Death {
    /// Of the redirects that were followed before, how many led to the one that died.
    share: f64,
    /// Images that did not load in the first view: of those seen before, and of the new ones.
    broken_seen: u64,
    broken_unseen: u64,
    /// Over all views.
    broken_in_all: u64,
    /// Until a view began that was whole.
    whole_after_ms: u64,
}

/// Visits the first of the sites; without redirects nobody dies.
pub(crate) async fn run(
    browser: &Browser,
    sites: &mut [Site],
    pause: Duration,
    is_off: bool,
) -> Result<Session, p2pcdn_tests::Error> {
    let origin = sites[0].domain.to_string();
    network::take(browser).await;
    let mut views = Vec::new();
    let mut away = Vec::new();
    let start = Instant::now();
    for page in 1..=PAGES {
        let (view, hops) = open(browser, &sites[0], &format!("/page{page}.html")).await;
        views.push(view);
        away.extend(hops.into_iter().filter(|hop| host_of(&hop.url) != origin).map(|hop| host_of(&hop.url).to_owned()));
        if page < PAGES {
            sleep(pause).await;
        }
    }
    let took_ms = start.elapsed().as_millis() as u64;
    let death = if is_off { None } else { Some(outlive(browser, sites, &away).await?) };
    Ok(Session { views, took_ms, death })
}

async fn outlive(browser: &Browser, sites: &mut [Site], away: &[String]) -> Result<Death, p2pcdn_tests::Error> {
    let led_to = |site: &Site| away.iter().filter(|host| **host == site.replica_name.as_str()).count();
    let (origin, hosts) = sites.split_first_mut().expect("an origin and its hosts");
    let victim = hosts.iter_mut().max_by_key(|host| led_to(host)).expect("hosts");
    let share = led_to(victim) as f64 / away.len().max(1) as f64;
    // Not waited for: the origin hears of closed connections within a fraction of a second, and the visitor comes before that.
    let died = Instant::now();
    victim.envoy.signal(Signal::KILL)?;
    victim.agent.signal(Signal::KILL)?;
    let mut death = Death { share, broken_seen: 0, broken_unseen: 0, broken_in_all: 0, whole_after_ms: 0 };
    for attempt in 0.. {
        death.whole_after_ms = died.elapsed().as_millis() as u64;
        browser.open(&origin.url(&format!("/more.html?{attempt}"))).await;
        let [seen, unseen] = broken(browser).await;
        if attempt == 0 {
            (death.broken_seen, death.broken_unseen) = (seen, unseen);
        }
        death.broken_in_all += seen + unseen;
        if seen + unseen == 0 || died.elapsed() > GIVES_UP {
            break;
        }
        sleep(RETRY).await;
    }
    victim.kill();
    Ok(death)
}

/// Opens a page; returns also the requests for its images, whether asked of a server or not.
async fn open(browser: &Browser, site: &Site, path: &str) -> (View, Vec<Hop>) {
    browser.open(&site.url(path)).await;
    let took = browser.run("return Math.round(performance.getEntriesByType('navigation')[0].loadEventStart)").await;
    let complete =
        browser.run("return Array.from(document.images).filter((image) => image.naturalWidth > 0).length").await;
    let [seen, unseen] = broken(browser).await;
    assert_eq!(complete.as_u64(), Some(IMAGES - seen - unseen), "images of {path}");
    let mut activity = network::take(browser).await;
    activity.hops.retain(|hop| hop.url.ends_with(".png"));
    let asked = |is_origin: bool| {
        let of = move |hop: &&Hop| !hop.is_cached && (host_of(&hop.url) == site.domain.as_str()) == is_origin;
        let hops = activity.hops.iter().filter(of);
        (hops.clone().count(), hops.map(|hop| hop.bytes).sum())
    };
    let ((origin_requests, origin_bytes), (holder_requests, holder_bytes)) = (asked(true), asked(false));
    let view = View {
        took_ms: took.as_u64().unwrap_or_default(),
        origin_requests,
        origin_bytes,
        holder_requests,
        holder_bytes,
        new_connections: activity.connections,
        broken: (seen + unseen) as usize,
    };
    (view, activity.hops)
}

/// Images of the page that did not load: those that earlier pages had, and others.
async fn broken(browser: &Browser) -> [u64; 2] {
    let broken = browser.run("return broken").await;
    let broken: Vec<_> = broken.as_array().into_iter().flatten().filter_map(|url| url.as_str()).collect();
    let unseen = broken.iter().filter(|url| url.contains("/unseen/")).count() as u64;
    [broken.len() as u64 - unseen, unseen]
}

fn host_of(url: &str) -> &str {
    url.split('/').nth(2).unwrap_or_default()
}

impl fmt::Display for Session {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for view in &self.views {
            let View { took_ms, origin_requests, holder_requests, origin_bytes, holder_bytes, .. } = view;
            let kb = (origin_bytes + holder_bytes) / 1000;
            write!(out, "{origin_requests}+{holder_requests} requests {kb} kB {took_ms} ms; ")?;
        }
        let Some(death) = &self.death else { return Ok(()) };
        let Death { share, broken_seen, broken_unseen, broken_in_all, whole_after_ms } = death;
        write!(
            out,
            "death ({share:.2}): {broken_seen}+{broken_unseen} broken, {broken_in_all} in all, whole after {whole_after_ms} ms"
        )
    }
}
