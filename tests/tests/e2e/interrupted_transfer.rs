//! Both ends of a transfer die in the middle: nothing half is served, and nothing is sent twice.

use std::path::{Path, PathBuf};

use http::HeaderMap;
use p2pcdn_tests::content::noise;
use p2pcdn_tests::{Site, invite_each_other, poll};

use crate::support::{PATIENCE, body_digest, get, lab, metric, placed, replica_url};

const PATH: &str = "/large.zip";
const BYTES: u64 = 12 << 20;

/// Files on their way in, with their sizes.
fn staged(host: &Site) -> Vec<(PathBuf, u64)> {
    files(&host.directory().join("state/replicas/incoming"))
}

fn files(directory: &Path) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len()))).collect()
}

#[tokio::test]
async fn a_transfer_that_crashes_at_both_ends_goes_on_where_it_was() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    sites[0].content.put(PATH, &noise(1, BYTES as usize)).unwrap();
    sites[1].set("host.pull_bandwidth", "1MB");
    invite_each_other(&mut sites);
    let [alpha, beta] = &mut sites;
    alpha.start().await.unwrap();
    beta.start().await.unwrap();
    poll(PATIENCE, "half a transfer", async || match staged(beta) {
        files if files.iter().any(|(_, size)| *size > 1 << 20) => Ok(()),
        files => Err(format!("{files:?}")),
    })
    .await
    .unwrap();
    beta.agent.kill();
    alpha.agent.kill();
    let there: u64 = staged(beta).iter().map(|(_, size)| size).sum();
    assert!((1 << 20..BYTES).contains(&there), "{there} bytes are there");

    // The host is seen as the crash left it before the origin is back.
    beta.set("host.pull_bandwidth", "100MB");
    beta.start_agent().unwrap();
    beta.ready().await.unwrap();
    let sha256 = alpha.content.objects()[0].versions[0];
    let url = replica_url(beta, alpha, sha256, PATH);
    assert_eq!(get(&lab.client, &url, &HeaderMap::new()).await.status(), 302);

    alpha.start_agent().unwrap();
    placed(alpha, beta).await;
    let whole = get(&lab.client, &url, &HeaderMap::new()).await;
    assert_eq!((whole.status().as_u16(), body_digest(&whole)), (200, sha256));
    assert_eq!(staged(beta), []);
    // Both have counted from zero since they are back.
    let sent = metric(alpha, "p2pcdn_uploaded_bytes_total").await;
    let received = metric(beta, "p2pcdn_pulled_bytes_total").await;
    assert!(
        sent <= BYTES - there + (1 << 18) && received <= sent,
        "{there} were there, then {sent} sent, {received} received"
    );
}
