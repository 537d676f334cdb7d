//! A site whose disk is lost comes back from its backup as the same peer.

use p2pcdn_tests::poll;
use serde_json::Value;

use crate::support::{PATIENCE, befriend, fill, lab, p2pcdn, placed, printed};

#[tokio::test]
async fn a_site_restored_from_its_backup_is_recognised_by_its_peers() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    fill(&sites[0], 2);
    befriend(&mut sites).await;
    let [alpha, beta] = &mut sites;
    let key = |peers: &str, site: &str| {
        let peers: Value = serde_json::from_str(peers).unwrap();
        let peer = peers.as_array().unwrap().iter().find(|peer| peer["domain"] == site).cloned().unwrap();
        (peer["state"].clone(), peer["key"].clone())
    };
    let known = key(&printed(p2pcdn(&lab, alpha, ["peer", "list", "--json"])), beta.domain.as_str());

    printed(p2pcdn(&lab, beta, ["deny", "domain", "elsewhere.example"]));
    let denied = printed(p2pcdn(&lab, beta, ["deny", "list", "--json"]));
    let running = p2pcdn(&lab, beta, ["backup", "beta.backup"]);
    let said = String::from_utf8_lossy(&running.stderr).into_owned();
    assert!(running.status.code() == Some(1) && said.contains("stop it first"), "{said}");
    beta.agent.kill();
    printed(p2pcdn(&lab, beta, ["backup", "beta.backup"]));
    assert_eq!(p2pcdn(&lab, beta, ["backup", "beta.backup"]).status.code(), Some(1), "nothing is overwritten");
    assert_eq!(p2pcdn(&lab, beta, ["restore", "beta.backup"]).status.code(), Some(1), "nor is the site itself");

    beta.set("state.directory", beta.directory().join("restored").to_str().unwrap());
    printed(p2pcdn(&lab, beta, ["restore", "beta.backup", "--set", "state.directory=restored"]));
    // Nobody is invited by the settings: the peers come from the backup.
    beta.unset("peers.invited");
    beta.start_agent().unwrap();
    beta.ready().await.unwrap();
    assert_eq!(
        printed(p2pcdn(&lab, beta, ["deny", "list", "--json"])),
        denied,
        "what the operator has said still holds"
    );
    placed(alpha, beta).await;
    poll(PATIENCE, "the peer known by its key", async || {
        let found = key(&printed(p2pcdn(&lab, alpha, ["peer", "list", "--json"])), beta.domain.as_str());
        if found == known { Ok(()) } else { Err(format!("{found:?}, not {known:?}")) }
    })
    .await
    .unwrap();
    let back = key(&printed(p2pcdn(&lab, beta, ["peer", "list", "--json"])), alpha.domain.as_str());
    assert_eq!(back.0, "pinned");
}
