//! One object: which copies it has, which it should have, and what follows from that.

use std::collections::HashMap;
use std::sync::Arc;

use p2pcdn_core::object::Sha256;

use super::desk::Desk;
use super::{Dropped, Periods, Plan, Version, spread_of};
use crate::replicate::messages::MAX_SOURCES;
use crate::replicate::origin::rank::Worth;
use crate::replicate::origin::wanted::Wanted;

pub(super) struct Goal {
    pub(super) version: Version,
    pub(super) presence: Presence,
    pub(super) wanted: Wanted,
    pub(super) worth: Worth,
    /// What each host has to do with it, if anything.
    pub(super) relations: Vec<(u32, Relation)>,
    /// Hosts in whose list of work it is.
    pub(super) queued: Vec<u32>,
    /// When it has to be settled again at the latest.
    timer_ms: Option<u64>,
    /// Goes up with each offer, so that each receiver begins with another source.
    turn: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Present,
    Questioned,
    Gone { until_ms: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// Vouched for with the record of this sequence.
    Held { sequence: u64 },
    /// Offered, and accepted or about to be.
    UnderWay { until_ms: u64, former: Option<Sha256> },
    /// Declined, not acknowledged in time, or displaced.
    Off { until_ms: u64, is_full: bool },
    /// Held in this version when the object changed or left the table; `was_asked` says that the host has been offered the present
    /// one since, and did not acknowledge it in time.
    Former { sha256: Sha256, until_ms: u64, was_asked: bool },
}

impl Relation {
    /// The former version that the host has still.
    pub(super) fn former(self) -> Option<Sha256> {
        match self {
            Self::Former { sha256, .. } => Some(sha256),
            Self::UnderWay { former, .. } => former,
            Self::Held { .. } | Self::Off { .. } => None,
        }
    }
}

impl Goal {
    pub(super) fn new(version: Version, floor: usize) -> Self {
        let mut wanted = Wanted::default();
        wanted.follow(floor, 0, 0);
        Self {
            version,
            presence: Presence::Present,
            wanted,
            worth: Worth::NONE,
            relations: Vec::new(),
            queued: Vec::new(),
            timer_ms: None,
            turn: 0,
        }
    }

    pub(super) fn relation(&self, host: u32) -> Option<Relation> {
        self.relations.iter().find(|(other, _)| *other == host).map(|(_, relation)| *relation)
    }

    /// Sets what a host has to do with the object, and keeps the host's own figures in step. A former version that the host is not
    /// going to replace is taken back.
    pub(super) fn relate(
        &mut self,
        desks: &mut HashMap<u32, Desk>,
        path: &Arc<str>,
        host: u32,
        mut relation: Option<Relation>,
    ) {
        let size = self.version.size;
        let stale = self.relation(host).and_then(Relation::former);
        if let Some(Relation::UnderWay { former, .. }) = &mut relation {
            *former = stale;
        }
        if let Some(desk) = desks.get_mut(&host) {
            match self.relation(host) {
                Some(Relation::Held { .. }) => desk.shelf.take(path, self.worth, size),
                Some(Relation::UnderWay { .. }) => {
                    desk.under_way = desk.under_way.saturating_sub(1);
                    desk.under_way_bytes = desk.under_way_bytes.saturating_sub(size);
                }
                _ => {}
            }
            match relation {
                Some(Relation::Held { .. }) => desk.shelf.put(path, self.worth, size),
                Some(Relation::UnderWay { .. }) => {
                    desk.under_way += 1;
                    desk.under_way_bytes = desk.under_way_bytes.saturating_add(size);
                }
                _ => {}
            }
            let is_replaced = matches!(relation, Some(Relation::Held { .. }));
            if let Some(sha256) = stale.filter(|_| !is_replaced && relation.and_then(Relation::former) != stale) {
                desk.leaving.push_back((0, path.clone(), sha256));
            }
        }
        self.relations.retain(|(other, _)| *other != host);
        self.relations.extend(relation.map(|relation| (host, relation)));
    }

    pub(super) fn set_worth(&mut self, desks: &mut HashMap<u32, Desk>, path: &Arc<str>, worth: Worth) {
        for (host, relation) in &self.relations {
            if let (Relation::Held { .. }, Some(desk)) = (relation, desks.get_mut(host)) {
                desk.shelf.take(path, self.worth, self.version.size);
                desk.shelf.put(path, worth, self.version.size);
            }
        }
        self.worth = worth;
    }

    /// The version that hosts hold or pull is not the present one any more, or may not be.
    pub(super) fn forget_copies(&mut self, desks: &mut HashMap<u32, Desk>, path: &Arc<str>, until_ms: u64) {
        let sha256 = self.version.sha256;
        for (host, relation) in self.relations.clone() {
            if matches!(relation, Relation::Held { .. } | Relation::UnderWay { .. }) {
                self.relate(desks, path, host, Some(Relation::Former { sha256, until_ms, was_asked: false }));
            }
        }
    }

