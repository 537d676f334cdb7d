//! Which pages are read, when, and what they say together; pure, so time is an argument.

use std::time::Duration;

use p2pcdn_core::lookup::{MAX_PATH_BYTES, WELL_KNOWN};

use super::page::PageError;
use super::{Policies, strictest};

/// Every page is read this often.
const PERIOD: Duration = Duration::from_secs(300);
/// The first retry after a failure; each further one waits twice as long, up to [`PERIOD`].
const RETRY: Duration = Duration::from_secs(2);
/// Pages that are known from visitors. Beyond that one makes room: first those not read yet, then the one that has not been
/// visited for longest.
const MAX_VISITED: usize = 64;
/// A path that browsers were not seen to open so often is not asked for: it may be a link that works once, as for a new password.
const READ_AFTER_VISITS: u32 = 3;
/// Distinct policies of pages that made room; the oldest goes first.
const MAX_REMEMBERED: usize = 64;

/// Pages that operators list and pages that browsers were seen to open.
#[derive(Default)]
pub(super) struct Pages {
    pub(super) known: Vec<Known>,
    /// What pages said that made room, so that nobody can crowd out a policy by opening many pages.
    remembered: Vec<(Policies, u64)>,
}

pub(super) struct Known {
    pub(super) path: String,
    pub(super) listed: bool,
    visits: u32,
    visited_ms: u64,
    due_ms: u64,
    failures: u32,
    read: Option<(Policies, u64)>,
    /// Whether visitors see what strangers cannot read.
    is_private: bool,
    pub(super) problem: Option<String>,
}

impl Pages {
    /// Those that the operator has listed, all due.
    pub(super) fn listed(paths: &[String]) -> Self {
        let known = paths.iter().map(|path| Known::new(path.clone(), true, 0)).collect();
        Self { known, remembered: Vec::new() }
    }

    /// A browser has opened a page.
    pub(super) fn visited(&mut self, path: &str, now_ms: u64) {
        if let Some(known) = self.known.iter_mut().find(|known| known.path == path) {
            known.visited_ms = now_ms;
            known.visits = known.visits.saturating_add(1);
            return;
        }
        let visited = || self.known.iter().enumerate().filter(|(_, known)| !known.listed);
        if visited().count() >= MAX_VISITED
            && let Some((at, _)) = visited().min_by_key(|(_, known)| (known.is_told_apart(), known.visited_ms))
            && let Some((policies, read_ms)) = self.known.remove(at).said()
        {
            self.remembered.retain(|(remembered, _)| *remembered != policies);
            self.remembered.push((policies, read_ms));
            if self.remembered.len() > MAX_REMEMBERED {
                self.remembered.remove(0);
            }
        }
        self.known.push(Known::new(path.to_owned(), false, now_ms));
    }

    /// The page to read now.
    pub(super) fn due(&self, now_ms: u64) -> Option<String> {
        let may_be_read = |known: &&Known| known.listed || known.visits >= READ_AFTER_VISITS;
        let due = self.known.iter().filter(may_be_read).filter(|known| known.due_ms <= now_ms);
        due.min_by_key(|known| known.due_ms).map(|known| known.path.clone())
    }

    /// Takes in what came of reading a page; `scaled` gives a period in milliseconds.
    pub(super) fn take(
        &mut self,
        path: &str,
        read: Result<Policies, PageError>,
        now_ms: u64,
        scaled: impl Fn(Duration) -> u64,
    ) {
        let Some(at) = self.known.iter().position(|known| known.path == path) else { return };
        let known = &mut self.known[at];
        match read {
            Ok(policies) => {
                known.read = Some((policies, now_ms));
                known.problem = None;
                known.is_private = false;
                known.failures = 0;
                known.due_ms = now_ms + scaled(PERIOD);
            }
            Err(error) if error.is_final() && !error.is_private() && !known.listed => {
                self.known.remove(at);
            }
            Err(error) => {
                known.is_private = error.is_private() && !known.listed;
                if (known.listed || known.is_private) && known.failures == 0 {
                    tracing::warn!(page = %path, %error, "a page's policy cannot be read");
                }
                known.problem = Some(error.to_string());
                known.due_ms = now_ms + scaled(PERIOD.min(RETRY * (1 << known.failures.min(8))));
                known.failures = known.failures.saturating_add(1);
            }
        }
    }

    /// Whether the operator has listed a page.
    pub(super) fn is_listed(&self, path: &str) -> bool {
        self.known.iter().any(|known| known.listed && known.path == path)
    }

    /// Known once one of the listed pages is: what visitors open adds to that and never stands for it. And unknown again as long as visitors
    /// are shown a page that strangers cannot read, unless the operator has listed it.
    pub(super) fn policies(&self, now_ms: u64, max_age_ms: u64) -> Option<Policies> {
        let is_read = self.known.iter().any(|known| known.listed && known.policies(now_ms, max_age_ms).is_some());
        let is_hidden = |known: &Known| known.is_private && now_ms.saturating_sub(known.visited_ms) <= max_age_ms;
        let is_known = is_read && !self.known.iter().any(is_hidden);
        let known = self.known.iter().filter_map(|known| known.policies(now_ms, max_age_ms));
        let remembered = self.remembered.iter().filter(|(_, at)| now_ms.saturating_sub(*at) <= max_age_ms);
        is_known.then(|| strictest(known.chain(remembered.map(|(policies, _)| policies))))
    }
}

