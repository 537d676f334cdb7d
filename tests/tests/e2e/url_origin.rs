//! A site whose content comes from a web server that knows nothing of p2pcdn: what a stranger may have is learned, and nothing else.

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
use crate::support::{PATIENCE, busy, get, headers, introduce, lab, location, p2pcdn, printed, redirect, replica_url};

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

/// Lets through whoever has the word, and remembers which paths an agent was refused.
async fn authorization(refused: Arc<Mutex<Vec<String>>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let refused = refused.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                let path = request.uri().path().to_owned();
                let has = |name: &str, start: &str| {
                    request.headers().get(name).is_some_and(|value| value.as_bytes().starts_with(start.as_bytes()))
                };
                let passes = !path.starts_with("/authorized/") || has("cookie", "session=");
                if !passes && has("user-agent", "p2pcdn/") {
                    refused.lock().unwrap().push(path);
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
    let refused = Arc::new(Mutex::new(Vec::new()));
    let authorization = authorization(refused.clone()).await;
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

    // The agent has asked for each of them, and has been told what a stranger is told.
    for path in [COOKIE, PRIVATE, TRACKED] {
        let asked = server.asked_by_agent(path);
        assert!(!asked.is_empty(), "the agent did not look at {path}");
        assert!(asked.iter().all(|asked| asked.status == if path == COOKIE { 302 } else { 200 }), "{asked:?}");
    }
    assert!(refused.lock().unwrap().contains(&AUTHORIZED.to_owned()), "the agent did not look at {AUTHORIZED}");
    let stats = alpha.admin("/stats?filter=basic_auth.denied").await.unwrap();
    let stats = String::from_utf8_lossy(stats.body()).into_owned();
    let all_denied: usize = stats.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(all_denied > denied, "the agent did not look at {PASSWORD}: {stats}");
    assert!(server.asked_by_agent(PASSWORD).is_empty() && server.asked_by_agent(AUTHORIZED).is_empty());

    assert_eq!(catalogued(&lab, alpha), [PUBLIC]);
    assert_eq!(beta.status().await.unwrap()["objects"]["hosted"], 1);
}

#[tokio::test]
async fn an_agent_that_starts_again_learns_again() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    let server = OriginServer::start().await;
    let body: Bytes = noise(1, 600 << 10).into();
    server.put(
        PUBLIC,
        Page { body: body.clone(), headers: headers([("cache-control", "max-age=3600")]), ..Page::default() },
    );
    busy(&mut sites[0]);
    server.serve(&mut sites[0]);
    introduce(&mut sites).await;
    redirect(&lab.client, &sites[0], PUBLIC).await;

    sites[0].agent.kill();
    let asked_before = server.asked_by_agent(PUBLIC).len();
    sites[0].start_agent().unwrap();
    sites[0].ready().await.unwrap();
    let [alpha, beta] = &sites;
    poll(PATIENCE, "an empty catalogue, then the object", async || {
        let asked = server.asked_by_agent(PUBLIC).len();
        get(&lab.client, &alpha.url(PUBLIC), &HeaderMap::new()).await;
        if asked > asked_before { Ok(()) } else { Err(asked) }
    })
    .await
    .unwrap();
    let answer = redirect(&lab.client, alpha, PUBLIC).await;
    assert_eq!(location(&answer), replica_url(beta, alpha, digest(&body), PUBLIC));
}
