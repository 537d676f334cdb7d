//! Keeps what is known of the site's policies current, and tells the gates.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderMap, HeaderValue};
use p2pcdn_core::destination::{Destination, Destinations};
use p2pcdn_core::sync::MAX_PAGES;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::page::{self, PageError};
use super::pages::{Known, Pages, page_path};
use super::{Policies, blocked, governed, name};
use crate::clock::monotonic_ms;
use crate::identity::own_record::ATTACHMENTS;
use crate::identity::{Connector, Membership};
use crate::publish::Board;
use crate::settings::{Csp, PolicySettings};

/// Reads the site's pages and blocks at each holder what their policies forbid there.
pub struct PolicyWatch {
    site: String,
    csp: Csp,
    connector: Arc<Connector>,
    membership: Arc<Membership>,
    board: Arc<Board>,
    time_scale: f64,
    pages: Mutex<Pages>,
}

/// What is known, as operators are shown it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// How the policy is come by: `read`, `none` or `declared`.
    pub csp: String,
    /// Whether it is known; otherwise no browser is redirected.
    pub known: bool,
    /// The pages that are read.
    pub pages: Vec<PageStatus>,
}

/// One page.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PageStatus {
    /// Its path.
    pub path: String,
    /// Whether the operator has listed it.
    pub listed: bool,
    /// Whether its policies are known.
    pub known: bool,
    /// Why it could not be read the last time.
    pub problem: Option<String>,
}

/// So long after it was last read, a page is no longer known.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// At most one page is read in this time, whatever visitors ask for.
const PACE: Duration = Duration::from_secs(1);
impl PolicyWatch {
    /// `time_scale` is a factor on all periods.
    pub fn new(
        site: String,
        settings: &PolicySettings,
        connector: Arc<Connector>,
        membership: Arc<Membership>,
        board: Arc<Board>,
        time_scale: f64,
    ) -> Self {
        let listed = if settings.csp == Csp::Read { settings.pages.as_slice() } else { &[] };
        let pages = Mutex::new(Pages::listed(listed));
        let at_first = if settings.csp == Csp::None { Destinations::NONE } else { governed() };
        board.set_blocked_at_first(at_first.with(Destination::Download));
        Self { site, csp: settings.csp.clone(), connector, membership, board, time_scale, pages }
    }

    /// Takes in paths that browsers were shown; what is no page turns out when it is read.
    pub fn visited(&self, paths: &[String]) {
        if self.csp != Csp::Read {
            return;
        }
        let now_ms = monotonic_ms();
        let mut pages = self.pages();
        for path in paths.iter().take(MAX_PAGES).filter_map(|target| page_path(target)) {
            pages.visited(path, now_ms);
        }
    }

    /// Reads and publishes until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(self.scaled(PACE).max(Duration::from_millis(50)));
        let mut published = Published::default();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.publish(&mut published);
            let due = self.pages().due(monotonic_ms());
            if let Some(path) = due {
                let read = tokio::select! {
                    () = cancel.cancelled() => return,
                    read = self.read(&path, self.pages().is_listed(&path)) => read,
                };
                self.pages().take(&path, read, monotonic_ms(), |period| self.scaled(period).as_millis() as u64);
            }
        }
    }

    /// What is known.
    pub fn status(&self) -> PolicyStatus {
        let now_ms = monotonic_ms();
        let csp = match self.csp {
            Csp::Read => "read",
            Csp::None => "none",
            Csp::Declared(_) => "declared",
        };
        let known = self.policies(now_ms).is_some();
        let status = |page: &Known| PageStatus {
            path: page.path.clone(),
            listed: page.listed,
            known: page.policies(now_ms, self.max_age_ms()).is_some(),
            problem: page.problem.clone(),
        };
        PolicyStatus { csp: csp.into(), known, pages: self.pages().known.iter().map(status).collect() }
    }

    /// The words for what browsers are not sent to that peer for.
    pub fn blocked_at(&self, domain: &str) -> Vec<String> {
        let blocked = self.board.blocked(domain);
        Destination::ALL.into_iter().filter(|d| blocked.contains(*d)).map(|d| name(d).to_owned()).collect()
    }

    /// The strictest intersection, if it is known.
    fn policies(&self, now_ms: u64) -> Option<Policies> {
        match &self.csp {
            Csp::None => Some(Policies::default()),
            Csp::Declared(text) => Some(Policies::declared(text)),
            Csp::Read => self.pages().policies(now_ms, self.max_age_ms()),
        }
    }

    async fn read(&self, path: &str, is_listed: bool) -> Result<Policies, PageError> {
        let url = Url::parse(&format!("https://{}{path}", self.site))
            .map_err(|_| PageError::Elsewhere("no URL".to_owned()))?;
        let headers = HeaderMap::from_iter([
            (ACCEPT, HeaderValue::from_static("text/html")),
            (USER_AGENT, HeaderValue::from_static(READER)),
        ]);
        let page = page::get(&self.connector, url, &headers, false).await?;
        // Visitors were not led on, or the path would not be known: what strangers are led to is another page.
        if !is_listed && page.url.path() != path {
            return Err(PageError::Elsewhere(page.url.into()));
        }
        Ok(Policies::of_page(&page.headers, &page.html))
    }

    fn publish(&self, published: &mut Published) {
        let policies = self.policies(monotonic_ms());
        if published.policies != policies {
            published.policies = policies;
            published.by_name.clear();
        }
        for peer in self.membership.peers() {
            let record = &peer.record;
            let policies = &published.policies;
            let judge = || policies.as_ref().map_or_else(governed, |p| blocked(p, &self.site, &record.replica_name));
            let blocked = *published.by_name.entry(record.replica_name.clone()).or_insert_with(judge);
            let serves_attachments = record.capabilities.iter().any(|capability| capability == ATTACHMENTS);
            let blocked = if serves_attachments { blocked } else { blocked.with(Destination::Download) };
            self.board.set_blocked(&record.domain, &record.replica_name, blocked);
        }
        if published.by_name.len() > self.membership.peers().len() {
            published.by_name.clear();
        }
    }

    fn scaled(&self, period: Duration) -> Duration {
        period.mul_f64(self.time_scale)
    }

    fn max_age_ms(&self) -> u64 {
        self.scaled(MAX_AGE).as_millis() as u64
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Some sites give browsers another policy than tools; this is for all that look like one.
const READER: &str = concat!("Mozilla/5.0 (compatible; p2pcdn/", env!("CARGO_PKG_VERSION"), ")");

/// What was worked out for the policies that were known last.
#[derive(Default)]
struct Published {
    policies: Option<Policies>,
    by_name: HashMap<String, Destinations>,
}
