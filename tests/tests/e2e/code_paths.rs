//! Styles and scripts are shared below declared paths only, and only if they work from any place.

use std::collections::BTreeSet;

use http::HeaderMap;
use p2pcdn_tests::content::noise;
use p2pcdn_tests::{Lab, Site, poll};
use serde_json::Value;

use crate::origin_server::{OriginServer, Page};
use crate::support::{PATIENCE, get, headers, lab, p2pcdn, printed};

/// Code by path, type and text, and whether it is shared.
const CODE: [(&str, &str, &str, bool); 7] = [
    ("/assets/alone.js", "text/javascript", "export const a = 1;", true),
    ("/assets/imports.js", "text/javascript", "import \"./alone.js\";", false),
    ("/assets/alone.css", "text/css", "a { color: red }", true),
    ("/assets/absolute.css", "text/css", "a { background: url(https://cdn.test/x.png) }", true),
    ("/assets/relative.css", "text/css", "a { background: url(x.png) }", false),
    ("/other/alone.js", "text/javascript", "export const b = 1;", false),
    ("/other/alone.css", "text/css", "b { color: red }", false),
];
const IMAGE: &str = "/other/image.png";

/// Long enough to be shared.
fn body(text: &str) -> String {
    format!("/*{}*/\n{text}\n", "-".repeat(10_000))
}

fn shared() -> BTreeSet<String> {
    let code = CODE.iter().filter(|(.., is_shared)| *is_shared).map(|(path, ..)| (*path).to_owned());
    code.chain([IMAGE.to_owned()]).collect()
}

fn catalogued(lab: &Lab, site: &Site) -> BTreeSet<String> {
    let objects: Value = serde_json::from_str(&printed(p2pcdn(lab, site, ["objects", "--json"]))).unwrap();
    objects.as_array().unwrap().iter().map(|object| object["path"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn code_of_a_directory_is_shared_where_it_works_from_any_place() {
    let (lab, [mut alpha]) = lab(["alpha"]);
    alpha.set("share.code_paths", ["/assets/"].as_slice());
    for (path, _, text, _) in CODE {
        alpha.content.put(path, body(text).as_bytes()).unwrap();
    }
    // What is read last says that everything was read.
    alpha.content.put(IMAGE, &noise(1, 10_000)).unwrap();
    alpha.start().await.unwrap();
    poll(PATIENCE, "the catalogue", async || {
        let found = catalogued(&lab, &alpha);
        if found == shared() { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap();
    alpha.content.put("/assets/relative.css", body("a { color: blue }").as_bytes()).unwrap();
    alpha.content.put("/assets/alone.css", body("a { background: url(x.png) }").as_bytes()).unwrap();
    poll(PATIENCE, "the changed catalogue", async || {
        let found = catalogued(&lab, &alpha);
        let follows = found.contains("/assets/relative.css") && !found.contains("/assets/alone.css");
        if follows { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn code_of_a_web_server_is_shared_where_it_works_from_any_place() {
    let (lab, [mut alpha]) = lab(["alpha"]);
    let server = OriginServer::start().await;
    let page = |content_type: &str, body: Vec<u8>| Page {
        body: body.into(),
        headers: headers([("content-type", content_type), ("cache-control", "max-age=3600")]),
        ..Page::default()
    };
    for (path, content_type, text, _) in CODE {
        server.put(path, page(&format!("{content_type}; charset=utf-8"), body(text).into_bytes()));
    }
    server.put(IMAGE, page("image/png", noise(1, 10_000)));
    server.serve(&mut alpha);
    alpha.set("share.code_paths", ["/assets/"].as_slice());
    alpha.start().await.unwrap();
    poll(PATIENCE, "the agent's look at everything", async || {
        for path in CODE.iter().map(|(path, ..)| *path).chain([IMAGE]) {
            get(&lab.client, &alpha.url(path), &HeaderMap::new()).await;
            if server.asked_by_agent(path).is_empty() {
                return Err(path);
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    poll(PATIENCE, "the catalogue", async || {
        let found = catalogued(&lab, &alpha);
        if found == shared() { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap();
}
