//! An idle site serves itself.

use p2pcdn_tests::poll;
use tokio::time::Instant;

use crate::support::{IN_A_ROW, PATIENCE, PRESSURE, assert_sound, befriend, fill, lab, observe, steady_load};

#[tokio::test]
async fn a_site_below_its_target_redirects_nothing_though_it_could() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let target = (PRESSURE * 2.0) as u32;
    sites[0].edit(r#""requests_per_s": 0"#, format!(r#""requests_per_s": {target}"#));
    sites[0].edit(r#""exclude": []"#, r#""exclude": [], "stay_local_s": 0, "tick_ms": 50"#);
    fill(&sites[0], 3);
    befriend(&mut sites).await;
    let alpha = &sites[0];
    let load = steady_load(&lab, alpha);
    // The workers have the table, so that nothing but the load decides.
    poll(PATIENCE, "eligible request", async || {
        let stats = alpha.admin("/stats?filter=p2pcdn.eligible").await.map_err(|e| e.to_string())?;
        let stats = String::from_utf8_lossy(stats.body()).into_owned();
        let eligible = stats.trim().rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        if eligible >= IN_A_ROW { Ok(()) } else { Err(stats) }
    })
    .await
    .unwrap();
    let (tally, _) = observe(&load, alpha, Instant::now(), 3 * IN_A_ROW).await;
    assert_sound(&tally);
    assert_eq!((tally.redirected, tally.local), (0, tally.requests));
    assert!(load.finish().await.iter().all(|sample| sample.redirects.is_empty()));
}
