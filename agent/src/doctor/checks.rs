//! Judgements, each from what was seen to findings; nothing here touches the network or a clock.

use std::time::{Duration, SystemTime};

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_LENGTH, CONTENT_TYPE, DATE};
use http::{HeaderMap, StatusCode};
use p2pcdn_core::destination::{Destination, Destinations};
use serde::{Deserialize, Serialize};
use url::{Position, Url};

use super::elements::Resource;
use super::probe::Probed;
use super::{AgentFacts, Finding, HolderFacts, Sample, Severity};
use crate::identity::{EgressError, WebResponse, plain};
use crate::policy::page::{Page, PageError};
use crate::policy::{Objection, Policies, name, objections, own_directive};

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Whether the page is there for a stranger.
    Page,
    /// Who holds replicas.
    Holders,
    /// Content-Security-Policy.
    Csp,
    /// Cross-Origin Resource Sharing.
    Cors,
    /// Cross-Origin-Resource-Policy, which pages with Cross-Origin-Embedder-Policy ask for.
    Corp,
    /// Plain HTTP within or instead of HTTPS.
    MixedContent,
    /// Certificates.
    Tls,
    /// Whether a replica is what its record says.
    Replica,
    /// Clocks.
    Clock,
    /// `integrity` and `crossorigin` of scripts and styles.
    Integrity,
}

impl Check {
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Holders => "holders",
            Self::Csp => "CSP",
            Self::Cors => "CORS",
            Self::Corp => "CORP",
            Self::MixedContent => "mixed content",
            Self::Tls => "TLS",
            Self::Replica => "replica",
            Self::Clock => "clock",
            Self::Integrity => "integrity",
        }
    }
}

/// Clocks may differ by so much; signed records and freshness allow for little more.
const MAX_SKEW: Duration = Duration::from_secs(60);
/// A certificate that ends sooner should have been renewed by now: public CAs' last at least 45 days and are renewed at two thirds.
const RENEWAL_DAYS: u64 = 10;
const CORP: &str = "cross-origin-resource-policy";
const COEP: &str = "cross-origin-embedder-policy";

fn finding(severity: Severity, check: Check, place: &str, says: impl Into<String>) -> Finding {
    Finding { severity, check, place: plain(place), says: plain(says.into()), add: None }
}

impl Finding {
    /// A line is of no use cut off, so only what could command a terminal is taken out.
    fn add(self, line: impl Into<String>) -> Self {
        let line = line.into().chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect();
        Self { add: Some(line), ..self }
    }
}

/// Whether a URL is one of the site's.
pub fn is_at(url: &Url, site: &str) -> bool {
    url.scheme() == "https" && &url[Position::BeforeHost..Position::AfterPort] == site
}

/// Whether a page with these headers loads only what says that it may be loaded.
pub fn is_isolated(headers: &HeaderMap) -> bool {
    let value = headers.get(COEP).and_then(|value| value.to_str().ok()).unwrap_or_default();
    matches!(value.split(';').next().unwrap_or_default().trim(), "require-corp" | "credentialless")
}

/// A page over HTTP.
pub fn insecure_page(url: &Url) -> Finding {
    let says = "over http browsers do not say what they load, so nothing is redirected; looking at https instead";
    let mut secure = url.clone();
    let _ = secure.set_scheme("https");
    finding(Severity::Fail, Check::MixedContent, url.as_str(), says).add(format!("Location: {secure}"))
}

/// A page that could not be had.
pub fn page(url: &Url, error: &PageError) -> Finding {
    let add = match error {
        PageError::Egress(error) => reach(url, error),
        PageError::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            "[site] csp = \"img-src 'self' https:\"".into()
        }
        PageError::Status(_) => "p2pcdn doctor https://SITE/PATH/OF/A/PAGE".into(),
        PageError::Elsewhere(_) | PageError::Redirects => look(url, "-L"),
        PageError::NotHtml(_) => "Content-Type: text/html".into(),
        PageError::Encoded => look(url, "-H 'Accept-Encoding: identity'"),
    };
    finding(Severity::Fail, Check::Page, url.as_str(), error.to_string()).add(add)
}

/// What lets this machine reach a URL, or shows why it cannot.
fn reach(url: &Url, error: &EgressError) -> String {
    if matches!(error, EgressError::NotGlobal { .. }) { "[egress] allow_private = true".into() } else { look(url, "") }
}

