//! What a stranger may have is shared, and nothing else, wherever a site's content comes from.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use p2pcdn_tests::content::{digest, noise};
use p2pcdn_tests::{Lab, Site, poll};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

use crate::origin_server::{OriginServer, Page};
use crate::support::{
    IN_A_ROW, PATIENCE, busy, get, headers, introduce, lab, location, p2pcdn, printed, redirect, replica_url,
};

const PUBLIC: &str = "/public.png";
/// Who may have them: whoever the authorization service lets through, has a password, or has a cookie.
const AUTHORIZED: &str = "/authorized/0.png";
const PASSWORD: &str = "/password/0.png";
const COOKIE: &str = "/cookie.png";
/// Anybody may have these, but not from a cache.
const PRIVATE: &str = "/private.png";
const TRACKED: &str = "/tracked.png";
const HIDDEN: [&str; 5] = [AUTHORIZED, PASSWORD, COOKIE, PRIVATE, TRACKED];
/// Rounds in which everybody asks for everything; far more than it takes to be learned, even under load.
const ROUNDS: usize = 150;

/// What the authorization service knows.
#[derive(Default)]
struct Authorization {
    /// Paths that are for members only, beside those below `/authorized/`.
    closed: Vec<String>,
    /// Paths that an agent was refused.
    refused: Vec<String>,
}

/// Lets through whoever has the word, and remembers which paths an agent was refused.
async fn authorization(state: Arc<Mutex<Authorization>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let state = state.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                let path = request.uri().path().to_owned();
                let has = |name: &str, start: &str| {
                    request.headers().get(name).is_some_and(|value| value.as_bytes().starts_with(start.as_bytes()))
                };
                let mut state = state.lock().unwrap();
                let is_closed = path.starts_with("/authorized/") || state.closed.contains(&path);
                let passes = !is_closed || has("cookie", "session=");
                if !passes && has("user-agent", "p2pcdn/") {
                    state.refused.push(path);
                }
                let status = if passes { StatusCode::OK } else { StatusCode::FORBIDDEN };
                let response = Response::builder().status(status).body(Full::<Bytes>::default()).unwrap();
                async move { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    port
}

/// Puts an authorization service before everything and a password before one prefix.
fn protect(site: &mut Site, authorization: u16) {
    let filters = format!(
        r#"- name: ext_authz
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      http_service:
                        server_uri: {{ uri: "http://127.0.0.1:{authorization}", cluster: authorization, timeout: 2s }}
                        authorization_request:
                          allowed_headers: {{ patterns: [{{ exact: cookie }}, {{ exact: user-agent }}] }}
                  - name: password
                    disabled: true
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.basic_auth.v3.BasicAuth
                      users: {{ inline_string: "friend:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=" }}
                  - name: envoy.filters.http.router"#
    );
    site.edit("- name: envoy.filters.http.router", filters);
    let route = r#"- match: { prefix: /password/ }
                          route: { cluster: origin }
                          typed_per_filter_config:
                            p2pcdn: { "@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {} }
                            password: { "@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {} }
                        # Static content."#;
    site.edit("# Static content.", route);
    let cluster = format!(
        "- name: authorization
      connect_timeout: 2s
      load_assignment:
        cluster_name: authorization
        endpoints:
          - lb_endpoints:
              - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {authorization} }} }} }}
    # The agent's sockets:"
    );
    site.edit("# The agent's sockets:", cluster);
}

