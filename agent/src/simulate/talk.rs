//! Gossip between the sites of the world: their tables, whom they talk to, and what they make of it are the agent's own code.
//!
//! Lists of observations come every six hours from everybody at once; rounds of a minute follow until all tables are equal, and are
//! then left out until there is something new. Peers that are no sites have nothing to say, except for those that make things up; what honest
//! ones of them would pass on is left out as well, which makes gossip slower and nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use fastrand::Rng;
use p2pcdn_core::object::Sha256;

use super::outcome::Outcome;
use super::people::People;
use super::scenario::World;
use super::site::Site;
use super::statements::{check, list, peer_record, signed, stolen};
use crate::gossip::partner::{Seed, View};
use crate::gossip::reconcile::Taken;
use crate::gossip::record::Kind;
use crate::gossip::{Blob, Bounds, Observation, Outcome as Came, Record, Table};
use crate::reputation::account::Cause;
use crate::reputation::hearing::{observations, own_view};

/// Rounds after which tables that are still not equal are left alone until the next lists.
const MAX_ROUNDS: u64 = 240;
/// Rounds after new lists in which whoever wants to crowd out others calls on all sites.
const CROWDED_ROUNDS: u64 = 3;
/// How many of them get through in one round: what a site takes from others is limited.
const CROWD: usize = 16;
/// Time between two lists of one observer.
pub(super) const WAVE_MS: u64 = crate::gossip::statements::LIST_PERIOD_S * 1000;
/// Hosts that all slanderers speak ill of at one time,
const SLANDERED: usize = 5;
/// and whom they speak the truth about, which is that they are good.
const PRAISED: usize = 25;

/// All that is said.
pub(super) struct Talk {
    /// The sites', and one that all liars share.
    tables: Vec<Table>,
    seeds: Vec<Seed>,
    heard: Vec<HashMap<Sha256, u64>>,
    /// Whom a key belongs to.
    owners: HashMap<Sha256, u32>,
    domain_of: HashMap<Sha256, Arc<str>>,
    /// By domain: who really is there.
    domains: HashMap<String, u32>,
    known: Vec<Sha256>,
    /// What every site has admitted at the beginning.
    first: Vec<Vec<Sha256>>,
}

impl Talk {
    pub(super) fn new(world: &World, rng: &mut Rng) -> Self {
        let tables = (0..=world.sites).map(|_| Table::new(Bounds::default(), rng.u64(..))).collect();
        let seeds = (0..world.sites).map(|_| [rng.u64(..), rng.u64(..)]).collect();
        let heard = (0..world.sites).map(|_| HashMap::new()).collect();
        let (owners, domains, domain_of) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { tables, seeds, heard, owners, domain_of, domains, known: Vec::new(), first: Vec::new() }
    }

    /// Everybody's lists, and the rounds after that.
    pub(super) fn wave(
        &mut self,
        world: &World,
        people: &People,
        sites: &mut [Site],
        outcome: &mut Outcome,
        rng: &mut Rng,
        now_ms: u64,
    ) {
        let now_s = now_ms / 1000;
        self.tables.iter_mut().for_each(|table| table.expire(now_s));
        self.meet(world, people, sites, rng, now_ms);
        for (site, table) in sites.iter().zip(&mut self.tables) {
            let list = list(&people.peers[site.peer as usize].key, observations(&site.reputation), now_s);
            let taken = table.take(&[list], now_s, &mut |claim| check(claim));
            debug_assert!(matches!(&taken[..], [Ok((_, Came::Accepted | Came::Known))]), "{taken:?}");
        }
        let own_keys: Vec<Sha256> = sites.iter().map(|site| people.peers[site.peer as usize].key).collect();
        let lies = Lies::new(people, rng, now_ms);
        let league = sites.len();
        self.tables[league].take(&lies.lists, now_s, &mut |claim| check(claim));
        let hour = now_ms / 3_600_000;
        let views: Vec<View> = self
            .tables
            .iter()
            .zip(&self.seeds)
            .map(|(table, seed)| View::new(table.candidates(), *seed, hour))
            .collect();
        self.count_partners(people, &views, outcome);
        for round in 0..MAX_ROUNDS {
            for (caller, view) in views.iter().enumerate() {
                self.call(caller, view, round, people, &lies, rng, now_s);
            }
            let first = self.tables[0].summary();
            let is_crowded = round < CROWDED_ROUNDS && !lies.crowd.is_empty();
            if self.tables[..league].iter().all(|table| table.summary() == first) && !is_crowded {
                break;
            }
        }
        for (site, (table, heard)) in sites.iter_mut().zip(self.tables.iter().zip(&mut self.heard)) {
            let reporters = lies.reporters.iter().chain(&own_keys);
            hear(site, table, heard, reporters, &self.domain_of, now_ms);
        }
    }

