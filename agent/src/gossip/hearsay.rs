//! What a reporter's word is worth, and what is made of it. Pure.
//!
//! A reporter's credit is how well its lists agree with what this site's own audits found at the same hosts: nothing below ten comparisons, and
//! a comparison only where the one would have had to see what the other saw. A warning of credible reporters makes this site look there
//! more often, and that is all that it does for good. When own audits then find nothing, whoever warned loses most of its credit, and the host
//! is out of reach of hearsay for a week. Good words do no more than put candidates in an order. Nobody's word says that somebody is alive.

use std::collections::HashMap;

use super::statements::{Observation, Observations};
use crate::reputation::formulas::Formulas;

/// What own audits have found at one host so far; all numbers only grow, except when they are forgotten by halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnView {
    /// Audits.
    pub audits: u64,
    /// Of these, with wrong bytes.
    pub wrong: u64,
    /// Of these, with nothing, too little or nobody.
    pub bad: u64,
}

/// Those of the [`Formulas`] by which own audits are judged that go for hearsay as well. Periods are in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// A host is suspected by hearsay at most once in this time.
    suspicion_ms: u64,
    /// How long a host that own audits have cleared is out of reach of hearsay.
    immunity_ms: u64,
    /// Clean own audits after a warning that disprove it.
    clearing: u64,
    /// Time in which comparisons and disproofs are forgotten by half.
    half_life_ms: u64,
}

impl From<&Formulas> for Rules {
    fn from(formulas: &Formulas) -> Self {
        let Formulas { suspicion_ms, immunity_ms, suspicion_clean, half_lives_ms: [_, half_life_ms], .. } = *formulas;
        Self { suspicion_ms, immunity_ms, clearing: suspicion_clean.max(1).into(), half_life_ms }
    }
}

/// Comparisons below which a reporter has no credit.
const MIN_COMPARISONS: f64 = 10.0;
/// Credit of all who warn together from which on a host is suspected.
const SUSPICIOUS: f64 = 0.5;
/// What is left of a reporter's credit after one of its warnings was disproved.
const AFTER_DISPROOF: f64 = 0.25;
/// Warnings of one reporter that are open at the same time; further ones wait for its next list.
const MAX_OPEN_WARNINGS: usize = 3;
/// Reporters that are remembered; the one that was silent for longest makes room.
pub const MAX_REPORTERS: usize = 4096;
/// Hosts about which something is remembered; of those without an open warning the one heard of longest ago makes room.
pub const MAX_SUBJECTS: usize = 4096;
/// Warnings of one host that are open at the same time.
const MAX_WARNINGS: usize = 8;

/// What was heard, and from whom.
#[derive(Debug)]
pub struct Hearsay {
    rules: Rules,
    reporters: HashMap<String, Reporter>,
    subjects: HashMap<String, Subject>,
}

#[derive(Debug, Default)]
struct Reporter {
    agreed: f64,
    disagreed: f64,
    disproved: f64,
    heard_ms: u64,
    open: usize,
}

#[derive(Debug, Default)]
struct Subject {
    warnings: Vec<Warning>,
    suspected_ms: Option<u64>,
    immune_until_ms: u64,
    praise: f64,
    heard_ms: u64,
}

#[derive(Debug)]
struct Warning {
    reporter: String,
    /// What own audits had found by then.
    before: OwnView,
    at_ms: u64,
}

impl Hearsay {
    /// Nothing heard yet; periods and numbers of audits are those of `formulas`.
    pub fn new(formulas: &Formulas) -> Self {
        Self { rules: formulas.into(), reporters: HashMap::new(), subjects: HashMap::new() }
    }

    /// Takes in a list of `reporter` that was not heard before; returns the hosts that are suspected from now on. `own` says what own audits
    /// have found, `now_ms` is milliseconds since any fixed time.
    pub fn hear(
        &mut self,
        reporter: &str,
        list: &Observations,
        own: impl Fn(&str) -> Option<OwnView>,
        now_ms: u64,
    ) -> Vec<String> {
        self.review(&own, now_ms);
        self.compare(reporter, list, &own, now_ms);
        let credit = self.credit(reporter);
        let mut suspected = Vec::new();
        if credit <= 0.0 {
            return suspected;
        }
        for said in &list.entries {
            let before = own(&said.subject).unwrap_or_default();
            if is_warning(said) {
                if self.warn(reporter, &said.subject, before, now_ms) {
                    suspected.push(said.subject.clone());
                }
            } else if u64::from(said.good) >= self.rules.clearing {
                let subject = self.subject(&said.subject, now_ms);
                subject.praise = subject.praise.max(credit);
            }
        }
        suspected
    }

    /// Looks at what own audits have found since each warning: those who were wrong lose credit, those who were right gain some.
    pub fn review(&mut self, own: impl Fn(&str) -> Option<OwnView>, now_ms: u64) {
        let Self { rules, reporters, subjects } = self;
        for (domain, subject) in subjects.iter_mut().filter(|(_, subject)| !subject.warnings.is_empty()) {
            let seen = own(domain).unwrap_or_default();
            subject.warnings.retain(|warning| {
                let Warning { reporter, before, at_ms } = warning;
                let Some(reporter) = reporters.get_mut(reporter) else { return false };
                let audits = seen.audits.saturating_sub(before.audits);
                let (wrong, bad) = (seen.wrong.saturating_sub(before.wrong), seen.bad.saturating_sub(before.bad));
                if wrong > 0 || (bad > 0 && 2 * bad >= audits) {
                    reporter.agreed += 1.0;
                } else if audits >= rules.clearing {
                    reporter.disproved += 1.0;
                    subject.immune_until_ms = now_ms.saturating_add(rules.immunity_ms);
                } else if now_ms.saturating_sub(*at_ms) < rules.immunity_ms {
                    // Of whom this site never looks at, nothing will be found out: that is no reason to hear nothing else for ever.
                    return true;
                }
                reporter.open = reporter.open.saturating_sub(1);
                false
            });
        }
    }