    /// What was worth too little to displace anything may be worth more now.
    pub(super) fn knock_again(&mut self) {
        self.relations.retain(|(_, relation)| !matches!(relation, Relation::Off { is_full: true, .. }));
    }

    pub(super) fn leave_queues(&mut self, desks: &mut HashMap<u32, Desk>, path: &Arc<str>) {
        for host in self.queued.drain(..) {
            if let Some(desk) = desks.get_mut(&host) {
                desk.unqueue(self.worth, path);
            }
        }
    }

    pub(super) fn live_holders<'a>(&'a self, desks: &'a HashMap<u32, Desk>) -> impl Iterator<Item = (u32, &'a Desk)> {
        let held = self.relations.iter().filter(|(_, relation)| matches!(relation, Relation::Held { .. }));
        held.filter_map(|(host, _)| Some((*host, desks.get(host)?))).filter(|(_, desk)| desk.is_live)
    }

    /// Who is to be asked for the bytes before the origin: each receiver begins with another one.
    pub(super) fn sources(&mut self, desks: &HashMap<u32, Desk>, receiver: u32) -> Vec<String> {
        let holders = self.live_holders(desks).filter(|(host, _)| *host != receiver);
        let mut sources: Vec<String> = holders.map(|(_, desk)| desk.domain.clone()).collect();
        if !sources.is_empty() {
            let first = self.turn % sources.len();
            sources.rotate_left(first);
            self.turn = self.turn.wrapping_add(1);
        }
        sources.truncate(MAX_SOURCES);
        sources
    }
}

impl Plan {
    /// Works out who is to be asked for an object now, and who is to give it up.
    pub(super) fn settle(&mut self, path: &Arc<str>, now_ms: u64) {
        let Some(goal) = self.objects.get_mut(path) else { return };
        if let Some(timer_ms) = goal.timer_ms.take() {
            self.timers.remove(&(timer_ms, path.clone()));
        }
        goal.leave_queues(&mut self.desks, path);
        self.let_time_pass(path, now_ms);
        let Some(goal) = self.objects.get(path) else { return };
        if goal.presence == Presence::Present {
            self.renew(path);
            self.add_or_drop(path, now_ms);
        }
        let Some(goal) = self.objects.get_mut(path) else { return };
        let ends = goal.relations.iter().filter_map(|(_, relation)| match relation {
            Relation::Held { .. } => None,
            Relation::UnderWay { until_ms, .. }
            | Relation::Off { until_ms, .. }
            | Relation::Former { until_ms, .. } => Some(*until_ms),
        });
        let gone = if let Presence::Gone { until_ms } = goal.presence { Some(until_ms) } else { None };
        goal.timer_ms = ends.chain(gone).min();
        if let Some(timer_ms) = goal.timer_ms {
            self.timers.insert((timer_ms, path.clone()));
        }
    }

    /// Ends what has lasted its time.
    fn let_time_pass(&mut self, path: &Arc<str>, now_ms: u64) {
        let Some(goal) = self.objects.get_mut(path) else { return };
        let is_gone = matches!(goal.presence, Presence::Gone { until_ms } if until_ms <= now_ms);
        goal.relations.retain(|(host, _)| self.desks.contains_key(host));
        let is_lacking = goal.live_holders(&self.desks).count() < goal.wanted.copies;
        for (host, relation) in goal.relations.clone() {
            let next = match relation {
                Relation::UnderWay { until_ms, former: Some(sha256) } if until_ms <= now_ms => {
                    let until_ms = now_ms + self.periods.former;
                    Some(Relation::Former { sha256, until_ms, was_asked: true })
                }
                Relation::UnderWay { until_ms, .. } if until_ms <= now_ms => {
                    Some(Relation::Off { until_ms: now_ms + self.periods.accepted, is_full: false })
                }
                Relation::Off { until_ms, .. } if until_ms <= now_ms => None,
                Relation::Former { sha256, until_ms, was_asked } if until_ms <= now_ms && is_lacking && !is_gone => {
                    // Who has an old version is the first to be asked for the new one, as long as nobody else has it.
                    Some(Relation::Former { sha256, until_ms: now_ms + self.periods.former, was_asked })
                }
                Relation::Former { until_ms, .. } if until_ms <= now_ms || is_gone => None,
                _ => continue,
            };
            goal.relate(&mut self.desks, path, host, next);
        }
        if is_gone {
            self.objects.remove(path);
            self.raised.remove(path);
        }
    }

    /// A renewed record of the same bytes has to reach the hosts before their old one expires.
    fn renew(&mut self, path: &Arc<str>) {
        let Some(goal) = self.objects.get_mut(path) else { return };
        let present = goal.version.sequence;
        let is_old = |relation: &Relation| matches!(relation, Relation::Held { sequence } if *sequence < present);
        for (host, _) in goal.relations.iter().filter(|(_, relation)| is_old(relation)) {
            if let Some(desk) = self.desks.get_mut(host) {
                desk.queue(goal.worth, path);
                goal.queued.push(*host);
            }
        }
    }

