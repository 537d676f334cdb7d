//! A peer changes its key: the old key vouches for the new one, and the domain shows both the new key and that word.

use std::time::Duration;

use http::StatusCode;
use p2pcdn_core::object::is_authority;
use p2pcdn_core::peer::{NodeKey as PublicKey, ROTATION_DOCUMENT_PATH};
use serde::{Deserialize, Serialize};

use super::connector::{Connector, EgressError};
use super::sequence::is_in_time;
use super::signed::{Signed, SignedError, Statement};

/// A key's last word: from now on its owner has another one. Signed with the old key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Authority of the site.
    pub domain: String,
    /// The key that signs this.
    pub old_key: PublicKey,
    /// The key that takes its place.
    pub new_key: PublicKey,
    /// Grows with every rotation of this site.
    pub sequence: u64,
    /// When it was signed, in seconds since the Unix epoch.
    pub issued_s: u64,
}

impl Statement for Rotation {
    const TYPE: &'static str = "rotation";
    const MAX_BYTES: usize = 1024;
}

/// What a site publishes at [`ROTATION_DOCUMENT_PATH`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotations {
    /// Signed [`Rotation`]s, the oldest first; at most [`MAX_ROTATIONS`].
    pub rotations: Vec<Signed>,
}

/// Rotations that a site keeps: whoever has missed more of them has to be told by its operator.
pub const MAX_ROTATIONS: usize = 8;
/// Longest document in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 16 * 1024;
/// Longest wait for the document.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Seconds by which two clocks may differ.
const CLOCK_SKEW_S: u64 = 300;

/// Why a changed key is not believed; always the fault of whoever shows it.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The document could not be fetched.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// The site shows no rotations.
    #[error("https://{domain}{ROTATION_DOCUMENT_PATH} answers {status}")]
    Status {
        /// The domain asked.
        domain: String,
        /// Its answer.
        status: StatusCode,
    },
    /// No list of signed statements, or too many.
    #[error("the document is malformed")]
    Malformed,
    /// A statement does not hold.
    #[error("a rotation is refused: {0}")]
    Signed(#[from] SignedError),
    /// Signed by another key than the one that it takes leave of.
    #[error("a rotation is signed by another key than the old one")]
    Key,
    /// About another site.
    #[error("a rotation is about {0}")]
    Domain(String),
    /// Signed in the future.
    #[error("a rotation was signed in the future (check both clocks)")]
    Time,
    /// No unbroken line of rotations from the one key to the other.
    #[error("no rotation leads from the known key to the new one")]
    NoWay,
}

impl Rotation {
    /// Checks every bound; `now_s` is seconds since the Unix epoch. A rotation never expires.
    pub fn validate(&self, now_s: u64) -> Result<(), RotationError> {
        if !is_authority(&self.domain) {
            return Err(RotationError::Domain(self.domain.clone()));
        }
        if self.issued_s > now_s.saturating_add(CLOCK_SKEW_S) || !is_in_time(self.sequence, now_s) {
            return Err(RotationError::Time);
        }
        Ok(())
    }
}

impl Rotations {
    /// Whether an unbroken line of rotations of `domain` leads from the key `from` to the key `to`; `now_s` is seconds since the Unix
    /// epoch. At most [`MAX_ROTATIONS`] signatures are verified.
    pub fn lead(&self, domain: &str, from: &PublicKey, to: &PublicKey, now_s: u64) -> Result<(), RotationError> {
        if self.rotations.len() > MAX_ROTATIONS {
            return Err(RotationError::Malformed);
        }
        let mut key = *from;
        for signed in &self.rotations {
            // What others signed before is of no use to anybody who knows `from`.
            if signed.key != key {
                continue;
            }
            let rotation: Rotation = signed.open()?;
            if rotation.old_key != signed.key {
                return Err(RotationError::Key);
            }
            if rotation.domain != domain {
                return Err(RotationError::Domain(rotation.domain));
            }
            rotation.validate(now_s)?;
            key = rotation.new_key;
            if key == *to {
                return Ok(());
            }
        }
        Err(RotationError::NoWay)
    }
}

