//! Whom to talk to: drawn so that a swarm from few networks gets no more than the share of these networks, however many it is.
//!
//! Every hour the networks are put in an order that follows from a secret seed, and so are the members within each: no newcomer can choose
//! its rank, and none pushes others out of theirs. Each turn takes the next network, and of that the next member.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use p2pcdn_core::peer::NodeKey as PublicKey;
use siphasher::sip::SipHasher13;

use super::table::Candidate;

/// What orders are drawn from: random, secret, and a table's own.
pub type Seed = [u64; 2];

/// The order of one hour.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// By rank, and their members by rank.
    networks: Vec<Vec<PublicKey>>,
}

impl View {
    /// The order of `candidates` in the hour of that number.
    pub fn new(candidates: impl Iterator<Item = Candidate>, seed: Seed, hour: u64) -> Self {
        let rank = |kind: u8, subject: &dyn Fn(&mut SipHasher13)| {
            let mut hasher = SipHasher13::new_with_keys(seed[0], seed[1]);
            (hour, kind).hash(&mut hasher);
            subject(&mut hasher);
            hasher.finish()
        };
        // By network, or by owner where the network is not known; of one owner in one network, one after the other.
        let mut networks: BTreeMap<u64, BTreeMap<u64, Vec<(u64, PublicKey)>>> = BTreeMap::new();
        for Candidate { key, network, owner } in candidates {
            let of_owner = rank(1, &|hasher| owner.hash(hasher));
            let of_network = network.map_or(of_owner, |network| rank(2, &|hasher| network.hash(hasher)));
            let of_key = rank(3, &|hasher| key.hash(hasher));
            networks.entry(of_network).or_default().entry(of_owner).or_default().push((of_key, key));
        }
        Self { networks: networks.into_values().map(in_turns).collect() }
    }

    /// The partner of that turn in the hour, if there is anybody.
    pub fn partner(&self, turn: u64) -> Option<PublicKey> {
        let count = self.networks.len() as u64;
        let network = self.networks.get(turn.checked_rem(count)? as usize)?;
        network.get((turn / count).checked_rem(network.len() as u64)? as usize).copied()
    }
}

/// Owners take turns within their network.
fn in_turns(owners: BTreeMap<u64, Vec<(u64, PublicKey)>>) -> Vec<PublicKey> {
    let mut members = Vec::new();
    for (rank, mut keys) in owners {
        keys.sort_unstable();
        members.extend(keys.into_iter().enumerate().map(|(turn, (_, key))| (turn, rank, key)));
    }
    members.sort_unstable();
    members.into_iter().map(|(_, _, key)| key).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use p2pcdn_core::object::Sha256;

    use super::*;
    use crate::identity::Network;

    fn member(number: u64, network: Option<Network>, owner: u64) -> Candidate {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        Candidate { key: Sha256(key), network, owner }
    }

    fn net(number: u16) -> Option<Network> {
        let [high, low] = number.to_be_bytes();
        Some(Network::V4([10, high, low]))
    }

    #[test]
    fn a_swarm_from_few_networks_gets_the_share_of_its_networks() {
        let honest = (0..400).map(|n| member(n, net(n as u16), n));
        // 10,000 names in ten networks: 2.4 % of the networks and 96 % of the names.
        let swarm = (0..10_000).map(|n| member(1_000_000 + n, net(10_000 + (n % 10) as u16), 10_000 + n));
        let all: Vec<_> = honest.chain(swarm).collect();
        let (mut of_swarm, hours) = (0, 400);
        for hour in 0..hours {
            let view = View::new(all.iter().cloned(), [1, 2], hour);
            of_swarm +=
                (0..60).filter(|turn| view.partner(*turn).unwrap().0[..8] >= 1_000_000u64.to_be_bytes()[..]).count();
        }
        let share = of_swarm as f64 / (hours * 60) as f64;
        assert!(share <= 1.2 * 10.0 / 410.0, "{share}");
    }

    #[test]
    fn an_order_is_not_to_be_foretold_and_holds_for_an_hour() {
        let all: Vec<_> = (0..50).map(|n| member(n, net(n as u16), n)).collect();
        let order = |seed, hour| {
            let view = View::new(all.iter().cloned(), seed, hour);
            (0..50).map(|turn| view.partner(turn).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(order([1, 2], 7), order([1, 2], 7));
        assert_ne!(order([1, 2], 7), order([1, 2], 8));
        assert_ne!(order([1, 2], 7), order([3, 2], 7));
        assert_eq!(order([1, 2], 7).into_iter().collect::<BTreeSet<_>>().len(), 50, "everybody has a turn");
    }

    #[test]
    fn newcomers_push_nobody_out_of_the_order() {
        let few: Vec<_> = (0..20).map(|n| member(n, net(n as u16), n)).collect();
        let more: Vec<_> = few.iter().cloned().chain((20..40).map(|n| member(n, net(n as u16), n))).collect();
        let order = |all: &[Candidate]| {
            let view = View::new(all.iter().cloned(), [1, 2], 7);
            (0..all.len() as u64).filter_map(|turn| view.partner(turn)).collect::<Vec<_>>()
        };
        let known: BTreeSet<_> = few.iter().map(|candidate| candidate.key).collect();
        let kept: Vec<_> = order(&more).into_iter().filter(|key| known.contains(key)).collect();
        assert_eq!(kept, order(&few));
    }

    #[test]
    fn owners_take_turns_in_one_network_and_where_none_is_known() {
        let all: Vec<_> = (0..9).map(|n| member(n, net(1), 1)).chain([member(9, net(1), 2)]).collect();
        let view = View::new(all.iter().cloned(), [1, 2], 0);
        assert!((0..2).any(|turn| view.partner(turn) == Some(all[9].key)));
        let unknown: Vec<_> = (0..9).map(|n| member(n, None, 1)).chain([member(9, None, 2)]).collect();
        let view = View::new(unknown.iter().cloned(), [1, 2], 0);
        let of_the_one = (0..100).filter(|turn| view.partner(*turn) == Some(unknown[9].key)).count();
        assert_eq!(of_the_one, 50);
        assert_eq!(View::default().partner(3), None);
    }
}
