//! Who is a peer, as a state machine without I/O: every transition takes what was learnt and says what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use p2pcdn_core::object::is_authority;
use p2pcdn_core::peer::{NodeKey as PublicKey, PeerRecord};

use super::introduction::Introduction;
use super::neighbourhood::{Network, registrable};
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
    /// When it was first pinned, in seconds since the Unix epoch.
    pub since_s: u64,
    /// Whether the operator has invited it by name; if not, it is one of those that open membership let in.
    pub invited: bool,
    /// Where its domain answered from last.
    pub network: Option<Network>,
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
    /// Removed by the operator, and not let in again by open membership.
    Away {
        /// Since when, in seconds since the Unix epoch.
        since_s: u64,
    },
}

impl Standing {
    /// The pinned peer, if there is one.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        match self {
            Self::Pinned(peer) | Self::KeyChanged { peer, .. } => Some(peer),
            Self::Invited | Self::Pending { .. } | Self::Away { .. } => None,
        }
    }

    /// Whether this site wants to have to do with the domain.
    pub fn is_listed(&self) -> bool {
        !matches!(self, Self::Pending { .. } | Self::Away { .. })
    }

    fn is_pending(&self) -> bool {
        matches!(self, Self::Pending { .. })
    }

    fn is_open(&self) -> bool {
        self.peer().is_some_and(|peer| !peer.invited)
    }

    fn has_ended(&self, now_s: u64) -> bool {
        self.is_open() && self.peer().is_some_and(|peer| peer.record.expires_s <= now_s)
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
    /// The operator has removed it.
    Away,
    /// Open membership has no room for it.
    NoRoom(NoRoom),
}

/// Why open membership does not let a domain in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// As many as this site takes.
    #[error("this site has as many open peers as it takes")]
    Full,
    /// Too many below its registrable domain.
    #[error("this site has as many open peers below that registrable domain as it takes")]
    Owner,
    /// Too many in its network.
    #[error("this site has as many open peers in that network as it takes")]
    Network,
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
    /// The operator has removed it.
    Away,
    /// Open membership has no room for it.
    NoRoom(NoRoom),
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
    /// Domains that the operator has removed while membership was open; the oldest makes room for a further one.
    pub away: usize,
    /// Whom open membership lets in; by invitation only if none.
    pub open: Option<OpenBounds>,
}

/// Bounds of open membership; whoever is beyond them is refused, and nobody ever makes room for another.
#[derive(Debug, Clone, Copy)]
pub struct OpenBounds {
    /// Peers that were not invited.
    pub peers: usize,
    /// Of these, below one registrable domain.
    pub per_owner: usize,
    /// Of these, in one network.
    pub per_network: usize,
}

impl Default for RosterBounds {
    fn default() -> Self {
        Self { known: 4096, pending: 256, away: 4096, open: None }
    }
}

