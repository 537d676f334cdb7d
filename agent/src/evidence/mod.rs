//! Evidence from visitors' browsers, where the operator opts in: what tells auditors from browsers is seen by nobody else.
//!
//! A page includes [`SCRIPT_PATH`], which looks at a sample of the page's own resources at a host that [`WHERE_PATH`] names, as a
//! redirect would, and reports to [`REPORT_PATH`] what it found. The [`judge`] says when that counts, and the [`Finding`]s go to the
//! audits. Nothing about visitors is kept but a keyed hash of their networks, in memory, for a day at most.

pub mod judge;
mod meter;
mod said;
mod tokens;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use p2pcdn_core::decide::{Candidate, ONE_PPM, choose};
use p2pcdn_core::destination::Destination;
use p2pcdn_core::lookup::{HashKey, canonical_target};
use p2pcdn_core::redirect::write_location;
use p2pcdn_core::sync::HolderRow;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::{monotonic_ms, now_s};
use crate::http_server::{Body, empty, json, read_body, text, with_body};
use crate::identity::neighbourhood::network;
use crate::load::LoadMeter;
use crate::publish::Board;
use crate::replicate::origin::holders::{Copy, Holders};
use crate::settings::EvidenceSettings;
use crate::telemetry::{Metrics, OutcomeLabel, ReasonLabel};
use judge::{Bounds, Finding, Found, Ignored, Judge, LOOKS_AT_DOUBTFUL, MAX_RECORDS, Report};
use meter::Meter;
pub use said::{Outcome, Place, Said};
use tokens::{Look, Refused, Tokens};

/// GET: the script.
pub const SCRIPT_PATH: &str = "/.well-known/p2pcdn/v1/evidence.js";
/// GET with `?path=`, followed by an object's path and query as they are: [`Place`], or 204 if nobody holds it.
pub const WHERE_PATH: &str = "/.well-known/p2pcdn/v1/evidence/where";
/// POST [`Said`].
pub const REPORT_PATH: &str = "/.well-known/p2pcdn/v1/evidence";

/// Findings that wait to be taken; beyond, the host is forgotten, so that it will be found again, or it is tried again later to say that its
/// suspension is over.
pub const MAX_FINDINGS: usize = 64;

/// What this site's visitors report.
pub struct Evidence {
    parts: Parts,
    domain: String,
    script: Bytes,
    max_object_bytes: u64,
    judge: Mutex<Judge>,
    requests: Mutex<Meter>,
    tokens: Mutex<Tokens>,
    /// Hosts of which there was no room to say that they are suspended no longer, tried again with every tick; at most [`MAX_RECORDS`].
    unsaid: Mutex<BTreeSet<String>>,
    lookups: DefaultDirectRateLimiter,
    reports: DefaultDirectRateLimiter,
}

/// What it works with.
pub struct Parts {
    /// Who holds what.
    pub board: Arc<Board>,
    /// Who is looked at, and how many could be.
    pub holders: Arc<Holders>,
    /// Whether there are redirects.
    pub load: Arc<Mutex<LoadMeter>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Drawn at every start, so that the hashes of networks, and tokens, mean nothing later.
    pub key: HashKey,
    /// Where what follows goes.
    pub findings: mpsc::Sender<Finding>,
}

