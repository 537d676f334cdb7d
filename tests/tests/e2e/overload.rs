//! A site over its target redirects to a peer, which serves exactly what the origin would have.

use http::{HeaderMap, Method, StatusCode};
use p2pcdn_tests::client;
use p2pcdn_tests::content::digest;
use p2pcdn_tests::tally::tally;

use crate::support::{
    assert_sound, authority_of, befriend, body_digest, busy, fill, get, headers, lab, load, location, redirect,
    replica_url,
};

/// What Envoy and hyper add to every answer.
const ADDED_ON_THE_WAY: [&str; 3] = ["date", "server", "x-envoy-upstream-service-time"];

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<&str> = headers.keys().map(|n| n.as_str()).filter(|n| !ADDED_ON_THE_WAY.contains(n)).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn an_overloaded_site_redirects_to_a_verified_replica() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    busy(&mut sites[0]);
    fill(&sites[0], 3);
    befriend(&mut sites).await;
    let [alpha, beta] = &sites;
    let load = load(&lab, alpha);
    let client = &lab.client;

    let object = alpha.content.objects().swap_remove(1);
    let sha256 = object.versions[0];
    let found = redirect(client, alpha, &object.path).await;
    let for_tools = ["cache-control", "content-length", "digest", "location", "referrer-policy"];
    assert_eq!(names(found.headers()), for_tools);
    assert_eq!(found.headers()["cache-control"], "no-store");
    assert_eq!(found.headers()["referrer-policy"], "no-referrer");
    assert_eq!(found.body().len(), 0);
    let url = location(&found);
    assert_eq!(url, replica_url(beta, alpha, sha256, &object.path));
    assert_eq!(authority_of(&url), beta.replica_name);

    let whole = get(client, &url, &HeaderMap::new()).await;
    let closed = [
        "accept-ranges",
        "cache-control",
        "content-length",
        "content-security-policy",
        "content-type",
        "cross-origin-resource-policy",
        "etag",
        "referrer-policy",
        "repr-digest",
        "timing-allow-origin",
        "vary",
        "x-content-type-options",
    ];
    assert_eq!(whole.status(), StatusCode::OK);
    assert_eq!(body_digest(&whole), sha256);
    assert_eq!(names(whole.headers()), closed);
    let local = get(client, &alpha.url(&object.path), &headers([("cache-control", "no-cache")])).await;
    for same in ["etag", "content-type", "content-length"] {
        assert_eq!(whole.headers()[same], local.headers()[same], "{same}");
    }
    let said = |name: &str| whole.headers()[name].to_str().unwrap();
    assert_eq!(said("cache-control"), "public, max-age=31536000, immutable, no-transform");
    assert_eq!(said("content-security-policy"), "default-src 'none'; style-src 'unsafe-inline'; sandbox");
    assert_eq!((said("x-content-type-options"), said("vary")), ("nosniff", "origin"));
    assert_eq!(said("referrer-policy"), "no-referrer");

    let etag = said("etag");
    let page = format!("https://{}", alpha.domain);
    let shared = get(client, &url, &headers([("origin", &page)])).await;
    assert_eq!(shared.headers()["access-control-allow-origin"], page.as_str());
    assert_eq!(shared.headers()["timing-allow-origin"], page.as_str());
    assert_eq!(shared.headers()["access-control-allow-credentials"], "true");
    assert_eq!(
        shared.headers()["access-control-expose-headers"],
        "accept-ranges, content-range, date, etag, repr-digest"
    );
    let stranger = get(client, &url, &headers([("origin", "https://evil.localhost")])).await;
    assert_eq!(names(stranger.headers()), closed);

    let part = get(client, &url, &headers([("range", "bytes=100-199"), ("if-range", etag)])).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], format!("bytes 100-199/{}", object.size).as_str());
    assert_eq!(part.body(), &whole.body()[100..200]);
    assert_eq!(part.headers()["repr-digest"], whole.headers()["repr-digest"]);
    let beyond = get(client, &url, &headers([("range", "bytes=9999999-")])).await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.headers()["content-range"], format!("bytes */{}", object.size).as_str());
    let known = get(client, &url, &headers([("if-none-match", etag)])).await;
    assert_eq!((known.status(), known.body().len()), (StatusCode::NOT_MODIFIED, 0));
    let mut head = client::get(&url).unwrap();
    *head.method_mut() = Method::HEAD;
    let head = client.send(head).await.unwrap();
    assert_eq!((head.status(), head.body().len()), (StatusCode::OK, 0));
    assert_eq!(names(head.headers()), closed);

    assert_sound(&tally(&alpha.domain, &load.finish().await));
}

#[tokio::test]
async fn a_host_sends_back_what_it_does_not_have_and_nothing_is_redirected_twice() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    busy(&mut sites[0]);
    fill(&sites[0], 2);
    befriend(&mut sites).await;
    let [alpha, beta] = &sites;
    let _load = load(&lab, alpha);
    let client = &lab.client;
    let path = alpha.content.path(0);
    redirect(client, alpha, &path).await;

    let other_version = replica_url(beta, alpha, digest(b"never"), &path);
    let back = get(client, &other_version, &HeaderMap::new()).await;
    assert_eq!(back.status(), StatusCode::FOUND);
    assert_eq!(back.headers()["referrer-policy"], "no-referrer");
    let back = location(&back);
    assert_eq!(back, format!("https://{}/.well-known/p2pcdn/v1/back{path}", alpha.domain));
    for _ in 0..20 {
        let returned = get(client, &back, &HeaderMap::new()).await;
        assert_eq!(returned.status(), StatusCode::OK);
        assert_eq!(body_digest(&returned), alpha.content.objects()[0].versions[0]);
        assert_eq!(returned.headers()["access-control-allow-origin"], "*");
        // It is the origin's own answer, which a host's redirect led to: what it says of referrers is the origin's business.
        assert!(!returned.headers().contains_key("referrer-policy"));
    }

    let refused = [
        (headers([("sec-fetch-site", "same-origin")]), StatusCode::FORBIDDEN),
        (headers([("service-worker", "script")]), StatusCode::FORBIDDEN),
        (headers([("sec-fetch-mode", "navigate")]), StatusCode::NOT_FOUND),
    ];
    let good = location(&redirect(client, alpha, &path).await);
    for (headers, status) in refused {
        assert_eq!(get(client, &good, &headers).await.status(), status, "{headers:?}");
    }
    let stranger = good.replace(alpha.domain.as_str(), "stranger.localhost");
    assert_eq!(get(client, &stranger, &HeaderMap::new()).await.status(), StatusCode::NOT_FOUND);
    let on_main_name = good.replace(beta.replica_name.as_str(), beta.domain.as_str());
    assert_eq!(get(client, &on_main_name, &HeaderMap::new()).await.status(), StatusCode::NOT_FOUND);
}
