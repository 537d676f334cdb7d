//! What is known first-hand of one peer, and what follows from it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::formulas::Formulas;
use super::reliability::Reliability;

/// How a peer came to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// The operator listed its domain.
    Invited,
    /// It joined an open membership.
    Open,
}

/// What one audit found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The right bytes, in time.
    Good,
    /// Complete, and neither this version nor, within its grace, the one before.
    WrongBytes,
    /// The peer does not have the object, or sends clients back for it.
    Missing,
    /// The right bytes, but far slower than its lease promises.
    Slow,
    /// No answer.
    Unreachable,
}

impl Verdict {
    /// The verdict's name in messages, status and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::WrongBytes => "wrong_bytes",
            Self::Missing => "missing",
            Self::Slow => "slow",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Why a peer is looked at more closely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It sent a client back, or refused one, as the client says.
    Return,
    /// Credible others speak ill of it: the only cause that lowers its weight meanwhile, since nothing of it was seen here.
    Hearsay,
    /// Browsers of this site's own visitors report wrong bytes.
    Visitors,
}

/// One line of what happened; alike ones in a row are counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When it happened last.
    pub at_ms: u64,
    /// How many times in a row.
    pub count: u32,
    /// What.
    pub event: Event,
}

/// What can happen to a peer's reputation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// Became a peer.
    Met {
        /// How.
        membership: Membership,
    },
    /// Was audited.
    Audit {
        /// What was found.
        verdict: Verdict,
        /// The object; empty for good audits, which are counted together.
        path: String,
    },
    /// Redirects stopped until so many audits are clean.
    Strike {
        /// How many.
        owed: u32,
    },
    /// Was isolated.
    Isolated {
        /// Until when.
        until_ms: u64,
    },
    /// Was suspected.
    Suspected {
        /// Why.
        cause: Cause,
    },
    /// Own audits have ended a suspicion.
    Cleared,
    /// Redirects rest, since visitors fail where audits do not.
    Suspended {
        /// Until when.
        until_ms: u64,
        /// What was seen.
        because: String,
    },
    /// A suspension has ended early.
    Resumed,
    /// A proof that anybody can check convicts it.
    Convicted {
        /// Of what.
        because: String,
    },
    /// The operator has banned it.
    Banned,
    /// The operator has forgiven everything.
    Forgiven,
}

/// Lines that are kept of one peer; the oldest go.
const MAX_LINES: usize = 48;
/// Longest text in a line, in bytes.
const MAX_TEXT: usize = 256;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Suspicion {
    until_ms: u64,
    clean_left: u32,
    by_hearsay: bool,
}

/// What is known first-hand of one peer. What is known of its bytes stays with its registrable domain, in [`super::Marks`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// How it came to be a peer.
    pub membership: Membership,
    /// Since when.
    pub since_ms: u64,
    /// Good audits since the last wrong one.
    pub clean: u32,
    /// Audits by verdict, in the order of [`Verdict`], since the beginning.
    pub audits: [u64; 5],
    /// Audits that are due at once.
    pub first_audits: u32,
    /// Whether its answers can be relied upon.
    pub reliability: Reliability,
    /// Bytes per second that audits got, averaged; 0 for not measured yet.
    pub measured_bytes_per_s: f64,
    /// Until when visitors' evidence suspends redirects.
    pub suspended_until_ms: u64,
    /// When it was audited last.
    pub audited_ms: u64,
    suspensions: u32,
    suspicion: Option<Suspicion>,
    immune_until_ms: u64,
    lines: VecDeque<Line>,
}

impl Account {
    /// A peer that was met just now.
    pub fn new(membership: Membership, formulas: &Formulas, now_ms: u64) -> Self {
        let mut account = Self {
            membership,
            since_ms: now_ms,
            clean: 0,
            audits: [0; 5],
            first_audits: if membership == Membership::Invited { formulas.first_audits } else { 0 },
            reliability: Reliability::default(),
            measured_bytes_per_s: 0.0,
            suspended_until_ms: 0,
            audited_ms: now_ms,
            suspensions: 0,
            suspicion: None,
            immune_until_ms: 0,
            lines: VecDeque::new(),
        };
        account.note(Event::Met { membership }, now_ms);
        account
    }

    /// Takes in one audit; the peer's bytes are for [`super::Marks`].
    pub fn audited(&mut self, verdict: Verdict, path: &str, formulas: &Formulas, now_ms: u64) {
        if let Some(count) = self.audits.get_mut(verdict as usize) {
            *count = count.saturating_add(1);
        }
        self.audited_ms = now_ms;
        self.first_audits = self.first_audits.saturating_sub(1);
        match verdict {
            Verdict::Good => {
                self.clean = self.clean.saturating_add(1);
                self.reliability.note(true, formulas, now_ms);
                self.note(Event::Audit { verdict, path: String::new() }, now_ms);
                self.clear_a_little(formulas, now_ms);
                return;
            }
            // The bytes did arrive.
            Verdict::WrongBytes => self.clean = 0,
            Verdict::Missing | Verdict::Slow | Verdict::Unreachable => self.reliability.note(false, formulas, now_ms),
        }
        self.note(Event::Audit { verdict, path: shorten(path) }, now_ms);
    }