    /// How much the reporter's word counts, from 0 to 1.
    pub fn credit(&self, reporter: &str) -> f64 {
        let Some(reporter) = self.reporters.get(reporter) else { return 0.0 };
        let Reporter { agreed, disagreed, disproved, .. } = reporter;
        let comparisons = agreed + disagreed;
        // Halves of forgotten comparisons add up to a little less than whole ones.
        if comparisons + 0.05 < MIN_COMPARISONS {
            return 0.0;
        }
        ((agreed - 2.0 * disagreed) / comparisons).clamp(0.0, 1.0) * AFTER_DISPROOF.powf(*disproved)
    }

    /// How much good was heard of a host, from 0 to 1: for the order of candidates, and nothing else.
    pub fn praise(&self, subject: &str) -> f64 {
        self.subjects.get(subject).map_or(0.0, |subject| subject.praise)
    }

    fn compare(&mut self, name: &str, list: &Observations, own: impl Fn(&str) -> Option<OwnView>, now_ms: u64) {
        if !self.reporters.contains_key(name) && self.reporters.len() >= MAX_REPORTERS {
            let silent =
                self.reporters.iter().min_by_key(|(_, reporter)| reporter.heard_ms).map(|(name, _)| name.clone());
            silent.map(|silent| self.reporters.remove(&silent));
        }
        let half_life_ms = self.rules.half_life_ms as f64;
        let reporter = self.reporters.entry(name.to_owned()).or_default();
        let left = 0.5_f64.powf(now_ms.saturating_sub(reporter.heard_ms) as f64 / half_life_ms);
        for count in [&mut reporter.agreed, &mut reporter.disagreed, &mut reporter.disproved] {
            *count *= left;
        }
        reporter.heard_ms = now_ms;
        // A reporter knows best how it does itself, and would say nothing else.
        for said in list.entries.iter().filter(|said| said.subject != name) {
            match own(&said.subject).and_then(|seen| agrees(said, &seen)) {
                Some(true) => reporter.agreed += 1.0,
                Some(false) => reporter.disagreed += 1.0,
                None => {}
            }
        }
    }

    /// Notes a warning; whether its host is suspected from now on.
    fn warn(&mut self, name: &str, domain: &str, before: OwnView, now_ms: u64) -> bool {
        let rules = self.rules;
        let open = self.reporters.get(name).map_or(0, |reporter| reporter.open);
        let subject = self.subject(domain, now_ms);
        let is_noted = subject.warnings.iter().any(|warning| warning.reporter == name);
        if subject.immune_until_ms > now_ms || (!is_noted && subject.warnings.len() >= MAX_WARNINGS) {
            return false;
        }
        if !is_noted {
            if open >= MAX_OPEN_WARNINGS {
                return false;
            }
            subject.warnings.push(Warning { reporter: name.to_owned(), before, at_ms: now_ms });
            self.reporters.entry(name.to_owned()).or_default().open += 1;
        }
        let Some(subject) = self.subjects.get(domain) else { return false };
        let weight: f64 = subject.warnings.iter().map(|warning| self.credit(&warning.reporter)).sum();
        let is_recent = subject.suspected_ms.is_some_and(|at| now_ms.saturating_sub(at) < rules.suspicion_ms);
        let is_suspected = weight >= SUSPICIOUS && !is_recent;
        if is_suspected && let Some(subject) = self.subjects.get_mut(domain) {
            subject.suspected_ms = Some(now_ms);
        }
        is_suspected
    }

    fn subject(&mut self, domain: &str, now_ms: u64) -> &mut Subject {
        if !self.subjects.contains_key(domain) && self.subjects.len() >= MAX_SUBJECTS {
            let settled = self.subjects.iter().filter(|(_, subject)| subject.warnings.is_empty());
            let oldest = settled.min_by_key(|(_, subject)| subject.heard_ms).or_else(|| self.subjects.iter().next());
            let oldest = oldest.map(|(domain, _)| domain.clone());
            oldest.map(|oldest| self.subjects.remove(&oldest));
        }
        let subject = self.subjects.entry(domain.to_owned()).or_default();
        subject.heard_ms = now_ms;
        subject
    }
}

/// Wrong bytes, or a host that fails at least half of the time.
fn is_warning(said: &Observation) -> bool {
    said.wrong > 0 || (said.bad >= 4 && 2 * u64::from(said.bad) >= said.audits())
}

/// Whether two judgements of one host's integrity agree; `None` if one side has seen too little to contradict the other.
fn agrees(said: &Observation, seen: &OwnView) -> Option<bool> {
    let (theirs, own) = (said.audits(), seen.audits);
    if theirs == 0 || own == 0 {
        return None;
    }
    match (said.wrong, seen.wrong) {
        (0, 0) => Some(true),
        (1.., 1..) => Some(true),
        // Two would have been expected on the other side.
        (wrong, 0) => (u64::from(wrong) * own >= 2 * theirs).then_some(false),
        (0, wrong) => (wrong * theirs >= 2 * own).then_some(false),
    }
}

#[cfg(test)]
mod tests;
