//! One site: it redirects visitors, audits the hosts, and draws its conclusions, all by the code of the agent. What is made up here is
//! visitors, and what hosts answer.

use std::sync::Arc;

use fastrand::Rng;
use p2pcdn_core::decide::{Candidate, ONE_PPM, choose};
use p2pcdn_core::object::Class;

use super::objects::Objects;
use super::outcome::{Day, Outcome};
use super::people::{Answer, People};
use super::scenario::World;
use crate::audit::pick::{self, Pick};
use crate::audit::schedule::{Budget, Traffic, poisson};
use crate::evidence::judge::{self, Finding, Found, Judge, Report};
use crate::gossip::hearsay::Hearsay;
use crate::reputation::account::{Cause, Membership, Verdict};
use crate::reputation::formulas::Formulas;
use crate::reputation::{Audited, Need, Reputation, Standing, State};

/// Bytes per second that every host grants, and that an honest one delivers.
pub(super) const LEASE_BYTES_PER_S: f64 = 1e6;
/// A body that comes at less than this share of the lease is slow.
const SLOW: f64 = 0.5;
/// Shorter bodies say nothing about bandwidth.
const MEASURABLE_BYTES: u64 = 64 * 1024;

/// What all sites have in common.
pub(super) struct Common<'a> {
    pub(super) world: &'a World,
    pub(super) objects: &'a Objects,
    pub(super) people: &'a People,
    pub(super) start_ms: u64,
}

/// One site.
pub(super) struct Site {
    pub(super) peer: u32,
    pub(super) reputation: Reputation,
    pub(super) holders: Vec<Holder>,
    pub(super) hearsay: Hearsay,
    /// Peers in its table; everybody, as long as there is none.
    pub(super) acquaintances: Vec<u32>,
    judge: Option<Judge>,
    budget: Budget,
    candidates: Vec<Candidate>,
}

/// A host with copies of this site's objects.
pub(super) struct Holder {
    pub(super) peer: u32,
    pub(super) domain: Arc<str>,
    pub(super) standing: Standing,
    traffic: Traffic,
    need: Need,
    redirects: u32,
    term: Term,
}

/// What happened since it became a holder.
#[derive(Default)]
struct Term {
    corrupted: u64,
    has_come_back: bool,
    joined_late: bool,
    probation_redirects: u64,
    lost_since_ms: Option<u64>,
}

impl Site {
    pub(super) fn new(peer: u32, world: &World, formulas: &Formulas) -> Self {
        let judge = (world.evidence > 0.0).then(|| Judge::new(judge::Bounds::default()));
        Self {
            peer,
            judge,
            hearsay: Hearsay::new(formulas),
            acquaintances: Vec::new(),
            reputation: Reputation::new(formulas.clone(), [].into(), [].into()),
            holders: Vec::new(),
            budget: Budget::default(),
            candidates: Vec::new(),
        }
    }

    /// One step's visitors, and the audits that are due for it. Returns peers that were found out.
    pub(super) fn step(&mut self, common: &Common<'_>, day: &mut Day, rng: &mut Rng, now_ms: u64) -> Vec<u32> {
        let step_ms = u64::from(common.world.step_minutes) * 60_000;
        self.serve(common, day, rng, now_ms, step_ms);
        self.audit(common, day, rng, now_ms + step_ms)
    }

    fn serve(&mut self, common: &Common<'_>, day: &mut Day, rng: &mut Rng, now_ms: u64, step_ms: u64) {
        let mean =
            f64::from(common.world.redirects_per_day) * step_ms as f64 / self.reputation.formulas().day_ms as f64;
        let mut redirected_bytes = 0;
        for _ in 0..visitors(mean, rng) {
            let object = common.objects.draw(rng);
            let Some(number) = choose(&self.candidates, false, 0, rng.u32(..ONE_PPM)) else {
                day.stayed += 1;
                continue;
            };
            let holder = &mut self.holders[usize::from(number)];
            holder.redirects += 1;
            redirected_bytes += common.objects.sizes[object];
            let peer = &common.people.peers[holder.peer as usize];
            let answer = common.people.answer(holder.peer, now_ms + rng.u64(..step_ms), rng);
            day.redirects += 1;
            day.dishonest += u64::from(!peer.honest);
            day.corrupted += u64::from(answer == Answer::Wrong);
            day.slow += u64::from(delivers(common.people, holder.peer, now_ms) < SLOW * LEASE_BYTES_PER_S);
            holder.term.corrupted += u64::from(answer == Answer::Wrong);
            holder.term.probation_redirects += u64::from(holder.standing.newcomer);
            if answer == Answer::Missing {
                self.reputation.suspected(&holder.domain, Cause::Return, now_ms);
            }
            if self.judge.is_some() && rng.f64() < common.world.evidence {
                self.look(usize::from(number), object as u64, common, rng, now_ms);
            }
        }
        day.redirected_bytes += redirected_bytes;
        self.budget.note(redirected_bytes, 0, self.reputation.formulas(), now_ms);
    }

