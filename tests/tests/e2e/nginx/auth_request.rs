//! nginx asks the agent about each request.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use p2pcdn_tests::client;
use p2pcdn_tests::content::digest;
use p2pcdn_tests::tally::tally;
use p2pcdn_tests::{Nginx, Signal, Site, poll};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::serves_itself;
use crate::file_server;
use crate::support::{
    IN_A_ROW, PATIENCE, PRESSURE, assert_sound, befriend, body_digest, busy, fill, get, headers, load, location,
    metric, nginx_lab, observe, peer, redirect, redirects_to, replica_url, steady_load, under_load,
};

/// What a request waits at least for an agent that hangs, as long as nginx asks it: for a connection, and for an answer twice as long.
const WAIT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn an_overloaded_site_redirects_to_a_verified_replica_and_carries_those_of_others() {
    let (lab, mut sites) = nginx_lab(Nginx::AuthRequest, ["alpha", "beta"]);
    busy(&mut sites[0]);
    busy(&mut sites[1]);
    sites.iter().for_each(|site| fill(site, 3));
    befriend(&mut sites).await;
    let [alpha, beta] = &sites;
    let loads = [load(&lab, alpha), load(&lab, beta)];
    let client = &lab.client;

    let object = alpha.content.objects().swap_remove(1);
    let found = redirect(client, alpha, &object.path).await;
    assert_eq!(location(&found), replica_url(beta, alpha, object.versions[0], &object.path));
    for (name, value) in [("cache-control", "no-store"), ("referrer-policy", "no-referrer")] {
        assert_eq!(found.headers()[name], value);
    }
    assert!(found.headers()["digest"].to_str().unwrap().starts_with("SHA-256="));
    for absent in ["vary", "access-control-allow-origin", "cross-origin-resource-policy", "www-authenticate"] {
        assert!(!found.headers().contains_key(absent), "{absent}");
    }

    // The other way round: what nginx carries for a site behind Envoy.
    crate::support::placed(beta, alpha).await;
    let theirs = beta.content.objects().swap_remove(2);
    let url = location(&redirect(client, beta, &theirs.path).await);
    assert_eq!(url, replica_url(alpha, beta, theirs.versions[0], &theirs.path));
    let whole = get(client, &url, &HeaderMap::new()).await;
    assert_eq!((whole.status(), body_digest(&whole)), (StatusCode::OK, theirs.versions[0]));
    assert_eq!(whole.headers()["content-security-policy"], "default-src 'none'; style-src 'unsafe-inline'; sandbox");
    let part = get(client, &url, &headers([("range", "bytes=100-199")])).await;
    assert_eq!((part.status(), part.body()), (StatusCode::PARTIAL_CONTENT, &whole.body().slice(100..200)));
    let on_main_name = url.replace(alpha.replica_name.as_str(), alpha.domain.as_str());
    assert_eq!(get(client, &on_main_name, &HeaderMap::new()).await.status(), StatusCode::NOT_FOUND);

    for (load, site) in loads.into_iter().zip(&sites) {
        assert_sound(&tally(&site.domain, &load.finish().await));
    }
}

#[tokio::test]
async fn a_site_below_its_target_redirects_nothing_though_it_could() {
    let (lab, mut sites) = nginx_lab(Nginx::AuthRequest, ["alpha", "beta"]);
    sites[0].decide("target.requests_per_s", (PRESSURE * 2.0) as u32);
    fill(&sites[0], 3);
    befriend(&mut sites).await;
    let alpha = &sites[0];
    let load = steady_load(&lab, alpha);
    poll(PATIENCE, "eligible requests", async || {
        let status = alpha.status().await.map_err(|e| e.to_string())?;
        let eligible = status["load"]["rates"]["eligible"].as_f64();
        if eligible > Some(PRESSURE / 2.0) { Ok(()) } else { Err(status["load"].to_string()) }
    })
    .await
    .unwrap();
    let (tally, _) = observe(&load, alpha, Instant::now(), 3 * IN_A_ROW).await;
    assert_sound(&tally);
    assert_eq!((tally.redirected, tally.local), (0, tally.requests));
}

