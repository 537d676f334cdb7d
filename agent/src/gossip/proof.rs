//! Proofs: a signer's own statements that contradict each other, which anybody can check and nobody can forge.
//!
//! What convicts is chosen so that no honest signer can ever be convicted, whatever others sign:
//! - Two statements of one type and sequence with different content convict their signer, where it chose the sequence itself: sequences
//!   are never used twice (see [`crate::identity::sequence`]), not even after a backup was restored.
//! - The sequence in an acknowledgement is the origin's choice, so it says nothing about the host. A host is convicted by an
//!   acknowledgement that contradicts the very record it names by its digest, or another of its own that names the same record. Two
//!   acknowledgements of two different records of one sequence are in order: if the origin signed both, the origin is convicted.
//!
//! The host's own domain in an acknowledgement is left out of it, since a site may move to another name and keep its key.

use p2pcdn_core::object::{ObjectRecord, Sha256};
use p2pcdn_core::peer::{NodeKey as PublicKey, PeerRecord};
use serde::{Deserialize, Serialize};

use super::statements::Observations;
use crate::identity::sequence::drawn_at;
use crate::identity::{Signed, SignedError, Statement};
use crate::replicate::messages::Acknowledgement;

/// Signed by whoever found it, which adds nothing: the evidence speaks for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What contradicts itself.
    pub evidence: Evidence,
}

/// Statements that cannot all be an honest signer's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Evidence {
    /// Two statements with the same key, type, object and sequence.
    Equivocation {
        /// The one.
        first: Signed,
        /// The other.
        second: Signed,
    },
    /// An acknowledgement that says of a record what is not in it.
    FalseAcknowledgement {
        /// The record, as its origin signed it.
        record: Signed,
        /// What the host says about it.
        acknowledgement: Signed,
    },
    /// Two acknowledgements that name the same record and differ otherwise.
    Acknowledgements {
        /// The one.
        first: Signed,
        /// The other.
        second: Signed,
    },
}

/// Whom a proof is about; convicted once [`Proof::verify`] says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accused {
    /// The key that signed both.
    pub key: PublicKey,
    /// When, in seconds since the Unix epoch, by the sequence in it.
    pub at_s: u64,
    /// What it did, for people.
    pub text: String,
}

/// Why something is no proof; always the fault of whoever shows it.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The statements do not contradict each other.
    #[error("no contradiction")]
    NoContradiction,
    /// The sequence is of the time when sequences counted seconds, which proves nothing.
    #[error("the sequence does not say when it was drawn")]
    Sequence,
    /// A payload is no statement of its type.
    #[error("a statement is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A statement does not hold.
    #[error("a statement does not hold: {0}")]
    Signed(#[from] SignedError),
}

/// Longest proof in bytes. A record of an object above some 10 MiB has too many chunk hashes for that; such a proof convicts at the host or
/// origin that found it, and is not spread.
pub const MAX_PROOF_BYTES: usize = 12 * 1024;

impl Statement for Proof {
    const TYPE: &'static str = "proof";
    const MAX_BYTES: usize = MAX_PROOF_BYTES;
}

/// A proof from two statements of one signer, if they contradict each other; their signatures may still be wrong.
pub fn contradiction(first: &Signed, second: &Signed) -> Option<Proof> {
    let (first, second) = (first.clone(), second.clone());
    let evidence = match first.kind.as_str() {
        Acknowledgement::TYPE => Evidence::Acknowledgements { first, second },
        _ => Evidence::Equivocation { first, second },
    };
    let proof = Proof { evidence };
    proof.accused().is_ok().then_some(proof)
}

/// A proof from a record and an acknowledgement that names it, if what the acknowledgement says is not in the record.
pub fn false_acknowledgement(record: &Signed, acknowledgement: &Signed) -> Option<Proof> {
    let (record, acknowledgement) = (record.clone(), acknowledgement.clone());
    let proof = Proof { evidence: Evidence::FalseAcknowledgement { record, acknowledgement } };
    proof.accused().is_ok().then_some(proof)
}

