//! The operator's word comes first.

use tokio::time::Instant;

use crate::support::{
    IN_A_ROW, assert_sound, lab, no_more_redirects, observe, p2pcdn, placed, printed, redirects_to, under_load,
};

#[tokio::test]
async fn pause_ends_redirects_in_every_worker_and_resume_alone_brings_them_back() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    sites[0].workers(3);
    let load = under_load(&lab, &mut sites, 3).await;
    let [alpha, beta] = &mut sites;

    printed(p2pcdn(&lab, alpha, ["pause"]));
    no_more_redirects(&load).await;
    let (tally, _) = observe(&load, alpha, Instant::now(), 3 * IN_A_ROW).await;
    assert_sound(&tally);
    assert_eq!(tally.redirected, 0);

    // As after a crash, or an upgrade.
    alpha.agent.kill();
    alpha.start_agent().unwrap();
    alpha.ready().await.unwrap();
    placed(alpha, beta).await;
    let (tally, _) = observe(&load, alpha, Instant::now(), 3 * IN_A_ROW).await;
    assert_eq!(tally.redirected, 0);

    printed(p2pcdn(&lab, alpha, ["resume"]));
    redirects_to(&load, beta).await;
}
