//! Who is a peer, as a state machine without I/O: every transition takes what was learnt and says what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use p2pcdn_core::object::is_authority;
use p2pcdn_core::peer::{NodeKey as PublicKey, PeerRecord};

use super::introduction::Introduction;
use super::signed::Signed;

#[cfg(test)]
mod tests;

/// A peer whose key is known for good: "I will know you when I see you again".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The newest record seen; it may have expired meanwhile.
    pub record: PeerRecord,
    /// The same, signed.
    pub signed: Signed,
    /// When the key was pinned, in seconds since the Unix epoch.
    pub since_s: u64,
}

impl Peer {
    /// The pinned key.
    pub fn key(&self) -> PublicKey {
        self.record.node_key
    }
}

/// Where a domain stands with this site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Listed by this side and not met yet.
    Invited,
    /// Met, key pinned.
    Pinned(Arc<Peer>),
    /// Knocked without being invited; the operator may accept it.
    Pending {
        /// What it says about itself, proven by nothing but its own signature.
        record: Box<PeerRecord>,
        /// When it last knocked, in seconds since the Unix epoch.
        seen_s: u64,
    },
    /// Pinned, but its domain now shows another key, which is refused until the operator accepts it.
    KeyChanged {
        /// The peer as pinned; connections with its old key stay valid.
        peer: Arc<Peer>,
        /// The key that was refused.
        refused: PublicKey,
        /// When that key was first seen, in seconds since the Unix epoch.
        first_seen_s: u64,
    },
}

impl Standing {
    /// The pinned peer, if there is one.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        match self {
            Self::Pinned(peer) | Self::KeyChanged { peer, .. } => Some(peer),
            Self::Invited | Self::Pending { .. } => None,
        }
    }

    fn is_pending(&self) -> bool {
        matches!(self, Self::Pending { .. })
    }
}

/// What became of a record that its own domain published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Introduced {
    /// An invited domain: the key is pinned from now on.
    Pinned,
    /// The pinned key; the record was taken if it is newer.
    AlreadyKnown,
    /// Not invited: noted for the operator.
    Pending,
    /// Another key than the pinned one.
    RefusedKeyChanged,
}

/// What became of a record that its signer handed over itself, which proves nothing about its domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The pinned key; the record was taken if it is newer.
    Known,
    /// The domain is invited or pinned, but only its own document can tell whether this is its key.
    Unproven,
    /// Not invited: noted for the operator; `new` if it was not noted before.
    Pending {
        /// Whether this is its first knock.
        new: bool,
    },
}

/// Why the operator's wish cannot be met; the operator's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// Not an authority.
    #[error("{0:?} is not a domain (host in lower case, :port unless 443)")]
    Domain(String),
    /// The site itself.
    #[error("{0} is this site itself")]
    Ourselves(String),
    /// Nothing is known of that domain.
    #[error("nothing is known of {0}; invite it first")]
    Unknown(String),
    /// The bound on known peers is reached.
    #[error("{0} peers are known, which is the most there can be; remove some")]
    Full(usize),
}

/// Bounds of a roster.
#[derive(Debug, Clone, Copy)]
pub struct RosterBounds {
    /// Invited and pinned domains; further invitations are refused.
    pub known: usize,
    /// Domains that knocked; the one that has not knocked for longest makes room for a further one.
    pub pending: usize,
}

impl Default for RosterBounds {
    fn default() -> Self {
        Self { known: 4096, pending: 256 }
    }
}

/// Every domain that this site has to do with.
#[derive(Debug)]
pub struct Roster {
    own_domain: String,
    bounds: RosterBounds,
    standings: BTreeMap<String, Standing>,
}

impl Roster {
    /// A roster with what was known before; `own_domain` can never be in it.
    pub fn new(own_domain: &str, bounds: RosterBounds, known: BTreeMap<String, Standing>) -> Self {
        Self { own_domain: own_domain.into(), bounds, standings: known }
    }

    /// Lists a domain as welcome; true if that is news. A changed key is not accepted by this.
    pub fn invite(&mut self, domain: &str) -> Result<bool, RosterError> {
        if !is_authority(domain) {
            return Err(RosterError::Domain(domain.into()));
        }
        if domain == self.own_domain {
            return Err(RosterError::Ourselves(domain.into()));
        }
        if self.standings.get(domain).is_some_and(|standing| !standing.is_pending()) {
            return Ok(false);
        }
        if self.standings.values().filter(|standing| !standing.is_pending()).count() >= self.bounds.known {
            return Err(RosterError::Full(self.bounds.known));
        }
        self.standings.insert(domain.into(), Standing::Invited);
        Ok(true)
    }