    /// Honest members that are gone from tables, or have another key.
    pub(super) fn evicted(&self, people: &People) -> u64 {
        let mut evicted = 0;
        for (table, first) in self.tables[..self.tables.len() - 1].iter().zip(&self.first) {
            for key in first {
                let owner = &people.peers[self.owners[key] as usize];
                let is_there = table.peer(key).is_some_and(|record| *record.domain == *owner.domain);
                evicted += u64::from(owner.honest && !is_there);
            }
        }
        evicted
    }

    /// Whoever is new shows its own document to every site, which admits it within its bounds.
    fn meet(&mut self, world: &World, people: &People, sites: &mut [Site], rng: &mut Rng, now_ms: u64) {
        let is_first = self.known.is_empty();
        self.known.resize(people.peers.len(), Sha256([0; 32]));
        let now_s = now_ms / 1000;
        let mut new: Vec<u32> = (0..people.peers.len() as u32)
            .filter(|number| {
                let peer = &people.peers[*number as usize];
                self.known[*number as usize] != peer.key && peer.away_until_ms <= now_ms
            })
            .collect();
        rng.shuffle(&mut new);
        for number in new {
            let peer = &people.peers[number as usize];
            self.known[number as usize] = peer.key;
            self.owners.insert(peer.key, number);
            self.domain_of.insert(peer.key, peer.domain.clone());
            self.domains.insert(peer.domain.to_string(), number);
            let record = peer_record(&peer.domain, peer.key, now_s, 0);
            let Ok(record) = Record::read(signed(Kind::Peer, &peer.key, &record, true), now_s) else { continue };
            let _ = self.tables[sites.len()].admit(&record, Some(peer.network), true);
            for (site, table) in sites.iter_mut().zip(&mut self.tables) {
                if table.admit(&record, Some(peer.network), site.peer == number).is_ok() && site.peer != number {
                    site.meet(&peer.domain, world, now_ms);
                    site.acquaintances.push(number);
                }
            }
        }
        if is_first {
            self.first =
                self.tables.iter().map(|table| table.candidates().map(|member| member.key).collect()).collect();
        }
    }

    fn count_partners(&self, people: &People, views: &[View], outcome: &mut Outcome) {
        for partner in views.iter().flat_map(|view| (0..60).filter_map(|turn| view.partner(turn))) {
            outcome.partners += 1;
            outcome.partners_of_swarm += u64::from(people.is_of_a_swarm(self.owners[&partner]));
        }
    }

    /// One site's turn to talk to somebody, and whoever calls on it.
    #[expect(clippy::too_many_arguments, reason = "all of the world takes part")]
    fn call(
        &mut self,
        caller: usize,
        view: &View,
        round: u64,
        people: &People,
        lies: &Lies,
        rng: &mut Rng,
        now_s: u64,
    ) {
        let league = self.tables.len() - 1;
        for _ in 0..if round < CROWDED_ROUNDS { lies.crowd.len().min(CROWD) } else { 0 } {
            self.exchange(league, caller, people, rng, now_s);
            self.take(caller, &lies.forge(people, rng, now_s), people, now_s);
        }
        let Some(partner) = view.partner(round).and_then(|key| self.owners.get(&key)).copied() else { return };
        if (partner as usize) < league {
            self.exchange(caller, partner as usize, people, rng, now_s);
        } else if people.does(partner, now_s * 1000).is_some() {
            self.exchange(caller, league, people, rng, now_s);
            self.take(caller, &lies.forge(people, rng, now_s), people, now_s);
        }
    }

    fn exchange(&mut self, caller: usize, answerer: usize, people: &People, rng: &mut Rng, now_s: u64) {
        let Ok([ours, theirs]) = self.tables.get_disjoint_mut([caller, answerer]) else { return };
        if ours.summary() == theirs.summary() {
            return;
        }
        let salt = rng.u64(..);
        let opening = ours.offer_window(salt);
        let reply = theirs.answer(&opening);
        let (closing, ours_taken) = ours.close(salt, &reply, now_s, &mut |claim| check(claim));
        let (last, theirs_taken) = theirs.finish(&closing, now_s, &mut |claim| check(claim));
        let taken = ours.take(&last.records, now_s, &mut |claim| check(claim));
        self.dial_back(caller, ours_taken, people);
        self.dial_back(answerer, theirs_taken, people);
        self.dial_back(caller, taken, people);
    }

    fn take(&mut self, at: usize, records: &[Blob], people: &People, now_s: u64) {
        let taken = self.tables[at].take(records, now_s, &mut |claim| check(claim));
        self.dial_back(at, taken, people);
    }

