//! One signed statement as gossip carries and keeps it, read but not believed yet.
//!
//! A record is, byte by byte: kind (1), key of the signer (32), signature (64), and the signed payload as it is (UTF-8 JSON). It is the same as
//! a [`Signed`], at less than half of the bytes.

use std::sync::Arc;

use p2pcdn_core::object::Sha256;
use p2pcdn_core::peer::{NodeKey as PublicKey, PeerRecord};
use serde::de::DeserializeOwned;
use sha2::Digest;

use super::proof::{Accused, Proof};
use super::statements::Observations;
use crate::identity::rotation::Rotation;
use crate::identity::sequence::is_in_time;
use crate::identity::{Signed, Statement};

/// A record's bytes; copies share them.
pub type Blob = Arc<[u8]>;

/// Bytes before the payload.
pub const HEAD_BYTES: usize = 1 + 32 + 64;
/// Longest payload of a peer record in gossip: a longer one is exchanged with its own peers only.
pub const MAX_PEER_BYTES: usize = 2048;
/// Longest life of a rotation or a proof in gossip, in seconds: 30 days.
pub const MAX_LIFE_S: u64 = 30 * 24 * 3600;

/// What kind of statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// [`PeerRecord`]: one for each domain.
    Peer = 1,
    /// [`Rotation`]: one for each old key.
    Rotation = 2,
    /// [`Observations`]: one for each observer's key.
    Observations = 3,
    /// [`Proof`]: one for each convicted key.
    Proof = 4,
}

impl Kind {
    /// [`Statement::TYPE`] and the longest payload in bytes.
    pub const fn limits(self) -> (&'static str, usize) {
        match self {
            Self::Peer => (PeerRecord::TYPE, MAX_PEER_BYTES),
            Self::Rotation => (Rotation::TYPE, Rotation::MAX_BYTES),
            Self::Observations => (Observations::TYPE, Observations::MAX_BYTES),
            Self::Proof => (Proof::TYPE, Proof::MAX_BYTES),
        }
    }

    fn of_byte(byte: u8) -> Option<Self> {
        [Self::Peer, Self::Rotation, Self::Observations, Self::Proof].into_iter().find(|kind| *kind as u8 == byte)
    }

    fn of_type(name: &str) -> Option<Self> {
        let all = [Self::Peer, Self::Rotation, Self::Observations, Self::Proof];
        all.into_iter().find(|kind| kind.limits().0 == name)
    }
}

/// Name of a place in the table: the first 8 bytes of SHA-256 over kind and subject, big endian.
pub fn id_of(kind: Kind, subject: &[u8]) -> u64 {
    let mut hash = sha2::Sha256::new();
    hash.update([kind as u8]);
    hash.update(subject);
    let digest: [u8; 32] = hash.finalize().into();
    u64::from_be_bytes(digest[..8].try_into().unwrap_or_default())
}

/// A record in order as far as one can tell without verifying signatures.
#[derive(Debug, Clone)]
pub struct Record {
    /// The record.
    pub blob: Blob,
    /// Its kind.
    pub kind: Kind,
    /// Its place in the table.
    pub id: u64,
    /// Of two records for one place, the one with the higher sequence holds.
    pub sequence: u64,
    /// Seconds since the Unix epoch after which it is void.
    pub expires_s: u64,
    /// What it is about.
    pub about: About,
}

/// What a record is about, as far as the table has to know.
#[derive(Debug, Clone)]
pub enum About {
    /// A peer says who it is.
    Peer {
        /// Its domain.
        domain: Box<str>,
    },
    /// A peer has another key from now on.
    Rotation {
        /// Its domain.
        domain: Box<str>,
        /// The other key.
        new_key: PublicKey,
    },
    /// A peer's own observations; [`Record::observations`] reads them.
    Observations,
    /// Somebody contradicts itself.
    Proof(Box<(Proof, Accused)>),
}

/// Why a record is worth nothing, whoever signed it; always its sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Not a record at all, or of a kind that this release does not know.
    #[error("not a record of a known kind")]
    Malformed,
    /// Longer than its kind may be.
    #[error("longer than its kind may be")]
    TooLong,
    /// Expired, issued in the future, valid for too long, or with a sequence ahead of the clock.
    #[error("not valid now (check both clocks)")]
    Time,
    /// It speaks for another key than the one that signed it.
    #[error("signed by another key than the one that it speaks for")]
    Key,
    /// What is in it breaks a bound, or proves nothing.
    #[error("its content breaks a bound")]
    Content,
}

