//! A filter that crashes is a filter that is not there.

use http::HeaderMap;
use p2pcdn_tests::{Dist, Lab};
use tokio::time::Instant;

use crate::support::{IN_A_ROW, assert_sound, body_digest, get, headers, observe, redirects_to, sites, under_load};

#[tokio::test]
async fn requests_pass_when_the_filter_crashes() {
    let mut dist = Dist::find().unwrap();
    dist.wasm.set_file_name("p2pcdn_filter_fault.wasm");
    assert!(dist.wasm.is_file(), "{} is missing: `cargo xtask test` builds it", dist.wasm.display());
    let lab = Lab::with(dist).unwrap();
    let mut sites = sites(&lab, ["alpha", "beta"]);
    sites[0].workers(1);
    let load = under_load(&lab, &mut sites, 2).await;
    let alpha = &sites[0];

    let crash = headers([("x-p2pcdn-crash", "1")]);
    let start = Instant::now();
    let object = alpha.content.objects().swap_remove(0);
    let answer = get(&lab.client, &alpha.url(&object.path), &crash).await;
    assert_eq!((answer.status().as_u16(), body_digest(&answer)), (200, object.versions[0]));
    let crashed = Instant::now();
    let (tally, _) = observe(&load, alpha, crashed, 3 * IN_A_ROW).await;
    assert_sound(&tally);
    // The only worker's filter is gone, so this shows that it did crash.
    assert_eq!(tally.redirected, 0);
    let (tally, _) = observe(&load, alpha, start, IN_A_ROW).await;
    assert_sound(&tally);
}

#[tokio::test]
async fn the_filter_that_ships_cannot_be_made_to_crash() {
    let (lab, mut sites) = crate::support::lab(["alpha", "beta"]);
    sites[0].workers(1);
    let load = under_load(&lab, &mut sites, 2).await;
    let [alpha, beta] = &sites;
    get(&lab.client, &alpha.url("/"), &headers([("x-p2pcdn-crash", "1")])).await;
    get(&lab.client, &alpha.url("/"), &HeaderMap::new()).await;
    load.take();
    redirects_to(&load, beta).await;
}