    /// Asks domains that are new, or have another key, themselves.
    fn dial_back(&mut self, at: usize, taken: Vec<Taken>, people: &People) {
        for (record, came) in taken.into_iter().flatten() {
            let (Came::Stranger(Some(domain)) | Came::OtherKey(domain)) = came else { continue };
            let Some(peer) = self.domains.get(&*domain).map(|number| &people.peers[*number as usize]) else { continue };
            if record.kind == Kind::Peer && *peer.domain == *domain && peer.key == record.key() {
                let _ = self.tables[at].admit(&record, Some(peer.network), false);
            }
        }
    }
}

/// What is made up in one wave.
struct Lies {
    lists: Vec<Blob>,
    /// Whose they are.
    reporters: Vec<Sha256>,
    forgers: Vec<u32>,
    honest: Vec<u32>,
    crowd: Vec<u32>,
}

impl Lies {
    fn new(people: &People, rng: &mut Rng, now_ms: u64) -> Self {
        let all = 0..people.peers.len() as u32;
        let doing = |what: &dyn Fn(&super::scenario::Behaviour) -> bool| -> Vec<u32> {
            let is_there = |number: &u32| people.peers[*number as usize].away_until_ms <= now_ms;
            all.clone().filter(is_there).filter(|number| people.does(*number, now_ms).is_some_and(what)).collect()
        };
        let honest: Vec<u32> = all.clone().filter(|number| people.peers[*number as usize].honest).collect();
        let targets: Vec<u32> = rng.choose_multiple(honest.iter().copied(), SLANDERED);
        let liars = doing(&|does| does.slander || does.praise);
        let mates: Vec<u32> = doing(&|does| does.praise);
        let lists = liars.iter().map(|liar| {
            let does = people.does(*liar, now_ms).cloned().unwrap_or_default();
            let mut seen = Vec::new();
            let mut say = |number: u32, good: u32, wrong: u32| {
                let subject = people.peers[number as usize].domain.to_string();
                if number != *liar && seen.iter().all(|said: &Observation| said.subject != subject) {
                    seen.push(Observation { subject, good, bad: 0, wrong });
                }
            };
            if does.slander {
                targets.iter().for_each(|target| say(*target, 20, 5));
            }
            if does.praise {
                rng.choose_multiple(mates.iter().copied(), PRAISED / 2).into_iter().for_each(|mate| say(mate, 2000, 0));
            }
            rng.choose_multiple(honest.iter().copied(), PRAISED).into_iter().for_each(|honest| say(honest, 60, 0));
            list(&people.peers[*liar as usize].key, seen, now_ms / 1000)
        });
        let lists = lists.collect();
        let reporters = liars.iter().map(|liar| people.peers[*liar as usize].key).collect();
        Self { lists, reporters, forgers: doing(&|does| does.forge), honest, crowd: doing(&|does| does.crowd) }
    }

    /// What a forger sends in one exchange.
    fn forge(&self, people: &People, rng: &mut Rng, now_s: u64) -> Vec<Blob> {
        let mut records = Vec::new();
        let Some(forger) = rng.choice(&self.forgers) else { return records };
        let own = &people.peers[*forger as usize];
        for _ in 0..4 {
            let Some(victim) = rng.choice(&self.honest).map(|victim| &people.peers[*victim as usize]) else { break };
            let later = peer_record(&victim.domain, victim.key, now_s, 7);
            let ending = p2pcdn_core::peer::PeerRecord { expires_s: now_s + 1, ..later.clone() };
            let taken_over = peer_record(&victim.domain, own.key, now_s, 7);
            let nobody = peer_record(&format!("nobody{}.example", rng.u16(..)), own.key, now_s, 7);
            records.extend([
                signed(Kind::Peer, &victim.key, &later, false),
                signed(Kind::Peer, &victim.key, &ending, false),
                signed(Kind::Peer, &own.key, &taken_over, true),
                signed(Kind::Peer, &own.key, &nobody, true),
                stolen(&victim.domain, victim.key, own.key, now_s),
            ]);
        }
        records
    }
}

/// Takes in the lists that a site has not heard yet.
fn hear<'a>(
    site: &mut Site,
    table: &Table,
    heard: &mut HashMap<Sha256, u64>,
    reporters: impl Iterator<Item = &'a Sha256>,
    domain_of: &HashMap<Sha256, Arc<str>>,
    now_ms: u64,
) {
    for key in reporters {
        let Some(list) = table.observations(key) else { continue };
        let is_new = heard.insert(*key, list.sequence) != Some(list.sequence);
        let Some(reporter) = domain_of.get(key).filter(|_| is_new) else { continue };
        let own = |subject: &str| site.reputation.account(subject).map(own_view);
        for suspect in site.hearsay.hear(reporter, &list, own, now_ms) {
            site.reputation.suspected(&suspect, Cause::Hearsay, now_ms);
        }
    }
}
