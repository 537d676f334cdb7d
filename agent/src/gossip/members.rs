//! Who may be in the table: those whose domain has shown their key, and of strangers only so many of one owner and one network.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use p2pcdn_core::peer::NodeKey as PublicKey;

use crate::identity::{Network, registrable};

/// Bounds of a table.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Domains in all; further strangers are refused until one has expired, and a peer of this site takes the place of the stranger whose
    /// record ends first.
    pub subjects: usize,
    /// Bytes of all records, [`super::table::ENTRY_BYTES`] for each included; further records of strangers are refused.
    pub bytes: usize,
    /// Strangers below one registrable domain.
    pub per_owner: usize,
    /// Strangers in one network.
    pub per_network: usize,
    /// Proofs; further ones are refused.
    pub proofs: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { subjects: 16_384, bytes: 32 << 20, per_owner: 4, per_network: 16, proofs: 512 }
    }
}

/// Why a domain was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The table is full.
    #[error("the table is full")]
    Full,
    /// Too many domains below its registrable domain.
    #[error("too many domains of one owner")]
    Owner,
    /// Too many domains in its network.
    #[error("too many domains in one network")]
    Network,
}

/// One domain, by the place of its peer record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) key: PublicKey,
    /// None for a peer of this site whose address is not known.
    pub(super) network: Option<Network>,
    /// Hash of the registrable domain.
    pub(super) owner: u64,
    /// Whether this site has pinned it, so that nobody can crowd it out.
    pub(super) is_peer: bool,
}

/// All members.
pub(super) struct Members {
    bounds: Bounds,
    by_id: HashMap<u64, Member>,
    by_key: HashMap<PublicKey, u64>,
    owners: HashMap<u64, u16>,
    networks: HashMap<Network, u16>,
    hasher: RandomState,
}

impl Members {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            by_id: HashMap::new(),
            by_key: HashMap::new(),
            owners: HashMap::new(),
            networks: HashMap::new(),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: u64) -> Option<&Member> {
        self.by_id.get(&id)
    }

    /// The place of the peer record of the key's domain; of one of them if there are several.
    pub(super) fn id_of(&self, key: &PublicKey) -> Option<u64> {
        self.by_key.get(key).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Member)> {
        self.by_id.iter().map(|(id, member)| (*id, member))
    }

    /// Whether there is room for a stranger, the one under `id` not counted.
    fn check(&self, id: u64, owner: u64, network: Option<Network>) -> Result<(), Refused> {
        let present = self.by_id.get(&id).filter(|member| !member.is_peer);
        let beside = |count: Option<&u16>, is_own: bool| usize::from(count.copied().unwrap_or(0)) - usize::from(is_own);
        let is_owner = present.is_some_and(|member| member.owner == owner);
        if beside(self.owners.get(&owner), is_owner) >= self.bounds.per_owner {
            return Err(Refused::Owner);
        }
        let Some(network) = network else { return Ok(()) };
        let is_here = present.is_some_and(|member| member.network == Some(network));
        if beside(self.networks.get(&network), is_here) >= self.bounds.per_network {
            return Err(Refused::Network);
        }
        Ok(())
    }

    /// Puts a domain in, in place of what was known of it. [`Refused::Full`] is left to the caller for a peer of this site.
    pub(super) fn admit(
        &mut self,
        id: u64,
        domain: &str,
        key: PublicKey,
        network: Option<Network>,
        is_peer: bool,
    ) -> Result<(), Refused> {
        let owner = self.hasher.hash_one(registrable(domain));
        if !is_peer {
            self.check(id, owner, network)?;
        }
        if !self.by_id.contains_key(&id) && self.by_id.len() >= self.bounds.subjects {
            return Err(Refused::Full);
        }
        self.remove(id);
        if !is_peer {
            *self.owners.entry(owner).or_default() += 1;
            if let Some(network) = network {
                *self.networks.entry(network).or_default() += 1;
            }
        }
        self.by_id.insert(id, Member { key, network, owner, is_peer });
        self.by_key.insert(key, id);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Member> {
        let member = self.by_id.remove(&id)?;
        if self.by_key.get(&member.key) == Some(&id) {
            self.by_key.remove(&member.key);
        }
        if !member.is_peer {
            leave(&mut self.owners, &member.owner);
            if let Some(network) = member.network {
                leave(&mut self.networks, &network);
            }
        }
        Some(member)
    }
}

fn leave<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, u16>, of: &K) {
    if let Some(count) = counts.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            counts.remove(of);
        }
    }
}
