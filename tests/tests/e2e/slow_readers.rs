//! Clients that hardly read cost their host a connection, and little memory.

use p2pcdn_tests::content::noise;
use p2pcdn_tests::poll;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, befriend, lab, replica_url, resident_bytes};

const READERS: u64 = 1000;
/// More than the kernel takes off the agent's hands.
const LARGE: usize = 8 << 20;
/// Connection, head and a piece of the replica.
const BYTES_PER_READER: u64 = 64 << 10;

#[tokio::test]
async fn a_thousand_slow_readers_cost_little_memory_and_others_are_served() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    // Each of them draws a part of the lease when it begins.
    sites[1].set("host.lease", "1TB");
    sites[1].set("host.lease_total", "1TB");
    sites[0].content.put("/large.png", &noise(1, LARGE)).unwrap();
    befriend(&mut sites).await;
    let [alpha, beta] = &sites;
    let sha256 = alpha.content.objects()[0].versions[0];
    let url = replica_url(beta, alpha, sha256, "/large.png");
    let path = url.splitn(4, '/').nth(3).unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {}\r\n\r\n", beta.replica_name);
    let address = beta.setting("listen.replica").as_str().unwrap();
    // Once before anything is measured: the agent fills its buffers.
    assert_eq!(lab.client.get(&url).await.unwrap().body().len(), LARGE);

    let before = resident_bytes(beta);
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        readers.push(stream);
    }
    assert_eq!(lab.client.get(&url).await.unwrap().body().len(), LARGE);
    let each = resident_bytes(beta).saturating_sub(before) / READERS;
    assert!(each < BYTES_PER_READER, "{each} bytes for each reader");

    // What they held is there for others again.
    drop(readers);
    poll(PATIENCE, "a whole replica", async || match lab.client.get(&url).await {
        Ok(answer) if answer.body().len() == LARGE => Ok(()),
        other => Err(format!("{:?}", other.map(|answer| answer.status()))),
    })
    .await
    .unwrap();
}
