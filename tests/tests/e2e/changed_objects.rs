//! An object that changes is never served stale beyond the moment in which the table follows, and a deleted one is gone.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use p2pcdn_tests::client::{self, Client};
use p2pcdn_tests::content::digest;
use p2pcdn_tests::poll;
use p2pcdn_tests::stalls::Stalls;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::{PATIENCE, befriend, busy, fetch, fill, lab, load, location, redirect};

const PATH: &str = "/images/0.png";
/// Askers at the same time, so that every worker is asked.
const ASKERS: usize = 4;
/// Fresh answers in a row after which every worker counts as knowing of a change.
const FRESH_IN_A_ROW: usize = 30;
/// Longest time for which a former version may be served, without stalls: the table's time to live, and then some for a busy machine.
const WINDOW: Duration = Duration::from_secs(5);

/// One answer to one of the askers.
#[derive(Debug, Clone)]
struct Seen {
    asked: Instant,
    status: u16,
    /// Number of the version; `None` if it was no whole version.
    version: Option<u64>,
    redirected: bool,
}

/// A version is its number, again and again.
fn version(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(3000)
}

fn number_of(body: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(*body.first_chunk()?);
    (body == version(number)).then_some(number)
}

/// Asks for the object again and again, following redirects.
async fn ask(client: Client, url: String, seen: Arc<Mutex<Vec<Seen>>>) {
    loop {
        let asked = Instant::now();
        // The body of a file that is cut short while it is sent breaks off.
        if let Ok(hops) = client.follow(client::get(&url).unwrap()).await {
            let last = &hops.last().unwrap().response;
            let (status, version) = (last.status().as_u16(), number_of(last.body()));
            seen.lock().unwrap().push(Seen { asked, status, version, redirected: hops.len() > 1 });
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// The answers by when they were asked for, since whoever was kept waiting comes late.
fn in_order(seen: &Mutex<Vec<Seen>>) -> Vec<Seen> {
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_by_key(|answer| answer.asked);
    seen
}

/// Waits until enough answers in a row, all asked for after `since`, are fresh.
async fn settled(seen: &Mutex<Vec<Seen>>, since: Instant, is_fresh: impl Fn(&Seen) -> bool) {
    poll(PATIENCE, "fresh answers in a row", async || {
        let seen = in_order(seen);
        let row = seen.iter().rev().take_while(|answer| answer.asked >= since && is_fresh(answer)).count();
        if row >= FRESH_IN_A_ROW { Ok(()) } else { Err(format!("{row} in a row, last {:?}", seen.last())) }
    })
    .await
    .unwrap();
}

async fn redirect_to_version(client: &Client, site: &p2pcdn_tests::Site, number: u64) -> String {
    let sha256 = digest(&version(number)).to_string();
    poll(PATIENCE, "redirect to the new version", async || {
        let found = location(&redirect(client, site, PATH).await);
        if found.contains(&sha256) { Ok(found) } else { Err(found) }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_changed_object_is_never_served_stale_and_a_deleted_one_not_at_all() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    busy(&mut sites[0]);
    fill(&sites[0], 2);
    sites[0].content.put(PATH, &version(0)).unwrap();
    befriend(&mut sites).await;
    let [alpha, _beta] = &sites;
    let file = alpha.directory().join("srv").join(PATH.trim_start_matches('/'));
    let _load = load(&lab, alpha);
    redirect_to_version(&lab.client, alpha, 0).await;

    let stalls = Stalls::watch();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut askers = JoinSet::new();
    (0..ASKERS).for_each(|_| drop(askers.spawn(ask(lab.client.clone(), alpha.url(PATH), seen.clone()))));
    // From when on at least which version has to be served.
    let mut least = vec![(Instant::now(), 0)];
    let mut number = 0;
    for burst in [1, 1, 5, 3] {
        for _ in 0..burst {
            number += 1;
            // In place, or in one step.
            if number % 2 == 0 {
                std::fs::write(&file, version(number)).unwrap();
            } else {
                alpha.content.put(PATH, &version(number)).unwrap();
            }
        }
        let changed = Instant::now();
        settled(&seen, changed, |answer| answer.version == Some(number)).await;
        least.push((changed, number));
        redirect_to_version(&lab.client, alpha, number).await;
    }
    let replica = redirect_to_version(&lab.client, alpha, number).await;

    std::fs::remove_file(&file).unwrap();
    let deleted = Instant::now();
    settled(&seen, deleted, |answer| answer.status == 404 && !answer.redirected).await;
    // A replica's URL that somebody kept leads back to the origin.
    poll(PATIENCE, "withdrawal of the replica", async || match fetch(&lab.client, &replica).await.status() {
        status if status == 404 => Ok(()),
        status => Err(status),
    })
    .await
    .unwrap();
    askers.shutdown().await;

    let seen = in_order(&seen);
    for answer in seen.iter() {
        // Within the window after a change its predecessor may still be served, by a redirect.
        let known = |(at, _): &&(Instant, u64)| stalls.worked(*at, answer.asked) >= WINDOW;
        let oldest = least.iter().rev().find(known).map_or(0, |(_, number)| *number);
        if stalls.worked(deleted, answer.asked) >= WINDOW {
            assert_eq!((answer.status, answer.redirected), (404, false), "{answer:?}");
        }
        if answer.status == 200 {
            // Only the origin can be caught while its file is being written.
            assert!(answer.version.is_some() || !answer.redirected, "no version ever: {answer:?}");
            assert!(answer.version.is_none_or(|version| version >= oldest), "{answer:?}, but {oldest} was settled");
        }
    }
    // Once every worker knew of a version, none before it came back.
    for (at, number) in &least {
        let row: Vec<u64> = seen.iter().filter(|a| a.asked >= *at).filter_map(|a| a.version).collect();
        let settled = row.windows(FRESH_IN_A_ROW).position(|row| row.iter().all(|version| version >= number));
        let after = row.iter().skip(settled.unwrap_or(row.len()));
        assert!(after.min().is_none_or(|version| version >= number), "a version before {number} came back");
    }
    assert!(seen.iter().filter(|answer| answer.redirected).count() > FRESH_IN_A_ROW, "too few were redirected");
}
