//! The peers of the world, and what each of them does when it is asked for something.

use std::net::Ipv4Addr;
use std::sync::Arc;

use fastrand::Rng;
use p2pcdn_core::object::Sha256;

use super::scenario::{Behaviour, Group, World};
use crate::identity::neighbourhood::{Network, network};

/// One peer; under another domain after it has come back.
pub(super) struct Peer {
    pub(super) domain: Arc<str>,
    pub(super) key: Sha256,
    pub(super) network: Network,
    /// Of those in the scenario; none for those who do as everybody should.
    pub(super) group: Option<u16>,
    pub(super) honest: bool,
    /// How often it has come back.
    pub(super) returns: u32,
    /// Gone until then.
    pub(super) away_until_ms: u64,
    /// When its first hour on begins, in milliseconds.
    offset_ms: u64,
}

/// Who is there, with those first that are sites.
pub(super) struct People {
    pub(super) peers: Vec<Peer>,
    groups: Vec<Group>,
    start_ms: u64,
    numbers: u32,
}

/// What somebody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Right,
    Wrong,
    Missing,
}

const HOUR_MS: f64 = 3_600_000.0;

impl People {
    pub(super) fn new(world: &World, groups: &[Group], start_ms: u64, rng: &mut Rng) -> Self {
        let mut people = Self { peers: Vec::new(), groups: groups.to_vec(), start_ms, numbers: 0 };
        let mut belongs: Vec<Option<u16>> = Vec::new();
        for (number, group) in groups.iter().enumerate() {
            let count = (group.share * f64::from(world.peers)).round() as usize;
            belongs.extend(std::iter::repeat_n(Some(number as u16), count));
        }
        belongs.resize((world.peers - world.sites) as usize, None);
        let extra = groups.iter().enumerate();
        belongs
            .extend(extra.flat_map(|(number, group)| std::iter::repeat_n(Some(number as u16), group.extra as usize)));
        let sites = std::iter::repeat_n(None, world.sites as usize);
        for (place, group) in sites.chain(belongs).enumerate() {
            let honest = group.is_none_or(|group| groups[usize::from(group)].honest);
            let networks = group.map_or(0, |group| groups[usize::from(group)].networks);
            // One prefix each, or one of those that the group has.
            let prefix = if networks == 0 {
                place as u32
            } else {
                0x80_0000 + u32::from(group.unwrap_or(0)) * 0x1000 + place as u32 % networks
            };
            let address = Ipv4Addr::from(0x0b00_0000 + (prefix << 8) + 1);
            let (domain, key) = people.name();
            people.peers.push(Peer {
                domain,
                key,
                network: network(address.into()),
                group,
                honest,
                returns: 0,
                away_until_ms: 0,
                offset_ms: rng.u64(..),
            });
        }
        people
    }

    /// What the peer does at that time.
    pub(super) fn does(&self, peer: u32, now_ms: u64) -> Option<&Behaviour> {
        let group = self.peers[peer as usize].group?;
        let day = now_ms.saturating_sub(self.start_ms) as f64 / (24.0 * HOUR_MS);
        Some(self.groups[usize::from(group)].does_at(day))
    }

    /// What the peer answers a visitor.
    pub(super) fn answer(&self, peer: u32, now_ms: u64, rng: &mut Rng) -> Answer {
        let Some(does) = self.does(peer, now_ms) else { return Answer::Right };
        if does.missing > 0.0 && rng.f64() < does.missing {
            return Answer::Missing;
        }
        if does.corrupt > 0.0 && self.is_on(peer, does, now_ms) && rng.f64() < does.corrupt {
            return Answer::Wrong;
        }
        Answer::Right
    }

    /// What it answers an audit, which it may recognise.
    pub(super) fn answer_audit(&self, peer: u32, now_ms: u64, rng: &mut Rng) -> Answer {
        let spared = self.does(peer, now_ms).map_or(0.0, |does| does.spares_audits);
        if spared > 0.0 && rng.f64() < spared { Answer::Right } else { self.answer(peer, now_ms, rng) }
    }

    /// Whether all peers of that number's group come from a few networks.
    pub(super) fn is_of_a_swarm(&self, peer: u32) -> bool {
        self.peers[peer as usize].group.is_some_and(|group| self.groups[usize::from(group)].networks > 0)
    }

    /// Share of all networks that the groups with few of them have.
    pub(super) fn prefix_share(&self) -> f64 {
        let of_groups: u32 = self.groups.iter().map(|group| group.networks).sum();
        let others = (0..self.peers.len() as u32).filter(|peer| !self.is_of_a_swarm(*peer)).count();
        f64::from(of_groups) / (f64::from(of_groups) + others as f64)
    }

    /// The peer leaves, to come back under another domain.
    pub(super) fn leave(&mut self, peer: u32, until_ms: u64) {
        let (domain, key) = self.name();
        let peer = &mut self.peers[peer as usize];
        (peer.domain, peer.key, peer.away_until_ms) = (domain, key, until_ms);
        peer.returns += 1;
    }

    fn is_on(&self, peer: u32, does: &Behaviour, now_ms: u64) -> bool {
        let (on, off) = ((does.on_hours * HOUR_MS) as u64, (does.off_hours * HOUR_MS) as u64);
        off == 0 || now_ms.wrapping_add(self.peers[peer as usize].offset_ms % (on + off)) % (on + off) < on
    }

    fn name(&mut self) -> (Arc<str>, Sha256) {
        self.numbers += 1;
        let mut key = [0; 32];
        key[..4].copy_from_slice(&self.numbers.to_be_bytes());
        (format!("p{}.example", self.numbers).into(), Sha256(key))
    }
}
