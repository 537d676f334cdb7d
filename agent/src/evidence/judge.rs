//! When the word of visitors' browsers counts against a host: pure, so that the simulator judges by the very same code.
//!
//! Anybody can send reports, so none of them counts by itself. A host is suspected once browsers in three distinct networks found it
//! wanting within a day, and clearly more often than the site's other hosts: that has it audited. If those audits are clean, and
//! browsers in three further networks go on to find it wanting, hours apart, then it tells auditors from browsers, and its redirects are
//! suspended. Since it is always this site that chooses which host a browser looks at (see `tokens`), broken browsers show at all hosts
//! alike and move nothing. Whoever has browsers, or what passes for them, in six networks for six hours and says nothing but good of all
//! other hosts can still have one suspended; no burst of reports can.

mod bounds;
pub(super) mod limits;
mod rate;
mod record;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

pub use bounds::Bounds;
use limits::{Seen, Visits};
use rate::Rate;
use record::{Fault, Record, State};

/// What a browser found out about one object at one host.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// The host's domain.
    pub holder: &'a str,
    /// Stands for the object; equal for equal objects.
    pub object: u64,
    /// Stands for the network that the report came from: a keyed hash, so that it says nothing by itself.
    pub network: u64,
    /// What it found.
    pub found: Found,
}

/// What came of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The bytes that the page would have got are right.
    Good,
    /// They are not.
    Wrong,
    /// What the page would have got is not known: the host sent it in such a way that it could not be looked at, and right bytes when
    /// they were asked for again. Who tells the two requests apart would do this.
    Resent,
}

/// What follows from reports.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// It is time for audits of this host.
    Suspect {
        /// Its domain.
        holder: String,
        /// The evidence, for an operator.
        text: String,
    },
    /// This host serves auditors well and browsers badly: it gets no redirects of this site any more. Never to be told to others.
    Suspend {
        /// Its domain.
        holder: String,
        /// The evidence, for an operator.
        text: String,
    },
    /// This host is suspended no longer.
    Resume {
        /// Its domain.
        holder: String,
    },
}

impl Finding {
    /// The domain of the host that it is about.
    pub fn holder(&self) -> &str {
        match self {
            Self::Suspect { holder, .. } | Self::Suspend { holder, .. } | Self::Resume { holder } => holder,
        }
    }

    /// Its name in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Suspect { .. } => "suspect",
            Self::Suspend { .. } => "suspend",
            Self::Resume { .. } => "resume",
        }
    }
}

/// Why a report does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// This network has reported on this object at this host within a day.
    Repeated,
    /// This network has reported too much within an hour, or too many networks have.
    TooMany,
    /// The host is suspended already.
    Suspended,
}

/// The records of all hosts.
///
/// Takes less than 6 MiB whatever is reported; see the constants here, in `limits` and in `record`.
pub struct Judge {
    bounds: Bounds,
    records: HashMap<String, Record>,
    visits: Visits,
    seen: Seen,
}

/// How many hosts a site could have, of which one in [`Bounds::one_in`] may be suspended at once: those `known`, since they hold something,
/// are invited or have proven themselves, and strangers, but at most one for two of these. Whoever is suspended is replaced by a stranger, so
/// without any of them the seventh liar of a site with twelve hosts would stay; and however many strangers somebody sends, they raise
/// a third of those known to half of them.
pub fn possible(known: usize, strangers: usize) -> usize {
    known + strangers.min(known / 2)
}

/// Share of looks that go to hosts that there are doubts about, if any: the more, the sooner it is known how bad they are, and the later how
/// good the others are, which they are compared with.
pub const LOOKS_AT_DOUBTFUL: f64 = 0.4;

/// Hosts with a record; beyond, the one that was reported on longest ago is forgotten, unless it is suspended.
pub(super) const MAX_RECORDS: usize = 4096;