    fn audit(&mut self, common: &Common<'_>, day: &mut Day, rng: &mut Rng, now_ms: u64) -> Vec<u32> {
        let (count, total) = self.holders.iter().fold((0, 0.0), |(count, total), holder| {
            let counts = holder.standing.state.gets_redirects();
            if counts { (count + 1, total + holder.traffic.per_day()) } else { (count, total) }
        });
        let typical = if count == 0 { 0.0 } else { total / f64::from(count) };
        let mut found_out = Vec::new();
        let mut is_changed = false;
        for place in 0..self.holders.len() {
            let holder = &mut self.holders[place];
            let redirects = std::mem::take(&mut holder.redirects);
            let has_room = self.budget.has_room(0);
            let due =
                holder.traffic.step(holder.need, redirects, typical, has_room, self.reputation.formulas(), now_ms);
            let due = poisson(due, &mut || rng.f64()) + holder.need.first;
            for _ in 0..due {
                self.audit_one(place, common, day, rng, now_ms);
                is_changed = true;
            }
            let holder = &self.holders[place];
            let whitewash = || common.people.does(holder.peer, now_ms).is_some_and(|does| does.whitewash);
            if due > 0 && !holder.standing.state.gets_redirects() && whitewash() {
                found_out.push(holder.peer);
            }
        }
        if is_changed {
            self.publish();
        }
        found_out
    }

    fn audit_one(&mut self, place: usize, common: &Common<'_>, day: &mut Day, rng: &mut Rng, now_ms: u64) {
        let formulas = self.reputation.formulas();
        let objects = common.objects;
        let object = match pick::pick(&objects.popularity, formulas.uniform_share, rng.f64(), rng.f64()) {
            Pick::Popular(object) => object,
            Pick::Any => rng.usize(..objects.sizes.len()),
        };
        let holder = &self.holders[place];
        let bytes = pick::extent(Class::Image, objects.sizes[object], || rng.f64()).bytes();
        let answer = common.people.answer_audit(holder.peer, now_ms, rng);
        let bytes_per_s = delivers(common.people, holder.peer, now_ms) * (1.0 + rng.f64());
        let is_measured = answer != Answer::Missing && bytes >= MEASURABLE_BYTES;
        let verdict = match answer {
            Answer::Wrong => Verdict::WrongBytes,
            Answer::Missing => Verdict::Missing,
            Answer::Right if is_measured && bytes_per_s < SLOW * LEASE_BYTES_PER_S => Verdict::Slow,
            Answer::Right => Verdict::Good,
        };
        let taken = if answer == Answer::Missing { 0 } else { bytes };
        day.audits += 1;
        day.audited_bytes += taken;
        self.budget.note(0, taken, formulas, now_ms);
        let bytes_per_s = is_measured.then_some(bytes_per_s);
        self.reputation.audited(
            &holder.domain,
            &Audited { verdict, path: &objects.paths[object], bytes_per_s, begun_ms: now_ms },
            now_ms,
        );
        if let Some(judge) = &mut self.judge {
            judge.audited(&holder.domain, verdict == Verdict::Good, now_ms);
        }
        self.look_at(place, now_ms);
    }