/// The command that shows what a browser is answered.
fn look(url: &Url, options: &str) -> String {
    // What could end the word or the line is percent-encoded in a URL, but for this.
    format!("curl -sSI {options} '{}'", url.as_str().replace('\'', "%27")).replace("  ", " ")
}

/// The same for a name that is no URL yet.
fn look_at(authority: &str) -> String {
    Url::parse(&format!("https://{authority}/")).map_or_else(|_| PEERS.into(), |url| look(&url, ""))
}

/// What is known of hosts: what they declined, withdrew and grant.
const PEERS: &str = "p2pcdn peer list";

/// Nobody to ask.
pub fn no_agent() -> Finding {
    finding(
        Severity::Warn,
        Check::Holders,
        "agent",
        "no agent answers, so holders are unknown and nothing is said about them",
    )
    .add("p2pcdn run")
}

/// Whether the agent sends browsers anywhere at all.
pub fn agent(agent: &AgentFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !agent.knows_policy {
        let says =
            "knows the policy of none of the pages in site.pages, so no browser is redirected; see p2pcdn status";
        findings.push(finding(Severity::Fail, Check::Csp, "agent", says).add("[site] pages = [\"/\"]"));
    }
    if agent.holders.is_empty() {
        findings.push(no_holders());
    }
    findings
}

fn no_holders() -> Finding {
    finding(
        Severity::Warn,
        Check::Holders,
        "agent",
        "no peer has granted a lease yet, so there is nobody to redirect to",
    )
    .add("p2pcdn peer add DOMAIN")
}

/// What the page's policies forbid at the holder, and what others of the site's pages do, whose policies count for all of them.
pub fn policy(page: &Page, holder: &HolderFacts, other_pages: Destinations, shares_code: bool) -> Vec<Finding> {
    let policies = Policies::of_page(&page.headers, &page.html);
    let site = &page.url[Position::BeforeHost..Position::AfterPort];
    let Some(objections) = objections(&policies, site, &holder.replica_name) else {
        let says = "its replica name is no authority of a URL; its operator has to set another one";
        let line = format!("[public] replica_name = \"replica.{}\"", holder.domain);
        return vec![finding(Severity::Fail, Check::Csp, &holder.domain, says).add(line)];
    };
    let matters = |destination| match destination {
        Destination::Style | Destination::Script => shares_code,
        Destination::Download => false,
        _ => true,
    };
    let here = objections.iter().filter(|objection| matters(objection.destination));
    let mut findings: Vec<Finding> = here.map(|found| objection(found, holder)).collect();
    let own: Destinations = objections.iter().map(|objection| objection.destination).collect();
    let elsewhere = |d: &Destination| matters(*d) && other_pages.contains(*d) && !own.contains(*d);
    let elsewhere: Vec<&str> = Destination::ALL.into_iter().filter(elsewhere).map(name).collect();
    if !elsewhere.is_empty() {
        let says = format!("another page of the site blocks {}: they stay at the site", elsewhere.join(", "));
        let line = format!("p2pcdn doctor https://{site}/OTHER/PAGE");
        findings.push(finding(Severity::Warn, Check::Csp, &holder.domain, says).add(line));
    }
    if findings.is_empty() {
        let says = "the page's policy allows what is redirected there";
        return vec![finding(Severity::Ok, Check::Csp, &holder.domain, says)];
    }
    findings
}

fn objection(objection: &Objection, holder: &HolderFacts) -> Finding {
    // Whether fetch is redirected at all is up to the filter's settings, and by default it is not.
    let severity = if objection.destination == Destination::Fetch { Severity::Warn } else { Severity::Fail };
    let says = format!("{} blocks {}", objection.directive, name(objection.destination));
    // A directive that stands for others is not widened: the destination gets one of its own.
    let directive =
        if objection.directive == "default-src" { own_directive(objection.destination) } else { &objection.directive };
    let kept = objection.sources.iter().filter(|source| !source.eq_ignore_ascii_case("'none'"));
    let sources: Vec<&str> = kept.map(String::as_str).collect();
    let line = [&[directive][..], &sources, &[&format!("https://{}", holder.replica_name)]].concat().join(" ");
    finding(severity, Check::Csp, &holder.domain, says).add(line)
}

