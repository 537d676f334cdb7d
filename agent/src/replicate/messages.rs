//! What origin and host say to each other, as JSON over their mutual TLS connection.

use p2pcdn_core::object::Sha256;
use serde::{Deserialize, Serialize};

use crate::identity::{Signed, Statement};

/// POST: [`Offer`] from origin to host, answered with an [`OfferAnswer`].
pub const OFFERS_PATH: &str = "/v1/offers";
/// POST: [`Acknowledgements`] from host to origin, answered with [`Done`].
pub const ACKNOWLEDGEMENTS_PATH: &str = "/v1/acknowledgements";
/// POST: [`Withdrawals`] in either direction, answered with [`Done`].
pub const WITHDRAWALS_PATH: &str = "/v1/withdrawals";
/// GET: the bytes of an object, followed by its digest in hexadecimal; from its origin or any peer that holds it, also by a range.
pub const OBJECTS_PATH: &str = "/v1/objects/";

/// Most records, acknowledgements, withdrawals or digests in one message.
pub const MAX_BATCH: usize = 256;
/// Most sources of one offered object.
pub const MAX_SOURCES: usize = 8;
/// Longest message in bytes: one record of the largest object fits.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// Objects that their origin would like to have carried. An empty offer renews the lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Offer {
    /// At most [`MAX_BATCH`].
    pub records: Vec<Offered>,
}

/// One object, and from whom it can be had.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Offered {
    /// The signed object record.
    pub record: Signed,
    /// Domains of hosts that hold it already, to be asked before the origin, the least busy first; at most [`MAX_SOURCES`].
    #[serde(default)]
    pub sources: Vec<String>,
}

/// A host's answer to an offer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OfferAnswer {
    /// One verdict per record, in order.
    pub verdicts: Vec<Verdict>,
    /// What the host will serve for this origin.
    pub lease: LeaseGrant,
    /// What the host has room for; none from a release that does not say.
    #[serde(default)]
    pub room: Option<Room>,
}

/// A host's room for the objects of one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Bytes that are taken.
    pub used_bytes: u64,
    /// Bytes that can still be taken.
    pub free_bytes: u64,
}

/// What becomes of one offered object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// The host has it already.
    Held {
        /// Its signed [`Acknowledgement`].
        acknowledgement: Signed,
    },
    /// The host is going to pull it and acknowledges it then.
    Accepted,
    /// The host does not take it.
    Declined {
        /// Why.
        reason: Decline,
    },
}

/// Why a host does not take an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Decline {
    /// The record is malformed, not signed by the peer that offers it, or about somebody else's object.
    #[error("the record is malformed or not the offering peer's own")]
    BadRecord,
    /// The record has expired.
    #[error("the record has expired")]
    Expired,
    /// The host has a newer version already.
    #[error("a newer version is held")]
    Outdated,
    /// Larger than the host takes.
    #[error("larger than the host takes")]
    TooLarge,
    /// Of a class that the host does not take.
    #[error("of a class that the host does not take")]
    Class,
    /// The host has no room left.
    #[error("the host's quota is used up")]
    Quota,
    /// The host has no room left for this origin.
    #[error("the host's quota for this origin is used up")]
    OriginQuota,
    /// The host has too much to pull already; ask again later.
    #[error("the host has too much to pull already")]
    Busy,
    /// The host cannot write.
    #[error("the host's store fails")]
    Store,
    /// Smaller than the host takes.
    #[error("smaller than the host takes")]
    TooSmall,
    /// The host's operator does not carry this.
    #[error("the host's operator does not carry this")]
    Denied,
    /// The origin has received far more from the host than it has given.
    #[error("the host has carried far more for this origin than the other way round")]
    Reciprocity,
    /// The host has had bad experiences with this origin.
    #[error("the host does not trust this origin enough")]
    Reputation,
    /// The host is leaving.
    #[error("the host is leaving")]
    Leaving,
    /// A reason of a later release.
    #[serde(other)]
    #[error("a reason that this release does not know")]
    Other,
}

impl Decline {
    /// The reason's name in messages, status and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRecord => "bad_record",
            Self::Expired => "expired",
            Self::Outdated => "outdated",
            Self::TooLarge => "too_large",
            Self::Class => "class",
            Self::Quota => "quota",
            Self::OriginQuota => "origin_quota",
            Self::Busy => "busy",
            Self::Store => "store",
            Self::TooSmall => "too_small",
            Self::Denied => "denied",
            Self::Reciprocity => "reciprocity",
            Self::Reputation => "reputation",
            Self::Leaving => "leaving",
            Self::Other => "other",
        }
    }
}

/// The bandwidth that a host grants an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGrant {
    /// Bytes per second that the origin may send there.
    pub bytes_per_s: u64,
    /// Seconds for which the grant holds unless it is renewed.
    pub valid_s: u32,
}