    /// A visitor's browser looks at what a holder gives it, which two times in five is one that there are doubts about, if any.
    fn look(&mut self, drawn: usize, object: u64, common: &Common<'_>, rng: &mut Rng, now_ms: u64) {
        let hosts = self.possible_hosts(now_ms);
        let Some(judge) = &mut self.judge else { return };
        let mut place = drawn;
        if rng.f64() < judge::LOOKS_AT_DOUBTFUL {
            let mut doubtful: Vec<&str> = judge.doubtful(now_ms).collect();
            doubtful.sort_unstable();
            let chosen = rng.choice(doubtful);
            let known = chosen.and_then(|domain| self.holders.iter().position(|holder| *holder.domain == *domain));
            place = known.unwrap_or(drawn);
        }
        let holder = &self.holders[place];
        let found = match common.people.answer(holder.peer, now_ms, rng) {
            Answer::Right => Found::Good,
            Answer::Wrong => Found::Wrong,
            Answer::Missing => return,
        };
        let network = u64::from(rng.u32(..common.world.visitor_networks));
        let report = Report { holder: &holder.domain, object, network, found };
        let findings = judge.report(&report, hosts, now_ms).unwrap_or_default();
        self.conclude(findings, now_ms);
    }

    fn possible_hosts(&self, now_ms: u64) -> usize {
        let holds = |domain: &str| self.holders.iter().any(|holder| *holder.domain == *domain);
        let known = self.holders.len() + self.reputation.proven(now_ms).filter(|domain| !holds(domain)).count();
        judge::possible(known, self.acquaintances.len().saturating_sub(known))
    }

    fn conclude(&mut self, findings: Vec<Finding>, now_ms: u64) {
        for finding in &findings {
            match finding {
                Finding::Suspect { holder, .. } => {
                    self.reputation.suspected(holder, Cause::Visitors, now_ms);
                }
                Finding::Suspend { holder, text } => self.reputation.suspended(holder, text, now_ms),
                Finding::Resume { holder } => self.reputation.resumed(holder, now_ms),
            }
        }
        if !findings.is_empty() {
            (0..self.holders.len()).for_each(|place| self.look_at(place, now_ms));
            self.publish();
        }
    }

    /// What goes by the clock: weights grow and fade, holders are lost and found.
    pub(super) fn hour(&mut self, common: &Common<'_>, outcome: &mut Outcome, rng: &mut Rng, now_ms: u64) {
        let (holders, hosts) = (self.holders.len(), self.possible_hosts(now_ms));
        let ended = self.judge.as_mut().map(|judge| judge.tick(hosts, now_ms));
        self.conclude(ended.unwrap_or_default(), now_ms);
        for place in 0..holders {
            self.look_at(place, now_ms);
            let holder = &mut self.holders[place];
            if common.people.peers[holder.peer as usize].honest {
                let lost = lost_by_hearsay(&self.reputation, holder, now_ms);
                outcome.weight_lost = outcome.weight_lost.max(lost);
                let since = holder.term.lost_since_ms.get_or_insert(now_ms);
                if lost > 0.0 {
                    let hours = (now_ms + 3_600_000).saturating_sub(*since) as f64 / 3.6e6;
                    outcome.hours_lost = outcome.hours_lost.max(hours);
                } else {
                    holder.term.lost_since_ms = None;
                }
            }
        }
        self.let_go(common, outcome);
        let wanted = common.world.holders as usize;
        let present =
            self.holders.iter().filter(|holder| !matches!(holder.standing.state, State::Suspended { .. })).count();
        for _ in present..wanted {
            if !self.take_on(common, rng, now_ms) {
                break;
            }
        }
        self.publish();
    }

    /// Holders that will be of no use for long, or are there no more.
    fn let_go(&mut self, common: &Common<'_>, outcome: &mut Outcome) {
        self.holders.retain(|holder| {
            let is_there = *common.people.peers[holder.peer as usize].domain == *holder.domain;
            let stays =
                is_there && !matches!(holder.standing.state, State::Isolated { .. } | State::Convicted | State::Banned);
            if !stays {
                holder.count(outcome, common);
            }
            stays
        });
    }

    /// A domain has become a peer of this site.
    pub(super) fn meet(&mut self, domain: &str, world: &World, now_ms: u64) {
        let membership = if world.invited { Membership::Invited } else { Membership::Open };
        self.reputation.meet(domain, membership, now_ms);
    }

