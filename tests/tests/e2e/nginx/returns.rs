//! A return URL opens nothing that the URL behind it would not.

use std::fs;

use http::{HeaderMap, Method, StatusCode};
use p2pcdn_tests::{Lab, Nginx, Site, client, poll};

use crate::support::{PATIENCE, body_digest, fill, get, headers, nginx_lab};

const BACK: &str = "/.well-known/p2pcdn/v1/back";
const BOTH: [Nginx; 2] = [Nginx::AuthRequest, Nginx::Map];
/// What an operator has beside static content.
const OWN: &str = r#"
        location /vault/ { internal; }
        location = /closed { deny all; }
        location = /who { default_type text/plain; return 200 "$remote_addr:$remote_port $http_host $scheme"; }
        # "#;

/// A site with locations of its own, and a file in the one that nobody outside may see.
async fn site(nginx: Nginx) -> (Lab, Site) {
    let (lab, [mut site]) = nginx_lab(nginx, ["alpha"]);
    fill(&site, 2);
    let vault = site.directory().join("srv/vault");
    fs::create_dir(&vault).unwrap();
    fs::write(vault.join("paid.png"), "for those who paid").unwrap();
    site.edit("# Dotfiles are nobody's.", format!("{OWN}# Dotfiles are nobody's."));
    site.edit("proxy_redirect off;", "proxy_redirect off; add_header X-First $remote_addr:$remote_port;");
    site.start_agent().unwrap();
    site.start_envoy().unwrap();
    let url = site.url(&site.content.path(0));
    poll(PATIENCE, "the proxy", async || lab.client.get(&url).await).await.unwrap();
    (lab, site)
}

#[tokio::test]
async fn a_return_url_opens_neither_internal_locations_nor_the_agent() {
    for nginx in BOTH {
        let (lab, site) = site(nginx).await;
        let status = async |path: &str| {
            let answer = get(&lab.client, &site.url(path), &HeaderMap::new()).await;
            (answer.status(), String::from_utf8_lossy(answer.body()).into_owned())
        };
        let agents =
            ["status", "metrics", "decide", "rescue", "sync"].map(|name| format!("/.well-known/p2pcdn/local/{name}"));
        let paths = agents.iter().map(String::as_str).chain(["/vault/paid.png", "/.well-known/p2pcdn/v1/peer/x"]);
        for path in paths {
            for prefix in ["", BACK, &format!("{BACK}/x/.."), &format!("{BACK}/"), &format!("{BACK}{BACK}")] {
                let (status, body) = status(&format!("{prefix}{path}")).await;
                assert_eq!(status, StatusCode::NOT_FOUND, "{nginx:?} {prefix}{path}: {body}");
            }
        }
        assert_eq!(status(&format!("{BACK}/closed")).await.0, StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn a_return_url_comes_back_once_however_it_is_spelled() {
    for nginx in BOTH {
        let (lab, site) = site(nginx).await;
        let meant = site.content.path(0);
        for again in [BACK.repeat(40), format!("/{BACK}"), BACK.replace("/.", "/%2e"), format!("/x/..{BACK}")] {
            let url = site.url(&format!("{BACK}{again}{meant}"));
            assert_eq!(
                get(&lab.client, &url, &HeaderMap::new()).await.status(),
                StatusCode::NOT_FOUND,
                "{nginx:?} {url}"
            );
        }
    }
}

#[tokio::test]
async fn what_comes_back_is_answered_as_if_it_were_asked_for_directly() {
    for nginx in BOTH {
        let (lab, site) = site(nginx).await;
        let back = |path: &str| site.url(&format!("{BACK}{path}"));
        let object = &site.content.objects()[0];
        let whole = get(&lab.client, &back(&object.path), &HeaderMap::new()).await;
        assert_eq!((whole.status(), body_digest(&whole)), (StatusCode::OK, object.versions[0]), "{nginx:?}");
        let part = get(&lab.client, &back(&object.path), &headers([("range", "bytes=100-199")])).await;
        assert_eq!((part.status(), part.body()), (StatusCode::PARTIAL_CONTENT, &whole.body().slice(100..200)));
        let etag = whole.headers()["etag"].to_str().unwrap().to_owned();
        let same = get(&lab.client, &back(&object.path), &headers([("if-none-match", &etag)])).await;
        assert_eq!((same.status(), same.body().len()), (StatusCode::NOT_MODIFIED, 0));
        let mut head = client::get(&back(&object.path)).unwrap();
        *head.method_mut() = Method::HEAD;
        let head = lab.client.send(head).await.unwrap();
        assert_eq!((head.status(), head.body().len()), (StatusCode::OK, 0));
        for name in ["content-length", "content-type", "etag", "cache-control"] {
            assert_eq!(head.headers()[name], whole.headers()[name], "{name}");
        }

        // Who asks, and for which site, is known to the locations there.
        let who = get(&lab.client, &back("/who"), &HeaderMap::new()).await;
        let first = who.headers()["x-first"].to_str().unwrap();
        assert_eq!(who.body(), &format!("{first} {} http", site.domain), "{nginx:?}");
        assert!(first.starts_with("127.0.0.1:"));
    }
}