impl Record {
    /// Reads a record and checks all that costs no signature; `now_s` is seconds since the Unix epoch.
    pub fn read(blob: Blob, now_s: u64) -> Result<Self, Unfit> {
        let kind = blob.first().copied().and_then(Kind::of_byte).ok_or(Unfit::Malformed)?;
        if blob.len() > HEAD_BYTES + kind.limits().1 {
            return Err(Unfit::TooLong);
        }
        let view = View::of(&blob).ok_or(Unfit::Malformed)?;
        let key = view.key;
        let (subject, sequence, expires_s, about) = match kind {
            Kind::Peer => {
                let record: PeerRecord = parse(view.payload)?;
                if record.node_key != key {
                    return Err(Unfit::Key);
                }
                record.validate(now_s).map_err(|error| match error {
                    p2pcdn_core::peer::PeerRecordError::Time => Unfit::Time,
                    _ => Unfit::Content,
                })?;
                let about = About::Peer { domain: record.domain.as_str().into() };
                (record.domain.into_bytes(), record.sequence, record.expires_s, about)
            }
            Kind::Rotation => {
                let rotation: Rotation = parse(view.payload)?;
                if rotation.old_key != key {
                    return Err(Unfit::Key);
                }
                rotation.validate(now_s).map_err(|_| Unfit::Content)?;
                let expires_s = rotation.issued_s.saturating_add(MAX_LIFE_S);
                let about = About::Rotation { domain: rotation.domain.into(), new_key: rotation.new_key };
                (key.0.to_vec(), rotation.sequence, expires_s, about)
            }
            Kind::Observations => {
                let list: Observations = parse(view.payload)?;
                list.validate(now_s)?;
                (key.0.to_vec(), list.sequence, list.expires_s, About::Observations)
            }
            Kind::Proof => {
                let proof: Proof = parse(view.payload)?;
                let accused = proof.accused().map_err(|_| Unfit::Content)?;
                // What was signed long ago is not dug up again, whoever repeats it.
                let expires_s = accused.at_s.saturating_add(MAX_LIFE_S);
                (accused.key.0.to_vec(), 1, expires_s, About::Proof(Box::new((proof, accused))))
            }
        };
        if expires_s <= now_s || !is_in_time(sequence, now_s) {
            return Err(Unfit::Time);
        }
        Ok(Self { id: id_of(kind, &subject), kind, sequence, expires_s, about, blob })
    }

    /// The record of a statement; `None` if gossip does not carry statements of its type.
    pub fn of(signed: &Signed) -> Option<Blob> {
        let kind = Kind::of_type(&signed.kind)?;
        Some([&[kind as u8][..], &signed.key.0, &signed.signature, signed.payload.as_bytes()].concat().into())
    }

    /// Key of the signer.
    pub fn key(&self) -> PublicKey {
        View::of(&self.blob).map_or(Sha256([0; 32]), |view| view.key)
    }

    /// The observations in it, if it is about some.
    pub fn observations(&self) -> Option<Observations> {
        let view = View::of(&self.blob)?;
        (self.kind == Kind::Observations).then(|| serde_json::from_str(view.payload).ok()).flatten()
    }
}

/// The parts of a record's bytes.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Key of the signer.
    pub key: PublicKey,
    /// Signature over type and payload.
    pub signature: &'a [u8; 64],
    /// The payload.
    pub payload: &'a str,
}

impl<'a> View<'a> {
    /// `None` if these are not the bytes of a record.
    pub fn of(blob: &'a [u8]) -> Option<Self> {
        let (kind, rest) = blob.split_first()?;
        let (key, rest) = rest.split_first_chunk::<32>()?;
        let (signature, payload) = rest.split_first_chunk::<64>()?;
        let (kind, payload) = (Kind::of_byte(*kind)?, std::str::from_utf8(payload).ok()?);
        Some(Self { kind, key: Sha256(*key), signature, payload })
    }

    /// The statement, in the form in which it is exchanged elsewhere.
    pub fn signed(&self) -> Signed {
        Signed {
            kind: self.kind.limits().0.into(),
            payload: self.payload.into(),
            key: self.key,
            signature: *self.signature,
        }
    }
}

fn parse<T: DeserializeOwned>(payload: &str) -> Result<T, Unfit> {
    serde_json::from_str(payload).map_err(|_| Unfit::Malformed)
}
