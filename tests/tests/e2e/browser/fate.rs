//! What became of a browser's requests, as the proxies of origin and hosts saw them.

use std::fmt;
use std::time::Duration;

use p2pcdn_tests::access::Access;
use p2pcdn_tests::{Site, poll};

use super::page::Page;

/// For the last lines of the logs to be written, on a busy machine, too.
const LOGGED: Duration = Duration::from_secs(15);
const REPLICAS: &str = "/.well-known/p2pcdn/v1/r/";
const RETURNS: &str = "/.well-known/p2pcdn/v1/back";

/// What becomes of the requests for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The origin answers.
    Local,
    /// A host answers.
    Redirected,
    /// A host sends the browser back to the origin, which answers.
    Returned,
    /// The origin redirects, and the browser does not follow.
    Refused,
    /// Nobody asks for it.
    Unasked,
}

/// Something that did not go as it should.
pub(super) struct Wrong {
    /// Name of the page.
    pub(super) page: &'static str,
    /// What went how.
    pub(super) what: String,
    /// Whether a host that seemed to be away for a moment explains it; not if something left that was to stay.
    pub(super) may_be_chance: bool,
}

impl fmt::Debug for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// What the sites have logged since some moment.
pub(super) struct Accesses {
    before: Vec<usize>,
}

impl Accesses {
    /// Nothing of what has been logged until now.
    pub(super) fn from_now_on(sites: &[Site]) -> Self {
        Self { before: sites.iter().map(|site| site.accesses().unwrap().len()).collect() }
    }

    /// Every file of the pages that did not go the way that was meant for it.
    pub(super) async fn wrong(&self, sites: &[Site], pages: &[&Page]) -> Vec<Wrong> {
        let all_right = poll(LOGGED, "every fate", async || match self.wrong_yet(sites, pages) {
            wrong if wrong.is_empty() => Ok(()),
            wrong => Err(wrong.len()),
        });
        if all_right.await.is_ok() { Vec::new() } else { self.wrong_yet(sites, pages) }
    }

    fn wrong_yet(&self, sites: &[Site], pages: &[&Page]) -> Vec<Wrong> {
        let seen: Vec<Vec<Access>> =
            sites.iter().zip(&self.before).map(|(site, before)| site.accesses().unwrap().split_off(*before)).collect();
        let mut wrong = Vec::new();
        for page in pages {
            for (path, meant) in page.files() {
                let fate = fate(&seen, &path);
                if fate != Ok(meant) {
                    let stays = |fate| matches!(fate, Fate::Local | Fate::Unasked);
                    let may_be_chance = !stays(meant) || fate.as_ref().is_ok_and(|fate| stays(*fate));
                    let what = format!("{path}: {fate:?} in place of {meant:?}");
                    wrong.push(Wrong { page: page.name, what, may_be_chance });
                }
            }
        }
        wrong
    }
}

fn fate(seen: &[Vec<Access>], path: &str) -> Result<Fate, Vec<Access>> {
    let (origin, hosts) = seen.split_first().unwrap();
    // Agents ask hosts for replicas all the time.
    let of_browser = |access: &&Access| access.agent.as_deref().is_some_and(|agent| agent.contains("HeadlessChrome/"));
    let at_origin = |prefix: &str| {
        let whole = format!("{prefix}{path}");
        let is_it = move |access: &&Access| access.path.split('?').next() == Some(&whole);
        origin.iter().filter(of_browser).filter(is_it).collect::<Vec<_>>()
    };
    let is_replica = |access: &&Access| access.path.starts_with(REPLICAS) && access.path.ends_with(path);
    let at_hosts: Vec<_> = hosts.iter().flatten().filter(of_browser).filter(is_replica).collect();
    let (asked, back) = (at_origin(""), at_origin(RETURNS));
    let redirected = asked.iter().filter(|access| access.status == 307).count();
    let served = at_hosts.iter().filter(|access| matches!(access.status, 200 | 206)).count();
    let sent_back = at_hosts.iter().filter(|access| access.status == 302).count();
    match (asked.len(), redirected, at_hosts.len()) {
        (0, _, 0) => Ok(Fate::Unasked),
        (_, 0, 0) => Ok(Fate::Local),
        (all, redirected, 0) if all == redirected => Ok(Fate::Refused),
        (all, redirected, at_hosts) if all == redirected && at_hosts == served => Ok(Fate::Redirected),
        (all, redirected, at_hosts) if all == redirected && at_hosts == sent_back && !back.is_empty() => {
            Ok(Fate::Returned)
        }
        _ => Err([asked, at_hosts, back].concat().into_iter().cloned().collect()),
    }
}