#[tokio::test]
async fn a_killed_or_hung_agent_ends_redirects_and_they_come_back_with_it() {
    let (lab, mut sites) = nginx_lab(Nginx::AuthRequest, ["alpha", "beta"]);
    let load = under_load(&lab, &mut sites, 3).await;
    let [alpha, beta] = &mut sites;

    alpha.agent.kill();
    let (dead, _) = observe(&load, alpha, Instant::now(), 10 * IN_A_ROW).await;
    assert_sound(&dead);
    assert_eq!(dead.redirected, 0);
    alpha.start_agent().unwrap();
    redirects_to(&load, beta).await;

    alpha.agent.freeze().await.unwrap();
    let (local, _) = observe(&load, alpha, Instant::now(), 10 * IN_A_ROW).await;
    assert_sound(&local);
    assert_eq!(local.redirected, 0);
    // In the end nginx has noticed, and hardly anybody waits: whoever is kept waiting for the agent waits at least so long.
    poll(PATIENCE, "a stretch in which most do not wait for the agent", async || {
        let (stretch, _) = observe(&load, alpha, Instant::now(), 10 * IN_A_ROW).await;
        assert_sound(&stretch);
        assert_eq!(stretch.redirected, 0);
        if stretch.p50 < WAIT { Ok(()) } else { Err(format!("{stretch:#?} {dead:#?}")) }
    })
    .await
    .unwrap();
    alpha.agent.signal(Signal::CONT).unwrap();
    redirects_to(&load, beta).await;
    assert_sound(&tally(&alpha.domain, &load.finish().await));
}

#[tokio::test]
async fn a_site_whose_agent_never_ran_serves_itself() {
    let (lab, [mut alpha]) = nginx_lab(Nginx::AuthRequest, ["alpha"]);
    busy(&mut alpha);
    fill(&alpha, 3);
    alpha.start_envoy().unwrap();
    let path = alpha.content.path(0);
    poll(PATIENCE, "the proxy", async || lab.client.get(&alpha.url(&path)).await).await.unwrap();
    serves_itself(&lab, &alpha).await;
}

#[tokio::test]
async fn peers_come_in_by_their_alpn_and_nobody_past_the_split() {
    let (_lab, mut sites) = nginx_lab(Nginx::AuthRequest, ["alpha", "beta"]);
    fill(&sites[1], 2);
    crate::support::introduce(&mut sites).await;
    let [alpha, beta] = &sites;
    crate::support::placed(beta, alpha).await;
    for (site, other) in [(alpha, beta), (beta, alpha)] {
        assert_eq!(peer(site, other).await.unwrap()["state"], "pinned");
    }
    // Past the split, whoever sends no PROXY line in front is not listened to.
    let address = alpha.setting("listen.peer").as_str().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &[0x16; 64]).await.unwrap();
    let mut rest = Vec::new();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
    let _ = timeout(PATIENCE, end).await.unwrap();
    assert_eq!(rest, b"");
}

