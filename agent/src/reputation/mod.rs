//! Whom to trust with visitors: first-hand evidence about every peer, and the weight that follows from it.
//!
//! Time comes as an argument, in milliseconds since the Unix epoch, and the judgements are pure, so the simulator runs this very
//! code. [`formulas`] has the constants. [`integrity`] and [`reliability`] are two separate judgements; an [`account`] joins them with
//! what else is known of one peer; [`Reputation`] has all accounts, and only the [`book`] that keeps them and the [`hearing`] that
//! joins them with gossip do I/O. A third party's word never isolates: hearsay raises audits and at most
//! halves a weight for a while.

pub mod account;
pub mod book;
pub mod formulas;
pub mod hearing;
pub mod integrity;
pub mod reliability;
#[cfg(test)]
mod tests;
mod why;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use account::{Account, Cause, Event, Membership, Verdict, shorten};
use formulas::Formulas;
use integrity::Integrity;

use crate::identity::neighbourhood::registrable;
pub use why::{Explanation, Factor};

/// Peers that are remembered; beyond that one goes that has nothing held against it: one that is no peer any more before those that are, one that
/// has never proven itself before those that have, and of these the one that was audited longest ago.
pub const MAX_ACCOUNTS: usize = 16_384;

/// What stays with a registrable domain, whatever names below it come and go.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Marks {
    /// What own audits say of the bytes.
    pub integrity: Integrity,
    /// Of what a proof convicts it.
    pub convicted: Option<String>,
    /// The operator's word.
    #[serde(default)]
    pub banned: bool,
    /// Convictions that the operator has forgiven, the latest last, at most [`MAX_PARDONS`]: others go on telling the proof.
    #[serde(default)]
    pardoned: Vec<String>,
}

/// Pardons of one registrable domain that are remembered.
const MAX_PARDONS: usize = 16;

/// All that is known first-hand of all peers.
#[derive(Debug, Clone)]
pub struct Reputation {
    formulas: Formulas,
    accounts: BTreeMap<String, Account>,
    marks: BTreeMap<String, Marks>,
    /// Who is a peer now.
    peers: BTreeSet<String>,
    changed: BTreeSet<String>,
}

/// What one audit has found of a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct Audited<'a> {
    /// The verdict.
    pub verdict: Verdict,
    /// Path of the object.
    pub path: &'a str,
    /// Bytes per second at which the body came, where it was long enough to tell.
    pub bytes_per_s: Option<f64>,
    /// When it began: of wrong ones that overlap, the first to end is a strike.
    pub begun_ms: u64,
}

/// Where a peer stands, the gravest that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum State {
    /// Gets redirects by its weight.
    Trusted,
    /// Gets a share of what newcomers get together.
    Newcomer,
    /// Served a wrong body and owes clean audits.
    Struck {
        /// How many.
        owed: u32,
    },
    /// Visitors fail there although audits do not.
    Suspended {
        /// Until when.
        until_ms: u64,
    },
    /// Served too many wrong bodies.
    Isolated {
        /// Until when.
        until_ms: u64,
    },
    /// A proof convicts it, until the operator forgives.
    Convicted,
    /// The operator has banned it.
    Banned,
}

impl State {
    /// Whether it gets redirects at all.
    pub fn gets_redirects(self) -> bool {
        matches!(self, Self::Trusted | Self::Newcomer)
    }
}

/// What follows for redirects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// 0 to 1; relative to other peers' weights.
    pub weight: f64,
    /// Whether it shares what newcomers get together.
    pub newcomer: bool,
    /// Why.
    pub state: State,
}

/// How much a peer wants auditing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Need {
    /// Good audits since the last wrong one.
    pub clean: u32,
    /// How much more often than others; 0 for not at all.
    pub factor: f64,
    /// Gets no redirects at present that audits could go by.
    pub rests: bool,
    /// Audits that are due at once.
    pub first: u32,
}

impl Reputation {
    /// What was known before; nothing at the very first.
    pub fn new(formulas: Formulas, accounts: BTreeMap<String, Account>, marks: BTreeMap<String, Marks>) -> Self {
        Self { formulas, accounts, marks, peers: BTreeSet::new(), changed: BTreeSet::new() }
    }