    /// Takes in how fast a body came.
    pub fn measured(&mut self, bytes_per_s: f64) {
        let known = self.measured_bytes_per_s;
        self.measured_bytes_per_s = if known > 0.0 { known + (bytes_per_s - known) * 0.2 } else { bytes_per_s };
    }

    /// Looks at the peer more closely from now on; true if that is news.
    pub fn suspected(&mut self, cause: Cause, formulas: &Formulas, now_ms: u64) -> bool {
        let by_hearsay = cause == Cause::Hearsay;
        if by_hearsay && now_ms < self.immune_until_ms {
            return false;
        }
        let until_ms = now_ms.saturating_add(formulas.suspicion_ms);
        match self.suspicion.as_mut().filter(|suspicion| now_ms < suspicion.until_ms) {
            // Hearsay lowers a weight once in a while and not for longer because it is repeated.
            Some(known) if known.by_hearsay || !by_hearsay => return false,
            Some(known) => *known = Suspicion { until_ms, by_hearsay, ..*known },
            None => self.suspicion = Some(Suspicion { until_ms, clean_left: formulas.suspicion_clean, by_hearsay }),
        }
        if by_hearsay {
            self.immune_until_ms = now_ms.saturating_add(formulas.immunity_ms);
        }
        self.note(Event::Suspected { cause }, now_ms);
        true
    }

    /// Lets redirects rest for visitors' sake.
    pub fn suspend(&mut self, because: &str, formulas: &Formulas, now_ms: u64) {
        self.suspensions = self.suspensions.saturating_add(1);
        self.suspended_until_ms = now_ms.saturating_add(formulas.suspension(self.suspensions));
        let event = Event::Suspended { until_ms: self.suspended_until_ms, because: shorten(because) };
        self.note(event, now_ms);
    }

    /// How often it was suspended.
    pub fn suspensions(&self) -> u32 {
        self.suspensions
    }

    /// The operator forgives everything that was held against it.
    pub fn forgive(&mut self, now_ms: u64) {
        (self.suspended_until_ms, self.suspensions, self.suspicion) = (0, 0, None);
        self.reliability = Reliability::default();
        self.note(Event::Forgiven, now_ms);
    }

    /// Whether it is suspected now.
    pub fn is_suspected(&self, now_ms: u64) -> bool {
        self.suspicion.as_ref().is_some_and(|suspicion| now_ms < suspicion.until_ms)
    }

    /// What is left of its weight for being suspected.
    pub fn exposure(&self, formulas: &Formulas, now_ms: u64) -> f64 {
        let lowers = |suspicion: &Suspicion| suspicion.by_hearsay && now_ms < suspicion.until_ms;
        if self.suspicion.as_ref().is_some_and(lowers) { formulas.suspicion_exposure } else { 1.0 }
    }

    /// Whether it joined an open membership and has not proven itself yet.
    pub fn is_newcomer(&self, formulas: &Formulas, now_ms: u64) -> bool {
        let is_young = now_ms < self.since_ms.saturating_add(formulas.probation_ms);
        self.membership == Membership::Open && (is_young || self.clean < formulas.probation_clean)
    }

    /// Good audits that it counts as known from the start.
    pub fn prior(&self, formulas: &Formulas) -> u32 {
        if self.membership == Membership::Invited { formulas.invited_prior } else { 0 }
    }

    /// What is left of its weight for being new.
    pub fn ramp(&self, formulas: &Formulas) -> f64 {
        match self.membership {
            Membership::Invited => 1.0,
            Membership::Open => (f64::from(self.clean) / f64::from(formulas.ramp_clean.max(1))).min(1.0),
        }
    }

    /// What happened, the oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter()
    }

    /// Remembers what happened.
    pub fn note(&mut self, event: Event, now_ms: u64) {
        match self.lines.back_mut().filter(|line| line.event == event) {
            Some(line) => (line.at_ms, line.count) = (now_ms, line.count.saturating_add(1)),
            None => {
                if self.lines.len() >= MAX_LINES {
                    self.lines.pop_front();
                }
                self.lines.push_back(Line { at_ms: now_ms, count: 1, event });
            }
        }
    }

    fn clear_a_little(&mut self, formulas: &Formulas, now_ms: u64) {
        let Some(suspicion) = &mut self.suspicion else { return };
        suspicion.clean_left = suspicion.clean_left.saturating_sub(1);
        if suspicion.clean_left == 0 {
            if suspicion.by_hearsay {
                self.immune_until_ms = now_ms.saturating_add(formulas.immunity_ms);
            }
            self.suspicion = None;
            self.note(Event::Cleared, now_ms);
        }
    }
}

/// As much of a text as is kept.
pub(super) fn shorten(text: &str) -> String {
    text.chars()
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= MAX_TEXT).then_some(c)
        })
        .collect()
}
