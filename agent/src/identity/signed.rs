//! Signed statements: everything that one agent vouches for before another.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use p2pcdn_core::object::{ObjectRecord, Sha256};
use p2pcdn_core::peer::{NodeKey as PublicKey, PeerRecord};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest;

use super::node_key::NodeKey;

/// A kind of statement that can be signed.
pub trait Statement: Serialize + DeserializeOwned {
    /// Stands in the envelope and under the signature, so that no statement can pass for one of another kind.
    const TYPE: &'static str;
    /// Longest payload in bytes.
    const MAX_BYTES: usize = 16 * 1024;
}

impl Statement for PeerRecord {
    const TYPE: &'static str = "peer";
    const MAX_BYTES: usize = 8 * 1024;
}

impl Statement for ObjectRecord {
    const TYPE: &'static str = "object";
    // One chunk hash takes 67 bytes of JSON, and the largest object has 65536.
    const MAX_BYTES: usize = 5 << 20;
}

/// A statement with its signature, as exchanged in JSON; nothing in it is to be believed before [`Signed::open`].
///
/// Unknown fields are ignored, here and in every kind of statement: a later release may add some. They are under the signature, as far
/// as they are in the payload, whoever understands them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// [`Statement::TYPE`] of the payload.
    #[serde(rename = "type")]
    pub kind: String,
    /// The exact JSON text under the signature.
    pub payload: String,
    /// Key of the signer.
    pub key: PublicKey,
    /// Ed25519 over `p2pcdn/1/<type>\0` and the payload; Base64.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub signature: [u8; 64],
}

/// Why a statement is not believed; always its sender's fault.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// A statement of another kind.
    #[error("a statement of type {expected:?} was expected")]
    Type {
        /// The kind asked for.
        expected: &'static str,
    },
    /// Longer than this kind may be.
    #[error("the statement is longer than {0} bytes")]
    TooLong(usize),
    /// The signature is not the key's over these bytes, or the key is no Ed25519 key.
    #[error("the signature does not verify")]
    Signature,
    /// Properly signed, but no statement of this kind.
    #[error("the payload is malformed: {0}")]
    Payload(serde_json::Error),
}

/// Signs a statement with the node key.
pub fn sign<T: Statement>(key: &NodeKey, statement: &T) -> Result<Signed, serde_json::Error> {
    let payload = serde_json::to_string(statement)?;
    let signature = key.sign(&signed_bytes(T::TYPE, &payload));
    Ok(Signed { kind: T::TYPE.into(), payload, key: key.public(), signature })
}

impl Signed {
    /// The statement, once its type, length and signature are found right; its signer is `self.key`.
    pub fn open<T: Statement>(&self) -> Result<T, SignedError> {
        if self.kind != T::TYPE {
            return Err(SignedError::Type { expected: T::TYPE });
        }
        if self.payload.len() > T::MAX_BYTES {
            return Err(SignedError::TooLong(T::MAX_BYTES));
        }
        if !self.is_signed() {
            return Err(SignedError::Signature);
        }
        serde_json::from_str(&self.payload).map_err(SignedError::Payload)
    }

    /// Whether the signature is the key's over type and payload, of whatever type that is.
    pub fn is_signed(&self) -> bool {
        holds(&self.kind, &self.payload, &self.key, &self.signature)
    }

    /// SHA-256 of the payload: the name by which other statements refer to this one.
    pub fn digest(&self) -> Sha256 {
        Sha256(sha2::Sha256::digest(self.payload.as_bytes()).into())
    }
}

/// Whether `signature` is `key`'s over a statement of type `kind` with that payload.
pub fn holds(kind: &str, payload: &str, key: &PublicKey, signature: &[u8; 64]) -> bool {
    verify(key, &signed_bytes(kind, payload), signature)
}

/// Whether `signature` is `key`'s over `message`; keys and signatures that would fit several messages are refused.
pub(super) fn verify(key: &PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(&key.0)
        .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}

fn signed_bytes(kind: &str, payload: &str) -> Vec<u8> {
    [b"p2pcdn/1/", kind.as_bytes(), b"\0", payload.as_bytes()].concat()
}

fn to_base64<S: Serializer>(signature: &[u8; 64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_STANDARD.encode(signature))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 64], D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
    // Checked before decoding, so that the buffer is bounded.
    if text.len() != 88 {
        return Err(D::Error::custom("a signature has 88 Base64 characters"));
    }
    let bytes = BASE64_STANDARD.decode(text.as_bytes()).map_err(D::Error::custom)?;
    bytes.try_into().map_err(|_| D::Error::custom("a signature has 64 bytes"))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::identity::testing;

    static KEY: LazyLock<NodeKey> = LazyLock::new(testing::node_key);

    fn signed() -> Signed {
        sign(&KEY, &testing::peer_record("a.test", KEY.public(), 7)).unwrap()
    }

    #[test]
    fn a_statement_opens_to_what_was_signed() {
        let json = serde_json::to_vec(&signed()).unwrap();
        let received: Signed = serde_json::from_slice(&json).unwrap();
        assert_eq!(received.open::<PeerRecord>().unwrap(), testing::peer_record("a.test", KEY.public(), 7));
        assert_eq!(received.key, KEY.public());
        assert_eq!(received.digest(), signed().digest());
    }

    #[test]
    fn a_statement_does_not_pass_for_one_of_another_type() {
        assert!(matches!(signed().open::<ObjectRecord>(), Err(SignedError::Type { .. })));
        let relabelled = Signed { kind: "object".into(), ..signed() };
        assert!(matches!(relabelled.open::<ObjectRecord>(), Err(SignedError::Signature)));
    }

    #[test]
    fn another_signer_and_a_small_order_key_are_refused() {
        let other = Signed { key: testing::node_key().public(), ..signed() };
        assert!(matches!(other.open::<PeerRecord>(), Err(SignedError::Signature)));
        // The neutral element verifies R = S*B for any message unless verification is strict.
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        let weak = Signed { key: Sha256(identity), signature, ..signed() };
        assert!(matches!(weak.open::<PeerRecord>(), Err(SignedError::Signature)));
    }

    #[test]
    fn an_overlong_payload_is_refused_before_it_is_hashed() {
        let long = Signed { payload: " ".repeat(PeerRecord::MAX_BYTES + 1), ..signed() };
        assert!(matches!(long.open::<PeerRecord>(), Err(SignedError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn any_flipped_byte_is_refused(position: prop::sample::Index, flip in 1u8..) {
            let mut json = serde_json::to_vec(&signed()).unwrap();
            let position = position.index(json.len());
            json[position] ^= flip;
            let opened = serde_json::from_slice::<Signed>(&json).ok().and_then(|s| s.open::<PeerRecord>().ok());
            prop_assert_eq!(opened, None);
        }

        #[test]
        fn hostile_json_never_panics(
            kind in "peer|object|[a-z]{0,8}", payload in ".{0,200}", key: [u8; 32], signature in "[A-Za-z0-9+/=]{80,90}",
        ) {
            let json = serde_json::json!({
                "type": kind, "payload": payload, "key": Sha256(key), "signature": signature,
            });
            if let Ok(signed) = serde_json::from_value::<Signed>(json) {
                prop_assert!(signed.open::<PeerRecord>().is_err());
                prop_assert!(signed.open::<ObjectRecord>().is_err());
            }
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let _ = serde_json::from_slice::<Signed>(&bytes);
        }
    }
}