impl Default for OpenBounds {
    fn default() -> Self {
        Self { peers: 512, per_owner: 4, per_network: 16 }
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
        match self.standings.get_mut(domain) {
            Some(Standing::Pinned(peer) | Standing::KeyChanged { peer, .. }) if !peer.invited => {
                Arc::make_mut(peer).invited = true;
                return Ok(true);
            }
            Some(standing) if standing.is_listed() => return Ok(false),
            _ => {}
        }
        if self.standings.values().filter(|standing| standing.is_listed() && !standing.is_open()).count()
            >= self.bounds.known
        {
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

    /// Forgets a domain, pin and all, at `now_s` seconds since the Unix epoch; true if it was known. Where membership is open, or was when it
    /// came in, it is not let in again.
    pub fn remove(&mut self, domain: &str, now_s: u64) -> bool {
        let Some(standing) = self.standings.remove(domain) else { return false };
        if self.bounds.open.is_some() || standing.is_open() {
            let away =
                |standing: &Standing| if let Standing::Away { since_s } = standing { Some(*since_s) } else { None };
            let all = || self.standings.iter().filter_map(|(domain, standing)| Some((away(standing)?, domain)));
            if all().count() >= self.bounds.away {
                let oldest = all().min().map(|(_, domain)| domain.clone());
                oldest.map(|oldest| self.standings.remove(&oldest));
            }
            self.standings.insert(domain.into(), Standing::Away { since_s: now_s });
        }
        !matches!(standing, Standing::Away { .. })
    }

    /// Takes in a record that was fetched from its own domain; `now_s` is seconds since the Unix epoch.
    pub fn introduce(&mut self, introduction: &Introduction, now_s: u64) -> Introduced {
        let Introduction { record, .. } = introduction;
        match self.standings.get_mut(&record.domain) {
            Some(standing @ Standing::Invited) => {
                *standing = Standing::Pinned(Arc::new(pinned(introduction, now_s, true)));
                Introduced::Pinned
            }
            Some(standing @ (Standing::Pinned(_) | Standing::KeyChanged { .. })) => {
                meet_again(standing, introduction, now_s)
            }
            Some(Standing::Away { .. }) => Introduced::Away,
            Some(Standing::Pending { .. }) | None if record.domain == self.own_domain => Introduced::Pending,
            Some(Standing::Pending { .. }) | None => match self.room_for(&record.domain, introduction.network) {
                None => {
                    self.note_pending(record, now_s);
                    Introduced::Pending
                }
                Some(Ok(())) => {
                    let peer = Arc::new(pinned(introduction, now_s, false));
                    self.standings.insert(record.domain.clone(), Standing::Pinned(peer));
                    Introduced::Pinned
                }
                Some(Err(reason)) => Introduced::NoRoom(reason),
            },
        }
    }

    /// Takes in the record of a pinned peer whose old key, `from`, has handed over to the one in the record; false if it is not the one
    /// that is pinned.
    pub fn rotate(&mut self, introduction: &Introduction, from: &PublicKey) -> bool {
        let Some(standing) = self.standings.get_mut(&introduction.record.domain) else { return false };
        let Some(peer) = standing.peer().filter(|peer| peer.key() == *from) else { return false };
        *standing = Standing::Pinned(Arc::new(pinned(introduction, peer.since_s, peer.invited)));
        true
    }

    /// Whether [`Roster::forget_ended`] would forget anybody.
    pub fn has_ended(&self, now_s: u64) -> bool {
        self.standings.values().any(|standing| standing.has_ended(now_s))
    }

    /// Forgets the open peers whose record has ended by `now_s`, seconds since the Unix epoch: they were not met for that long. Returns them.
    pub fn forget_ended(&mut self, now_s: u64) -> Vec<String> {
        let ended = self.standings.iter().filter(|(_, standing)| standing.has_ended(now_s));
        let ended: Vec<String> = ended.map(|(domain, _)| domain.clone()).collect();
        ended.iter().for_each(|domain| drop(self.standings.remove(domain)));
        ended
    }

    /// Whether open membership would let a domain in, whose network is known or not yet; none if membership is not open.
    fn room_for(&self, domain: &str, network: Option<Network>) -> Option<Result<(), NoRoom>> {
        let OpenBounds { peers, per_owner, per_network } = self.bounds.open?;
        let (owner, mut in_all, mut of_owner, mut of_network) = (registrable(domain), 0, 0, 0);
        for (other, standing) in self.standings.iter().filter(|(_, standing)| standing.is_open()) {
            in_all += 1;
            of_owner += usize::from(registrable(other) == owner);
            let their = standing.peer().and_then(|peer| peer.network);
            of_network += usize::from(network.is_some() && their == network);
        }
        Some(if in_all >= peers {
            Err(NoRoom::Full)
        } else if of_owner >= per_owner {
            Err(NoRoom::Owner)
        } else if of_network >= per_network {
            Err(NoRoom::Network)
        } else {
            Ok(())
        })
    }

    /// Takes in a record from its signer's own hands; `now_s` is seconds since the Unix epoch.
    pub fn claim(&mut self, introduction: &Introduction, now_s: u64) -> Claim {
        let Introduction { record, .. } = introduction;
        match self.standings.get_mut(&record.domain) {
            Some(Standing::Pinned(peer) | Standing::KeyChanged { peer, .. }) if peer.key() == record.node_key => {
                update(peer, introduction);
                Claim::Known
            }
            Some(Standing::Away { .. }) => Claim::Away,
            Some(Standing::Pending { .. }) | None => match self.room_for(&record.domain, None) {
                Some(Ok(())) if record.domain != self.own_domain => Claim::Unproven,
                Some(Err(reason)) => Claim::NoRoom(reason),
                Some(Ok(())) | None => Claim::Pending { new: self.note_pending(record, now_s) },
            },
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
        Standing::Invited | Standing::Pending { .. } | Standing::Away { .. } => return Introduced::Pending,
    }
    Introduced::AlreadyKnown
}

fn update(peer: &mut Arc<Peer>, introduction: &Introduction) {
    if introduction.record.sequence > peer.record.sequence {
        let network = introduction.network.or(peer.network);
        *peer = Arc::new(Peer { network, ..pinned(introduction, peer.since_s, peer.invited) });
    } else if introduction.network.is_some() && introduction.network != peer.network {
        Arc::make_mut(peer).network = introduction.network;
    }
}

fn pinned(introduction: &Introduction, since_s: u64, invited: bool) -> Peer {
    let Introduction { record, signed, network, .. } = introduction;
    Peer { record: record.clone(), signed: signed.clone(), since_s, invited, network: *network }
}