/// Resources over HTTP.
pub fn mixed_content(resources: &[Resource]) -> Vec<Finding> {
    let insecure = resources.iter().filter(|resource| resource.url.scheme() == "http");
    let found: Vec<Finding> = insecure
        .map(|resource| {
            let mut secure = resource.url.clone();
            let _ = secure.set_scheme("https");
            let says = format!("<{}> over http: browsers block it or turn it into https", resource.element);
            finding(Severity::Fail, Check::MixedContent, resource.url.as_str(), says).add(secure.to_string())
        })
        .collect();
    if found.is_empty() {
        return vec![finding(Severity::Ok, Check::MixedContent, "page", "everything comes over https")];
    }
    found
}

/// Scripts and styles of the site below the paths on which they are shared.
pub fn shared_code<'a>(
    resources: &'a [Resource],
    site: &'a str,
    code_paths: &'a [String],
) -> impl Iterator<Item = &'a Resource> {
    resources.iter().filter(move |resource| {
        let is_code = matches!(resource.destination, Some(Destination::Script | Destination::Style));
        let is_below = || code_paths.iter().any(|prefix| resource.url.path().starts_with(prefix.as_str()));
        is_code && is_at(&resource.url, site) && is_below()
    })
}

/// Whether one of these can be redirected safely; `integrity` is the value for what is there now.
pub fn code(page: &Page, resource: &Resource, integrity: Option<&str>) -> Option<Finding> {
    let mut add = Vec::new();
    if !resource.has_integrity {
        add.push(format!("integrity=\"{}\"", integrity.unwrap_or("sha384-...")));
    }
    // Without CORS a browser cannot check the digest of what came from another origin.
    if !resource.is_cors {
        add.push("crossorigin=\"anonymous\"".to_owned());
    }
    let place = resource.url.as_str();
    if add.is_empty() {
        return Some(finding(Severity::Ok, Check::Integrity, place, "is checked by browsers wherever it comes from"));
    }
    let missing = add.iter().map(|attribute| attribute.split('=').next().unwrap_or_default()).collect::<Vec<_>>();
    let says = format!("<{}> on {} has no {}", resource.element, page.url.path(), missing.join(" and no "));
    Some(finding(Severity::Warn, Check::Integrity, place, says).add(add.join(" ")))
}

/// Something of the site's that another site's page loads; `answer` is what the site says to that page.
pub fn embed(page: &Page, resource: &Resource, answer: Result<HeaderMap, EgressError>) -> Vec<Finding> {
    let place = resource.url.as_str();
    let headers = match answer {
        Ok(headers) => headers,
        Err(error) => {
            let line = reach(&resource.url, &error);
            return vec![finding(Severity::Fail, Check::Cors, place, error.to_string()).add(line)];
        }
    };
    let origin = page.url.origin().ascii_serialization();
    let says = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let allowed = says(ACCESS_CONTROL_ALLOW_ORIGIN.as_str());
    let mut findings = Vec::new();
    if resource.is_cors && allowed != "*" {
        // After a redirect across origins the browser says that its origin is "null".
        let severity = if allowed == origin { Severity::Warn } else { Severity::Fail };
        let text = format!("this page loads it with CORS, but the site allows {allowed:?} alone");
        findings.push(finding(severity, Check::Cors, place, text).add("Access-Control-Allow-Origin: *"));
    }
    if !resource.is_cors && is_isolated(&page.headers) && says(CORP) != "cross-origin" {
        let text = "this page loads only what has a Cross-Origin-Resource-Policy for it";
        findings
            .push(finding(Severity::Fail, Check::Corp, place, text).add("Cross-Origin-Resource-Policy: cross-origin"));
    }
    if findings.is_empty() {
        let text = "another site's page may load it; it is redirected only below the filter's cross_site_paths";
        findings.push(finding(Severity::Ok, Check::Cors, place, text));
    }
    findings
}

/// The other side's clock.
pub fn clock(place: &str, headers: &HeaderMap, now: SystemTime) -> Option<Finding> {
    let date = headers.get(DATE)?.to_str().ok().and_then(|date| httpdate::parse_http_date(date).ok())?;
    let skew = now.duration_since(date).unwrap_or_else(|early| early.duration());
    if skew <= MAX_SKEW {
        return Some(finding(Severity::Ok, Check::Clock, place, "agrees with this machine's clock"));
    }
    let says = format!("differs from this machine's clock by {} s", skew.as_secs());
    Some(finding(Severity::Fail, Check::Clock, place, says).add("timedatectl set-ntp true"))
}

