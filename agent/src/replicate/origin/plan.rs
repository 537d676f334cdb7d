//! What is offered to whom next, and what is taken back: pure, time is an argument in milliseconds of the monotonic clock.
//!
//! Every object has a number of copies that it should have ([`super::wanted`]) and a list of what each host said about it. Whatever
//! changes settles one object anew: the hosts that should be asked for it now get it into their list of work, so that no talk ever
//! has to look through all objects. An object that `h` hosts hold is under way to at most `max(1, h)` hosts at a time, and
//! each of them is named other holders to begin with: copies double, and the origin sends each byte about once.

mod desk;
mod goal;
mod weigh;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use p2pcdn_core::lookup::HashKey;
use p2pcdn_core::object::Sha256;

use super::rank::Policy;
use super::wanted::Site;
use crate::replicate::messages::{Decline, MAX_BATCH, Room};
use desk::Desk;
use goal::{Goal, Presence, Relation};

/// What is to be offered and taken back.
pub struct Plan {
    policy: Policy,
    periods: Periods,
    site: Site,
    half_life_ms: f64,
    objects: HashMap<Arc<str>, Goal>,
    desks: HashMap<u32, Desk>,
    numbers: BTreeMap<String, u32>,
    next_number: u32,
    timers: BTreeSet<(u64, Arc<str>)>,
    /// Objects to settle anew since something changed that concerns all of them.
    unsettled: VecDeque<Arc<str>>,
    /// Objects that want more copies than the floor.
    raised: HashSet<Arc<str>>,
    /// Hot objects that lack copies which hosts could take.
    lacking: usize,
    dropped: Vec<Dropped>,
}

/// How long things last, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Periods {
    /// What a host has accepted counts as under way for so long, and longer by its size.
    pub accepted: u64,
    /// What a host has declined is offered there again after this time.
    pub declined: u64,
    /// The same for a host that was busy.
    pub busy: u64,
    /// A file that is away for so long is taken for deleted.
    pub gone: u64,
    /// A host that knew a former version is asked first for so long; then its copy is taken back.
    pub former: u64,
    /// A copy that is not redirected to any more is taken back after this time, when every worker has heard.
    pub withdraw: u64,
    /// In so much time at most an eighth of what a host holds is displaced by better.
    pub churn: u64,
    /// See [`super::wanted::Wanted::follow`].
    pub keep: u64,
}

/// The present version of an own object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Its digest.
    pub sha256: Sha256,
    /// Sequence of its record.
    pub sequence: u64,
    /// Bytes.
    pub size: u64,
}

/// Where an object is, as far as catalogue and table know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// In both.
    Present(Version),
    /// In the catalogue only: it is being looked at.
    Questioned,
    /// In neither.
    Away,
}

/// A copy that is to be offered now.
#[derive(Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Path of the object.
    pub path: Arc<str>,
    /// Digest of the version.
    pub sha256: Sha256,
    /// Domains of hosts that hold it, in the order in which they are to be asked.
    pub sources: Vec<String>,
}

/// A copy that must not be redirected to any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Path of the object.
    pub path: Arc<str>,
    /// Digest of the version.
    pub sha256: Sha256,
    /// Domain of the host.
    pub host: String,
}

/// Objects under way to one host: three batches, so that one can be on its way while the next is drawn; further ones wait.
const MAX_UNDER_WAY: usize = 3 * MAX_BATCH;
/// A host is taken to pull at least so fast, so that bytes accepted before make later ones take longer.
const SLOWEST_BYTES_PER_S: u64 = 1 << 20;
/// Objects that one call settles.
const MAX_SETTLED: usize = 4096;

impl Plan {
    /// Nobody to offer anything to. `half_life_ms` is that of the counts of demand.
    pub fn new(policy: Policy, floor: usize, periods: Periods, half_life_ms: f64) -> Self {
        Self {
            policy,
            periods,
            site: Site { floor, hosts: 0, leaving: 0.0, lease_bytes_per_s: 0.0 },
            half_life_ms,
            objects: HashMap::new(),
            desks: HashMap::new(),
            numbers: BTreeMap::new(),
            next_number: 0,
            timers: BTreeSet::new(),
            unsettled: VecDeque::new(),
            raised: HashSet::new(),
            lacking: 0,
            dropped: Vec::new(),
        }
    }

