//! A site without peers loses nothing by having the filter, however busy it is.

use http::header::HeaderMap;
use http::{Method, Request};
use p2pcdn_tests::content::noise;
use p2pcdn_tests::poll;
use p2pcdn_tests::tally::tally;

use crate::support::{PATIENCE, assert_sound, busy, fill, headers, lab, load};

/// Differs from one answer to the next, with or without the filter.
const VOLATILE: [&str; 2] = ["date", "x-envoy-upstream-service-time"];
const IMAGE: &str = "/images/0.png";

#[tokio::test]
async fn a_site_without_peers_answers_as_it_would_without_the_filter() {
    let (lab, [mut alone, mut bare]) = lab(["alone", "bare"]);
    busy(&mut alone);
    fill(&alone, 2);
    let srv = alone.directory().join("srv");
    std::fs::write(srv.join("index.html"), "<title>a page</title>").unwrap();
    std::fs::write(srv.join("large.bin"), noise(9, 300_000)).unwrap();
    std::fs::create_dir(srv.join("folder")).unwrap();
    alone.start().await.unwrap();

    // The same origin behind the same proxy, on whose routes the filter is not switched on.
    bare.edit("FilterConfig, config: {} }", "FilterConfig, disabled: true }");
    let origin = alone.setting("listen.origin").as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
    bare.edit("port_value: 7083", format!("port_value: {origin}"));
    bare.start_envoy().unwrap();
    let client = &lab.client;
    poll(PATIENCE, "the bare proxy", async || client.get(&bare.url("/index.html")).await).await.unwrap();

    let load = load(&lab, &alone);
    let described = poll(PATIENCE, "catalogued image", async || {
        let response = client.get(&alone.url(IMAGE)).await.map_err(|e| e.to_string())?;
        if response.headers().contains_key("etag") { Ok(response) } else { Err("no etag".to_owned()) }
    });
    let described = described.await.unwrap();
    let said = |name: &str| described.headers()[name].to_str().unwrap();
    let (etag, modified) = (said("etag"), said("last-modified"));

    let plain = [
        (Method::GET, "/"),
        (Method::GET, IMAGE),
        (Method::HEAD, IMAGE),
        (Method::POST, IMAGE),
        (Method::PUT, IMAGE),
        (Method::DELETE, "/nothing"),
        (Method::OPTIONS, IMAGE),
        (Method::GET, "/nothing.png"),
        (Method::HEAD, "/nothing.png"),
        (Method::GET, "/folder"),
        (Method::GET, "/folder/"),
        (Method::GET, "/large.bin"),
        (Method::GET, "/images/0.png?width=10"),
        (Method::GET, "/images/%30.png"),
        (Method::GET, "/images%2F0.png"),
        (Method::GET, "//images//0.png"),
        (Method::GET, "/images/../images/0.png"),
        (Method::GET, "/.hidden"),
        (Method::GET, "/api/call"),
        (Method::GET, "/.well-known/p2pcdn/v1/back/images/0.png"),
        (Method::POST, "/.well-known/p2pcdn/v1/back/images/0.png"),
        (Method::GET, "/.well-known/p2pcdn/v1/r/x"),
    ];
    let with_headers = [
        headers([("range", "bytes=0-99")]),
        headers([("range", "bytes=100-")]),
        headers([("range", "bytes=-100")]),
        headers([("range", "bytes=99999999-")]),
        headers([("if-none-match", etag)]),
        headers([("if-match", "\"other\"")]),
        headers([("if-modified-since", modified)]),
        headers([("range", "bytes=0-9"), ("if-range", etag)]),
        headers([("accept-encoding", "gzip, br"), ("cookie", "a=b")]),
        headers([("sec-fetch-dest", "image"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-site", "same-origin")]),
    ];
    let plain = plain.into_iter().map(|(method, path)| (method, path, HeaderMap::new()));
    let requests = plain.chain(with_headers.into_iter().map(|headers| (Method::GET, IMAGE, headers)));
    for (method, path, headers) in requests {
        let mut answers = Vec::new();
        for site in [&alone, &bare] {
            let body = if method == Method::POST { "a body" } else { "" };
            let mut request = Request::builder().method(&method).uri(site.url(path)).body(body.into()).unwrap();
            request.headers_mut().extend(headers.clone());
            let response = client.send(request).await.unwrap();
            let mut lines: Vec<String> = response.headers().iter().map(|(n, v)| format!("{n}: {v:?}")).collect();
            lines.retain(|line| !VOLATILE.iter().any(|name| line.starts_with(name)));
            lines.sort();
            let lines = lines.join("\n").replace(site.domain.as_str(), "SITE");
            answers.push((response.status(), lines, response.into_body()));
        }
        let without = answers.pop().unwrap();
        let with = answers.pop().unwrap();
        assert_eq!((with.0, with.1), (without.0, without.1), "{method} {path} {headers:?}");
        assert!(with.2 == without.2, "another body: {method} {path} {headers:?}");
    }
    let samples = load.finish().await;
    let tally = tally(&alone.domain, &samples);
    assert_sound(&tally);
    assert_eq!((tally.local, tally.redirected), (samples.len() as u64, 0));
}
