//! Looks at a page as a browser would, and says what of it would not survive a redirect, and which line mends that.
//!
//! The [`elements`] of a page are what it loads; [`checks`] judge them, the page's headers and what a [`mod@probe`] finds at each holder.

pub mod checks;
pub mod elements;
pub mod probe;

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{ACCEPT, ACCEPT_LANGUAGE, ORIGIN, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use p2pcdn_core::destination::Destinations;
use p2pcdn_core::object::Sha256;
use serde::{Deserialize, Serialize};
use sha2::Digest;
use url::{Position, Url};

use crate::identity::{Connector, TlsSetupError, web_client_config};
use crate::policy::page::{self, Page};
use crate::settings::Settings;
use checks::Check;
use elements::{Resource, resources};
use probe::{TIMEOUT, probe};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at.
    pub check: Check,
    /// Where: a URL, a peer's domain, or what the page names.
    pub place: String,
    /// What was found.
    pub says: String,
    /// The line that mends it, where one does.
    pub add: Option<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Something stays local that need not, or will go wrong one day.
    Warn,
    /// Something goes wrong, or nothing at all is redirected.
    Fail,
}

/// What the running agent knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentFacts {
    /// Whether it knows the policy of the site's pages; otherwise no browser is redirected.
    pub knows_policy: bool,
    /// The peers that have granted a lease.
    pub holders: Vec<HolderFacts>,
}

/// A peer that holds replicas for this site, as its agent knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HolderFacts {
    /// The peer's domain.
    pub domain: String,
    /// Its replica name.
    pub replica_name: String,
    /// What browsers are not redirected to it for.
    pub blocked: Destinations,
    /// Something that it should have.
    pub sample: Option<Sample>,
}

/// One replica by its record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    /// Path at the origin.
    pub path: String,
    /// Digest.
    pub sha256: Sha256,
    /// Bytes.
    pub size: u64,
    /// Content type.
    pub content_type: String,
}

/// Most elements of a page for which something further is fetched.
const MAX_FETCHED: usize = 20;
/// Longest script or style that is fetched to work out its digest, in bytes.
const MAX_CODE_BYTES: usize = 8 << 20;

/// Looks at everything. `agent` is `None` if none answers.
///
/// # Errors
/// Only if there is no trust store; what is wrong with the page or a holder is a finding.
pub async fn examine(
    settings: &Settings,
    url: &Url,
    agent: Option<&AgentFacts>,
) -> Result<Vec<Finding>, TlsSetupError> {
    let tls = web_client_config(&settings.extra_roots)?;
    let connector = Connector::new(settings.allow_private, Arc::clone(&tls));
    let site = &settings.site.domain;
    let mut findings = Vec::new();
    let mut secure = url.clone();
    if url.scheme() == "http" {
        findings.push(checks::insecure_page(url));
        // Only fails for URLs without a host, which no http: URL is.
        let _ = secure.set_scheme("https");
    }
    let page = match page::get(&connector, secure, &as_browser(), true).await {
        Ok(page) => Some(page),
        Err(error) => {
            findings.push(checks::page(url, &error));
            None
        }
    };
    if let Some(page) = &page {
        findings.extend(checks::clock(page.url.as_str(), &page.headers, SystemTime::now()));
        let resources = resources(&page.url, &page.html);
        findings.extend(checks::mixed_content(&resources));
        findings.extend(code(&connector, settings, page, &resources).await);
        if !checks::is_at(&page.url, site) {
            findings.extend(embeds(&connector, site, page, &resources).await);
        }
    }
    let Some(agent) = agent else {
        findings.push(checks::no_agent());
        return Ok(findings);
    };
    findings.extend(checks::agent(agent));
    for holder in &agent.holders {
        if let Some(page) = &page {
            let shares_code = !settings.share.code_paths.is_empty();
            let other_pages =
                if agent.knows_policy && checks::is_at(&page.url, site) { holder.blocked } else { Destinations::NONE };
            findings.extend(checks::policy(page, holder, other_pages, shares_code));
        }
        let probed = probe(&connector, tls.clone(), site, holder).await;
        let is_isolated = page.as_ref().is_some_and(|page| checks::is_isolated(&page.headers));
        findings.extend(checks::holder(site, holder, &probed, is_isolated, SystemTime::now()));
    }
    Ok(findings)
}

/// Scripts and styles on the paths where they are shared.
async fn code(connector: &Connector, settings: &Settings, page: &Page, resources: &[Resource]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fetched = 0;
    for resource in checks::shared_code(resources, &settings.site.domain, &settings.share.code_paths) {
        let mut integrity = None;
        if !resource.has_integrity && fetched < MAX_FETCHED {
            fetched += 1;
            integrity = digest(connector, &resource.url).await;
        }
        findings.extend(checks::code(page, resource, integrity.as_deref()));
    }
    findings
}

/// What another site's page loads from this one.
async fn embeds(connector: &Connector, site: &str, page: &Page, resources: &[Resource]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let embedded = resources.iter().filter(|resource| checks::is_at(&resource.url, site));
    for resource in embedded.take(MAX_FETCHED) {
        let origin = HeaderValue::try_from(page.url.origin().ascii_serialization()).ok();
        let headers = origin.filter(|_| resource.is_cors).map(|origin| (ORIGIN, origin)).into_iter().collect();
        let target = &resource.url[Position::BeforePath..Position::AfterQuery];
        let answer = connector.request_web(Method::HEAD, site, target, headers, 0, TIMEOUT).await;
        findings.extend(checks::embed(page, resource, answer.map(|answer| answer.headers)));
    }
    findings
}

/// The value of an `integrity` attribute for what is there now.
async fn digest(connector: &Connector, url: &Url) -> Option<String> {
    let (authority, target) =
        (&url[Position::BeforeHost..Position::AfterPort], &url[Position::BeforePath..Position::AfterQuery]);
    let answer = connector.get_web(authority, target, MAX_CODE_BYTES, TIMEOUT).await.ok()?;
    let digest = || format!("sha384-{}", BASE64_STANDARD.encode(sha2::Sha384::digest(&answer.body)));
    (answer.status == http::StatusCode::OK).then(digest)
}

/// What a browser says when somebody types a URL; but nothing of compression, so that the page can be read.
fn as_browser() -> HeaderMap {
    let header = |name: &'static str, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    HeaderMap::from_iter([
        (USER_AGENT, HeaderValue::from_static(BROWSER)),
        (
            ACCEPT,
            HeaderValue::from_static(
                "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
            ),
        ),
        (ACCEPT_LANGUAGE, HeaderValue::from_static("en-US,en;q=0.9")),
        header("upgrade-insecure-requests", "1"),
        header("sec-fetch-site", "none"),
        header("sec-fetch-mode", "navigate"),
        header("sec-fetch-user", "?1"),
        header("sec-fetch-dest", "document"),
    ])
}

const BROWSER: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