/// A host's signed word that it has verified and committed an object.
///
/// Unknown fields are ignored so that a later release may add some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// Digest of the acknowledged record's signed payload.
    pub record: Sha256,
    /// Origin of the object.
    pub origin: String,
    /// Path of the object.
    pub path: String,
    /// Digest of the object.
    pub sha256: Sha256,
    /// Sequence of the record.
    pub sequence: u64,
    /// Domain of the host.
    pub host: String,
}

impl Statement for Acknowledgement {
    const TYPE: &'static str = "acknowledgement";
}

/// Signed [`Acknowledgement`]s, at most [`MAX_BATCH`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Acknowledgements {
    /// In any order.
    pub acknowledgements: Vec<Signed>,
}

/// Copies that are no more, or shall be no more: a host tells the origin that it gives them up, or the origin tells a host to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Withdrawals {
    /// At most [`MAX_BATCH`].
    pub withdrawals: Vec<Withdrawal>,
    /// Why, which is the same for all of them; earlier releases do not say.
    #[serde(default)]
    pub reason: WithdrawalReason,
}

/// Why a copy is no more, or shall be no more.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, thiserror::Error,
)]
#[serde(rename_all = "snake_case")]
pub enum WithdrawalReason {
    /// Its bytes are damaged or gone.
    #[error("the bytes are damaged or gone")]
    Lost,
    /// Its record has expired.
    #[error("the record has expired")]
    Expired,
    /// Its origin does not want it kept, or is no peer any more.
    #[error("the origin no longer wants it kept")]
    Unwanted,
    /// The host's settings have no more room for it, or none for its kind.
    #[error("the host has less room than before")]
    Quota,
    /// The host's operator does not carry this.
    #[error("the host's operator does not carry this")]
    Denied,
    /// The host is leaving.
    #[error("the host is leaving")]
    Leaving,
    /// Not said, or a reason of a later release.
    #[default]
    #[serde(other)]
    #[error("for a reason that was not said or is not known")]
    Other,
}

/// One version of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// Origin of the object.
    pub origin: String,
    /// Path of the object.
    pub path: String,
    /// Digest of the version.
    pub sha256: Sha256,
}

/// Heard and acted upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// How many of the items meant something to the receiver.
    pub taken: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{sign, testing};

    fn read<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_a_later_release_adds_to_a_message_is_passed_over() {
        let signed = sign(&testing::node_key(), &testing::peer_record("a.test", Sha256([1; 32]), 1)).unwrap();
        let offered = serde_json::json!({ "record": signed, "priority": 7 });
        let offer: Offer = read(serde_json::json!({ "records": [offered], "urgent": true }));
        assert!(offer.records[0].sources.is_empty());
        let lease = serde_json::json!({ "bytes_per_s": 5, "valid_s": 30, "burst": 9 });
        let verdicts = serde_json::json!([
            { "verdict": "declined", "reason": "too_shiny", "detail": "x" },
            { "verdict": "declined", "reason": "denied" },
            { "verdict": "accepted", "eta_s": 3 },
        ]);
        let answer: OfferAnswer = read(serde_json::json!({ "verdicts": verdicts, "lease": lease, "more": [] }));
        assert_eq!(
            answer.verdicts,
            [
                Verdict::Declined { reason: Decline::Other },
                Verdict::Declined { reason: Decline::Denied },
                Verdict::Accepted
            ]
        );
        assert_eq!(answer.lease, LeaseGrant { bytes_per_s: 5, valid_s: 30 });
    }

    #[test]
    fn what_a_later_release_adds_to_a_signed_statement_is_passed_over() {
        let acknowledgement = Acknowledgement {
            record: Sha256([1; 32]),
            origin: "a.test".into(),
            path: "/x".into(),
            sha256: Sha256([2; 32]),
            sequence: 3,
            host: "b.test".into(),
        };
        let signed = sign(&testing::node_key(), &acknowledgement).unwrap();
        let mut later = serde_json::to_value(&signed).unwrap();
        later["countersigned"] = serde_json::json!(["x"]);
        assert_eq!(read::<Signed>(later).open::<Acknowledgement>().unwrap(), acknowledgement);
        let mut later = serde_json::to_value(&acknowledgement).unwrap();
        later["until_s"] = 7.into();
        assert_eq!(read::<Acknowledgement>(later), acknowledgement);
    }

    #[test]
    fn withdrawals_are_understood_with_no_reason_and_with_an_unknown_one() {
        let gone = serde_json::json!([{ "origin": "a.test", "path": "/x", "sha256": Sha256([1; 32]), "size": 3 }]);
        let reason = |message| read::<Withdrawals>(message).reason;
        assert_eq!(reason(serde_json::json!({ "withdrawals": gone })), WithdrawalReason::Other);
        assert_eq!(reason(serde_json::json!({ "withdrawals": gone, "reason": "moon" })), WithdrawalReason::Other);
        assert_eq!(reason(serde_json::json!({ "withdrawals": gone, "reason": "denied" })), WithdrawalReason::Denied);
    }
}
