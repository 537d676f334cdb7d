//! A replica that rots at its host is withdrawn; no client ever gets its bytes.

use http::HeaderMap;
use p2pcdn_tests::content::digest;
use p2pcdn_tests::{Site, poll};
use serde_json::Value;
use tokio::time::Instant;

use crate::support::{
    IN_A_ROW, PATIENCE, assert_sound, befriend, body_digest, damage, fetch, fill, get, lab, location, observe, peer,
    placed, redirect, replica_url, under_load,
};

async fn holders(site: &Site, path: &str) -> Result<Vec<Value>, String> {
    let objects = site.local("/v1/objects").await.map_err(|e| e.to_string())?;
    let objects: Value = serde_json::from_slice(objects.body()).map_err(|e| e.to_string())?;
    let object = objects.as_array().into_iter().flatten().find(|o| o["path"] == path).ok_or("no such object")?;
    Ok(object["holders"].as_array().cloned().unwrap_or_default())
}

#[tokio::test]
async fn a_damaged_replica_is_withdrawn_and_its_clients_are_served_by_the_origin() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    // Offers are renewed slowly enough for the time without the replica to be seen.
    sites[0].set("lab.time_scale", 0.5);
    let load = under_load(&lab, &mut sites, 3).await;
    let [alpha, beta] = &sites;
    let object = alpha.content.objects().swap_remove(1);
    let sha256 = object.versions[0];
    let url = location(&redirect(&lab.client, alpha, &object.path).await);
    assert_eq!(body_digest(&fetch(&lab.client, &url).await), sha256);

    let start = Instant::now();
    damage(beta, sha256);
    let back = get(&lab.client, &url, &HeaderMap::new()).await;
    assert_eq!(back.status(), 302);
    assert_eq!(location(&back), format!("https://{}/.well-known/p2pcdn/v1/back{}", alpha.domain, object.path));
    assert_eq!(body_digest(&fetch(&lab.client, &url).await), sha256);
    // That there is no holder for a moment may be missed on a busy machine, and that the origin was told may not.
    poll(PATIENCE, "withdrawal", async || {
        let lost = peer(alpha, beta).await?["withdrawn_for"]["lost"].as_u64();
        match holders(alpha, &object.path).await {
            Ok(holders) if holders.is_empty() || lost >= Some(1) => Ok(()),
            other => Err(format!("{other:?}, {lost:?} lost")),
        }
    })
    .await
    .unwrap();

    // It comes back whole.
    poll(PATIENCE, "another replica", async || match holders(alpha, &object.path).await {
        Ok(holders) if !holders.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    let again = location(&redirect(&lab.client, alpha, &object.path).await);
    let served = get(&lab.client, &again, &HeaderMap::new()).await;
    assert_eq!((served.status().as_u16(), body_digest(&served)), (200, sha256));
    let (tally, _) = observe(&load, alpha, start, IN_A_ROW).await;
    assert_sound(&tally);
}

#[tokio::test]
async fn what_rots_without_a_trace_and_is_asked_for_by_nobody_is_found_by_the_scrub() {
    let (_lab, mut sites) = lab(["alpha", "beta"]);
    fill(&sites[0], 3);
    // A pass of the scrub every 3.6 seconds.
    sites[1].set("lab.time_scale", 0.001);
    befriend(&mut sites).await;
    let [alpha, beta] = &mut sites;
    let sha256 = alpha.content.objects()[1].versions[0];
    let hex = sha256.to_string();
    let blob = beta.directory().join("state/replicas/blobs").join(&hex[..2]).join(&hex);
    let modified = std::fs::metadata(&blob).unwrap().modified().unwrap();

    // Neither a probe nor an audit comes first.
    alpha.agent.stop().await.unwrap();
    damage(beta, sha256);
    std::fs::File::options().write(true).open(&blob).unwrap().set_modified(modified).unwrap();
    poll(
        PATIENCE,
        "the end of the damaged bytes",
        async || {
            if blob.exists() { Err("they are still there") } else { Ok(()) }
        },
    )
    .await
    .unwrap();

    alpha.start_agent().unwrap();
    alpha.ready().await.unwrap();
    placed(alpha, beta).await;
    assert_eq!(digest(&std::fs::read(&blob).unwrap()), sha256);
}

#[tokio::test]
async fn what_rotted_while_the_host_was_down_is_found_before_it_is_served() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    fill(&sites[0], 2);
    befriend(&mut sites).await;
    let [alpha, beta] = &mut sites;
    let object = alpha.content.objects().swap_remove(0);
    let sha256 = object.versions[0];
    let url = replica_url(beta, alpha, sha256, &object.path);
    assert_eq!(body_digest(&get(&lab.client, &url, &HeaderMap::new()).await), sha256);

    // Nobody offers it anew meanwhile.
    alpha.agent.stop().await.unwrap();
    beta.agent.stop().await.unwrap();
    damage(beta, sha256);
    beta.start_agent().unwrap();
    beta.ready().await.unwrap();
    assert_eq!(get(&lab.client, &url, &HeaderMap::new()).await.status(), 302);
}
