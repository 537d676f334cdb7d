//! A host whose replicas lie in a bucket of a real S3 server serves them, and sends visitors back while the bucket is away.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use http::{HeaderMap, Method, Request};
use p2pcdn_tests::poll;

use crate::support::{
    PATIENCE, assert_sound, befriend, body_digest, busy, fetch, fill, get, lab, load, location, redirect, redirects_to,
    replica_url,
};

/// Path of moto's server; `cargo xtask test` sets it, and by default it is where `cargo xtask setup` puts it.
const MOTO: &str = "MOTO_SERVER";
const MOTO_BY_DEFAULT: &str = "../target/tools/moto-5.2.5/bin/moto_server";

/// The server; killed when dropped.
struct Moto(Child);

impl Moto {
    fn start(port: u16, directory: &Path) -> Self {
        let program = std::env::var_os(MOTO)
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(MOTO_BY_DEFAULT), PathBuf::from);
        let log = std::fs::File::create(directory.join("moto.log")).unwrap();
        let mut server = Command::new(&program);
        server.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(log);
        Self(server.spawn().unwrap_or_else(|error| {
            panic!("{}: {error}; cargo xtask setup installs it, or name it in {MOTO}", program.display())
        }))
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn replicas_in_a_bucket_are_placed_redirected_to_and_served_and_visitors_are_sent_back_while_it_is_away() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    busy(&mut sites[0]);
    fill(&sites[0], 3);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let moto = Moto::start(port, lab.directory());
    let endpoint = format!("http://127.0.0.1:{port}");
    poll(PATIENCE, "a bucket", async || {
        let request = Request::builder().method(Method::PUT).uri(format!("{endpoint}/replicas"));
        match lab.client.send(request.body(bytes::Bytes::new()).unwrap()).await {
            Ok(made) if made.status() == 200 => Ok(()),
            other => Err(format!("{:?}", other.map(|made| made.status()))),
        }
    })
    .await
    .unwrap();
    sites[1].set("store.url", "s3://replicas/beta");
    sites[1].set("store.endpoint", endpoint);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        sites[1].agent.set_env(name, "test");
    }
    befriend(&mut sites).await;
    let [alpha, beta] = &sites;
    assert!(!beta.directory().join("state/replicas/blobs").exists(), "the bytes are in the bucket");
    let load = load(&lab, alpha);
    redirects_to(&load, beta).await;
    let object = alpha.content.objects().swap_remove(0);
    let url = location(&redirect(&lab.client, alpha, &object.path).await);
    let served = get(&lab.client, &url, &HeaderMap::new()).await;
    assert_eq!((served.status().as_u16(), body_digest(&served)), (200, object.versions[0]));
    assert_sound(&p2pcdn_tests::tally::tally(&alpha.domain, &load.finish().await));

    drop(moto);
    for object in alpha.content.objects() {
        let url = replica_url(beta, alpha, object.versions[0], &object.path);
        let back = get(&lab.client, &url, &HeaderMap::new()).await;
        assert_eq!(back.status(), 302, "{}", object.path);
        assert_eq!(location(&back), format!("https://{}/.well-known/p2pcdn/v1/back{}", alpha.domain, object.path));
        assert_eq!(body_digest(&fetch(&lab.client, &url).await), object.versions[0]);
    }
}
