//! Browsers go only where the site's own pages let them load from, and downloads only where they are served as such.

use http::{HeaderMap, Method, StatusCode};
use p2pcdn_tests::client;
use p2pcdn_tests::content::{digest, noise};
use p2pcdn_tests::{Lab, Site, poll};
use serde_json::Value;

use crate::support::{
    IN_A_ROW, PATIENCE, authority_of, befriend, busy, fill, get, headers, lab, load, location, p2pcdn, peer, printed,
    redirect, redirect_as, replica_url,
};

fn image() -> HeaderMap {
    headers([
        ("user-agent", "Mozilla/5.0"),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-mode", "no-cors"),
        ("sec-fetch-dest", "image"),
    ])
}

fn navigation(site: &str) -> HeaderMap {
    headers([
        ("user-agent", "Mozilla/5.0"),
        ("sec-fetch-site", site),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
        ("sec-fetch-user", "?1"),
    ])
}

fn put_page(site: &Site, name: &str, policy: &str) {
    let html = format!("<!doctype html><meta http-equiv=Content-Security-Policy content=\"{policy}\"><p>x");
    std::fs::write(site.directory().join("srv").join(name), html).unwrap();
}

/// Where so many requests in a row lead; `None` stands for those that stayed.
async fn leads_to(lab: &Lab, site: &Site, headers: &HeaderMap) -> Vec<Option<String>> {
    let mut places = Vec::new();
    for turn in 0..IN_A_ROW {
        let response = get(&lab.client, &site.url(&site.content.path(turn % 2)), headers).await;
        let place = (response.status() == 307).then(|| authority_of(&location(&response)));
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// Waits until no image is redirected any more.
async fn images_stay(lab: &Lab, site: &Site) {
    poll(PATIENCE, "images that stay", async || match leads_to(lab, site, &image()).await.as_slice() {
        [None] => Ok(()),
        places => Err(format!("{places:?}")),
    })
    .await
    .unwrap();
}

async fn until(site: &Site, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    poll(PATIENCE, what, async || {
        let status = site.status().await.map_err(|error| error.to_string())?;
        if is_so(&status) { Ok(status) } else { Err(status["policy"].to_string()) }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn browsers_are_redirected_where_every_page_allows_it_and_nowhere_while_no_page_is_known() {
    let (lab, mut sites) = lab(["alpha", "beta", "gamma"]);
    let header = format!("font-src 'self' https://{}", sites[1].replica_name);
    sites[0].set("site.csp", "read");
    sites[0].edit(
        "ignore_port_in_host_matching: true",
        format!(
            "ignore_port_in_host_matching: true\n                  \
             response_headers_to_add: [{{ header: {{ key: content-security-policy, value: \"{header}\" }} }}]"
        ),
    );
    busy(&mut sites[0]);
    fill(&sites[0], 2);
    befriend(&mut sites).await;
    let [alpha, beta, gamma] = &sites;
    let _load = load(&lab, alpha);
    redirect(&lab.client, alpha, &alpha.content.path(0)).await;

    assert_eq!(leads_to(&lab, alpha, &image()).await, [None], "there is no page yet");
    let status = until(alpha, "refusals", |status| status["refused"]["policy"].as_u64() > Some(0)).await;
    assert_eq!(status["policy"]["known"], false);
    poll(PATIENCE, "what an operator is shown", async || {
        let shown = printed(p2pcdn(&lab, alpha, ["status"]));
        let wanted = ["pages not read yet: / answers 404", "site.csp", "stayed here"];
        if wanted.iter().all(|text| shown.contains(text)) { Ok(()) } else { Err(shown) }
    })
    .await
    .unwrap();

    put_page(alpha, "index.html", &format!("img-src 'self' https://{}", beta.replica_name));
    until(alpha, "a known policy", |status| status["policy"]["known"] == true).await;
    let found = redirect_as(&lab.client, alpha, &alpha.content.path(0), &image()).await;
    assert_eq!(authority_of(&location(&found)), beta.replica_name);
    poll(PATIENCE, "an image at the host that may have it", async || {
        let places = leads_to(&lab, alpha, &image()).await;
        assert!(!places.contains(&Some(gamma.replica_name.to_string())), "{places:?}");
        if places.contains(&Some(beta.replica_name.to_string())) { Ok(()) } else { Err(format!("{places:?}")) }
    })
    .await
    .unwrap();
    poll(PATIENCE, "a tool at the other host", async || {
        let places = leads_to(&lab, alpha, &HeaderMap::new()).await;
        if places.contains(&Some(gamma.replica_name.to_string())) { Ok(()) } else { Err(format!("{places:?}")) }
    })
    .await
    .unwrap();
    let blocked = peer(alpha, gamma).await.unwrap()["blocked"].to_string();
    assert_eq!(blocked, r#"["images","fonts","downloads"]"#, "from the page and from its header");

    put_page(alpha, "strict.html", "img-src 'self'");
    poll(PATIENCE, "what the visited page says", async || {
        // A page that was seen once may be a link that works once.
        get(&lab.client, &alpha.url("/strict.html?visitor=1"), &navigation("none")).await;
        let status = alpha.status().await.map_err(|e| e.to_string())?;
        let is_blocked = |peer: &Value| peer["blocked"].to_string().contains("images");
        if status["peers"].as_array().unwrap().iter().all(is_blocked) {
            Ok(())
        } else {
            Err(status["peers"].to_string())
        }
    })
    .await
    .unwrap();
    images_stay(&lab, alpha).await;
    let shown = printed(p2pcdn(&lab, alpha, ["status"]));
    assert!(shown.contains("2 of 2 pages read"), "{shown}");
    assert!(shown.contains(&format!("forbids images at {}", beta.domain)), "{shown}");
}

#[tokio::test]
async fn browsers_stay_while_some_of_them_see_a_page_that_strangers_cannot_read() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    sites[0].set("site.csp", "read");
    let members = r#"- match: { path: /member.html, headers: [{ name: cookie, present_match: true, invert_match: true }] }
                          direct_response: { status: 403 }
                        # Static content. Large"#;
    sites[0].edit("# Static content. Large", members);
    busy(&mut sites[0]);
    fill(&sites[0], 2);
    put_page(&sites[0], "index.html", "img-src *");
    put_page(&sites[0], "member.html", "img-src 'self'");
    befriend(&mut sites).await;
    let [alpha, _beta] = &sites;
    let _load = load(&lab, alpha);
    redirect_as(&lab.client, alpha, &alpha.content.path(0), &image()).await;

    let open = async |headers: &HeaderMap| {
        for _ in 0..3 {
            get(&lab.client, &alpha.url("/member.html"), headers).await;
        }
    };
    let mut member = navigation("none");
    open(&member).await;
    // Reloads are visits, too.
    member.extend(headers([("cookie", "session=1"), ("cache-control", "max-age=0")]));
    poll(PATIENCE, "doubts about the policy", async || {
        open(&member).await;
        let policy = alpha.status().await.map_err(|error| error.to_string())?["policy"].clone();
        if policy["known"] == false { Ok(()) } else { Err(policy.to_string()) }
    })
    .await
    .unwrap();
    images_stay(&lab, alpha).await;
    let shown = printed(p2pcdn(&lab, alpha, ["status"]));
    assert!(shown.contains("/member.html answers 403 Forbidden to a stranger"), "{shown}");
}

#[tokio::test]
async fn downloads_go_to_hosts_that_serve_them_as_attachments() {
    let (lab, mut sites) = lab(["alpha", "beta", "gamma"]);
    busy(&mut sites[0]);
    sites[0].edit(
        r#""exclude": []"#,
        r#""exclude": [], "stay_local_s": 0, "pure_balancer_at": 2, "tick_ms": 50, "download_paths": ["/files/"]"#,
    );
    sites[1].set("host.downloads", true);
    let archive = noise(9, 20 << 10);
    sites[0].content.put("/files/a-1.0.zip", &archive).unwrap();
    sites[0].content.put("/files/b.png", &archive).unwrap();
    befriend(&mut sites).await;
    let [alpha, beta, gamma] = &sites;
    let _load = load(&lab, alpha);
    let client = &lab.client;

    let click = navigation("same-origin");
    for _ in 0..5 {
        let found = location(&redirect_as(client, alpha, "/files/a-1.0.zip", &click).await);
        assert_eq!(authority_of(&found), beta.replica_name);
        let served = get(client, &found, &navigation("cross-site")).await;
        assert_eq!(served.status(), StatusCode::OK);
        assert_eq!(served.headers()["content-disposition"], "attachment; filename=\"a-1.0.zip\"");
        assert_eq!(served.body(), &archive);
    }
    let at = |host, path| replica_url(host, alpha, digest(&archive), path);
    let mut frame = navigation("cross-site");
    frame.insert("sec-fetch-dest", "iframe".parse().unwrap());
    let cases = [
        (at(gamma, "/files/a-1.0.zip"), navigation("cross-site"), StatusCode::NOT_FOUND),
        (at(beta, "/files/b.png"), navigation("cross-site"), StatusCode::NOT_FOUND),
        (at(beta, "/files/a-1.0.zip"), frame, StatusCode::NOT_FOUND),
        (at(beta, "/files/a-1.0.zip"), navigation("same-origin"), StatusCode::FORBIDDEN),
    ];
    for (url, headers, status) in cases {
        assert_eq!(get(client, &url, &headers).await.status(), status, "{url}");
    }
    let plain = get(client, &at(beta, "/files/a-1.0.zip"), &HeaderMap::new()).await;
    assert!(!plain.headers().contains_key("content-disposition"), "tools name their files themselves");
}

#[tokio::test]
async fn whatever_a_host_answers_pages_of_the_origin_may_read_it() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    fill(&sites[0], 1);
    befriend(&mut sites).await;
    let [alpha, beta] = &sites;
    let object = alpha.content.objects().swap_remove(0);
    let good = replica_url(beta, alpha, object.versions[0], &object.path);
    let gone = replica_url(beta, alpha, digest(b"never"), &object.path);
    let own = format!("https://{}", alpha.domain);
    let etag = get(&lab.client, &good, &HeaderMap::new()).await.headers()["etag"].to_str().unwrap().to_owned();
    let cases = [
        (&good, None, StatusCode::OK),
        (&good, Some(("range", "bytes=1-2")), StatusCode::PARTIAL_CONTENT),
        (&good, Some(("range", "bytes=99999999-")), StatusCode::RANGE_NOT_SATISFIABLE),
        (&good, Some(("if-none-match", etag.as_str())), StatusCode::NOT_MODIFIED),
        (&gone, None, StatusCode::FOUND),
    ];
    for (url, header, status) in cases {
        let mut asked = headers([("origin", &own)]);
        asked.extend(header.map(|header| headers([header])).unwrap_or_default());
        let answer = get(&lab.client, url, &asked).await;
        assert_eq!(answer.status(), status, "{header:?}");
        let said = |name: &str| answer.headers()[name].to_str().unwrap();
        assert_eq!(said("access-control-allow-origin"), own, "{status}");
        assert_eq!(said("access-control-allow-credentials"), "true", "{status}");
        assert_eq!(said("vary"), "origin", "{status}");
        assert_eq!(said("cross-origin-resource-policy"), "cross-origin", "{status}");
    }
    let stranger = headers([("origin", "null")]);
    assert!(!get(&lab.client, &good, &stranger).await.headers().contains_key("access-control-allow-origin"));
    let back = get(&lab.client, &gone, &stranger).await;
    assert_eq!(back.headers()["access-control-allow-origin"], "*", "the origin says who may read");

    let mut preflight = client::get(&good).unwrap();
    *preflight.method_mut() = Method::OPTIONS;
    assert_eq!(lab.client.send(preflight).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    let back = get(&lab.client, &format!("{gone}?v=1&w=2"), &HeaderMap::new()).await;
    assert_eq!(location(&back), alpha.url(&format!("/.well-known/p2pcdn/v1/back{}?v=1&w=2", object.path)));
    let malformed = get(&lab.client, &format!("{good}?v=%0a"), &HeaderMap::new()).await;
    assert_eq!(malformed.status(), StatusCode::NOT_FOUND);
}