/// What a visitor would meet at the holder.
pub fn holder(site: &str, holder: &HolderFacts, probed: &Probed, is_isolated: bool, now: SystemTime) -> Vec<Finding> {
    let mut findings = vec![certificate(holder, &probed.certificate, now)];
    match (&holder.sample, &probed.replica) {
        (Some(sample), Some(Ok(answer))) => {
            findings.extend(clock(&holder.domain, &answer.headers, now));
            findings.push(replica(&holder.domain, sample, answer));
            if answer.status == StatusCode::OK {
                findings.extend(sharing(site, &holder.domain, answer, is_isolated));
            }
        }
        (_, Some(Err(error))) => {
            let line = look_at(&holder.replica_name);
            findings.push(finding(Severity::Fail, Check::Replica, &holder.domain, error.to_string()).add(line));
        }
        _ => findings.push(finding(Severity::Warn, Check::Replica, &holder.domain, "holds nothing yet").add(PEERS)),
    }
    findings
}

fn certificate(holder: &HolderFacts, certificate: &Result<Option<u64>, EgressError>, now: SystemTime) -> Finding {
    let (place, name) = (&*holder.domain, &*holder.replica_name);
    // The certificate is the host's: these are for its operator.
    let host = name.split(':').next().unwrap_or_default();
    let renew = || format!("certbot renew --cert-name {host}");
    let end = match certificate {
        Err(EgressError::Tls { source, .. }) => {
            let says = format!("{source}; the certificate has to cover {host}, with the whole chain");
            return finding(Severity::Fail, Check::Tls, place, says).add(format!("certbot certonly -d {host}"));
        }
        Err(error) => return finding(Severity::Fail, Check::Tls, place, error.to_string()).add(look_at(name)),
        Ok(None) => {
            let says = "the certificate does not say when it ends";
            return finding(Severity::Warn, Check::Tls, place, says).add(renew());
        }
        Ok(Some(end)) => SystemTime::UNIX_EPOCH + Duration::from_secs(*end),
    };
    let days = end.duration_since(now).map_or(0, |left| left.as_secs() / 86_400);
    let says = format!("the chain is good, and the certificate ends in {days} days");
    if days < RENEWAL_DAYS {
        return finding(Severity::Warn, Check::Tls, place, says).add(renew());
    }
    finding(Severity::Ok, Check::Tls, place, says)
}

fn replica(place: &str, sample: &Sample, answer: &WebResponse) -> Finding {
    // What is not as recorded is offered anew.
    let purge = format!("p2pcdn purge {}", sample.path);
    let fail = |says: String| finding(Severity::Fail, Check::Replica, place, says).add(purge.clone());
    let says =
        |name: http::HeaderName| answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (length, content_type) = (says(CONTENT_LENGTH), says(CONTENT_TYPE));
    match answer.status {
        StatusCode::OK if length != sample.size.to_string() => {
            fail(format!("{} has {length} bytes there instead of {}", sample.path, sample.size))
        }
        StatusCode::OK if content_type != sample.content_type => {
            fail(format!("{} is {content_type} there instead of {}", sample.path, sample.content_type))
        }
        StatusCode::OK => finding(Severity::Ok, Check::Replica, place, format!("{} is there as recorded", sample.path)),
        StatusCode::FOUND => {
            finding(Severity::Warn, Check::Replica, place, format!("sends visitors back for {}", sample.path))
                .add(PEERS)
        }
        status => fail(format!("answers {status} for {}", sample.path)),
    }
}

fn sharing(site: &str, place: &str, answer: &WebResponse, is_isolated: bool) -> Vec<Finding> {
    let says = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let allowed = says(ACCESS_CONTROL_ALLOW_ORIGIN.as_str());
    let own = format!("https://{site}");
    let cors = if allowed == own || allowed == "*" {
        finding(
            Severity::Ok,
            Check::Cors,
            place,
            "the site's pages may read replicas: fonts, crossorigin and fetch work",
        )
    } else {
        finding(Severity::Fail, Check::Cors, place, "the site's pages may not read replicas there")
            .add(format!("Access-Control-Allow-Origin: {own}"))
    };
    let corp = if says(CORP) == "cross-origin" {
        finding(Severity::Ok, Check::Corp, place, "any page may load replicas, isolated ones included")
    } else {
        let severity = if is_isolated { Severity::Fail } else { Severity::Warn };
        finding(severity, Check::Corp, place, "pages with Cross-Origin-Embedder-Policy cannot load replicas there")
            .add("Cross-Origin-Resource-Policy: cross-origin")
    };
    vec![cors, corp]
}

#[cfg(test)]
mod tests;