    /// The constants.
    pub fn formulas(&self) -> &Formulas {
        &self.formulas
    }

    /// These are all peers now: they are remembered before others.
    pub fn are_peers(&mut self, domains: BTreeSet<String>) {
        self.peers = domains;
    }

    /// A domain is a peer from now on. What was held against its registrable domain still is.
    pub fn meet(&mut self, domain: &str, membership: Membership, now_ms: u64) {
        match self.accounts.get_mut(domain) {
            Some(account) if account.membership == membership => return,
            // An invitation is the operator's word and counts at once; that it ended does not make a stranger of a peer.
            Some(account) => {
                account.membership = membership;
                account.note(Event::Met { membership }, now_ms);
            }
            None => {
                if self.accounts.len() >= MAX_ACCOUNTS && !self.make_room(now_ms) {
                    return;
                }
                self.accounts.insert(domain.to_owned(), Account::new(membership, &self.formulas, now_ms));
            }
        }
        self.changed.insert(domain.to_owned());
    }

    /// An audit has come to its end.
    pub fn audited(&mut self, domain: &str, audited: &Audited<'_>, now_ms: u64) {
        let Some(account) = self.accounts.get_mut(domain) else { return };
        account.audited(audited.verdict, audited.path, &self.formulas, now_ms);
        if let Some(bytes_per_s) = audited.bytes_per_s {
            account.measured(bytes_per_s);
        }
        match audited.verdict {
            Verdict::Good => {
                if let Some(marks) = self.marks.get_mut(registrable(domain)) {
                    marks.integrity.good(&self.formulas);
                }
            }
            Verdict::WrongBytes => {
                let Some(marks) = marks_of(&mut self.marks, domain) else { return };
                let integrity = &mut marks.integrity;
                // Several audits of a host run at once, and an accident that lasts a minute must not count as if it came again and again.
                if !integrity.has_struck_since(audited.begun_ms, now_ms) {
                    let isolates = integrity.wrong(&self.formulas, now_ms);
                    let (owed, until_ms) = (integrity.owed, integrity.isolated_until_ms);
                    account.note(if isolates { Event::Isolated { until_ms } } else { Event::Strike { owed } }, now_ms);
                }
            }
            Verdict::Missing | Verdict::Slow | Verdict::Unreachable => {}
        }
        self.changed.insert(domain.to_owned());
    }

    /// Looks at a peer more closely; true if that is news.
    pub fn suspected(&mut self, domain: &str, cause: Cause, now_ms: u64) -> bool {
        let Some(account) = self.accounts.get_mut(domain) else { return false };
        let is_news = account.suspected(cause, &self.formulas, now_ms);
        if is_news {
            self.changed.insert(domain.to_owned());
        }
        is_news
    }

    /// A proof that anybody can check convicts a peer, and whatever else is below its registrable domain.
    pub fn convicted(&mut self, domain: &str, because: &str, now_ms: u64) {
        let Some(marks) = marks_of(&mut self.marks, domain) else { return };
        let because = shorten(because);
        if marks.convicted.is_none() && !marks.pardoned.contains(&because) {
            marks.convicted = Some(because.clone());
            self.note(domain, Event::Convicted { because }, now_ms);
        }
    }

    /// Visitors of this very site keep failing at a peer although its audits are clean.
    pub fn suspended(&mut self, domain: &str, because: &str, now_ms: u64) {
        let Some(account) = self.accounts.get_mut(domain) else { return };
        if now_ms >= account.suspended_until_ms {
            account.suspend(because, &self.formulas, now_ms);
            self.changed.insert(domain.to_owned());
        }
    }

    /// A suspension ends early: others have more against them, and there is a bound on how many are suspended.
    pub fn resumed(&mut self, domain: &str, now_ms: u64) {
        let Some(account) = self.accounts.get_mut(domain) else { return };
        if now_ms < account.suspended_until_ms {
            account.suspended_until_ms = now_ms;
            account.note(Event::Resumed, now_ms);
            self.changed.insert(domain.to_owned());
        }
    }

