//! nginx redirects by itself, by a map file that the agent writes.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use p2pcdn_tests::client::Client;
use p2pcdn_tests::{Lab, Nginx, Signal, Site, poll};
use tokio::task::JoinHandle;
use tokio::time::interval;

use crate::support::{
    PATIENCE, befriend, body_digest, busy, fill, get, headers, location, nginx_lab, p2pcdn, printed, replica_url,
};

/// What browsers say of an image of the page that they show.
const IMAGE: [(&str, &str); 3] =
    [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")];

fn image() -> HeaderMap {
    headers(IMAGE)
}

/// Browsers' requests for all images, again and again, as long as it is held.
struct Crowd([JoinHandle<()>; 4]);

impl Crowd {
    fn at(client: &Client, site: &Site) -> Self {
        let urls: Vec<String> = site.content.objects().iter().map(|object| site.url(&object.path)).collect();
        Self(std::array::from_fn(|_| {
            let (client, urls) = (client.clone(), urls.clone());
            tokio::spawn(async move {
                let mut tick = interval(Duration::from_millis(15));
                for url in urls.iter().cycle() {
                    tick.tick().await;
                    let mut request = p2pcdn_tests::client::get(url).unwrap();
                    request.headers_mut().extend(image());
                    // Whoever asks here for its own sake looks at the answers.
                    let _ = client.send(request).await;
                }
            })
        }))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn redirect(lab: &Lab, site: &Site, path: &str) -> Response<Bytes> {
    poll(PATIENCE, format!("redirect for {path}"), async || {
        let answer = get(&lab.client, &site.url(path), &image()).await;
        if answer.status() == 307 { Ok(answer) } else { Err(answer.status()) }
    })
    .await
    .unwrap()
}

/// Waits until nothing has been redirected for some requests.
async fn no_redirects(lab: &Lab, site: &Site) {
    let mut row = 0;
    poll(PATIENCE, "end of redirects", async || {
        let answer = get(&lab.client, &site.url("/images/0.png"), &image()).await;
        row = if answer.status() == StatusCode::OK { row + 1 } else { 0 };
        if row > 40 { Ok(()) } else { Err(row) }
    })
    .await
    .unwrap();
}

async fn loaded() -> (Lab, [Site; 2]) {
    let (lab, mut sites) = nginx_lab(Nginx::Map, ["alpha", "beta"]);
    busy(&mut sites[0]);
    // Far below what a crowd asks for, and above what it takes to see whether it has gone.
    sites[0].decide("target.requests_per_s", 60);
    fill(&sites[0], 3);
    befriend(&mut sites).await;
    (lab, sites)
}

#[tokio::test]
async fn an_overloaded_site_redirects_images_of_its_pages_and_an_idle_one_nothing() {
    let (lab, sites) = loaded().await;
    let [alpha, beta] = &sites;
    no_redirects(&lab, alpha).await;
    let crowd = Crowd::at(&lab.client, alpha);
    let object = &alpha.content.objects()[1];
    let found = redirect(&lab, alpha, &object.path).await;
    assert_eq!(location(&found), replica_url(beta, alpha, object.versions[0], &object.path));
    assert_eq!(found.headers()["cache-control"], "no-store");
    assert_eq!(found.headers()["referrer-policy"], "no-referrer");
    let whole = get(&lab.client, &location(&found), &HeaderMap::new()).await;
    assert_eq!((whole.status(), body_digest(&whole)), (StatusCode::OK, object.versions[0]));
    poll(PATIENCE, "report of redirects", async || {
        let status = alpha.status().await.map_err(|e| e.to_string())?;
        if status["load"]["rates"]["redirected"].as_f64() > Some(1.0) {
            Ok(())
        } else {
            Err(status["load"].to_string())
        }
    })
    .await
    .unwrap();

    // Only what nginx is sure of: everything else stays, however much is redirected.
    let with = |name: &'static str, value: &'static str| {
        let mut headers = image();
        headers.insert(name, value.parse().unwrap());
        headers
    };
    let stay = [
        HeaderMap::new(),
        with("sec-fetch-site", "cross-site"),
        with("sec-fetch-mode", "cors"),
        with("sec-fetch-dest", "document"),
        with("sec-fetch-dest", "video"),
        with("authorization", "x"),
        with("range", "bytes=5-9"),
        with("if-none-match", "\"x\""),
        with("cache-control", "max-age=0"),
    ];
    let back = format!("/.well-known/p2pcdn/v1/back{}", object.path);
    let odd = ["/images//1.png", "/images/%31.png", "/IMAGES/1.png", "/images/1.PNG", "/images/1.png?x", &*back];
    for _ in 0..10 {
        for headers in &stay {
            let answer = get(&lab.client, &alpha.url(&object.path), headers).await;
            assert_ne!(answer.status(), StatusCode::TEMPORARY_REDIRECT, "{headers:?}");
        }
        for path in odd {
            let answer = get(&lab.client, &alpha.url(path), &image()).await;
            assert_ne!(answer.status(), StatusCode::TEMPORARY_REDIRECT, "{path}");
        }
    }
    drop(crowd);
    no_redirects(&lab, alpha).await;
}

#[tokio::test]
async fn a_file_that_nginx_does_not_take_is_taken_back_with_the_line_named() {
    let (lab, mut sites) = loaded().await;
    let _crowd = Crowd::at(&lab.client, &sites[0]);
    redirect(&lab, &sites[0], "/images/0.png").await;
    // The others may have been kept out by a late probe, or for lack of looks at them.
    poll(PATIENCE, "a line for each image", async || {
        let said = printed(p2pcdn(&lab, &sites[0], ["nginx-map"]));
        if said.contains("nginx has taken it: 3 lines") { Ok(()) } else { Err(said) }
    })
    .await
    .unwrap();

    // A mistake of the operator's in the file that includes the map.
    let configuration = sites[0].directory().join("nginx.conf");
    let good = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, format!("{good}\nnonsense;\n")).unwrap();
    let map = sites[0].directory().join("nginx-map.conf");
    let output = p2pcdn(&lab, &sites[0], ["nginx-map"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{error}");
    let line = good.lines().count() + 2;
    assert!(error.contains(&format!("nginx.conf:{line}")) && error.contains("nonsense"), "{error}");
    assert!(fs::read_to_string(&map).unwrap().contains("image/images/0.png"), "the file before is back");
    redirect(&lab, &sites[0], "/images/0.png").await;
    fs::write(&configuration, &good).unwrap();
    printed(p2pcdn(&lab, &sites[0], ["nginx-map"]));

    // A place that cannot be written to.
    sites[0].set("nginx.map", "/proc/nginx-map.conf");
    sites[0].agent.stop().await.unwrap();
    sites[0].start_agent().unwrap();
    sites[0].ready().await.unwrap();
    let output = p2pcdn(&lab, &sites[0], ["nginx-map"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("/proc/nginx-map.conf"), "{error}");
}

#[tokio::test]
async fn a_pause_and_a_stopped_agent_end_redirects_and_a_hung_one_harms_nobody() {
    let (lab, mut sites) = loaded().await;
    let [alpha, _] = &mut sites;
    let _crowd = Crowd::at(&lab.client, alpha);
    redirect(&lab, alpha, "/images/0.png").await;
    printed(p2pcdn(&lab, alpha, ["pause"]));
    no_redirects(&lab, alpha).await;
    printed(p2pcdn(&lab, alpha, ["resume"]));
    redirect(&lab, alpha, "/images/0.png").await;

    alpha.agent.signal(Signal::STOP).unwrap();
    for _ in 0..40 {
        let answer = get(&lab.client, &alpha.url("/images/1.png"), &image()).await;
        assert!(matches!(answer.status().as_u16(), 200 | 307));
    }
    alpha.agent.signal(Signal::CONT).unwrap();
    alpha.agent.stop().await.unwrap();
    no_redirects(&lab, alpha).await;
}
