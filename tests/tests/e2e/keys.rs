//! Who a peer is, is known by its key, and a stranger waits until the operator agrees.

use p2pcdn_tests::{Lab, Site, poll};
use serde_json::Value;
use tokio::time::Instant;

use crate::support::{
    IN_A_ROW, PATIENCE, assert_sound, fill, lab, no_more_redirects, observe, p2pcdn, placed, printed, redirects_to,
    under_load,
};

/// Waits until `p2pcdn peer list --json` shows the other site in this state.
async fn listed_as(lab: &Lab, site: &Site, other: &Site, state: &str) {
    poll(PATIENCE, format!("{} {state} at {}", other.name, site.name), async || {
        let list: Value = serde_json::from_str(&printed(p2pcdn(lab, site, ["peer", "list", "--json"]))).unwrap();
        let found = list.as_array().unwrap().iter().find(|peer| peer["domain"] == other.domain.as_str()).cloned();
        match found {
            Some(peer) if peer["state"] == state => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn another_key_is_refused_and_reported_until_it_is_accepted() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let load = under_load(&lab, &mut sites, 3).await;
    let [alpha, beta] = &mut sites;

    beta.agent.stop().await.unwrap();
    std::fs::remove_file(beta.directory().join("state/node.key")).unwrap();
    beta.start_agent().unwrap();
    beta.ready().await.unwrap();
    listed_as(&lab, alpha, beta, "key_changed").await;
    no_more_redirects(&load).await;
    let (tally, _) = observe(&load, alpha, Instant::now(), IN_A_ROW).await;
    assert_sound(&tally);
    assert_eq!(tally.redirected, 0);

    printed(p2pcdn(&lab, alpha, ["peer", "accept", beta.domain.as_str()]));
    listed_as(&lab, alpha, beta, "pinned").await;
    placed(alpha, beta).await;
    redirects_to(&load, beta).await;
}

#[tokio::test]
async fn a_key_that_was_rotated_is_followed_by_everybody_who_knew_the_old_one() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let load = under_load(&lab, &mut sites, 3).await;
    let [alpha, beta] = &mut sites;
    let before = crate::support::peer(alpha, beta).await.unwrap()["key"].clone();

    let running = p2pcdn(&lab, beta, ["key", "rotate"]);
    let said = String::from_utf8_lossy(&running.stderr).into_owned();
    assert!(running.status.code() == Some(1) && said.contains("stop it first"), "{said}");
    beta.agent.stop().await.unwrap();
    printed(p2pcdn(&lab, beta, ["key", "rotate"]));
    printed(p2pcdn(&lab, beta, ["key", "rotate"]));
    beta.start_agent().unwrap();
    beta.ready().await.unwrap();
    poll(PATIENCE, "the new key", async || {
        let peer = crate::support::peer(alpha, beta).await?;
        if peer["state"] == "pinned" && peer["key"] != before { Ok(()) } else { Err(peer.to_string()) }
    })
    .await
    .unwrap();
    placed(alpha, beta).await;
    redirects_to(&load, beta).await;
}

#[tokio::test]
async fn a_site_that_was_not_invited_waits_until_it_is_accepted() {
    let (lab, [mut alpha, mut gamma]) = lab(["alpha", "gamma"]);
    fill(&alpha, 2);
    gamma.invite(&alpha);
    alpha.start().await.unwrap();
    gamma.start().await.unwrap();
    listed_as(&lab, &alpha, &gamma, "pending").await;
    let pending = crate::support::peer(&alpha, &gamma).await.unwrap();
    assert_eq!((pending["holds"].as_u64(), pending["weight"].as_u64()), (Some(0), Some(0)));
    let command = format!("p2pcdn peer accept {}", gamma.domain);
    assert!(pending["note"].as_str().unwrap().contains(&command), "{pending}");

    printed(p2pcdn(&lab, &alpha, ["peer", "accept", gamma.domain.as_str()]));
    placed(&alpha, &gamma).await;
}
