//! A visit to every page, and what came of each cell.

use std::collections::BTreeMap;

use p2pcdn_tests::content::digest;
use p2pcdn_tests::{Site, poll};
use serde_json::json;

use super::chromium::Browser;
use super::page::Page;
use crate::support::PATIENCE;

/// What came of a page's cell.
pub(super) type Results = BTreeMap<(&'static str, String), String>;

/// Opens the pages one by one and waits for their cells.
pub(super) async fn visit<'a>(browser: &Browser, sites: &[Site], pages: impl IntoIterator<Item = &'a Page>) -> Results {
    let mut results = Results::new();
    for page in pages {
        let site = if page.is_foreign { &sites[1] } else { &sites[0] };
        browser.open(&site.url(&page.path())).await;
        let said = browser.run("return window.results").await;
        for cell in &page.cells {
            let mut said = said[&cell.name].as_str().unwrap_or("nothing").to_owned();
            if cell.name.starts_with("download") {
                said = saved(browser, &said).await;
            }
            if cell.name == "manifest" {
                said = browser.devtools("Page.getAppManifest", json!({})).await["data"].to_string();
            }
            results.insert((page.name, cell.name.clone()), said);
        }
    }
    results
}

/// Clicks on the link to a file, and says the digest of what the browser saves.
async fn saved(browser: &Browser, name: &str) -> String {
    browser.click(&format!("a[href$='{name}']")).await;
    let file = browser.downloads().join(name);
    // Chromium reserves the name with an empty file, and moves the whole one there in the end.
    let bytes = poll(PATIENCE, file.display(), async || match std::fs::read(&file) {
        Ok(bytes) if bytes.is_empty() => Err("still empty".to_owned()),
        read => read.map_err(|error| error.to_string()),
    });
    let bytes = bytes.await.unwrap();
    digest(&bytes).to_string()
}
