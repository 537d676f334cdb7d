//! What is known by gossip: a state machine without sockets, of which [`super::reconcile`] is the conversation with another one.
//!
//! Every record has one place, named by 8 bytes that are a hash of its kind and subject, and the higher sequence holds it. Nothing is
//! taken in, and so nothing is passed on, before it is checked: bounds, time and sequence, that its signer is a member, and its signature.
//! Members are the peers of this site and strangers whose own domain has shown their key to this site ([`Table::admit`]): nobody's word
//! makes a member or takes one away. There are no tombstones: every record ends by itself.

use std::collections::{BTreeMap, HashMap, VecDeque};

use p2pcdn_core::peer::{NodeKey as PublicKey, PeerRecord};

use super::members::{Bounds, Members, Refused};
use super::proof::{Accused, Proof, contradiction};
use super::record::{About, Blob, HEAD_BYTES, Kind, Record, View, id_of};
use super::statements::Observations;
use crate::identity::Network;

/// What an entry takes beside its record, in bytes.
pub const ENTRY_BYTES: usize = 96;
/// Places that are remembered as of no use, so that they are not asked for again; all are forgotten when there are more.
const MAX_USELESS: usize = 4096;
/// The latest places that were filled anew, which are offered before the rotating window gets there.
const MAX_NEWS: usize = 128;

/// Everything known by gossip.
pub struct Table {
    bounds: Bounds,
    pub(super) members: Members,
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) news: VecDeque<u64>,
    pub(super) useless: HashMap<u64, u64>,
    /// Where the next window begins.
    pub(super) cursor: u64,
    bytes: usize,
    proofs: usize,
    summary: u64,
}

/// One record in its place.
pub(super) struct Entry {
    pub(super) blob: Blob,
    pub(super) sequence: u64,
    pub(super) expires_s: u64,
    kind: Kind,
}

/// One signature to verify.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Type of the statement.
    pub kind: &'a str,
    /// Its payload.
    pub payload: &'a str,
    /// Key of the signer.
    pub key: &'a PublicKey,
    /// The signature.
    pub signature: &'a [u8; 64],
}

/// What came of verifying a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// It holds.
    Good,
    /// It does not.
    Bad,
    /// There is no time for it now.
    Later,
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is in the table now, and will be passed on.
    Accepted,
    /// The table has it, or a later one.
    Known,
    /// Signed by somebody who is no member. A peer record names the domain to ask.
    Stranger(Option<Box<str>>),
    /// A member's domain with another key than before, or a member's word that it has another key: only the domain can tell.
    OtherKey(Box<str>),
    /// Its signer contradicts what it signed before.
    Contradiction(Box<(Proof, Accused)>),
    /// The signature is not the signer's.
    BadSignature,
    /// Not verified for want of time.
    Later,
    /// No room.
    Full,
}

/// A member as a partner to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its key.
    pub key: PublicKey,
    /// Its network, if that is known.
    pub network: Option<Network>,
    /// What stands for its registrable domain; the same for the same one.
    pub owner: u64,
}

impl Table {
    /// An empty table; `start` is where its first window begins and should be random.
    pub fn new(bounds: Bounds, start: u64) -> Self {
        Self {
            bounds,
            members: Members::new(bounds),
            entries: BTreeMap::new(),
            news: VecDeque::new(),
            useless: HashMap::new(),
            cursor: start,
            bytes: 0,
            proofs: 0,
            summary: 0,
        }
    }

    /// Takes in a domain with the record that it showed itself, from an address in `network`; `is_peer` for one that this site has
    /// pinned. Signatures were verified.
    pub fn admit(&mut self, record: &Record, network: Option<Network>, is_peer: bool) -> Result<(), Refused> {
        let About::Peer { domain } = &record.about else { return Err(Refused::Full) };
        let (key, former) = (record.key(), self.members.get(record.id).copied());
        if former.is_some_and(|member| member.key == key && member.is_peer == is_peer && member.network == network) {
            self.replace(record);
            return Ok(());
        }
        match self.members.admit(record.id, domain, key, network, is_peer) {
            Err(Refused::Full) if is_peer => {
                self.make_room();
                self.members.admit(record.id, domain, key, network, is_peer)?;
            }
            admitted => admitted?,
        }
        if let Some(former) = former.filter(|former| former.key != key) {
            self.remove(id_of(Kind::Observations, &former.key.0));
            self.remove(record.id);
        }
        self.useless.remove(&id_of(Kind::Observations, &key.0));
        self.replace(record);
        Ok(())
    }