/// A path that nginx and the agent could read differently, or that is none of an object, however it is written.
#[tokio::test]
async fn odd_requests_stay_and_are_answered_by_the_site_itself() {
    let (lab, mut sites) = nginx_lab(Nginx::AuthRequest, ["alpha", "beta"]);
    std::fs::write(sites[0].directory().join("srv/.secret"), "secret").unwrap();
    let load = under_load(&lab, &mut sites, 2).await;
    let alpha = &sites[0];
    let client = &lab.client;

    let long = format!("/images/0.png?{}", "x".repeat(3000));
    let odd = ["/images/%30.png", "/images//0.png", "/x/../images/0.png", "/images/0.png?v=1", "//images/0.png", &long];
    for path in odd {
        for _ in 0..5 {
            let answer = get(client, &alpha.url(path), &HeaderMap::new()).await;
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
            assert_eq!(body_digest(&answer), alpha.content.objects()[0].versions[0], "{path}");
        }
    }
    let large = "x".repeat(7000);
    let told = [
        headers([("x-original-uri", "/images/0.png"), ("x-original-method", "GET")]),
        headers([("cookie", "a=b")]),
        headers([("authorization", "Basic x")]),
        headers([("x-own", &large)]),
        headers([("range", "bytes=5-9")]),
        headers([("if-none-match", "\"other\"")]),
        headers([("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("sec-fetch-site", "none")]),
    ];
    for headers in told {
        // Forged headers neither make a request leave nor name what leaves.
        let path = if headers.contains_key("x-original-uri") { "/images/none.png" } else { "/images/0.png" };
        for _ in 0..5 {
            let answer = get(client, &alpha.url(path), &headers).await;
            assert_ne!(answer.status(), StatusCode::TEMPORARY_REDIRECT, "{headers:?}");
            assert!(!answer.status().is_server_error(), "{headers:?}");
        }
    }
    let hidden = [
        "/.secret",
        "/.well-known/p2pcdn/v1/back/.secret",
        "/.well-known/p2pcdn/v1/x",
        "/.well-known/p2pcdn/local/status",
    ];
    for path in hidden {
        let answer = get(client, &alpha.url(path), &HeaderMap::new()).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert_sound(&tally(&alpha.domain, &load.finish().await));
}

#[tokio::test]
async fn what_a_host_has_lost_comes_back_and_is_not_redirected_again() {
    let (lab, mut sites) = nginx_lab(Nginx::AuthRequest, ["alpha", "beta"]);
    busy(&mut sites[0]);
    fill(&sites[0], 2);
    befriend(&mut sites).await;
    let [alpha, beta] = &sites;
    let _load = load(&lab, alpha);
    let client = &lab.client;
    let object = &alpha.content.objects()[0];
    redirect(client, alpha, &object.path).await;

    let lost = replica_url(beta, alpha, digest(b"never"), &object.path);
    let back = location(&get(client, &lost, &HeaderMap::new()).await);
    assert_eq!(back, format!("https://{}/.well-known/p2pcdn/v1/back{}", alpha.domain, object.path));
    for _ in 0..20 {
        let returned = get(client, &back, &HeaderMap::new()).await;
        assert_eq!((returned.status(), body_digest(&returned)), (StatusCode::OK, object.versions[0]));
        assert_eq!(returned.headers()["access-control-allow-origin"], "*");
        assert_eq!(returned.headers()["cross-origin-resource-policy"], "cross-origin");
    }
    let with_cookie = get(client, &back, &headers([("cookie", "a=b")])).await;
    assert!(!with_cookie.headers().contains_key("access-control-allow-origin"));
    let mut post = client::get(&back).unwrap();
    *post.method_mut() = Method::POST;
    assert_eq!(client.send(post).await.unwrap().status(), StatusCode::NOT_FOUND);
    poll(PATIENCE, "report of the return", async || match metric(alpha, "p2pcdn_returned_total").await {
        0 => Err("none"),
        _ => Ok(()),
    })
    .await
    .unwrap();
}

/// Content comes from a web server behind nginx.
fn with_origin_behind(site: &mut Site, port: u16) {
    for (comment, line) in [
        ("# proxy_pass http://127.0.0.1:8081;", format!("proxy_pass http://127.0.0.1:{port};")),
        ("# proxy_http_version 1.1;", "proxy_http_version 1.1;".into()),
        ("# proxy_set_header Connection \"\";", "proxy_set_header Connection \"\";".into()),
        ("# error_page 502 504 = @p2pcdn_rescue;", "error_page 502 504 = @p2pcdn_rescue;".into()),
    ] {
        site.edit(comment, line);
    }
}

#[tokio::test]
async fn a_post_passes_untouched_whatever_the_agent_does() {
    let (lab, mut sites) = nginx_lab(Nginx::AuthRequest, ["alpha", "beta"]);
    let echo = file_server::serve(sites[0].directory().join("srv")).await;
    with_origin_behind(&mut sites[0], echo);
    let load = under_load(&lab, &mut sites, 2).await;
    let alpha = &mut sites[0];
    let body = Bytes::from(p2pcdn_tests::content::noise(7, 300_000));
    for upset in ["nothing", "hung", "dead"] {
        match upset {
            "hung" => alpha.agent.signal(Signal::STOP).unwrap(),
            "dead" => alpha.agent.kill(),
            _ => {}
        }
        for method in [Method::POST, Method::PUT] {
            let mut request = client::get(&alpha.url("/images/0.png")).unwrap();
            *request.method_mut() = method.clone();
            *request.body_mut() = body.clone();
            let answer = lab.client.send(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{method} {upset}");
            assert_eq!(answer.body(), &format!("{method} /images/0.png {}", digest(&body)), "{upset}");
        }
    }
    assert_sound(&tally(&alpha.domain, &load.finish().await));
}

#[tokio::test]
async fn an_origin_that_cannot_be_reached_is_replaced_by_replicas_for_what_has_any() {
    let (lab, mut sites) = nginx_lab(Nginx::AuthRequest, ["alpha", "beta"]);
    fill(&sites[0], 2);
    with_origin_behind(&mut sites[0], 1);
    // No stranger was ever seen to get anything from it.
    sites[0].set("share.unchecked", true);
    befriend(&mut sites).await;
    let [alpha, beta] = &sites;
    let object = &alpha.content.objects()[0];
    let found = redirect(&lab.client, alpha, &object.path).await;
    assert_eq!(location(&found), replica_url(beta, alpha, object.versions[0], &object.path));
    for path in ["/images/none.png", "/.well-known/p2pcdn/v1/back/images/0.png"] {
        let answer = get(&lab.client, &alpha.url(path), &HeaderMap::new()).await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{path}");
    }
    let mut post = client::get(&alpha.url(&object.path)).unwrap();
    *post.method_mut() = Method::POST;
    assert_eq!(lab.client.send(post).await.unwrap().status(), StatusCode::BAD_GATEWAY);
}