    fn add_or_drop(&mut self, path: &Arc<str>, now_ms: u64) {
        let Some(goal) = self.objects.get_mut(path) else { return };
        let (worth, size, spread) = (goal.worth, goal.version.size, spread_of(path));
        let mut held: Vec<(f64, u32)> =
            goal.live_holders(&self.desks).map(|(host, desk)| (desk.distance(spread), host)).collect();
        let is_under_way = |(_, relation): &&(u32, Relation)| matches!(relation, Relation::UnderWay { .. });
        let under_way = goal.relations.iter().filter(is_under_way).count();
        if held.len() > goal.wanted.copies {
            // The least useful first: who lends nothing, then who is furthest.
            let lends = |host: &u32| self.desks.get(host).is_some_and(|desk| desk.lease_bytes_per_s > 0);
            held.sort_by(|(a, host_a), (b, host_b)| lends(host_b).cmp(&lends(host_a)).then(a.total_cmp(b)));
            for (_, host) in held.split_off(goal.wanted.copies) {
                self.take_back(path, host, now_ms);
            }
            return;
        }
        let lacking = goal.wanted.copies - held.len();
        let count = lacking.min(held.len().max(1)).saturating_sub(under_way);
        if count == 0 {
            return;
        }
        let (mut with_room, mut full) = (Vec::new(), Vec::new());
        for (host, desk) in self.desks.iter().filter(|(_, desk)| desk.takes_offers(now_ms)) {
            let (is_former, turn) = match goal.relation(*host) {
                Some(Relation::Former { was_asked, .. }) => (true, if was_asked { 2 } else { 0 }),
                None => (false, 1),
                Some(_) => continue,
            };
            let candidate = ((turn, desk.is_saturated()), desk.distance(spread), *host);
            // Who has the bytes already needs no room for them.
            if is_former || desk.free() >= size { with_room.push(candidate) } else { full.push(candidate) }
        }
        for candidates in [&mut with_room, &mut full] {
            candidates.sort_by(|(class_a, a, _), (class_b, b, _)| class_a.cmp(class_b).then(a.total_cmp(b)));
        }
        for (.., host) in with_room.iter().take(count) {
            if let Some(desk) = self.desks.get_mut(host) {
                desk.queue(worth, path);
                goal.queued.push(*host);
            }
        }
        let is_served = with_room.len() >= count || under_way > 0;
        if let (false, Some((.., host))) = (is_served, full.first()) {
            self.displace_for(path, *host, now_ms);
        }
    }

    /// Makes room for an object at a host that is full, if something there is clearly worth less.
    fn displace_for(&mut self, path: &Arc<str>, host: u32, now_ms: u64) {
        let Some((goal, desk)) = self.objects.get(path).zip(self.desks.get_mut(&host)) else { return };
        let lacking = goal.version.size.saturating_sub(desk.free());
        let size_of = |path: &str| self.objects.get(path).map_or(0, |goal| goal.version.size);
        let displaced = desk.shelf.displaced_by(self.policy, goal.worth, lacking, size_of).unwrap_or_default();
        let freed = displaced.iter().map(|path| size_of(path)).sum();
        let is_full = displaced.is_empty();
        let moves = !is_full && desk.may_displace(freed, now_ms, self.periods.churn);
        // Until the host has made room, until more may be displaced there, or until something is worth less.
        let Periods { withdraw, churn, declined, .. } = self.periods;
        let until_ms = now_ms
            + if moves {
                2 * withdraw
            } else if is_full {
                declined
            } else {
                churn
            };
        if moves {
            desk.make_room(freed, until_ms);
        }
        for other in displaced.iter().filter(|_| moves) {
            self.take_back(other, host, now_ms);
        }
        if let Some(goal) = self.objects.get_mut(path) {
            goal.relate(&mut self.desks, path, host, Some(Relation::Off { until_ms, is_full }));
        }
    }

    /// Redirects to a copy end, and once every worker has heard that, the host does.
    fn take_back(&mut self, path: &Arc<str>, host: u32, now_ms: u64) {
        let Some(goal) = self.objects.get_mut(path) else { return };
        let sha256 = goal.version.sha256;
        let off = Relation::Off { until_ms: now_ms + self.periods.declined, is_full: false };
        goal.relate(&mut self.desks, path, host, Some(off));
        // Not among those settled just now, so another host may be found for it when its time comes.
        self.timers.insert((now_ms, path.clone()));
        if let Some(desk) = self.desks.get_mut(&host) {
            self.dropped.push(Dropped { path: path.clone(), sha256, host: desk.domain.clone() });
            desk.leaving.push_back((now_ms + self.periods.withdraw, path.clone(), sha256));
        }
    }
}
