//! Sites that nobody has invited: they come in where membership is open, by their own word or somebody else's, and go when told to.

use p2pcdn_tests::{Site, poll};
use serde_json::Value;

use crate::support::{PATIENCE, fill, lab, p2pcdn, peer, printed};

async fn stands(site: &Site, other: &Site, state: &str, invited: bool) -> Value {
    poll(PATIENCE, format!("{} {state} at {}", other.name, site.name), async || {
        let peer = peer(site, other).await?;
        if peer["state"] == state && peer["invited"] == invited { Ok(peer) } else { Err(peer.to_string()) }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn who_is_heard_of_by_gossip_is_asked_and_becomes_an_open_peer_until_it_is_removed() {
    let (lab, mut sites) = lab(["alpha", "beta", "gamma"]);
    fill(&sites[0], 2);
    sites.iter_mut().for_each(|site| site.set("peers.membership", "open"));
    // Beta has invited nobody; the others know of nobody else.
    let [alpha, beta, gamma] = &mut sites;
    alpha.invite(beta);
    gamma.invite(beta);
    for site in [&mut *alpha, &mut *beta, &mut *gamma] {
        site.start().await.unwrap();
    }
    stands(alpha, beta, "pinned", true).await;
    stands(beta, alpha, "pinned", false).await;
    stands(alpha, gamma, "pinned", false).await;
    stands(gamma, alpha, "pinned", false).await;
    poll(PATIENCE, "replicas at an open peer", async || match peer(alpha, gamma).await?["holds"].as_u64() {
        Some(2) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    let listed = printed(p2pcdn(&lab, alpha, ["peer", "list"]));
    assert!(listed.contains("open peer"), "{listed}");

    printed(p2pcdn(&lab, alpha, ["peer", "remove", gamma.domain.as_str()]));
    gamma.agent.stop().await.unwrap();
    gamma.start_agent().unwrap();
    gamma.ready().await.unwrap();
    // Gamma comes back to beta, and beta tells alpha.
    stands(beta, gamma, "pinned", false).await;
    let contact = poll(PATIENCE, "gamma's refused hello", async || {
        let peer = peer(gamma, alpha).await?;
        let note = peer["note"].as_str().unwrap_or_default().to_owned();
        if note.contains("not_invited") { Ok(note) } else { Err(peer.to_string()) }
    });
    contact.await.unwrap();
    let away = stands(alpha, gamma, "removed", false).await;
    assert_eq!(away["holds"], 0, "{away}");
}

#[tokio::test]
async fn where_membership_is_by_invitation_nobody_who_is_heard_of_comes_in() {
    let (_lab, mut sites) = lab(["alpha", "beta", "gamma"]);
    let [alpha, beta, gamma] = &mut sites;
    alpha.invite(beta);
    beta.invite(alpha);
    beta.invite(gamma);
    gamma.invite(beta);
    for site in [&mut *alpha, &mut *beta, &mut *gamma] {
        site.start().await.unwrap();
    }
    for (site, other) in [(&*alpha, &*beta), (&*beta, &*gamma)] {
        stands(site, other, "pinned", true).await;
    }
    poll(PATIENCE, "some exchanges", async || {
        match crate::support::metric(alpha, "p2pcdn_gossip_exchanges_total").await {
            5.. => Ok(()),
            few => Err(few),
        }
    })
    .await
    .unwrap();
    assert!(peer(alpha, gamma).await.is_err(), "alpha has to do with gamma");
    let known = alpha.gossip().await.unwrap().to_string();
    assert!(!known.contains(gamma.domain.as_str()), "{known}");
}