impl Proof {
    /// Whom it convicts if all signatures hold, which is left to [`Proof::verify`].
    pub fn accused(&self) -> Result<Accused, ProofError> {
        match &self.evidence {
            Evidence::Equivocation { first, second } => equivocation(first, second),
            Evidence::FalseAcknowledgement { record, acknowledgement } => false_word(record, acknowledgement),
            Evidence::Acknowledgements { first, second } => two_words(first, second),
        }
    }

    /// The statements whose signatures have to hold.
    pub fn statements(&self) -> [&Signed; 2] {
        match &self.evidence {
            Evidence::Equivocation { first, second } | Evidence::Acknowledgements { first, second } => [first, second],
            Evidence::FalseAcknowledgement { record, acknowledgement } => [record, acknowledgement],
        }
    }

    /// Whom it convicts; two signatures are verified.
    pub fn verify(&self) -> Result<Accused, ProofError> {
        let accused = self.accused()?;
        for statement in self.statements() {
            if !statement.is_signed() {
                return Err(SignedError::Signature.into());
            }
        }
        Ok(accused)
    }
}

/// What statements of one type are told apart by, when two of them may not have one sequence.
type Place = (Option<[String; 2]>, u64);

fn equivocation(first: &Signed, second: &Signed) -> Result<Accused, ProofError> {
    if first.key != second.key || first.kind != second.kind || first.payload == second.payload {
        return Err(ProofError::NoContradiction);
    }
    let place = |signed: &Signed| -> Result<Place, ProofError> {
        Ok(match signed.kind.as_str() {
            PeerRecord::TYPE => (None, serde_json::from_str::<PeerRecord>(&signed.payload)?.sequence),
            Observations::TYPE => (None, serde_json::from_str::<Observations>(&signed.payload)?.sequence),
            ObjectRecord::TYPE => {
                let record: ObjectRecord = serde_json::from_str(&signed.payload)?;
                (Some([record.origin, record.path]), record.sequence)
            }
            _ => return Err(ProofError::NoContradiction),
        })
    };
    let (place, other) = (place(first)?, place(second)?);
    if place != other {
        return Err(ProofError::NoContradiction);
    }
    let at_s = drawn_at(place.1).ok_or(ProofError::Sequence)?;
    let text = match place.0 {
        Some([origin, path]) => {
            format!("signed two different records of https://{origin}{path} as version {}", place.1)
        }
        None => format!("signed two different statements of type {:?} with sequence {}", first.kind, place.1),
    };
    Ok(Accused { key: first.key, at_s, text })
}

fn false_word(record: &Signed, acknowledgement: &Signed) -> Result<Accused, ProofError> {
    let word = acknowledged(acknowledgement)?;
    if record.kind != ObjectRecord::TYPE || word.record != record.digest() {
        return Err(ProofError::NoContradiction);
    }
    let object: ObjectRecord = serde_json::from_str(&record.payload)?;
    if said(&word) == (&object.origin, &object.path, &object.sha256, object.sequence) {
        return Err(ProofError::NoContradiction);
    }
    let at_s = drawn_at(object.sequence).ok_or(ProofError::Sequence)?;
    let text = format!("acknowledged https://{}{} as something that it is not", object.origin, object.path);
    Ok(Accused { key: acknowledgement.key, at_s, text })
}

fn two_words(first: &Signed, second: &Signed) -> Result<Accused, ProofError> {
    let (one, other) = (acknowledged(first)?, acknowledged(second)?);
    if first.key != second.key || one.record != other.record || said(&one) == said(&other) {
        return Err(ProofError::NoContradiction);
    }
    let at_s = drawn_at(one.sequence).ok_or(ProofError::Sequence)?;
    let text = format!("acknowledged one record of https://{}{} in two ways", one.origin, one.path);
    Ok(Accused { key: first.key, at_s, text })
}

fn acknowledged(signed: &Signed) -> Result<Acknowledgement, ProofError> {
    if signed.kind != Acknowledgement::TYPE {
        return Err(ProofError::NoContradiction);
    }
    Ok(serde_json::from_str(&signed.payload)?)
}

fn said(word: &Acknowledgement) -> (&String, &String, &Sha256, u64) {
    (&word.origin, &word.path, &word.sha256, word.sequence)
}

#[cfg(test)]
mod tests;