    /// Accepts a pending domain, or a pinned one's changed key: whatever its document says next is pinned. True if that is news.
    pub fn accept(&mut self, domain: &str) -> Result<bool, RosterError> {
        match self.standings.get_mut(domain) {
            None => Err(RosterError::Unknown(domain.into())),
            Some(standing @ Standing::KeyChanged { .. }) => {
                *standing = Standing::Invited;
                Ok(true)
            }
            Some(_) => self.invite(domain),
        }
    }

    /// Forgets a domain, pin and all; true if it was known.
    pub fn remove(&mut self, domain: &str) -> bool {
        self.standings.remove(domain).is_some()
    }

    /// Takes in a record that was fetched from its own domain; `now_s` is seconds since the Unix epoch.
    pub fn introduce(&mut self, introduction: &Introduction, now_s: u64) -> Introduced {
        let Introduction { record, .. } = introduction;
        match self.standings.get_mut(&record.domain) {
            Some(standing @ Standing::Invited) => {
                *standing = Standing::Pinned(Arc::new(pinned(introduction, now_s)));
                Introduced::Pinned
            }
            Some(standing @ (Standing::Pinned(_) | Standing::KeyChanged { .. })) => {
                meet_again(standing, introduction, now_s)
            }
            Some(Standing::Pending { .. }) | None => {
                self.note_pending(record, now_s);
                Introduced::Pending
            }
        }
    }

    /// Takes in a record from its signer's own hands; `now_s` is seconds since the Unix epoch.
    pub fn claim(&mut self, introduction: &Introduction, now_s: u64) -> Claim {
        let Introduction { record, .. } = introduction;
        match self.standings.get_mut(&record.domain) {
            Some(Standing::Pinned(peer) | Standing::KeyChanged { peer, .. }) if peer.key() == record.node_key => {
                update(peer, introduction);
                Claim::Known
            }
            Some(Standing::Pending { .. }) | None => Claim::Pending { new: self.note_pending(record, now_s) },
            Some(_) => Claim::Unproven,
        }
    }

    /// Where a domain stands.
    pub fn get(&self, domain: &str) -> Option<&Standing> {
        self.standings.get(domain)
    }

    /// Puts a domain back to where it stood before.
    pub fn restore(&mut self, domain: &str, before: Option<Standing>) {
        match before {
            Some(standing) => self.standings.insert(domain.into(), standing),
            None => self.standings.remove(domain),
        };
    }

    /// The pinned peer with that key; the one with the newest record if a key moved to another domain.
    pub fn by_key(&self, key: &PublicKey) -> Option<&Arc<Peer>> {
        let peers = self.standings.values().filter_map(Standing::peer);
        peers.filter(|peer| peer.key() == *key).max_by_key(|peer| peer.record.sequence)
    }

    /// Every domain and where it stands, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Standing)> {
        self.standings.iter()
    }

    fn note_pending(&mut self, record: &PeerRecord, now_s: u64) -> bool {
        if record.domain == self.own_domain || self.bounds.pending == 0 {
            return false;
        }
        let new = !self.standings.contains_key(&record.domain);
        let pending = || self.standings.iter().filter(|(_, standing)| standing.is_pending());
        if new && pending().count() >= self.bounds.pending {
            let seen = |standing: &Standing| if let Standing::Pending { seen_s, .. } = standing { *seen_s } else { 0 };
            let oldest = pending().min_by_key(|(_, standing)| seen(standing)).map(|(domain, _)| domain.clone());
            oldest.map(|domain| self.standings.remove(&domain));
        }
        let standing = Standing::Pending { record: Box::new(record.clone()), seen_s: now_s };
        self.standings.insert(record.domain.clone(), standing);
        new
    }
}

fn meet_again(standing: &mut Standing, introduction: &Introduction, now_s: u64) -> Introduced {
    let shown = introduction.record.node_key;
    match standing {
        Standing::Pinned(peer) if peer.key() == shown => update(peer, introduction),
        Standing::KeyChanged { peer, .. } if peer.key() == shown => {
            update(peer, introduction);
            *standing = Standing::Pinned(peer.clone());
        }
        Standing::KeyChanged { refused, .. } if *refused == shown => return Introduced::RefusedKeyChanged,
        Standing::Pinned(peer) | Standing::KeyChanged { peer, .. } => {
            *standing = Standing::KeyChanged { peer: peer.clone(), refused: shown, first_seen_s: now_s };
            return Introduced::RefusedKeyChanged;
        }
        Standing::Invited | Standing::Pending { .. } => return Introduced::Pending,
    }
    Introduced::AlreadyKnown
}

fn update(peer: &mut Arc<Peer>, introduction: &Introduction) {
    if introduction.record.sequence > peer.record.sequence {
        *peer = Arc::new(pinned(introduction, peer.since_s));
    }
}

fn pinned(introduction: &Introduction, since_s: u64) -> Peer {
    Peer { record: introduction.record.clone(), signed: introduction.signed.clone(), since_s }
}
