//! The peers that are described to gates, which know them by number.

use std::collections::{BTreeSet, HashMap, VecDeque};

use p2pcdn_core::destination::Destinations;
use p2pcdn_core::replica_table::MAX_HOLDERS;
use p2pcdn_core::sync::HolderRow;

#[derive(Default)]
pub(super) struct Peers {
    /// By number.
    list: Vec<Peer>,
    numbers: HashMap<String, u16>,
    /// Numbers of forgotten peers, of the one that has been longest first.
    forgotten: VecDeque<u16>,
}

pub(super) struct Peer {
    pub(super) domain: String,
    pub(super) row: HolderRow,
    /// Keys of what it holds.
    pub(super) held: BTreeSet<u64>,
    /// The last of these that was drawn as a sample.
    pub(super) sampled: u64,
    is_forgotten: bool,
}

impl Peers {
    /// The number of a peer that is described; none of one that was forgotten.
    pub(super) fn number(&self, domain: &str) -> Option<u16> {
        let number = self.numbers.get(domain).copied()?;
        self.get(number).filter(|peer| !peer.is_forgotten).map(|_| number)
    }

    pub(super) fn get(&self, number: u16) -> Option<&Peer> {
        self.list.get(usize::from(number))
    }

    pub(super) fn get_mut(&mut self, number: u16) -> Option<&mut Peer> {
        self.list.get_mut(usize::from(number))
    }

    pub(super) fn find(&self, domain: &str) -> Option<&Peer> {
        self.get(self.number(domain)?)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.list.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn domains(&self, numbers: &BTreeSet<u16>) -> Vec<String> {
        numbers.iter().filter_map(|number| Some(self.get(*number)?.domain.clone())).collect()
    }

    /// The peer of this domain and its number, without an authority if it is new; `None` if all numbers are given. Only then a new peer gets
    /// that of one that was forgotten, so that gates hardly have anything to report of that any more.
    pub(super) fn assign(&mut self, domain: &str) -> Option<(u16, &mut Peer)> {
        let number = match self.numbers.get(domain).copied() {
            Some(number) => self.recall(number),
            None => self.add(domain)?,
        };
        Some((number, self.get_mut(number)?))
    }

    fn recall(&mut self, number: u16) -> u16 {
        if let Some(peer) = self.get_mut(number)
            && std::mem::take(&mut peer.is_forgotten)
        {
            self.forgotten.retain(|forgotten| *forgotten != number);
        }
        number
    }

    fn add(&mut self, domain: &str) -> Option<u16> {
        let next = u16::try_from(self.list.len()).ok().filter(|next| usize::from(*next) < MAX_HOLDERS);
        let number = next.or_else(|| self.forgotten.pop_front())?;
        let peer = Peer::new(domain, number);
        match self.list.get_mut(usize::from(number)) {
            Some(former) => drop(self.numbers.remove(&std::mem::replace(former, peer).domain)),
            None => self.list.push(peer),
        }
        self.numbers.insert(domain.to_owned(), number);
        Some(number)
    }

    /// Forgets a peer, and says what it held.
    pub(super) fn forget(&mut self, number: u16) -> BTreeSet<u64> {
        let Some(peer) = self.get_mut(number) else { return BTreeSet::new() };
        let held = std::mem::take(&mut peer.held);
        if !std::mem::replace(&mut peer.is_forgotten, true) {
            self.forgotten.push_back(number);
        }
        held
    }
}

impl Peer {
    fn new(domain: &str, id: u16) -> Self {
        let (authority, blocked) = (String::new(), Destinations::default());
        let row = HolderRow { id, authority, weight: 0, newcomer: false, lease_bytes_per_s: 0, blocked };
        Self { domain: domain.to_owned(), row, held: BTreeSet::new(), sampled: 0, is_forgotten: false }
    }
}
