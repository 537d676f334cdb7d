//! Sites behind Debian's nginx: the same stories, decided by the agent.

mod auth_request;
mod map;
mod returns;
mod shipped;

use p2pcdn_tests::{Lab, Site};
use tokio::time::Instant;

use crate::support::{IN_A_ROW, assert_sound, load, observe};

/// Nothing is redirected, and everything is answered.
async fn serves_itself(lab: &Lab, site: &Site) {
    let load = load(lab, site);
    let (tally, _) = observe(&load, site, Instant::now(), 3 * IN_A_ROW).await;
    assert_sound(&tally);
    assert_eq!((tally.redirected, tally.local), (0, tally.requests));
    load.finish().await;
}
