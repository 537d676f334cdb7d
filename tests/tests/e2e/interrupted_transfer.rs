//! A host that dies in the middle of a transfer is left with nothing half.

use std::path::{Path, PathBuf};

use http::HeaderMap;
use p2pcdn_tests::content::noise;
use p2pcdn_tests::{Signal, Site, invite_each_other, poll};

use crate::support::{PATIENCE, body_digest, get, lab, placed, replica_url};

const PATH: &str = "/large.zip";

/// Files on their way in, with their sizes.
fn staged(host: &Site) -> Vec<(PathBuf, u64)> {
    files(&host.directory().join("state/replicas/incoming"))
}

fn files(directory: &Path) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len()))).collect()
}

#[tokio::test]
async fn a_transfer_that_a_crash_cut_off_leaves_nothing_half_and_is_done_again() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    sites[0].content.put(PATH, &noise(1, 12 << 20)).unwrap();
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
    assert!(!staged(beta).is_empty(), "nothing was left to go on with");

    // The origin is silent, so that the host is seen as the crash left it.
    alpha.agent.signal(Signal::STOP).unwrap();
    beta.set("host.pull_bandwidth", "100MB");
    beta.start_agent().unwrap();
    beta.ready().await.unwrap();
    let sha256 = alpha.content.objects()[0].versions[0];
    let url = replica_url(beta, alpha, sha256, PATH);
    assert_eq!(get(&lab.client, &url, &HeaderMap::new()).await.status(), 302);

    alpha.agent.signal(Signal::CONT).unwrap();
    placed(alpha, beta).await;
    let whole = get(&lab.client, &url, &HeaderMap::new()).await;
    assert_eq!((whole.status().as_u16(), body_digest(&whole)), (200, sha256));
    assert_eq!(staged(beta), []);
}