    /// Forgets a domain and what it said, at the wish of this site's operator.
    pub fn expel(&mut self, domain: &str) {
        let id = id_of(Kind::Peer, domain.as_bytes());
        if let Some(member) = self.members.remove(id) {
            self.remove(id);
            self.remove(id_of(Kind::Observations, &member.key.0));
            self.remove(id_of(Kind::Rotation, &member.key.0));
        }
    }

    /// Puts in what this site itself has signed, with whatever key.
    pub fn publish(&mut self, record: &Record) {
        self.replace(record);
    }

    /// Takes in a record from anybody; `check` verifies signatures, one unless it is a proof, and none before everything else was found
    /// in order.
    pub fn insert(&mut self, record: &Record, check: &mut dyn FnMut(&Claim<'_>) -> Check) -> Outcome {
        let held = self.entries.get(&record.id);
        if held.is_some_and(|held| held.sequence > record.sequence || held.blob == record.blob) {
            return Outcome::Known;
        }
        let key = record.key();
        let rival = held.filter(|held| held.sequence == record.sequence && record.kind != Kind::Proof);
        let rival = rival.and_then(|held| Some(View::of(&held.blob)?.signed()));
        if record.kind == Kind::Proof && held.is_some() {
            return Outcome::Known;
        }
        let (is_peer, known_key) = match (&record.about, self.member_of(record)) {
            (_, Some((is_peer, known))) => (is_peer, known),
            (About::Peer { domain }, None) => {
                // What is passed on to be looked at is worth a signature, or anybody could name any domain.
                return match verify(record, check) {
                    Check::Good => self.dismiss(record, Outcome::Stranger(Some(domain.clone()))),
                    Check::Bad => Outcome::BadSignature,
                    Check::Later => Outcome::Later,
                };
            }
            (_, None) => return self.dismiss(record, Outcome::Stranger(None)),
        };
        match verify(record, check) {
            Check::Good => {}
            Check::Bad => return Outcome::BadSignature,
            Check::Later => return Outcome::Later,
        }
        if let About::Peer { domain } = &record.about
            && known_key != key
        {
            return self.dismiss(record, Outcome::OtherKey(domain.clone()));
        }
        if let Some(rival) = rival {
            let Some(signed) = View::of(&record.blob).map(|view| view.signed()) else { return Outcome::Known };
            let proof = contradiction(&rival, &signed);
            let accused = proof.and_then(|proof| Some((proof.accused().ok()?, proof)));
            // Sequences that counted seconds prove nothing.
            let outcome = |(accused, proof)| Outcome::Contradiction(Box::new((proof, accused)));
            return self.dismiss(record, accused.map_or(Outcome::Known, outcome));
        }
        if !is_peer && self.bytes + cost(&record.blob) > self.bounds.bytes {
            return Outcome::Full;
        }
        if record.kind == Kind::Proof && self.proofs >= self.bounds.proofs {
            return Outcome::Full;
        }
        self.replace(record);
        if let About::Rotation { domain, .. } = &record.about {
            return Outcome::OtherKey(domain.clone());
        }
        Outcome::Accepted
    }

    /// Removes what has ended by `now_s`, in seconds since the Unix epoch, with the strangers whose record it was.
    pub fn expire(&mut self, now_s: u64) {
        let over: Vec<u64> =
            self.entries.iter().filter(|(_, entry)| entry.expires_s <= now_s).map(|(id, _)| *id).collect();
        for id in over {
            self.remove(id);
            if self.members.get(id).is_some_and(|member| !member.is_peer) {
                self.drop_member(id);
            }
        }
    }

    /// What was of no use may be of use by now: it will be asked for once more.
    pub fn reconsider(&mut self) {
        self.useless.clear();
    }

    /// The peer record of a key's domain.
    pub fn peer(&self, key: &PublicKey) -> Option<PeerRecord> {
        let entry = self.entries.get(&self.members.id_of(key)?)?;
        serde_json::from_str(View::of(&entry.blob)?.payload).ok()
    }

    /// Whether the domain of that key was admitted.
    pub fn knows(&self, key: &PublicKey) -> bool {
        self.members.id_of(key).is_some()
    }

    /// The present list of an observer.
    pub fn observations(&self, observer: &PublicKey) -> Option<Observations> {
        let entry = self.entries.get(&id_of(Kind::Observations, &observer.0))?;
        serde_json::from_str(View::of(&entry.blob)?.payload).ok()
    }

    /// Every member, in no order.
    pub fn candidates(&self) -> impl Iterator<Item = Candidate> {
        self.members.iter().map(|(_, m)| Candidate { key: m.key, network: m.network, owner: m.owner })
    }

    /// Number of members.
    pub fn subjects(&self) -> usize {
        self.members.len()
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all records, as they count against [`Bounds::bytes`].
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same for two tables with the same records; otherwise different but for chance. Against no enemy.
    pub fn summary(&self) -> u64 {
        self.summary
    }

    /// Whether the record's signer may say this, and with which key its domain is known.
    fn member_of(&self, record: &Record) -> Option<(bool, PublicKey)> {
        let by_key = |key: &PublicKey| self.members.id_of(key).and_then(|id| self.members.get(id));
        let member = match &record.about {
            About::Peer { .. } => self.members.get(record.id),
            About::Rotation { domain, .. } => {
                let member = self.members.get(id_of(Kind::Peer, domain.as_bytes()));
                member.filter(|member| member.key == record.key())
            }
            About::Observations => by_key(&record.key()),
            // About nobody known it would be of no use, and its signer answers for the room that it takes.
            About::Proof(proof) => by_key(&record.key()).and(by_key(&proof.1.key)),
        };
        member.map(|member| (member.is_peer, member.key))
    }

    fn dismiss(&mut self, record: &Record, outcome: Outcome) -> Outcome {
        if self.useless.len() >= MAX_USELESS {
            self.useless.clear();
        }
        self.useless.insert(record.id, record.sequence);
        outcome
    }

    /// Puts a record in its place if it is later than what is there.
    fn replace(&mut self, record: &Record) {
        if self.entries.get(&record.id).is_some_and(|held| held.sequence >= record.sequence) {
            return;
        }
        self.remove(record.id);
        self.bytes += cost(&record.blob);
        self.proofs += usize::from(record.kind == Kind::Proof);
        self.summary ^= mix(record.id, &record.blob);
        let (blob, sequence, expires_s, kind) = (record.blob.clone(), record.sequence, record.expires_s, record.kind);
        self.entries.insert(record.id, Entry { blob, sequence, expires_s, kind });
        self.news.truncate(MAX_NEWS - 1);
        self.news.push_front(record.id);
    }

    fn remove(&mut self, id: u64) {
        if let Some(entry) = self.entries.remove(&id) {
            self.bytes -= cost(&entry.blob);
            self.proofs -= usize::from(entry.kind == Kind::Proof);
            self.summary ^= mix(id, &entry.blob);
        }
    }

    fn drop_member(&mut self, id: u64) {
        if let Some(member) = self.members.remove(id) {
            self.remove(id);
            self.remove(id_of(Kind::Observations, &member.key.0));
        }
    }

    /// Drops the stranger whose record ends first.
    fn make_room(&mut self) {
        let ends = |id: u64| self.entries.get(&id).map_or(0, |entry| entry.expires_s);
        let strangers = self.members.iter().filter(|(_, member)| !member.is_peer);
        if let Some((id, _)) = strangers.min_by_key(|(id, _)| ends(*id)) {
            self.drop_member(id);
        }
    }
}

fn verify(record: &Record, check: &mut dyn FnMut(&Claim<'_>) -> Check) -> Check {
    let Some(view) = View::of(&record.blob) else { return Check::Bad };
    let kind = view.kind.limits().0;
    let mut outcome = check(&Claim { kind, payload: view.payload, key: &view.key, signature: view.signature });
    if let About::Proof(proof) = &record.about {
        for signed in proof.0.statements() {
            if outcome == Check::Good {
                let (kind, payload) = (signed.kind.as_str(), signed.payload.as_str());
                outcome = check(&Claim { kind, payload, key: &signed.key, signature: &signed.signature });
            }
        }
    }
    outcome
}

fn cost(blob: &Blob) -> usize {
    blob.len() + ENTRY_BYTES
}

/// One record's part of a [`Table::summary`]: the finalizer of MurmurHash3 over place and the end of the signature.
fn mix(id: u64, blob: &Blob) -> u64 {
    let end = blob.get(HEAD_BYTES - 16..HEAD_BYTES - 8).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    let mut bits = id ^ u64::from_le_bytes(end);
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        bits = (bits ^ bits >> 33).wrapping_mul(factor);
    }
    bits ^ bits >> 33
}

#[cfg(test)]
mod tests;
