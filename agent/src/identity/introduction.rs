//! Getting to know a peer by its domain: the chain of trust proves the domain, the document binds the key.

use std::time::Duration;

use http::StatusCode;
use p2pcdn_core::lookup::REPLICA_PREFIX;
use p2pcdn_core::peer::{PEER_DOCUMENT_PATH, PeerRecord, PeerRecordError};

use super::OUR_VERSIONS;
use super::connector::{Connector, EgressError};
use super::neighbourhood::{Network, network};
use super::sequence::is_in_time;
use super::signed::{Signed, SignedError};

/// A peer record that was found in order, with its proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// What the peer says about itself.
    pub record: PeerRecord,
    /// The same, signed.
    pub signed: Signed,
    /// The highest protocol version that both sides speak.
    pub version: u16,
    /// Where the domain answered from; none if this came another way.
    pub network: Option<Network>,
}

/// Why a domain's peer record was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum IntroductionError {
    /// The document could not be fetched.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// The site answered, but not with the document.
    #[error("https://{authority}{path} answers {status}; is p2pcdn set up there?")]
    Status {
        /// The site or replica name asked.
        authority: String,
        /// The document asked for.
        path: &'static str,
        /// Its answer.
        status: StatusCode,
    },
    /// The document is no signed statement.
    #[error("the peer document is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The statement does not hold.
    #[error("the peer record is refused: {0}")]
    Signed(#[from] SignedError),
    /// The record is about another key than the one that signed it.
    #[error("the peer record is signed by another key than the one in it")]
    Key,
    /// The record is about another domain than the one that shows it.
    #[error("the peer record at {domain} is about {claimed}")]
    Domain {
        /// The domain asked.
        domain: String,
        /// The domain in the record.
        claimed: String,
    },
    /// The record breaks a bound, or the time is not within its life.
    #[error("the peer record is refused: {0}")]
    Record(#[from] PeerRecordError),
    /// No protocol version in common.
    #[error("no common protocol version: this agent speaks {ours:?}, the peer {theirs:?}; upgrade the older one")]
    Version {
        /// Versions of this agent.
        ours: &'static [u16],
        /// Versions of the peer.
        theirs: Vec<u16>,
    },
}

/// Longest peer document in bytes.
const MAX_DOCUMENT_BYTES: usize = 16 * 1024;
/// Longest wait for a peer document.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches and checks the peer record that `domain` publishes; `now_s` is seconds since the Unix epoch.
pub async fn fetch_peer_record(
    connector: &Connector,
    domain: &str,
    now_s: u64,
) -> Result<Introduction, IntroductionError> {
    let introduction = fetch(connector, domain, PEER_DOCUMENT_PATH, TIMEOUT, now_s).await?;
    if introduction.record.domain != domain {
        return Err(IntroductionError::Domain { domain: domain.into(), claimed: introduction.record.domain });
    }
    Ok(introduction)
}

/// Whether `replica_name` is the peer's own, whose replicas lie there: only then does what is found there say something about it. `now_s` is
/// seconds since the Unix epoch.
pub async fn proves_replica_name(
    connector: &Connector,
    peer: &PeerRecord,
    patience: Duration,
    now_s: u64,
) -> Result<bool, IntroductionError> {
    let shown = fetch(connector, &peer.replica_name, REPLICA_PREFIX, patience, now_s).await?.record;
    let says = |record: &PeerRecord| (record.node_key, record.domain.clone(), record.replica_name.clone());
    Ok(says(&shown) == says(peer))
}

/// The peer record that is shown there, checked by itself.
async fn fetch(
    connector: &Connector,
    authority: &str,
    path: &'static str,
    patience: Duration,
    now_s: u64,
) -> Result<Introduction, IntroductionError> {
    let response = connector.get_web(authority, path, MAX_DOCUMENT_BYTES, patience).await?;
    if response.status != StatusCode::OK {
        return Err(IntroductionError::Status { authority: authority.into(), path, status: response.status });
    }
    let introduction = check(serde_json::from_slice(&response.body)?, now_s)?;
    Ok(Introduction { network: response.remote.map(network), ..introduction })
}

/// Checks a signed peer record by itself; that its signer speaks for the domain in it remains to be proven.
pub fn check(signed: Signed, now_s: u64) -> Result<Introduction, IntroductionError> {
    let record: PeerRecord = signed.open()?;
    if record.node_key != signed.key {
        return Err(IntroductionError::Key);
    }
    record.validate(now_s)?;
    if !is_in_time(record.sequence, now_s) {
        return Err(PeerRecordError::Time.into());
    }
    match record.common_version(OUR_VERSIONS) {
        Some(version) => Ok(Introduction { record, signed, version, network: None }),
        None => Err(IntroductionError::Version { ours: OUR_VERSIONS, theirs: record.versions }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::sequence::{MAX_AHEAD_S, at};
    use crate::identity::signed::sign;
    use crate::identity::testing;

    #[test]
    fn a_record_in_order_is_accepted_and_others_are_refused_for_their_reason() {
        let key = testing::node_key();
        let record = testing::peer_record("a.test", key.public(), 1);
        let now_s = record.issued_s;
        let verdict = |record: &PeerRecord| check(sign(&key, record).unwrap(), now_s);

        assert_eq!(verdict(&record).unwrap().version, 1);
        let foreign = PeerRecord { node_key: testing::node_key().public(), ..record.clone() };
        assert!(matches!(verdict(&foreign), Err(IntroductionError::Key)));
        let over = PeerRecord { expires_s: now_s, ..record.clone() };
        assert!(matches!(verdict(&over), Err(IntroductionError::Record(PeerRecordError::Time))));
        let ahead = PeerRecord { sequence: at(now_s + MAX_AHEAD_S + 1), ..record.clone() };
        assert!(matches!(verdict(&ahead), Err(IntroductionError::Record(PeerRecordError::Time))));
        let newer = PeerRecord { versions: vec![7, 8], ..record };
        let error = verdict(&newer).unwrap_err().to_string();
        assert!(error.contains("[1]") && error.contains("[7, 8]"), "{error}");
    }
}
