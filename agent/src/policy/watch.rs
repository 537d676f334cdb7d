//! Keeps what is known of the site's policies current, and tells the filter.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderMap, HeaderValue};
use p2pcdn_core::destination::{Destination, Destinations};
use p2pcdn_core::lookup::{MAX_PATH_BYTES, WELL_KNOWN};
use p2pcdn_core::sync::MAX_PAGES;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::page::{self, PageError};
use super::{Policies, blocked, governed, name, strictest};
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

/// Every page is read this often.
const PERIOD: Duration = Duration::from_secs(300);
/// The first retry after a failure; each further one waits twice as long, up to [`PERIOD`].
const RETRY: Duration = Duration::from_secs(2);
/// So long after it was last read, a page is no longer known.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// At most one page is read in this time, whatever visitors ask for.
const PACE: Duration = Duration::from_secs(1);
/// Pages that are known from visitors; the one that has not been visited for longest makes room.
const MAX_VISITED: usize = 64;

/// Pages that operators list and pages that browsers were seen to open.
#[derive(Default)]
struct Pages(Vec<Known>);

struct Known {
    path: String,
    listed: bool,
    visited_ms: u64,
    due_ms: u64,
    failures: u32,
    read: Option<(Policies, u64)>,
    problem: Option<String>,
}

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
        let pages = Mutex::new(Pages(listed.iter().map(|path| Known::new(path.clone(), true, 0)).collect()));
        let at_first = if settings.csp == Csp::None { Destinations::NONE } else { governed() };
        board.set_blocked_at_first(at_first.with(Destination::Download));
        Self { site, csp: settings.csp.clone(), connector, membership, board, time_scale, pages }
    }

    /// Takes in paths that browsers navigated to; what is no page turns out when it is read.
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
                    read = self.read(&path) => read,
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
        PolicyStatus { csp: csp.into(), known, pages: self.pages().0.iter().map(status).collect() }
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

    async fn read(&self, path: &str) -> Result<Policies, PageError> {
        let url = Url::parse(&format!("https://{}{path}", self.site))
            .map_err(|_| PageError::Elsewhere("no URL".to_owned()))?;
        let headers = HeaderMap::from_iter([
            (ACCEPT, HeaderValue::from_static("text/html")),
            (USER_AGENT, HeaderValue::from_static(READER)),
        ]);
        let page = page::get(&self.connector, url, &headers, false).await?;
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

impl Pages {
    fn visited(&mut self, path: &str, now_ms: u64) {
        if let Some(known) = self.0.iter_mut().find(|known| known.path == path) {
            known.visited_ms = now_ms;
            return;
        }
        let visited = || self.0.iter().enumerate().filter(|(_, known)| !known.listed);
        if visited().count() >= MAX_VISITED
            && let Some((oldest, _)) = visited().min_by_key(|(_, known)| known.visited_ms)
        {
            self.0.remove(oldest);
        }
        self.0.push(Known::new(path.to_owned(), false, now_ms));
    }

    fn due(&self, now_ms: u64) -> Option<String> {
        let due = self.0.iter().filter(|known| known.due_ms <= now_ms);
        due.min_by_key(|known| known.due_ms).map(|known| known.path.clone())
    }

    /// `scaled` gives a period in milliseconds.
    fn take(&mut self, path: &str, read: Result<Policies, PageError>, now_ms: u64, scaled: impl Fn(Duration) -> u64) {
        let Some(at) = self.0.iter().position(|known| known.path == path) else { return };
        let known = &mut self.0[at];
        match read {
            Ok(policies) => {
                known.read = Some((policies, now_ms));
                known.problem = None;
                known.failures = 0;
                known.due_ms = now_ms + scaled(PERIOD);
            }
            Err(error) if error.is_final() && !known.listed => {
                self.0.remove(at);
            }
            Err(error) => {
                if known.listed && known.failures == 0 {
                    tracing::warn!(page = %path, %error, "a page's policy cannot be read");
                }
                known.problem = Some(error.to_string());
                known.due_ms = now_ms + scaled(PERIOD.min(RETRY * (1 << known.failures.min(8))));
                known.failures = known.failures.saturating_add(1);
            }
        }
    }

    /// Known once one of the listed pages is: what visitors open adds to that and never stands for it.
    fn policies(&self, now_ms: u64, max_age_ms: u64) -> Option<Policies> {
        let is_known = self.0.iter().any(|known| known.listed && known.policies(now_ms, max_age_ms).is_some());
        is_known.then(|| strictest(self.0.iter().filter_map(|known| known.policies(now_ms, max_age_ms))))
    }
}

impl Known {
    fn new(path: String, listed: bool, now_ms: u64) -> Self {
        Self { path, listed, visited_ms: now_ms, due_ms: now_ms, failures: 0, read: None, problem: None }
    }

    fn policies(&self, now_ms: u64, max_age_ms: u64) -> Option<&Policies> {
        self.read.as_ref().filter(|(_, at)| now_ms.saturating_sub(*at) <= max_age_ms).map(|(policies, _)| policies)
    }
}

/// The path of a page, if it can be asked for. Queries are left out: they can be a visitor's own.
fn page_path(target: &str) -> Option<&str> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let is_plain = path.len() <= MAX_PATH_BYTES && path.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b'\\');
    (is_plain && path.starts_with('/') && !path.starts_with("//") && !path.starts_with(WELL_KNOWN)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    const AGE: u64 = 3_600_000;

    fn listed(paths: &[&str]) -> Pages {
        Pages(paths.iter().map(|path| Known::new((*path).to_owned(), true, 0)).collect())
    }

    fn read(pages: &mut Pages, path: &str, policy: &str, now_ms: u64) {
        pages.take(path, Ok(Policies::declared(policy)), now_ms, |period| period.as_millis() as u64);
    }

    fn fail(pages: &mut Pages, path: &str, status: StatusCode, now_ms: u64) {
        pages.take(path, Err(PageError::Status(status)), now_ms, |period| period.as_millis() as u64);
    }

    #[test]
    fn nothing_is_known_until_a_listed_page_has_been_read_and_again_when_that_is_long_ago() {
        let mut pages = listed(&["/", "/shop"]);
        pages.visited("/visited", 0);
        read(&mut pages, "/visited", "img-src 'self'", 1);
        assert_eq!(pages.policies(1, AGE), None);
        read(&mut pages, "/shop", "font-src 'self'", 2);
        let both = Policies::declared("img-src 'self', font-src 'self'");
        assert_eq!(pages.policies(2, AGE), Some(both.clone()));
        fail(&mut pages, "/shop", StatusCode::BAD_GATEWAY, 3);
        fail(&mut pages, "/shop", StatusCode::NOT_FOUND, 4);
        assert_eq!(pages.policies(AGE, AGE), Some(both), "an outage is when redirects are needed");
        assert_eq!(pages.policies(AGE + 3, AGE), None);
    }

    #[test]
    fn failures_are_retried_ever_later_and_at_most_as_late_as_a_page_is_read_anyway() {
        let mut pages = listed(&["/"]);
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert_eq!(pages.due(now).as_deref(), Some("/"));
            fail(&mut pages, "/", StatusCode::SERVICE_UNAVAILABLE, now);
            let due = pages.0[0].due_ms;
            waits.push((due - now) / 1000);
            now = due;
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn what_visitors_opened_is_bounded_and_forgotten_if_it_is_no_page_for_strangers() {
        let mut pages = listed(&["/"]);
        for number in 0..2 * MAX_VISITED as u64 {
            pages.visited(&format!("/{number}"), number);
        }
        assert_eq!(pages.0.len(), 1 + MAX_VISITED);
        assert!(pages.0.iter().any(|known| known.listed));
        fail(&mut pages, "/100", StatusCode::BAD_GATEWAY, 1000);
        fail(&mut pages, "/101", StatusCode::UNAUTHORIZED, 1000);
        let has = |path: &str| pages.0.iter().any(|known| known.path == path);
        assert!(has("/100") && !has("/101"));
    }

    #[test]
    fn only_paths_that_can_be_asked_for_are_taken_in() {
        for (target, path) in [
            ("/a?token=secret", Some("/a")),
            ("/%C3%A4/b", Some("/%C3%A4/b")),
            ("", None),
            ("a", None),
            ("//evil.test/", None),
            ("/a b", None),
            ("/a\r\nx", None),
            ("/.well-known/p2pcdn/v1/peer", None),
        ] {
            assert_eq!(page_path(target), path, "{target:?}");
        }
    }
}