impl Known {
    pub(super) fn new(path: String, listed: bool, now_ms: u64) -> Self {
        Self {
            path,
            listed,
            visits: 1,
            visited_ms: now_ms,
            due_ms: now_ms,
            failures: 0,
            read: None,
            is_private: false,
            problem: None,
        }
    }

    /// Whether somebody has tried to read it and knows what it is.
    fn is_told_apart(&self) -> bool {
        self.read.is_some() || self.is_private
    }

    /// What it says, and since when; of what cannot be read, that it may forbid everything.
    fn said(self) -> Option<(Policies, u64)> {
        if self.is_private { Some((Policies::declared("default-src 'none'"), self.visited_ms)) } else { self.read }
    }

    pub(super) fn policies(&self, now_ms: u64, max_age_ms: u64) -> Option<&Policies> {
        self.read.as_ref().filter(|(_, at)| now_ms.saturating_sub(*at) <= max_age_ms).map(|(policies, _)| policies)
    }
}

/// The path of a page, if it can be asked for. Queries are left out: they can be a visitor's own.
pub(super) fn page_path(target: &str) -> Option<&str> {
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
        Pages::listed(&paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>())
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
            let due = pages.known[0].due_ms;
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
        assert_eq!(pages.known.len(), 1 + MAX_VISITED);
        assert!(pages.known.iter().any(|known| known.listed));
        fail(&mut pages, "/100", StatusCode::BAD_GATEWAY, 1000);
        fail(&mut pages, "/101", StatusCode::NOT_FOUND, 1000);
        let has = |path: &str| pages.known.iter().any(|known| known.path == path);
        assert!(has("/100") && !has("/101"));
    }

    #[test]
    fn a_link_that_may_work_once_is_not_used_up() {
        let mut pages = listed(&[]);
        for visit in 1..READ_AFTER_VISITS {
            pages.visited("/reset/secret", visit.into());
            assert_eq!(pages.due(1000), None);
        }
        pages.visited("/reset/secret", 10);
        assert_eq!(pages.due(1000).as_deref(), Some("/reset/secret"));
    }

    #[test]
    fn nothing_is_known_while_visitors_see_a_page_that_strangers_cannot_read_and_that_is_not_listed() {
        let mut pages = listed(&["/"]);
        read(&mut pages, "/", "font-src 'self'", 0);
        pages.visited("/account", 5);
        assert!(pages.policies(5, AGE).is_some(), "it may be like the others");
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
            fail(&mut pages, "/account", status, 10);
            assert_eq!(pages.policies(10, AGE), None, "{status}");
            assert!(pages.known.iter().any(|known| known.path == "/account" && known.problem.is_some()));
        }
        read(&mut pages, "/", "font-src 'self'", AGE);
        assert_eq!(pages.policies(AGE + 5, AGE), None);
        assert!(pages.policies(AGE + 6, AGE).is_some(), "nobody has been there for long");
        read(&mut pages, "/account", "", AGE + 7);
        pages.visited("/account", AGE + 8);
        assert!(pages.policies(AGE + 8, AGE).is_some(), "it has been opened to everybody");

        let mut declared = listed(&["/", "/account"]);
        read(&mut declared, "/", "font-src 'self'", 0);
        declared.visited("/account", 5);
        fail(&mut declared, "/account", StatusCode::FORBIDDEN, 10);
        assert!(declared.policies(10, AGE).is_some(), "the operator knows of it");
    }

    #[test]
    fn opening_many_pages_does_not_hide_that_one_cannot_be_read() {
        let mut pages = listed(&["/"]);
        read(&mut pages, "/", "", 0);
        pages.visited("/account", 0);
        fail(&mut pages, "/account", StatusCode::FORBIDDEN, 0);
        for number in 0..4 * MAX_VISITED as u64 {
            let path = format!("/read/{number}");
            pages.visited(&path, 1000 + number);
            read(&mut pages, &path, "", 1000 + number);
        }
        assert!(!pages.known.iter().any(|known| known.path == "/account"));
        assert_eq!(pages.policies(2000, AGE), Some(Policies::declared("default-src 'none'")));
    }

    #[test]
    fn opening_many_pages_crowds_out_no_policy() {
        let mut pages = listed(&["/"]);
        read(&mut pages, "/", "font-src 'self'", 0);
        pages.visited("/strict", 0);
        read(&mut pages, "/strict", "img-src 'self'", 0);
        let both = Policies::declared("img-src 'self', font-src 'self'");
        for number in 0..4 * MAX_VISITED as u64 {
            pages.visited(&format!("/unread/{number}"), number);
        }
        assert!(pages.known.iter().any(|known| known.path == "/strict"), "pages that nobody has read go first");
        for number in 0..4 * MAX_VISITED as u64 {
            let path = format!("/read/{number}");
            pages.visited(&path, 1000 + number);
            read(&mut pages, &path, "", 1000 + number);
        }
        assert!(!pages.known.iter().any(|known| known.path == "/strict"));
        assert_eq!(pages.policies(2000, AGE), Some(both));
        read(&mut pages, "/", "font-src 'self'", AGE + 1);
        assert_eq!(pages.policies(AGE + 1, AGE), Some(Policies::declared("font-src 'self'")), "but not for ever");
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