    /// The operator forgives; false if nothing is known of the domain.
    pub fn forgive(&mut self, domain: &str, now_ms: u64) -> bool {
        let marks = self.marks.remove(registrable(domain));
        let had_marks = marks.is_some();
        if let Some(Marks { convicted, mut pardoned, .. }) = marks {
            pardoned.extend(convicted);
            pardoned.drain(..pardoned.len().saturating_sub(MAX_PARDONS));
            if !pardoned.is_empty() {
                self.marks.insert(registrable(domain).to_owned(), Marks { pardoned, ..Marks::default() });
            }
        }
        let account = self.accounts.get_mut(domain);
        let is_known = account.is_some();
        if let Some(account) = account {
            account.forgive(now_ms);
        }
        self.changed.insert(domain.to_owned());
        had_marks || is_known
    }

    /// The operator bans; false if nothing is known of the domain.
    pub fn ban(&mut self, domain: &str, now_ms: u64) -> bool {
        if !self.accounts.contains_key(domain) {
            return false;
        }
        if let Some(marks) = marks_of(&mut self.marks, domain) {
            marks.banned = true;
        }
        self.note(domain, Event::Banned, now_ms);
        true
    }

    /// What follows for redirects to a peer that `needed_bytes_per_s` are to be sent to; nothing gets redirects that is not known.
    pub fn standing(&self, domain: &str, needed_bytes_per_s: f64, now_ms: u64) -> Standing {
        let Some(account) = self.accounts.get(domain) else {
            let state = self.marked(domain, now_ms).unwrap_or(State::Newcomer);
            return Standing { weight: 0.0, newcomer: true, state };
        };
        let state = self.state(domain, account, now_ms);
        let newcomer = account.is_newcomer(&self.formulas, now_ms);
        if !state.gets_redirects() {
            return Standing { weight: 0.0, newcomer, state };
        }
        let reliability = account.reliability.score(account.prior(&self.formulas), &self.formulas, now_ms);
        let bandwidth = bandwidth(account.measured_bytes_per_s, needed_bytes_per_s);
        let exposure = account.exposure(&self.formulas, now_ms);
        let weight = reliability * reliability * bandwidth * account.ramp(&self.formulas) * exposure;
        // Whoever has passed no audit yet still needs some redirects for audits to go by.
        Standing { weight: weight.clamp(1e-4, 1.0), newcomer, state }
    }

    /// How much a peer wants auditing.
    pub fn need(&self, domain: &str, now_ms: u64) -> Need {
        let none = Need { clean: 0, factor: 0.0, rests: true, first: 0 };
        let Some(account) = self.accounts.get(domain) else { return none };
        let factor = match self.state(domain, account, now_ms) {
            State::Isolated { .. } | State::Convicted | State::Banned => return none,
            State::Struck { .. } => self.formulas.strike_audits,
            _ if account.is_suspected(now_ms) => self.formulas.suspicion_audits,
            // As long as a strike counts, what was made good is not yet forgotten.
            _ if self.marks(domain).is_some_and(|marks| marks.integrity.is_marked(&self.formulas, now_ms)) => {
                self.formulas.strike_audits
            }
            State::Trusted | State::Newcomer | State::Suspended { .. } => 1.0,
        };
        let rests = !self.state(domain, account, now_ms).gets_redirects();
        Need { clean: account.clean, factor, rests, first: account.first_audits }
    }

    /// One peer.
    pub fn account(&self, domain: &str) -> Option<&Account> {
        self.accounts.get(domain)
    }

    /// What stays with the registrable domain of a peer.
    pub fn marks(&self, domain: &str) -> Option<&Marks> {
        self.marks.get(registrable(domain))
    }

    /// Every peer that is remembered.
    pub fn domains(&self) -> impl Iterator<Item = &String> {
        self.accounts.keys()
    }

