//! Playing from a site that redirects everything it may, and seeking.

use std::time::Duration;

use p2pcdn_tests::access::Access;
use p2pcdn_tests::content::{Content, noise};
use p2pcdn_tests::load::Generator;
use p2pcdn_tests::{Site, poll};
use serde_json::Value;

use super::chromium::{Browser, Driver};
use super::page::wav;
use crate::support::{
    PATIENCE, PRESSURE, befriend, busy, fill, full_weight, lab, no_more_redirects, p2pcdn, printed, redirects_to,
};

/// So much more than a browser reads ahead that a seek to the end is a request of its own.
const LENGTH: u32 = 24 << 20;
/// Bytes of a recording per second.
const RATE: u32 = 8000;
const SECONDS: u32 = LENGTH / RATE + 1;
/// How long a host that has died is waited for.
const STALLED: Duration = Duration::from_secs(2);
/// How long a video that is begun anew is waited for before it is begun once more.
const ANEW: Duration = Duration::from_secs(10);
const PAGE: &str =
    "<!doctype html><meta charset=utf-8><title>video</title><link rel=icon href=data:,><video id=video></video>";

#[tokio::test]
async fn a_video_stays_where_it_began_and_begins_elsewhere_when_its_host_has_died() {
    let (lab, mut sites) = lab(["alpha", "bravo", "charlie"]);
    sites.iter_mut().for_each(Site::log_accesses);
    let alpha = &mut sites[0];
    busy(alpha);
    // A worker that has served nothing yet knows no replicas.
    alpha.workers(1);
    fill(alpha, 4);
    let hot = Content::scan(&alpha.directory().join("srv")).unwrap();
    for (name, seed) in [("redirected", 30), ("local", 31), ("dies", 32)] {
        alpha.content.put(&format!("/{name}.wav"), &wav(&noise(seed, LENGTH as usize))).unwrap();
    }
    std::fs::write(alpha.directory().join("srv/page.html"), PAGE).unwrap();
    befriend(&mut sites).await;
    let load = Generator::new(lab.client.clone(), sites[0].domain.clone(), hot);
    load.offer(PRESSURE);
    redirects_to(&load, &sites[1]).await;
    redirects_to(&load, &sites[2]).await;
    // Else what begins now could begin at the origin.
    full_weight(&sites[0], &sites[1]).await;
    full_weight(&sites[0], &sites[2]).await;
    let driver = Driver::start(&sites).await;
    let browser = driver.browser("video").await;
    browser.open(&sites[0].url("/page.html")).await;

    // What began at a host goes on there, without asking the origin again.
    assert_eq!(play(&browser, "/redirected.wav", PATIENCE).await, SECONDS);
    assert_eq!(seek(&browser, PATIENCE).await, SECONDS - 10);
    let host = ranges(&sites, "/redirected.wav", 2).await;
    let at_origin = ranges_at(&sites[0], "/redirected.wav");
    assert!(!at_origin.is_empty() && at_origin.iter().all(|asked| *asked == (307, true)), "{at_origin:?}");
    assert_whole_at(&sites[host], "/redirected.wav");

    // What began at the origin goes on there.
    printed(p2pcdn(&lab, &sites[0], ["pause"]));
    no_more_redirects(&load).await;
    assert_eq!(play(&browser, "/local.wav", PATIENCE).await, SECONDS);
    printed(p2pcdn(&lab, &sites[0], ["resume"]));
    redirects_to(&load, &sites[1]).await;
    redirects_to(&load, &sites[2]).await;
    assert_eq!(seek(&browser, PATIENCE).await, SECONDS - 10);
    assert_eq!(ranges(&sites, "/local.wav", 2).await, 0);
    assert_whole_at(&sites[0], "/local.wav");

    // What plays from a host that dies stalls, since the browser remembers where it was sent to; begun anew, it plays from elsewhere.
    assert_eq!(play(&browser, "/dies.wav", PATIENCE).await, SECONDS);
    // Lets go of the first answer, so that it is logged.
    assert_eq!(seek(&browser, PATIENCE).await, SECONDS - 10);
    let host = ranges(&sites, "/dies.wav", 2).await;
    sites[host].kill();
    let stalled = seek_to(&browser, 1500, STALLED).await;
    assert!(stalled == "nothing" || stalled == "error 2", "{stalled}");
    poll(PATIENCE, "another place to play from", async || match play(&browser, "/dies.wav", ANEW).await {
        said if said == SECONDS => Ok(()),
        said => Err(said),
    })
    .await
    .unwrap();
    assert_eq!(seek(&browser, PATIENCE).await, SECONDS - 10);
    browser.close().await;
}

/// Loads a video and says how many seconds it lasts.
async fn play(browser: &Browser, path: &str, patience: Duration) -> Value {
    let script = "const video = document.getElementById('video'); \
        return new Promise((resolve) => { \
            video.onloadedmetadata = () => resolve(Math.round(video.duration)); \
            video.onerror = () => resolve('error ' + video.error.code); \
            video.preload = 'metadata'; video.src = PATH; video.load(); setTimeout(resolve, PATIENCE, 'nothing'); })";
    let patience = (patience.as_millis() - 1).to_string();
    browser.run(&script.replace("PATH", &format!("'{path}'")).replace("PATIENCE", &patience)).await
}

/// Goes to near the end, and says where the video then is.
async fn seek(browser: &Browser, patience: Duration) -> Value {
    seek_to(browser, SECONDS - 10, patience).await
}

async fn seek_to(browser: &Browser, second: u32, patience: Duration) -> Value {
    let script = "const video = document.getElementById('video'); \
        return new Promise((resolve) => { \
            video.onseeked = () => resolve(video.currentTime); \
            video.onerror = () => resolve('error ' + video.error.code); \
            video.currentTime = SECOND; setTimeout(resolve, PATIENCE, 'nothing'); })";
    let patience = patience.as_millis() - 1;
    browser.run(&script.replace("SECOND", &second.to_string()).replace("PATIENCE", &patience.to_string())).await
}

/// Waits until some site has logged so many answers with parts of the video, and says which.
async fn ranges(sites: &[Site], path: &str, parts: usize) -> usize {
    poll(PATIENCE, format!("{parts} parts of {path}"), async || {
        let whole = |site: &Site| ranges_at(site, path).iter().filter(|(status, _)| *status == 206).count() >= parts;
        sites.iter().position(whole).ok_or("fewer")
    })
    .await
    .unwrap()
}

/// All that the browser asked for was sent from here: the beginning, and what a seek led to, in however many parts.
fn assert_whole_at(site: &Site, path: &str) {
    let ranges = ranges_at(site, path);
    let is_whole = ranges.first() == Some(&(206, true)) && ranges.last() == Some(&(206, false));
    assert!(is_whole && ranges.iter().all(|(status, _)| *status == 206), "{ranges:?}");
}

/// Status of each answer to the browser, and whether it asked from the first byte on; sorted by that.
fn ranges_at(site: &Site, path: &str) -> Vec<(u16, bool)> {
    let of_browser = |access: &&Access| access.agent.as_deref().is_some_and(|agent| agent.contains("HeadlessChrome/"));
    let log = site.accesses().unwrap();
    let log = log.iter().filter(of_browser).filter(|access| access.path.ends_with(path));
    let mut ranges: Vec<_> = log.map(|access| (access.status, access.range.as_deref() == Some("bytes=0-"))).collect();
    ranges.sort_by_key(|(_, from_start)| !from_start);
    ranges
}
