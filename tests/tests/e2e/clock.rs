//! Sites whose clock jumps by weeks, either way, go on: hosts carry what they carry, and origins redirect to it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use http::HeaderMap;
use p2pcdn_tests::content::noise;
use p2pcdn_tests::{Lab, Site, poll};
use serde_json::Value;
use tokio::time::Instant;

use crate::support::{
    IN_A_ROW, PATIENCE, assert_sound, get, installed, lab, observe, p2pcdn, placed, printed, redirects_to, replica_url,
    under_load,
};

const DAY: i64 = 24 * 3600;

/// Sets the clock that a site's agent sees to so many days from now, and waits until the agent has noticed.
async fn jump(lab: &Lab, site: &Site, clock: &Path, days: i64) {
    std::fs::write(clock, format!("{days:+}d")).unwrap();
    poll(PATIENCE, format!("jump by {days} days"), async || {
        printed(p2pcdn(lab, site, ["deny", "domain", "elsewhere.example"]));
        let list = printed(p2pcdn(lab, site, ["deny", "list", "--json"]));
        printed(p2pcdn(lab, site, ["deny", "remove", "elsewhere.example"]));
        let list: Value = serde_json::from_str(&list).unwrap();
        let now_s = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
        let off_s = list[0]["since_s"].as_i64().unwrap() - now_s;
        if (off_s - days * DAY).abs() < DAY { Ok(()) } else { Err(off_s) }
    })
    .await
    .unwrap();
}

/// Gives the site's agent a clock of its own; it shows what is written to this file.
fn fake_clock(site: &mut Site) -> PathBuf {
    let clock = site.directory().join("clock");
    std::fs::write(&clock, "+0d").unwrap();
    // The dynamic linker knows where this machine's libraries lie; timers follow the monotonic clock, which no jump changes.
    let agent = &mut site.agent;
    agent.set_env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1");
    agent.set_env("FAKETIME_TIMESTAMP_FILE", &clock);
    agent.set_env("FAKETIME_CACHE_DURATION", "1");
    agent.set_env("DONT_FAKE_MONOTONIC", "1");
    clock
}

#[tokio::test]
async fn an_origin_whose_clock_jumps_goes_on_redirecting_and_what_is_new_is_copied_once_the_clock_is_right() {
    installed("faketime", "faketime");
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let clock = fake_clock(&mut sites[0]);
    let load = under_load(&lab, &mut sites, 3).await;
    let [alpha, beta] = &sites;
    for (number, days) in [30, -30, 0].into_iter().enumerate() {
        jump(&lab, alpha, &clock, days).await;
        alpha.content.put(&format!("/images/new-{number}.png"), &noise(100 + number as u64, 20 << 10)).unwrap();
        redirects_to(&load, beta).await;
        let (tally, _) = observe(&load, alpha, Instant::now(), 6 * IN_A_ROW).await;
        assert_sound(&tally);
    }
    placed(alpha, beta).await;
}

#[tokio::test]
async fn a_clock_that_jumps_neither_drops_replicas_nor_keeps_new_ones_out() {
    installed("faketime", "faketime");
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let clock = fake_clock(&mut sites[1]);
    let load = under_load(&lab, &mut sites, 3).await;
    let [alpha, beta] = &sites;
    let object = alpha.content.objects().swap_remove(0);
    let url = replica_url(beta, alpha, object.versions[0], &object.path);

    for (number, days) in [30, -30, 0].into_iter().enumerate() {
        jump(&lab, beta, &clock, days).await;
        // What should not be held is looked for every three seconds here, which is less than this takes.
        let jumped = Instant::now();
        let (tally, _) = observe(&load, alpha, jumped, 6 * IN_A_ROW).await;
        assert_sound(&tally);
        assert_eq!(get(&lab.client, &url, &HeaderMap::new()).await.status(), 200, "{days} days");
        alpha.content.put(&format!("/images/new-{number}.png"), &noise(100 + number as u64, 20 << 10)).unwrap();
        placed(alpha, beta).await;
        redirects_to(&load, beta).await;
        let (tally, _) = observe(&load, alpha, Instant::now(), IN_A_ROW).await;
        assert_sound(&tally);
    }
}