impl Judge {
    /// Nothing reported yet.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, records: HashMap::new(), visits: Visits::default(), seen: Seen::default() }
    }

    /// A host has been suspended since before the start, for the `suspensions`-th time, and for `left_ms` yet. How much spoke against it is not
    /// known any more, so it is the first to give way.
    pub fn restore(&mut self, holder: &str, left_ms: u64, suspensions: u32, now_ms: u64) {
        if self.records.len() >= MAX_RECORDS || self.records.contains_key(holder) {
            return;
        }
        let mut record = Record::new(now_ms);
        record.state = State::Suspended { until_ms: now_ms.saturating_add(left_ms), excess: 0.0 };
        record.suspensions = suspensions;
        self.records.insert(holder.to_owned(), record);
    }

    /// Takes a report; `holders` is how many hosts this site has, or could have at once.
    ///
    /// # Errors
    /// [`Ignored`] if it does not count.
    pub fn report(&mut self, report: &Report<'_>, holders: usize, now_ms: u64) -> Result<Vec<Finding>, Ignored> {
        let is_suspended = |record: &Record| matches!(record.state, State::Suspended { .. });
        if self.records.get(report.holder).is_some_and(is_suspended) {
            return Err(Ignored::Suspended);
        }
        let key = fingerprint(report);
        if self.seen.contains(key, self.bounds.memory_ms, now_ms) {
            return Err(Ignored::Repeated);
        }
        if !self.visits.admits(report.network, &self.bounds, now_ms) {
            return Err(Ignored::TooMany);
        }
        self.seen.insert(key);
        if !self.records.contains_key(report.holder) {
            self.make_room();
            self.records.insert(report.holder.to_owned(), Record::new(now_ms));
        }
        let Some(record) = self.records.get_mut(report.holder) else { return Ok(Vec::new()) };
        record.fade(self.bounds.half_life_ms, now_ms);
        record.lapse(self.bounds.suspicion_ms, now_ms);
        record.checks += 1.0;
        let fault = match report.found {
            Found::Good => return Ok(Vec::new()),
            Found::Wrong => Fault::Wrong,
            Found::Resent => Fault::Resent,
        };
        record.complain(fault, report.network, &self.bounds, now_ms);
        Ok(self.judge(report.holder, fault, holders, now_ms))
    }

    /// An audit of the host has come to its end. One that was not clean sees for itself what browsers see, so it is all up to audits then.
    pub fn audited(&mut self, holder: &str, clean: bool, now_ms: u64) {
        let Some(record) = self.records.get_mut(holder) else { return };
        match &mut record.state {
            State::Suspected { clean: count, .. } if clean => *count = count.saturating_add(1),
            State::Suspected { .. } => *record = Record::new(now_ms),
            State::Watched | State::Suspended { .. } => {}
        }
    }

    /// Hosts that browsers should look at before others: suspected ones, and those that somebody found wanting within a day. Whoever makes
    /// things up only has the host looked at more often.
    pub fn doubtful(&self, now_ms: u64) -> impl Iterator<Item = &str> {
        let memory_ms = self.bounds.memory_ms;
        let is_doubtful = move |record: &Record| match record.state {
            State::Suspended { .. } => false,
            State::Suspected { .. } => true,
            State::Watched => {
                let mut networks = record.faults.iter().flat_map(|fault| &fault.networks);
                networks.any(|(_, first_ms)| now_ms.saturating_sub(*first_ms) < memory_ms)
            }
        };
        self.records.iter().filter(move |(_, record)| is_doubtful(record)).map(|(holder, _)| holder.as_str())
    }

    /// Forgets what was reported on a host: it is forgiven, or no peer any more.
    pub fn forget(&mut self, holder: &str) {
        self.records.remove(holder);
    }

    /// Ends suspensions that have lasted long enough, or that are too many now, and forgets networks; to be called every minute or so,
    /// or nothing is forgotten before the next report.
    pub fn tick(&mut self, holders: usize, now_ms: u64) -> Vec<Finding> {
        self.visits.expire(self.bounds.limited_ms, now_ms);
        self.seen.expire(self.bounds.memory_ms, now_ms);
        let mut ended = Vec::new();
        for (holder, record) in &mut self.records {
            record.faults.iter_mut().for_each(|fault| fault.expire(self.bounds.memory_ms, now_ms));
            if let State::Suspended { until_ms, .. } = record.state
                && until_ms <= now_ms
            {
                record.resume(now_ms);
                ended.push(Finding::Resume { holder: holder.clone() });
            }
        }
        while self.suspended().count() > holders / self.bounds.one_in {
            let Some((holder, _)) = self.least_suspended() else { break };
            ended.push(self.resume(holder, now_ms));
        }
        ended
    }

    fn judge(&mut self, holder: &str, fault: Fault, holders: usize, now_ms: u64) -> Vec<Finding> {
        if !self.records.get(holder).is_some_and(|record| record.is_due(fault, &self.bounds)) {
            return Vec::new();
        }
        let others = self.others(holder, fault);
        let bounds = &self.bounds;
        let Some(record) = self.records.get_mut(holder) else { return Vec::new() };
        let complaints = &record.faults[fault as usize];
        // An assumption is good enough to have somebody audited, and not to suspend anybody.
        let usual = match record.state {
            State::Watched => Rate { bad: others.bad + 1.0, of: others.of + bounds.assumed_checks },
            State::Suspected { .. } | State::Suspended { .. } => others,
        };
        let excess = Rate { bad: complaints.count, of: record.checks }.at_least(bounds.deviations)
            - usual.at_most(bounds.deviations);
        if excess <= 0.0 {
            return Vec::new();
        }
        let text = || {
            let what = match fault {
                Fault::Wrong => "wrong bytes",
                Fault::Resent => "bytes that they could not look at",
            };
            format!(
                "visitors' browsers got {what} in {:.0} of {:.0} looks, from at least {} networks, and elsewhere in {:.0} of {:.0}",
                complaints.count,
                record.checks,
                complaints.networks.len(),
                others.bad,
                others.of
            )
        };
        match record.state {
            State::Watched => {
                let found = Finding::Suspect { holder: holder.to_owned(), text: text() };
                record.suspect(fault, now_ms);
                vec![found]
            }
            State::Suspected { .. } if others.of >= bounds.compared_checks => {
                let text = text();
                self.suspend(holder, text, excess, holders, now_ms)
            }
            State::Suspected { .. } | State::Suspended { .. } => Vec::new(),
        }
    }

    fn suspend(&mut self, holder: &str, text: String, excess: f64, holders: usize, now_ms: u64) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.suspended().count() >= holders / self.bounds.one_in {
            match self.least_suspended() {
                Some((least, its_excess)) if its_excess < excess => findings.push(self.resume(least, now_ms)),
                _ => return findings,
            }
        }
        if let Some(record) = self.records.get_mut(holder) {
            let lasts_ms = self.bounds.suspension_ms.saturating_mul(1 << record.suspensions.min(6));
            record.suspensions = record.suspensions.saturating_add(1);
            record.state = State::Suspended { until_ms: now_ms.saturating_add(lasts_ms), excess };
            record.faults.iter_mut().for_each(|fault| fault.networks.clear());
            findings.push(Finding::Suspend { holder: holder.to_owned(), text });
        }
        findings
    }

    fn resume(&mut self, holder: String, now_ms: u64) -> Finding {
        if let Some(record) = self.records.get_mut(&holder) {
            record.resume(now_ms);
        }
        Finding::Resume { holder }
    }

    fn suspended(&self) -> impl Iterator<Item = (&String, f64)> {
        self.records.iter().filter_map(|(holder, record)| match record.state {
            State::Suspended { excess, .. } => Some((holder, excess)),
            State::Watched | State::Suspected { .. } => None,
        })
    }

    fn least_suspended(&self) -> Option<(String, f64)> {
        // Equal in every run, whatever the order of the map.
        let least = self.suspended().min_by(|(a, x), (b, y)| x.total_cmp(y).then_with(|| a.cmp(b)));
        least.map(|(holder, excess)| (holder.clone(), excess))
    }

    /// The rate of the best third of all other hosts: the rest may be in league or as bad.
    fn others(&self, holder: &str, fault: Fault) -> Rate {
        let is_compared = |other: &str, record: &Record| {
            other != holder && record.checks > 0.0 && !matches!(record.state, State::Suspended { .. })
        };
        let others = self.records.iter().filter(|(other, record)| is_compared(other, record));
        let mut rates: Vec<Rate> =
            others.map(|(_, record)| Rate { bad: record.faults[fault as usize].count, of: record.checks }).collect();
        rates.sort_unstable_by(|a, b| (a.bad / a.of).total_cmp(&(b.bad / b.of)).then(b.of.total_cmp(&a.of)));
        let kept = rates.len().div_ceil(3);
        let sum = |sum: Rate, rate: &Rate| Rate { bad: sum.bad + rate.bad, of: sum.of + rate.of };
        rates.iter().take(kept).fold(Rate { bad: 0.0, of: 0.0 }, sum)
    }

    fn make_room(&mut self) {
        if self.records.len() < MAX_RECORDS {
            return;
        }
        let watched = self.records.iter().filter(|(_, record)| !matches!(record.state, State::Suspended { .. }));
        let oldest = watched.min_by_key(|(holder, record)| (record.at_ms, *holder)).map(|(holder, _)| holder.clone());
        if let Some(oldest) = oldest {
            self.records.remove(&oldest);
        }
    }
}

/// Equal for reports of one network on one object at one host. Two of its parts are keyed hashes, so nobody can make others meet.
fn fingerprint(report: &Report<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (report.network, report.holder, report.object).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