/// Longest report in bytes.
const MAX_REPORT_BYTES: usize = 1024;
/// Questions and reports that are read from one network in a minute; further ones are refused, and take nothing from others.
const REQUESTS_PER_MIN: u16 = 120;
/// Reports that are judged in a second; further ones are refused. Only those count for this that have a token.
const REPORTS_PER_S: NonZeroU32 = NonZeroU32::new(20).expect("not zero");
/// Tokens that are given in a second; further questions are told that nobody holds the object.
const LOOKUPS_PER_S: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
/// A setting of the operator takes so long to reach everybody.
const SCRIPT_CACHING: HeaderValue = HeaderValue::from_static("public, max-age=300");
/// How often networks are forgotten and suspensions ended, before `time_scale`.
const TICK: Duration = Duration::from_secs(60);

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl Evidence {
    /// Takes reports on the hosts of the site `domain`.
    pub fn new(domain: String, settings: &EvidenceSettings, bounds: Bounds, parts: Parts) -> Self {
        // A network is sent to look no more often than its reports would count.
        let most = u16::try_from(bounds.reports_of_a_network).unwrap_or(u16::MAX);
        Self {
            domain,
            script: script(settings).into(),
            max_object_bytes: settings.max_object_bytes,
            requests: Mutex::new(Meter::new(REQUESTS_PER_MIN, 60_000)),
            tokens: Mutex::new(Tokens::new(parts.key, most, bounds.limited_ms)),
            judge: Mutex::new(Judge::new(bounds)),
            unsaid: Mutex::default(),
            parts,
            lookups: RateLimiter::direct(Quota::per_second(LOOKUPS_PER_S)),
            reports: RateLimiter::direct(Quota::per_second(REPORTS_PER_S)),
        }
    }

    /// Whether a path is one of those answered here.
    pub fn answers(path: &str) -> bool {
        matches!(path, SCRIPT_PATH | WHERE_PATH | REPORT_PATH)
    }

    /// Answers a request for one of these paths under the site's own name.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let network = match (request.method(), request.uri().path()) {
            (&Method::GET, SCRIPT_PATH) => {
                let mut response = with_body(StatusCode::OK, "text/javascript; charset=utf-8", self.script.clone());
                response.headers_mut().insert(CACHE_CONTROL, SCRIPT_CACHING);
                response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
                return response;
            }
            // No other site's pages can make their visitors say anything here.
            (_, WHERE_PATH | REPORT_PATH) if !is_own_page(request.headers()) => {
                return text(StatusCode::FORBIDDEN, "only for pages of this site\n");
            }
            (&Method::GET, WHERE_PATH) | (&Method::POST, REPORT_PATH) => self.network(request.headers()),
            _ => return text(StatusCode::METHOD_NOT_ALLOWED, "no such method here\n"),
        };
        let Some(network) = network else {
            self.ignored("no_address");
            return empty(StatusCode::NO_CONTENT);
        };
        if !lock(&self.requests).admits(network, monotonic_ms()) {
            self.ignored("network");
            return text(StatusCode::TOO_MANY_REQUESTS, "too much from this network\n");
        }
        if request.method() == Method::POST {
            let body = read_body(request.into_body(), MAX_REPORT_BYTES).await;
            return empty(self.take(body.as_deref(), network));
        }
        let asked = request.uri().query().and_then(|query| query.strip_prefix("path="));
        match asked.and_then(|path| self.place(path, network)) {
            Some(place) => json(StatusCode::OK, &place),
            None => empty(StatusCode::NO_CONTENT),
        }
    }

    /// Forgets networks and ends suspensions in time, until cancelled.
    pub async fn run(self: Arc<Self>, time_scale: f64, cancel: CancellationToken) {
        let period = TICK.mul_f64(time_scale).max(Duration::from_millis(50));
        // Not at once: how many hosts there are, of whom a third may be suspended, is not known yet.
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            let hosts = self.parts.holders.possible();
            self.tick(hosts);
        }
    }

    fn tick(&self, hosts: usize) {
        let unsaid = std::mem::take(&mut *lock(&self.unsaid));
        unsaid.into_iter().for_each(|holder| self.say(Finding::Resume { holder }));
        let findings = lock(&self.judge).tick(hosts, monotonic_ms());
        self.hand_on(findings);
    }

    /// An audit of a host has come to its end; see [`Judge::audited`].
    pub fn audited(&self, domain: &str, clean: bool) {
        lock(&self.judge).audited(domain, clean, monotonic_ms());
    }

    /// See [`Judge::restore`]; to be called before [`Self::run`].
    pub fn restore(&self, domain: &str, left_ms: u64, suspensions: u32) {
        lock(&self.judge).restore(domain, left_ms, suspensions, monotonic_ms());
    }

    /// See [`Judge::forget`].
    pub fn forget(&self, domain: &str) {
        lock(&self.judge).forget(domain);
    }

    /// Stands for the network that the request comes from.
    fn network(&self, headers: &HeaderMap) -> Option<u64> {
        Some(self.parts.key.of(b"", network(visitor(headers)?).to_string().as_bytes()))
    }

    /// A host for the object, chosen as for a redirect, where the page's policy lets its bytes be loaded and read.
    fn place(&self, path: &str, network: u64) -> Option<Place> {
        let path = canonical_target(path.as_bytes()).ok()?;
        let steering = lock(&self.parts.load).steering(monotonic_ms());
        if steering.killed {
            return None;
        }
        let there = self.parts.board.whereabouts(path, now_s()).filter(|there| there.size <= self.max_object_bytes)?;
        let is_open = |holder: &&HolderRow| {
            let is_blocked = |destination: &Destination| {
                (*destination == Destination::Fetch || destination.takes(there.class))
                    && *destination != Destination::Download
                    && holder.blocked.contains(*destination)
            };
            holder.weight > 0 && holder.lease_bytes_per_s > 0 && !Destination::ALL.iter().any(is_blocked)
        };
        let open: Vec<&HolderRow> = there.holders.iter().filter(is_open).collect();
        let candidates: Vec<Candidate> = open
            .iter()
            .map(|holder| Candidate { holder: holder.id, weight: holder.weight, newcomer: holder.newcomer })
            .collect();
        let doubtful = self.doubtful(&open);
        // What there are doubts about is looked at more often, or it would take weeks to be sure.
        let looks_closer = f64::from(getrandom::u32().ok()?) < LOOKS_AT_DOUBTFUL * f64::from(u32::MAX);
        let any = getrandom::u32().ok()? as usize % doubtful.len().max(1);
        let chosen = doubtful.get(any).filter(|_| looks_closer).copied();
        let chosen = chosen.or_else(|| choose(&candidates, false, 0, getrandom::u32().ok()? % ONE_PPM))?;
        let holder = open.into_iter().find(|holder| holder.id == chosen)?;
        let mut url = Vec::new();
        write_location(&mut url, &holder.authority, self.domain.as_bytes(), &there.sha256, path).then_some(())?;
        let url = String::from_utf8(url).ok()?;
        let (domain, now_ms) = (self.parts.board.domain_of(holder.id)?, monotonic_ms());
        let look = Look { holder: &domain, path, sha256: there.sha256, network };
        let mut tokens = lock(&self.tokens);
        if !tokens.admits(network, now_ms) || self.lookups.check().is_err() {
            return None;
        }
        let token = format!("{:016x}", tokens.give(&look, now_ms));
        Some(Place { url, sha256: there.sha256, size: there.size, kind: there.class.name(), token })
    }

    /// Those of the hosts that there are doubts about.
    fn doubtful(&self, open: &[&HolderRow]) -> Vec<u16> {
        let judge = lock(&self.judge);
        let doubtful: Vec<&str> = judge.doubtful(monotonic_ms()).collect();
        let is_doubtful = |holder: &&&HolderRow| {
            self.parts.board.domain_of(holder.id).is_some_and(|domain| doubtful.contains(&domain.as_str()))
        };
        open.iter().filter(is_doubtful).map(|holder| holder.id).collect()
    }

    /// Takes a report. Whoever forges one is not told what came of it.
    fn take(&self, body: Option<&[u8]>, network: u64) -> StatusCode {
        let Some(said) = body.and_then(|body| serde_json::from_slice::<Said>(body).ok()) else {
            self.ignored("malformed");
            return StatusCode::BAD_REQUEST;
        };
        if said.outcome == Outcome::Integrity {
            self.doubt_all(&said.path, network);
            return StatusCode::NO_CONTENT;
        }
        let holders =
            said.holder.as_deref().map(|authority| self.parts.board.domains_at(authority)).unwrap_or_default();
        let token = said.token.as_deref().and_then(|token| u64::from_str_radix(token, 16).ok());
        let (false, Some(sha256), Some(token)) = (holders.is_empty(), said.sha256, token) else {
            self.ignored("unknown");
            return StatusCode::NO_CONTENT;
        };
        // Others may claim the name; the token is for the one that was chosen.
        let looks = holders.iter().map(|holder| Look { holder, path: &said.path, sha256, network });
        let look = match lock(&self.tokens).take_any(looks, token, monotonic_ms()) {
            Ok(look) => look,
            Err(refused) => {
                self.ignored(match refused {
                    Refused::Foreign => "token",
                    Refused::Spent => "repeated",
                });
                return StatusCode::NO_CONTENT;
            }
        };
        if self.reports.check().is_err() {
            self.ignored("rate");
            return StatusCode::TOO_MANY_REQUESTS;
        }
        self.count(said.outcome);
        self.looked(&look, said.outcome);
        StatusCode::NO_CONTENT
    }

    /// Somebody who was sent to look says what came of it.
    fn looked(&self, look: &Look<'_>, outcome: Outcome) {
        let found = match outcome {
            Outcome::Failed | Outcome::Integrity => return,
            Outcome::Good => Found::Good,
            Outcome::Wrong => Found::Wrong,
            Outcome::Resent => Found::Resent,
        };
        // It could have changed, or been withdrawn, since.
        if !self.parts.board.holds(look.path, &look.sha256, look.holder) {
            return self.ignored("unknown");
        }
        let object = self.parts.key.of(&look.sha256.0, look.path.as_bytes());
        let report = Report { holder: look.holder, object, network: look.network, found };
        let hosts = self.parts.holders.possible();
        let judged = lock(&self.judge).report(&report, hosts, monotonic_ms());
        match judged {
            Ok(findings) => self.hand_on(findings),
            Err(Ignored::Repeated) => self.ignored("repeated"),
            Err(Ignored::TooMany) => self.ignored("network"),
            Err(Ignored::Suspended) => self.ignored("suspended"),
        }
    }

    /// A hint like a return: worth a look at whoever could have been it, no more. There is no token for it, so it takes the place of one.
    fn doubt_all(&self, path: &str, network: u64) {
        if !lock(&self.tokens).admits(network, monotonic_ms()) {
            return self.ignored("network");
        }
        self.count(Outcome::Integrity);
        let Some(there) = self.parts.board.whereabouts(path, now_s()) else { return self.ignored("unknown") };
        for domain in self.parts.board.holders_of(path) {
            let copy = Copy { path: path.to_owned(), sha256: there.sha256 };
            self.parts.holders.doubted(&domain, copy, monotonic_ms());
        }
    }

    fn hand_on(&self, findings: Vec<Finding>) {
        for finding in findings {
            self.parts.metrics.evidence_findings.get_or_create(&OutcomeLabel { outcome: finding.name() }).inc();
            self.say(finding);
        }
    }

    fn say(&self, finding: Finding) {
        let Err(refused) = self.parts.findings.try_send(finding) else { return };
        let mut unsaid = lock(&self.unsaid);
        match refused.into_inner() {
            Finding::Resume { holder } if unsaid.len() < MAX_RECORDS => {
                unsaid.insert(holder);
            }
            finding => {
                let peer = finding.holder();
                tracing::warn!(%peer, "too many findings of visitors wait for audits, beginning anew with this host");
                self.forget(peer);
            }
        }
    }

    fn ignored(&self, reason: &'static str) {
        self.parts.metrics.evidence_ignored.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc();
    }

    fn count(&self, outcome: Outcome) {
        self.parts.metrics.evidence.get_or_create(&OutcomeLabel { outcome: outcome.name() }).inc();
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The script as it is served: with the settings filled in, without comments and indentation.
fn script(settings: &EvidenceSettings) -> String {
    let source = include_str!("script.js")
        .replace("SAMPLE", &settings.sample.to_string())
        .replace("MAX_BYTES", &settings.max_object_bytes.to_string());
    let lines = source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Browsers say from which site a request comes, and no page can change what they say.
fn is_own_page(headers: &HeaderMap) -> bool {
    headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "same-origin")
}

/// The address that the proxy wrote: the last one. Those before it came from the visitor, who can write what he likes.
fn visitor(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all(X_FORWARDED_FOR).iter().next_back()?.to_str().ok()?;
    last.rsplit(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests;
