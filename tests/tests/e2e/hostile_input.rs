//! Whatever is sent to the agent's sockets, it goes on serving everybody else, within the memory that it had.

use std::time::Duration;

use http::{HeaderMap, Method, Request};
use p2pcdn_tests::content::noise;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{
    PATIENCE, assert_sound, body_digest, get, headers, lab, location, redirect, redirects_to, resident_bytes,
    under_load,
};

const SOCKETS: [&str; 4] = ["listen.local", "listen.replica", "listen.peer", "listen.origin"];
/// The first bytes of PROXY protocol, version 2.
const PROXY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn inputs() -> Vec<Vec<u8>> {
    let with = |start: &[u8], rest: &[u8]| [start, rest].concat();
    vec![
        noise(1, 200_000),
        vec![0; 100_000],
        b"GET / HTTP/1.1\r\n\r\nGET / HTTP/9.9\r\n\r\n".to_vec(),
        with(b"GET / HTTP/1.1\r\nHost: ", &vec![b'a'; 1 << 20]),
        with(b"GET /", &vec![b'a'; 1 << 20]),
        b"GET / HTTP/1.1\r\n".iter().copied().chain(b"X: y\r\n".repeat(50_000)).collect(),
        b"POST /v1/sync HTTP/1.1\r\nHost: p2pcdn\r\nContent-Length: 99999999999\r\n\r\n".to_vec(),
        b"POST /v1/sync HTTP/1.1\r\nHost: p2pcdn\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n".to_vec(),
        with(PROXY_V2, &noise(2, 50_000)),
        with(PROXY_V2, b"\x21\x11\x00\x0c\x7f\0\0\x01\x7f\0\0\x01\x10\0\x20\0GET / HTTP/1.1\r\n\r\n"),
        with(PROXY_V2, b"\x21\x11\xff\xff"),
        with(b"\x16\x03\x01\x40\x00", &noise(3, 30_000)),
        with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &noise(4, 50_000)),
    ]
}

/// Sends all of it as long as the other side listens, and takes what comes back for a moment.
async fn throw(address: &str, input: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // An agent that closes the connection before it has read everything is right to do so.
    let _ = timeout(Duration::from_secs(1), stream.write_all(input)).await;
    let _ = timeout(Duration::from_millis(20), stream.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn garbage_on_any_socket_disturbs_nobody() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let load = under_load(&lab, &mut sites, 2).await;
    let [alpha, beta] = &mut sites;

    for site in [&*alpha, &*beta] {
        let before = resident_bytes(site);
        let mut idle = Vec::new();
        for socket in SOCKETS {
            let address = site.setting(socket).as_str().unwrap();
            for input in inputs() {
                throw(address, &input).await;
            }
            for _ in 0..100 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
                idle.push(stream);
            }
        }
        let grown = resident_bytes(site).saturating_sub(before) >> 10;
        assert!(grown < 64 << 10, "{} grew by {grown} KiB", site.name);
    }
    for site in [alpha, beta] {
        assert!(site.agent.check().unwrap() && site.envoy.check().unwrap());
    }
    let url = location(&redirect(&lab.client, &sites[0], "/images/0.png").await);
    let whole = get(&lab.client, &url, &HeaderMap::new()).await;
    assert_eq!(body_digest(&whole), sites[0].content.objects()[0].versions[0]);
    assert_sound(&p2pcdn_tests::tally::tally(&sites[0].domain, &load.finish().await));
}

#[tokio::test]
async fn web_pages_cannot_use_the_local_socket() {
    let (lab, [mut alpha]) = lab(["alpha"]);
    alpha.start().await.unwrap();
    let local = format!("http://{}", alpha.setting("listen.local").as_str().unwrap());
    let pages = [
        headers([("origin", "https://evil.example")]),
        headers([("origin", "null")]),
        headers([("host", "evil.example")]),
        headers([("host", "localhost.evil.example")]),
        headers([("sec-fetch-site", "cross-site")]),
    ];
    for headers in pages {
        for (method, path) in [(Method::GET, "/v1/status"), (Method::GET, "/metrics"), (Method::POST, "/v1/pause")] {
            let mut request = Request::builder().method(&method).uri(format!("{local}{path}")).body("".into()).unwrap();
            request.headers_mut().extend(headers.clone());
            assert_eq!(lab.client.send(request).await.unwrap().status(), 403, "{method} {path} {headers:?}");
        }
    }
    assert_eq!(alpha.status().await.unwrap()["steering"]["killed"], json!(false));
}