    /// Whether hot objects have fewer copies than they should have and could have.
    pub fn lacks_replicas(&self) -> bool {
        self.lacking > 0
    }

    /// Copies that an object should have by now.
    pub fn wanted(&self, path: &str) -> usize {
        self.objects.get(path).map_or(0, |goal| goal.wanted.copies.min(self.site.hosts))
    }

    /// Whether there is something to tell a host.
    pub fn has_work(&self, host: &str, now_ms: u64) -> bool {
        self.desk(host).is_some_and(|desk| desk.has_work(now_ms))
    }

    /// Copies that must not be redirected to any more, each named once.
    pub fn take_dropped(&mut self) -> Vec<Dropped> {
        std::mem::take(&mut self.dropped)
    }

    /// Who is a peer.
    pub fn set_peers<'a>(&mut self, domains: impl Iterator<Item = &'a str>) {
        let domains: HashSet<&str> = domains.collect();
        let before = (self.numbers.len(), self.next_number);
        self.numbers.retain(|domain, number| {
            let stays = domains.contains(domain.as_str());
            if !stays {
                self.desks.remove(number);
            }
            stays
        });
        for domain in domains {
            if !self.numbers.contains_key(domain) {
                self.numbers.insert(domain.to_owned(), self.next_number);
                self.desks.insert(self.next_number, Desk::new(domain));
                self.next_number += 1;
            }
        }
        if (self.numbers.len(), self.next_number) != before {
            self.settle_all();
        }
    }

    /// Whether a host has been heard of lately, and what it lends.
    pub fn set_host(&mut self, host: &str, is_live: bool, lease_bytes_per_s: u64) {
        let Some(desk) = self.desk_mut(host) else { return };
        desk.lease_bytes_per_s = lease_bytes_per_s;
        if std::mem::replace(&mut desk.is_live, is_live) != is_live {
            self.settle_all();
        }
    }

    /// How much good was heard of a host, from 0 to 1: puts candidates for further copies in another order, and moves none that is there.
    pub fn set_praise(&mut self, host: &str, praise: f64) {
        if let Some(desk) = self.desk_mut(host) {
            desk.praise = praise;
        }
    }

    /// What a host has said about its room.
    pub fn set_room(&mut self, host: &str, room: Option<Room>, now_ms: u64) {
        if let (Some(desk), Some(room)) = (self.desk_mut(host), room) {
            desk.set_room(room, now_ms);
        }
    }

    /// What catalogue and table know of an object has changed; `holders` are those in the table.
    pub fn sync(&mut self, path: &Arc<str>, whereabouts: Whereabouts, holders: &[String], now_ms: u64) {
        let Whereabouts::Present(version) = whereabouts else {
            if let Some(goal) = self.objects.get_mut(path) {
                goal.leave_queues(&mut self.desks, path);
                goal.forget_copies(&mut self.desks, path, now_ms + self.periods.former);
                goal.presence = match (whereabouts, goal.presence) {
                    (Whereabouts::Away, Presence::Gone { .. }) => goal.presence,
                    (Whereabouts::Away, _) => Presence::Gone { until_ms: now_ms + self.periods.gone },
                    _ => Presence::Questioned,
                };
                self.settle(path, now_ms);
            }
            return;
        };
        let floor = self.site.floor;
        let goal = self.objects.entry(path.clone()).or_insert_with(|| Goal::new(version, floor));
        goal.leave_queues(&mut self.desks, path);
        if goal.version.sha256 != version.sha256 {
            goal.forget_copies(&mut self.desks, path, now_ms + self.periods.former);
            goal.relations.retain(|(_, relation)| !matches!(relation, Relation::Off { .. }));
        }
        goal.version = version;
        goal.presence = Presence::Present;
        let holders: Vec<u32> = holders.iter().filter_map(|domain| self.numbers.get(domain).copied()).collect();
        let lost =
            goal.relations.iter().filter(|(host, r)| matches!(r, Relation::Held { .. }) && !holders.contains(host));
        for host in lost.map(|(host, _)| *host).collect::<Vec<_>>() {
            goal.relate(&mut self.desks, path, host, None);
        }
        for host in holders {
            if !matches!(goal.relation(host), Some(Relation::Held { .. })) {
                goal.relate(&mut self.desks, path, host, Some(Relation::Held { sequence: version.sequence }));
            }
        }
        self.settle(path, now_ms);
    }

    /// Lets time pass; `false` if there is more to settle at once.
    pub fn tick(&mut self, now_ms: u64) -> bool {
        let back = self.desks.values_mut().map(|desk| usize::from(desk.is_back(now_ms))).sum::<usize>();
        if back > 0 {
            self.settle_all();
        }
        for _ in 0..MAX_SETTLED {
            let is_due = self.timers.first().is_some_and(|(at_ms, _)| *at_ms <= now_ms);
            let due = if is_due { self.timers.pop_first().map(|(_, path)| path) } else { None };
            let Some(path) = due.or_else(|| self.unsettled.pop_front()) else { return true };
            self.settle(&path, now_ms);
        }
        false
    }

    fn settle_all(&mut self) {
        self.unsettled = self.objects.keys().cloned().collect();
    }

    /// Copies to take back from a host now, at most [`MAX_BATCH`].
    pub fn take_leaving(&mut self, host: &str, now_ms: u64) -> Vec<(Arc<str>, Sha256)> {
        let Some(number) = self.numbers.get(host).copied() else { return Vec::new() };
        let Some(desk) = self.desks.get_mut(&number) else { return Vec::new() };
        let mut leaving = Vec::new();
        while leaving.len() < MAX_BATCH && desk.leaving.front().is_some_and(|(at_ms, ..)| *at_ms <= now_ms) {
            let Some((_, path, sha256)) = desk.leaving.pop_front() else { break };
            let goal = self.objects.get(&path).filter(|goal| goal.version.sha256 == sha256);
            let relation = goal.and_then(|goal| goal.relation(number));
            // A version may have come back meanwhile.
            if !matches!(relation, Some(Relation::Held { .. } | Relation::UnderWay { .. })) {
                leaving.push((path, sha256));
            }
        }
        leaving
    }

    /// A host could not be told of what was taken from [`Self::take_leaving`].
    pub fn not_told(&mut self, host: &str, leaving: Vec<(Arc<str>, Sha256)>) {
        if let Some(desk) = self.desk_mut(host) {
            leaving.into_iter().rev().for_each(|(path, sha256)| desk.leaving.push_front((0, path, sha256)));
        }
    }

    /// What a host is to be offered now, hottest first, at most [`MAX_BATCH`]; counts as under way from here on.
    pub fn draw(&mut self, host: &str, now_ms: u64) -> Vec<Drawn> {
        let Some(number) = self.numbers.get(host).copied() else { return Vec::new() };
        let mut batch = Vec::new();
        while batch.len() < MAX_BATCH {
            let Some(desk) = self.desks.get_mut(&number) else { break };
            let Some((_, path)) = desk.pop_due() else { break };
            let (backlog, free) = (desk.under_way_bytes, desk.free());
            let Some(goal) = self.objects.get_mut(&path) else { continue };
            goal.queued.retain(|queued| *queued != number);
            if let Some(Relation::Held { .. }) = goal.relation(number) {
                let sequence = goal.version.sequence;
                goal.relate(&mut self.desks, &path, number, Some(Relation::Held { sequence }));
            } else if free < goal.version.size {
                self.settle(&path, now_ms);
                continue;
            } else {
                let bytes = backlog.saturating_add(goal.version.size);
                let until_ms = now_ms + self.periods.accepted + bytes.saturating_mul(1000) / SLOWEST_BYTES_PER_S;
                goal.relate(&mut self.desks, &path, number, Some(Relation::UnderWay { until_ms, former: None }));
                if let Some(desk) = self.desks.get_mut(&number) {
                    desk.take_room(goal.version.size);
                }
            }
            let sources = goal.sources(&self.desks, number);
            batch.push(Drawn { path: path.clone(), sha256: goal.version.sha256, sources });
            self.settle(&path, now_ms);
        }
        batch
    }

    /// A host was not reached, or answered nothing that makes sense.
    pub fn not_offered(&mut self, host: &str, path: &Arc<str>, now_ms: u64) {
        let Some((number, goal)) = self.numbers.get(host).zip(self.objects.get(path)) else { return };
        let until_ms = now_ms + self.periods.former;
        let former = goal.relation(*number).and_then(Relation::former);
        self.set_relation(
            host,
            path,
            former.map(|sha256| Relation::Former { sha256, until_ms, was_asked: true }),
            now_ms,
        );
    }

    /// A host is going to pull the object; it does not hold it then, whatever was known.
    pub fn accepted(&mut self, host: &str, path: &Arc<str>, now_ms: u64) {
        let Some((number, goal)) = self.numbers.get(host).zip(self.objects.get_mut(path)) else { return };
        if matches!(goal.relation(*number), Some(Relation::Held { .. })) {
            self.dropped.push(Dropped { path: path.clone(), sha256: goal.version.sha256, host: host.to_owned() });
            self.set_relation(host, path, None, now_ms);
        }
    }

    /// A host does not take the object.
    pub fn refused(&mut self, host: &str, path: &Arc<str>, reason: Decline, now_ms: u64) {
        let (pause, busy) = (self.periods.declined, self.periods.busy);
        let size = self.objects.get(path).map_or(0, |goal| goal.version.size);
        let Some(desk) = self.desk_mut(host) else { return };
        let is_full = matches!(reason, Decline::Quota | Decline::OriginQuota);
        match reason {
            Decline::Quota | Decline::OriginQuota => desk.is_full_for(size),
            Decline::Leaving | Decline::Reciprocity | Decline::Reputation | Decline::Store => {
                desk.paused_until_ms = now_ms + pause;
            }
            _ => {}
        }
        let until_ms = now_ms + if reason == Decline::Busy { busy } else { pause };
        let number = self.numbers.get(host).copied();
        let goal = self.objects.get(path);
        // A copy that is there stays there, whatever is said about a newer record of it.
        if !matches!(goal.zip(number).and_then(|(goal, number)| goal.relation(number)), Some(Relation::Held { .. })) {
            self.set_relation(host, path, Some(Relation::Off { until_ms, is_full }), now_ms);
        }
    }

    /// A host has vouched for its copy of the version with this record.
    pub fn acknowledged(&mut self, host: &str, path: &str, version: Sha256, sequence: u64, now_ms: u64) {
        let Some((path, goal)) = self.objects.get_key_value(path) else { return };
        if goal.version.sha256 == version && goal.presence == Presence::Present {
            let path = path.clone();
            self.set_relation(host, &path, Some(Relation::Held { sequence }), now_ms);
        }
    }

    /// A host has given a copy up.
    pub fn given_up(&mut self, host: &str, path: &str, version: Sha256, now_ms: u64) {
        let Some((path, goal)) = self.objects.get_key_value(path) else { return };
        let given_up = match self.numbers.get(host).and_then(|number| goal.relation(*number)) {
            Some(Relation::Held { .. }) => goal.version.sha256 == version,
            Some(Relation::Former { sha256, .. }) => sha256 == version,
            // What was taken back by our word is not offered again at once.
            Some(Relation::UnderWay { .. } | Relation::Off { .. }) | None => false,
        };
        if given_up {
            let path = path.clone();
            self.set_relation(host, &path, None, now_ms);
        }
    }

    fn set_relation(&mut self, host: &str, path: &Arc<str>, relation: Option<Relation>, now_ms: u64) {
        let Some(number) = self.numbers.get(host).copied() else { return };
        if let Some(goal) = self.objects.get_mut(path) {
            goal.relate(&mut self.desks, path, number, relation);
            self.settle(path, now_ms);
        }
    }

    fn desk(&self, host: &str) -> Option<&Desk> {
        self.desks.get(self.numbers.get(host)?)
    }

    fn desk_mut(&mut self, host: &str) -> Option<&mut Desk> {
        self.desks.get_mut(self.numbers.get(host)?)
    }
}

/// The same number for a path in every run, so that a restarted agent asks those hosts first that hold it.
fn spread_of(text: &str) -> u64 {
    HashKey::default().of(b"", text.as_bytes())
}

#[cfg(test)]
mod tests;