    /// Every peer that is suspended, for how many milliseconds yet, and how often it has been so far.
    pub fn suspensions(&self, now_ms: u64) -> impl Iterator<Item = (&String, u64, u32)> {
        let rests = self.accounts.iter().filter(move |(_, account)| now_ms < account.suspended_until_ms);
        rests.map(move |(domain, account)| (domain, account.suspended_until_ms - now_ms, account.suspensions()))
    }

    /// Every peer that is invited, or that has proven itself since it joined.
    pub fn proven(&self, now_ms: u64) -> impl Iterator<Item = &String> {
        let is_proven = move |(_, account): &(&String, &Account)| !account.is_newcomer(&self.formulas, now_ms);
        self.accounts.iter().filter(is_proven).map(|(domain, _)| domain)
    }

    /// Has these domains count as changed.
    pub fn touch(&mut self, domains: impl Iterator<Item = String>) {
        self.changed.extend(domains);
    }

    /// Domains whose account or marks changed since this was last asked.
    pub fn take_changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    fn state(&self, domain: &str, account: &Account, now_ms: u64) -> State {
        match self.marked(domain, now_ms) {
            Some(state) => state,
            None if now_ms < account.suspended_until_ms => State::Suspended { until_ms: account.suspended_until_ms },
            None if account.is_newcomer(&self.formulas, now_ms) => State::Newcomer,
            None => State::Trusted,
        }
    }

    /// What is held against the registrable domain, if anything.
    fn marked(&self, domain: &str, now_ms: u64) -> Option<State> {
        let marks = self.marks.get(registrable(domain))?;
        let (integrity, owed) = (&marks.integrity, marks.integrity.owes(&self.formulas, now_ms));
        if marks.banned {
            Some(State::Banned)
        } else if marks.convicted.is_some() {
            Some(State::Convicted)
        } else if integrity.is_isolated(now_ms) {
            Some(State::Isolated { until_ms: integrity.isolated_until_ms })
        } else {
            (owed > 0).then_some(State::Struck { owed })
        }
    }

    fn note(&mut self, domain: &str, event: Event, now_ms: u64) {
        if let Some(account) = self.accounts.get_mut(domain) {
            account.note(event, now_ms);
        }
        self.changed.insert(domain.to_owned());
    }

    fn make_room(&mut self, now_ms: u64) -> bool {
        let is_blameless = |(domain, account): &(&String, &Account)| {
            now_ms >= account.suspended_until_ms && !self.marks.contains_key(registrable(domain))
        };
        let worth = |(domain, account): &(&String, &Account)| {
            // Any number of strangers come and go, and must not push out who was known before.
            (self.peers.contains(*domain), !account.is_newcomer(&self.formulas, now_ms), account.audited_ms)
        };
        let least = self.accounts.iter().filter(is_blameless).min_by_key(worth);
        let Some(domain) = least.map(|(domain, _)| domain.clone()) else { return false };
        self.accounts.remove(&domain);
        self.changed.insert(domain);
        true
    }
}

/// The marks of a domain, new ones if there are none. Where as many domains are marked as there can be accounts, one goes that owes nothing;
/// none if there is no such one.
fn marks_of<'a>(marks: &'a mut BTreeMap<String, Marks>, domain: &str) -> Option<&'a mut Marks> {
    let domain = registrable(domain);
    if !marks.contains_key(domain) && marks.len() >= MAX_ACCOUNTS {
        let owes_nothing = |marks: &Marks| {
            !marks.banned && marks.convicted.is_none() && marks.integrity.isolations == 0 && marks.integrity.owed == 0
        };
        let settled = marks.iter().find(|(_, marks)| owes_nothing(marks)).map(|(domain, _)| domain.clone())?;
        marks.remove(&settled);
    }
    Some(marks.entry(domain.to_owned()).or_default())
}

/// The share of what is needed that a peer was seen to deliver; 1 as long as that is not known.
fn bandwidth(measured_bytes_per_s: f64, needed_bytes_per_s: f64) -> f64 {
    if measured_bytes_per_s <= 0.0 || needed_bytes_per_s <= 0.0 {
        return 1.0;
    }
    (measured_bytes_per_s / needed_bytes_per_s).min(1.0)
}
