//! What a peer says about itself.

use serde::{Deserialize, Serialize};

use crate::object::is_authority;

/// Version of the protocol between agents; also the number in ALPN `p2pcdn/1` and in the well-known paths.
pub const PROTOCOL_VERSION: u16 = 1;

/// ALPN protocol id of the connections between agents.
pub const ALPN: &[u8] = b"p2pcdn/1";

/// Where a site publishes its signed peer record, below its own name.
pub const PEER_DOCUMENT_PATH: &str = "/.well-known/p2pcdn/v1/peer";

/// Where a site publishes how its present key followed from its former ones, below its own name.
pub const ROTATION_DOCUMENT_PATH: &str = "/.well-known/p2pcdn/v1/rotation";

/// Longest life of a peer record in seconds: 30 days.
pub const MAX_RECORD_LIFE_S: u64 = 30 * 24 * 3600;

/// Ed25519 public key of an agent instance; written as 64 lower-case hexadecimal digits.
pub type NodeKey = crate::object::Sha256;

/// A peer's statement about itself; signed and exchanged as exact JSON bytes.
///
/// Unknown fields are ignored so that a later release may add some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Authority of the site: host in lower case, port unless 443.
    pub domain: String,
    /// The key that signs this record and authenticates the agent's connections.
    pub node_key: NodeKey,
    /// Grows with every record that this peer signs.
    pub sequence: u64,
    /// When it was signed, in seconds since the Unix epoch.
    pub issued_s: u64,
    /// When it ends, in seconds since the Unix epoch; at most [`MAX_RECORD_LIFE_S`] after `issued_s`.
    pub expires_s: u64,
    /// Authority whose port answers ALPN `p2pcdn/1`.
    pub endpoint: String,
    /// Authority under which this peer serves replicas; its own name without cookies.
    pub replica_name: String,
    /// Protocol versions spoken, lowest first; at most 8.
    pub versions: Vec<u16>,
    /// What this peer offers beyond the protocol's base; at most 16 words.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Where a person can be reached, for abuse and takedown; at most 256 bytes.
    #[serde(default)]
    pub contact: String,
}

/// What is wrong with a peer record; always its signer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerRecordError {
    /// Some name is not a plain authority.
    #[error("{0} is not an authority in lower case")]
    Authority(&'static str),
    /// A list or text is longer than allowed.
    #[error("{0} is too long")]
    TooLong(&'static str),
    /// Issued in the future, expired, or valid for too long.
    #[error("the record is not valid now (check both clocks)")]
    Time,
}

/// Seconds by which the clocks of two peers may differ.
const CLOCK_SKEW_S: u64 = 300;

impl PeerRecord {
    /// Checks every bound; `now_s` is seconds since the Unix epoch.
    pub fn validate(&self, now_s: u64) -> Result<(), PeerRecordError> {
        for (name, authority) in
            [("domain", &self.domain), ("endpoint", &self.endpoint), ("replica_name", &self.replica_name)]
        {
            if !is_authority(authority) {
                return Err(PeerRecordError::Authority(name));
            }
        }
        if self.versions.len() > 8 {
            return Err(PeerRecordError::TooLong("versions"));
        }
        if self.capabilities.len() > 16 || self.capabilities.iter().any(|c| c.len() > 64) {
            return Err(PeerRecordError::TooLong("capabilities"));
        }
        if self.contact.len() > 256 {
            return Err(PeerRecordError::TooLong("contact"));
        }
        let life = self.expires_s.saturating_sub(self.issued_s);
        let in_time = self.issued_s <= now_s.saturating_add(CLOCK_SKEW_S) && self.expires_s > now_s;
        if !in_time || life > MAX_RECORD_LIFE_S {
            return Err(PeerRecordError::Time);
        }
        Ok(())
    }

    /// The highest protocol version that both sides speak.
    pub fn common_version(&self, ours: &[u16]) -> Option<u16> {
        self.versions.iter().copied().filter(|v| ours.contains(v)).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> PeerRecord {
        PeerRecord {
            domain: "a.test".into(),
            node_key: crate::object::Sha256([1; 32]),
            sequence: 1,
            issued_s: 1000,
            expires_s: 2000,
            endpoint: "a.test".into(),
            replica_name: "replica.a.test".into(),
            versions: vec![1],
            capabilities: vec![],
            contact: String::new(),
        }
    }

    #[test]
    fn a_record_holds_only_in_its_time() {
        assert_eq!(record().validate(1500), Ok(()));
        assert_eq!(record().validate(2000), Err(PeerRecordError::Time));
        assert_eq!(record().validate(600), Err(PeerRecordError::Time));
        let eternal = PeerRecord { expires_s: u64::MAX, ..record() };
        assert_eq!(eternal.validate(1500), Err(PeerRecordError::Time));
    }

    #[test]
    fn hostile_names_and_lengths_are_refused() {
        let bad = PeerRecord { replica_name: "x\r\nSet-Cookie: a".into(), ..record() };
        assert_eq!(bad.validate(1500), Err(PeerRecordError::Authority("replica_name")));
        let bad = PeerRecord { contact: "x".repeat(257), ..record() };
        assert_eq!(bad.validate(1500), Err(PeerRecordError::TooLong("contact")));
    }

    #[test]
    fn the_highest_common_version_is_spoken() {
        let peer = PeerRecord { versions: vec![1, 2, 3], ..record() };
        assert_eq!(peer.common_version(&[1, 2]), Some(2));
        assert_eq!(peer.common_version(&[4]), None);
    }
}