/// Fetches what `domain` publishes about its former keys.
pub async fn fetch_rotations(connector: &Connector, domain: &str) -> Result<Rotations, RotationError> {
    let response = connector.get_web(domain, ROTATION_DOCUMENT_PATH, MAX_DOCUMENT_BYTES, TIMEOUT).await?;
    if response.status != StatusCode::OK {
        return Err(RotationError::Status { domain: domain.into(), status: response.status });
    }
    serde_json::from_slice(&response.body).map_err(|_| RotationError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::sequence::at;
    use crate::identity::signed::sign;
    use crate::identity::{NodeKey, testing};

    const NOW_S: u64 = 1_800_000_000;

    fn rotation(old: &NodeKey, new: &NodeKey) -> Rotation {
        Rotation {
            domain: "a.test".into(),
            old_key: old.public(),
            new_key: new.public(),
            sequence: at(NOW_S),
            issued_s: NOW_S,
        }
    }

    fn verdict(rotations: Vec<Signed>, from: &NodeKey, to: &NodeKey) -> Result<(), RotationError> {
        Rotations { rotations }.lead("a.test", &from.public(), &to.public(), NOW_S)
    }

    #[test]
    fn a_line_of_rotations_leads_from_any_former_key_to_the_present_one() {
        let keys: Vec<NodeKey> = (0..4).map(|_| testing::node_key()).collect();
        let line = || keys.windows(2).map(|pair| sign(&pair[0], &rotation(&pair[0], &pair[1])).unwrap()).collect();
        for former in &keys[..3] {
            verdict(line(), former, &keys[3]).unwrap();
        }
        assert!(matches!(verdict(line(), &keys[3], &keys[0]), Err(RotationError::NoWay)), "not backwards");
        assert!(matches!(verdict(line(), &testing::node_key(), &keys[3]), Err(RotationError::NoWay)));
        let mut broken: Vec<Signed> = line();
        broken.remove(1);
        assert!(matches!(verdict(broken, &keys[0], &keys[3]), Err(RotationError::NoWay)));
    }

    #[test]
    fn nobody_but_the_old_key_can_hand_over() {
        let (old, new) = (testing::node_key(), testing::node_key());
        let word = rotation(&old, &new);
        // Whoever has only the new key can sign as itself, or put the old key's name on it.
        assert!(matches!(verdict(vec![sign(&new, &word).unwrap()], &old, &new), Err(RotationError::NoWay)));
        let forged = Signed { key: old.public(), ..sign(&new, &word).unwrap() };
        assert!(matches!(verdict(vec![forged], &old, &new), Err(RotationError::Signed(SignedError::Signature))));
        let thief = testing::node_key();
        let stolen = Rotation { old_key: old.public(), ..rotation(&thief, &new) };
        assert!(matches!(verdict(vec![sign(&thief, &stolen).unwrap()], &thief, &new), Err(RotationError::Key)));
    }

    #[test]
    fn a_rotation_of_another_site_or_of_tomorrow_is_none() {
        let (old, new) = (testing::node_key(), testing::node_key());
        let elsewhere = Rotation { domain: "b.test".into(), ..rotation(&old, &new) };
        assert!(matches!(verdict(vec![sign(&old, &elsewhere).unwrap()], &old, &new), Err(RotationError::Domain(_))));
        let tomorrow = Rotation { issued_s: NOW_S + 86_400, ..rotation(&old, &new) };
        assert!(matches!(verdict(vec![sign(&old, &tomorrow).unwrap()], &old, &new), Err(RotationError::Time)));
        let long = vec![sign(&old, &rotation(&old, &new)).unwrap(); MAX_ROTATIONS + 1];
        assert!(matches!(verdict(long, &old, &new), Err(RotationError::Malformed)));
    }
}