#[tokio::test]
async fn return_urls_lead_neither_to_the_local_socket_nor_around_a_protected_route() {
    let (lab, [mut alpha]) = lab(["alpha"]);
    // The origin would give it away, if it were asked.
    std::fs::create_dir_all(alpha.directory().join("srv/api")).unwrap();
    std::fs::write(alpha.directory().join("srv/api/x.png"), "protected").unwrap();
    alpha.start().await.unwrap();
    let back = "/.well-known/p2pcdn/v1/back";
    let agents = ["status", "decide", "sync"].map(|name| format!("/.well-known/p2pcdn/local/{name}"));
    let other =
        ["/v1/status", "/metrics", "/.well-known/p2pcdn/v1/peer", "/.well-known/p2pcdn/v1/back/x", "/api/x.png"];
    let paths = agents.iter().map(String::as_str).chain(other);
    for path in paths {
        for way in [back, &format!("{back}/x/.."), &format!("{back}/"), &format!("{back}/%2e"), &format!("{back}%2F")] {
            let answer = get(&lab.client, &alpha.url(&format!("{way}{path}")), &HeaderMap::new()).await;
            // Envoy sends whoever escapes slashes to the path without them.
            let (escapes, status) = (way.contains("%2F"), answer.status().as_u16());
            assert_eq!(status, if escapes { 307 } else { 404 }, "{way}{path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn no_path_writes_a_header() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let load = under_load(&lab, &mut sites, 2).await;
    let [alpha, beta] = &sites;
    let digest = alpha.content.objects()[0].versions[0];
    let injected = "%0d%0aset-cookie:%20a=b";
    let prefix = "/.well-known/p2pcdn/v1";
    let urls = [
        alpha.url(&format!("/images/0.png{injected}")),
        alpha.url(&format!("/{injected}/images/0.png")),
        alpha.url(&format!("{prefix}/back/images/0.png{injected}")),
        format!("https://{}{prefix}/r/{}{injected}/{digest}/images/0.png", beta.replica_name, alpha.domain),
        format!("https://{}{prefix}/r/{}/{digest}/images/0.png{injected}", beta.replica_name, alpha.domain),
        format!("https://{}{prefix}/r/evil.example/{digest}/x.png", beta.replica_name),
        format!("https://{}{prefix}/r/{}/{digest}//evil.example/x.png", beta.replica_name, alpha.domain),
    ];
    for url in urls {
        let answer = get(&lab.client, &url, &HeaderMap::new()).await;
        assert!(!answer.headers().contains_key("set-cookie"), "{url}: {answer:?}");
        assert!(!answer.status().is_success(), "{url}: {answer:?}");
        let target = answer.headers().get("location").map(|target| target.to_str().unwrap().to_owned());
        let leaves = target.as_ref().is_some_and(|t| t.contains("://") && !t.contains(alpha.domain.as_str()));
        assert!(!leaves, "{url}: {target:?}");
    }
    // A query is no part of an object's name here; whatever is in it, the origin answers, or a host that repeats nothing of it.
    let replica = format!("https://{}{prefix}/r/{}/{digest}/images/0.png", beta.replica_name, alpha.domain);
    let back = alpha.url(&format!("{prefix}/back/images/0.png"));
    for url in [alpha.url("/images/0.png"), back, replica] {
        for query in
            ["%0d%0aset-cookie:%20a=b", "x=%0d%0aset-cookie:%20a=b", "x=%00", "x=https://evil.example/", "?&&=%"]
        {
            let answer = get(&lab.client, &format!("{url}?{query}"), &HeaderMap::new()).await;
            assert_ne!(answer.status(), 307, "{url}?{query}");
            assert!(!answer.headers().contains_key("set-cookie"), "{url}?{query}: {answer:?}");
            let target = answer.headers().get("location").map(|target| target.to_str().unwrap().to_owned());
            let own = format!("https://{}/", alpha.domain);
            assert!(target.as_ref().is_none_or(|target| target.starts_with(&own)), "{url}?{query}: {target:?}");
        }
    }
    timeout(PATIENCE, redirects_to(&load, beta)).await.unwrap();
}