    /// Gives copies to one more peer: of three drawn from those that could be taken, the one that credible others speak best of.
    fn take_on(&mut self, common: &Common<'_>, rng: &mut Rng, now_ms: u64) -> bool {
        let drawn: Vec<u32> = (0..60).filter_map(|_| self.draw_candidate(common, rng, now_ms)).take(3).collect();
        let praise = |number: &&u32| self.hearsay.praise(&common.people.peers[**number as usize].domain);
        // The first of equals.
        let Some(number) = drawn.iter().rev().max_by(|a, b| praise(a).total_cmp(&praise(b))).copied() else {
            return false;
        };
        let peer = &common.people.peers[number as usize];
        self.meet(&peer.domain, common.world, now_ms);
        let standing = self.reputation.standing(&peer.domain, LEASE_BYTES_PER_S, now_ms);
        let need = self.reputation.need(&peer.domain, now_ms);
        let joined_late = now_ms > common.start_ms;
        let term = Term { has_come_back: peer.returns > 0, joined_late, ..Term::default() };
        let traffic = Traffic::default();
        self.holders.push(Holder {
            peer: number,
            domain: peer.domain.clone(),
            standing,
            traffic,
            need,
            redirects: 0,
            term,
        });
        true
    }

    /// Any peer that is here, that holds nothing yet, and that nothing is known against.
    fn draw_candidate(&self, common: &Common<'_>, rng: &mut Rng, now_ms: u64) -> Option<u32> {
        let number = match rng.choice(&self.acquaintances) {
            Some(number) => *number,
            None => rng.u32(..common.people.peers.len() as u32),
        };
        let peer = &common.people.peers[number as usize];
        let is_taken = number == self.peer || self.holders.iter().any(|holder| holder.peer == number);
        let is_usable = self.reputation.standing(&peer.domain, LEASE_BYTES_PER_S, now_ms).state.gets_redirects();
        (!is_taken && is_usable && peer.away_until_ms <= now_ms).then_some(number)
    }

    /// Counts what has not come to its end yet.
    pub(super) fn end(&self, common: &Common<'_>, outcome: &mut Outcome) {
        self.holders.iter().for_each(|holder| holder.count(outcome, common));
    }

    fn look_at(&mut self, place: usize, now_ms: u64) {
        let holder = &mut self.holders[place];
        holder.standing = self.reputation.standing(&holder.domain, LEASE_BYTES_PER_S, now_ms);
        holder.need = self.reputation.need(&holder.domain, now_ms);
    }

    /// What every worker is told: weights from 0 to 1000, rounded up.
    fn publish(&mut self) {
        self.candidates.clear();
        let weight = |standing: Standing| (standing.weight * 1000.0).ceil() as u16;
        let usable = self.holders.iter().enumerate().filter(|(_, holder)| weight(holder.standing) > 0);
        self.candidates.extend(usable.map(|(place, holder)| Candidate {
            holder: place as u16,
            weight: weight(holder.standing),
            newcomer: holder.standing.newcomer,
        }));
    }
}

impl Holder {
    fn count(&self, outcome: &mut Outcome, common: &Common<'_>) {
        if self.term.has_come_back {
            outcome.returned_terms += 1;
            outcome.returned_corrupted += self.term.corrupted;
        }
        if self.term.joined_late && common.people.peers[self.peer as usize].honest && !self.standing.newcomer {
            outcome.probations += 1;
            outcome.probation_redirects += self.term.probation_redirects;
        }
    }
}

/// Bytes per second that a peer delivers.
fn delivers(people: &People, peer: u32, now_ms: u64) -> f64 {
    LEASE_BYTES_PER_S * people.does(peer, now_ms).map_or(1.0, |does| does.bandwidth)
}

/// The part of its weight that others' words cost a holder.
fn lost_by_hearsay(reputation: &Reputation, holder: &Holder, now_ms: u64) -> f64 {
    match reputation.account(&holder.domain) {
        Some(account) => 1.0 - account.exposure(reputation.formulas(), now_ms),
        None => 0.0,
    }
}

/// Visitors in one step; draws from the Poisson distribution are bounded, so large ones are drawn in parts.
fn visitors(mean: f64, rng: &mut Rng) -> u32 {
    let parts = (mean / 16.0).ceil().max(1.0);
    (0..parts as u32).map(|_| poisson(mean / parts, &mut || rng.f64())).sum()
}