fn catalogued(lab: &Lab, site: &Site) -> Vec<String> {
    let objects: Value = serde_json::from_str(&printed(p2pcdn(lab, site, ["objects", "--json"]))).unwrap();
    objects.as_array().unwrap().iter().map(|object| object["path"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_a_stranger_may_not_have_is_never_catalogued() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let server = OriginServer::start().await;
    for (number, path) in [PUBLIC].into_iter().chain(HIDDEN).enumerate() {
        let caching = if path == PRIVATE { "private, max-age=3600" } else { "max-age=3600" };
        let mut page_headers = headers([("cache-control", caching), ("etag", "\"one\"")]);
        if path == TRACKED {
            page_headers.insert("set-cookie", "visitor=1".parse().unwrap());
        }
        let body = noise(number as u64, 20 << 10).into();
        server.put(path, Page { body, headers: page_headers, needs_cookie: path == COOKIE });
    }
    let state = Arc::<Mutex<Authorization>>::default();
    let authorization = authorization(state.clone()).await;
    busy(&mut sites[0]);
    server.serve(&mut sites[0]);
    protect(&mut sites[0], authorization);
    introduce(&mut sites).await;
    let [alpha, beta] = &sites;

    let strangers = HeaderMap::new();
    let members = headers([("cookie", "session=1")]);
    let friends = headers([("authorization", "Basic ZnJpZW5kOnRlc3Q=")]);
    let mut denied = 0;
    for _ in 0..ROUNDS {
        for path in [PUBLIC].into_iter().chain(HIDDEN) {
            for who in [&strangers, &members, &friends] {
                let answer = get(&lab.client, &alpha.url(path), who).await;
                let may = match path {
                    AUTHORIZED | COOKIE => *who == members,
                    PASSWORD => *who == friends,
                    _ => true,
                };
                assert!(path == PUBLIC || may == (answer.status() == 200), "{path} {who:?}: {}", answer.status());
                denied += usize::from(path == PASSWORD && !may);
            }
        }
    }
    let answer = redirect(&lab.client, alpha, PUBLIC).await;
    let public = digest(&noise(0, 20 << 10));
    assert_eq!(location(&answer), replica_url(beta, alpha, public, PUBLIC));
    let copy = get(&lab.client, &location(&answer), &HeaderMap::new()).await;
    assert_eq!((copy.headers()["etag"].as_bytes(), digest(copy.body())), (&b"\"one\""[..], public));

    // The agent asks for each of them, and is told what a stranger is told.
    poll(PATIENCE, "a look at each path", async || {
        for path in HIDDEN {
            get(&lab.client, &alpha.url(path), &strangers).await;
            denied += usize::from(path == PASSWORD);
        }
        let stats = alpha.admin("/stats?filter=basic_auth.denied").await.unwrap();
        let stats = String::from_utf8_lossy(stats.body()).into_owned();
        let all_denied: usize = stats.trim().rsplit(' ').next().unwrap().parse().unwrap();
        let unasked = [COOKIE, PRIVATE, TRACKED].into_iter().find(|path| server.asked_by_agent(path).is_empty());
        match unasked {
            Some(path) => Err(path.to_owned()),
            None if !state.lock().unwrap().refused.contains(&AUTHORIZED.to_owned()) => Err(AUTHORIZED.to_owned()),
            None if all_denied <= denied => Err(format!("{PASSWORD}: {stats}")),
            None => Ok(()),
        }
    })
    .await
    .unwrap();
    for path in [COOKIE, PRIVATE, TRACKED] {
        let asked = server.asked_by_agent(path);
        assert!(asked.iter().all(|asked| asked.status == if path == COOKIE { 302 } else { 200 }), "{asked:?}");
    }
    assert!(server.asked_by_agent(PASSWORD).is_empty() && server.asked_by_agent(AUTHORIZED).is_empty());

    assert_eq!(catalogued(&lab, alpha), [PUBLIC]);
    assert_eq!(beta.status().await.unwrap()["objects"]["hosted"], 1);
}

/// More routes, each with a header that makes its answers no stranger's.
fn mark(site: &mut Site) {
    let route = |path: &str, name: &str, value: &str| {
        format!(
            r#"- match: {{ path: {path} }}
                          route: {{ cluster: origin }}
                          response_headers_to_add:
                            - header: {{ key: {name}, value: "{value}" }}
                              append_action: OVERWRITE_IF_EXISTS_OR_ADD
                          typed_per_filter_config: *with_p2pcdn
                        "#
        )
    };
    let routes = route(PRIVATE, "cache-control", "private, max-age=3600") + &route(TRACKED, "set-cookie", "visitor=1");
    site.edit("# Static content. Large", format!("{routes}# Static content. Large"));
}

#[tokio::test]
async fn what_a_stranger_may_not_have_of_a_directory_is_never_catalogued_and_what_becomes_so_is_withdrawn() {
    const LATER: &str = "/later.png";
    const EXCLUDED: &str = "/excluded/0.png";
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let paths = [PUBLIC, LATER, AUTHORIZED, PASSWORD, PRIVATE, TRACKED, EXCLUDED];
    for (number, path) in paths.into_iter().enumerate() {
        sites[0].content.put(path, &noise(number as u64, 20 << 10)).unwrap();
    }
    let state = Arc::<Mutex<Authorization>>::default();
    let authorization = authorization(state.clone()).await;
    busy(&mut sites[0]);
    // The first request in each second stays, so that what becomes private is seen.
    sites[0].edit(r#""exclude": []"#, r#""exclude": [], "stay_local_s": 1, "pure_balancer_at": 2, "tick_ms": 50"#);
    sites[0].set("share.exclude", vec!["/excluded/"]);
    protect(&mut sites[0], authorization);
    mark(&mut sites[0]);
    introduce(&mut sites).await;
    let [alpha, beta] = &sites;

    let answer = redirect(&lab.client, alpha, PUBLIC).await;
    assert_eq!(location(&answer), replica_url(beta, alpha, digest(&noise(0, 20 << 10)), PUBLIC));
    redirect(&lab.client, alpha, LATER).await;
    poll(PATIENCE, "a look at every file", async || {
        let looks = alpha.status().await.unwrap()["objects"]["looks"].clone();
        let is_done = looks["waiting"] == 0 && looks["not_public"] == 4 && looks["trouble"].is_null();
        if is_done { Ok(()) } else { Err(looks) }
    })
    .await
    .unwrap();
    assert!(state.lock().unwrap().refused.contains(&AUTHORIZED.to_owned()), "the agent did not look at {AUTHORIZED}");
    assert_eq!(catalogued(&lab, alpha), [LATER, PUBLIC]);
    poll(PATIENCE, "copies of what is public", async || {
        let hosted = beta.status().await.unwrap()["objects"]["hosted"].clone();
        if hosted == 2 { Ok(()) } else { Err(hosted) }
    })
    .await
    .unwrap();
    let shown = printed(p2pcdn(&lab, alpha, ["status"]));
    assert!(shown.contains("4 files are not for strangers"), "{shown}");

    state.lock().unwrap().closed.push(LATER.into());
    let mut row = 0;
    poll(PATIENCE, "the end of redirects", async || {
        let status = get(&lab.client, &alpha.url(LATER), &HeaderMap::new()).await.status();
        row = if status == 403 { row + 1 } else { 0 };
        if row >= IN_A_ROW { Ok(()) } else { Err(format!("{status}, {row} in a row")) }
    })
    .await
    .unwrap();
    assert_eq!(catalogued(&lab, alpha), [PUBLIC]);
    poll(PATIENCE, "withdrawal of the copy", async || {
        let hosted = beta.status().await.unwrap()["objects"]["hosted"].clone();
        if hosted == 1 { Ok(()) } else { Err(hosted) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_site_that_the_agent_cannot_reach_offers_nothing_until_its_operator_says_that_all_is_public() {
    let (lab, [mut alone]) = lab(["alone"]);
    alone.content.put(PUBLIC, &noise(0, 20 << 10)).unwrap();
    // Nobody answers under the public name.
    alone.start_agent().unwrap();
    let trouble = poll(PATIENCE, "what is wrong", async || {
        let status = alone.status().await.map_err(|error| error.to_string())?;
        let trouble = status["objects"]["looks"]["trouble"].as_str().map(str::to_owned);
        trouble.ok_or_else(|| status["objects"].to_string())
    })
    .await
    .unwrap();
    let site = format!("let the agent reach https://{}", alone.domain);
    assert!(trouble.contains(&site) && trouble.contains("share.unchecked"), "{trouble}");
    let shown = printed(p2pcdn(&lab, &alone, ["status"]));
    assert!(shown.contains("nothing new is shared"), "{shown}");
    assert_eq!(catalogued(&lab, &alone), Vec::<String>::new());

    // It is found out again once the proxy is there.
    alone.start_envoy().unwrap();
    let is_catalogued = async |site: &Site| {
        let (own, looks) = (catalogued(&lab, site), site.status().await.unwrap()["objects"]["looks"].clone());
        if own == [PUBLIC] && looks["trouble"].is_null() { Ok(()) } else { Err(format!("{own:?} {looks}")) }
    };
    poll(PATIENCE, "the file", async || is_catalogued(&alone).await).await.unwrap();

    alone.kill();
    alone.set("share.unchecked", true);
    alone.start_agent().unwrap();
    poll(PATIENCE, "the agent", async || alone.status().await.map(drop)).await.unwrap();
    poll(PATIENCE, "the file without a look", async || is_catalogued(&alone).await).await.unwrap();
}
