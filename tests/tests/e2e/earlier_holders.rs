//! A busy origin sends each byte about once: further hosts get it from those who have it.

use p2pcdn_tests::content::noise;
use p2pcdn_tests::poll;

use crate::support::{PATIENCE, introduce, lab, metric, peer, placed};

const BYTES: u64 = 8 << 20;

#[tokio::test]
async fn a_second_host_gets_the_object_from_the_first() {
    let (_lab, mut sites) = lab(["alpha", "beta", "gamma"]);
    introduce(&mut sites).await;
    let [alpha, beta, gamma] = &sites;
    for (one, other) in [(alpha, beta), (alpha, gamma), (beta, gamma), (gamma, beta)] {
        poll(PATIENCE, format!("{} knows {}", one.name, other.name), async || {
            let peer = peer(one, other).await?;
            if peer["lease_bytes_per_s"].as_u64() > Some(0) { Ok(()) } else { Err(peer.to_string()) }
        })
        .await
        .unwrap();
    }
    alpha.content.put("/large.zip", &noise(1, BYTES as usize)).unwrap();
    placed(alpha, beta).await;
    placed(alpha, gamma).await;
    let sent = metric(alpha, "p2pcdn_uploaded_bytes_total").await;
    let passed_on =
        metric(beta, "p2pcdn_uploaded_bytes_total").await + metric(gamma, "p2pcdn_uploaded_bytes_total").await;
    assert_eq!((sent, passed_on), (BYTES, BYTES));
}
