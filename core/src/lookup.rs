//! From a request's authority and path to the key of the replica table, and the well-known paths of the protocol.

use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::object::{Sha256, is_authority};

/// Everything below is the protocol's own; no request for it is ever redirected.
pub const WELL_KNOWN: &str = "/.well-known/p2pcdn/";
/// Where a host serves replicas: followed by `ORIGIN/SHA256/PATH`. By itself, the host's peer record, which proves that the name is its own.
pub const REPLICA_PREFIX: &str = "/.well-known/p2pcdn/v1/r/";
/// Where a host sends a client back to the origin: followed by the path without its first slash.
pub const RETURN_PREFIX: &str = "/.well-known/p2pcdn/v1/back/";
/// Longest path that is catalogued, in bytes.
pub const MAX_PATH_BYTES: usize = 1024;

/// Why a path is not catalogued: proxy and origin could read it differently, or it could not stand in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Does not begin with a slash.
    #[error("a path begins with a slash")]
    Relative,
    /// Longer than [`MAX_PATH_BYTES`].
    #[error("a path has at most {MAX_PATH_BYTES} bytes")]
    TooLong,
    /// A byte that is not an unescaped path character of RFC 3986 (percent escapes and queries included).
    #[error("a path has unescaped path characters of RFC 3986 only")]
    Byte,
    /// `//`, `/./` or `/../`.
    #[error("a path has no empty and no dot segments")]
    Segment,
    /// Belongs to the protocol itself.
    #[error("the path belongs to the protocol itself")]
    WellKnown,
    /// A query with a byte that could be read otherwise, or empty.
    #[error("a query has parameters of unescaped query characters of RFC 3986 only")]
    Query,
}

/// The path as text if every hop reads it alike, else why not.
pub fn canonical_path(path: &[u8]) -> Result<&str, PathError> {
    if path.first() != Some(&b'/') {
        return Err(PathError::Relative);
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(PathError::TooLong);
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(b);
    if !path.iter().all(plain) {
        return Err(PathError::Byte);
    }
    let text = std::str::from_utf8(path).map_err(|_| PathError::Byte)?;
    let mut segments = text.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        if segment == "." || segment == ".." || (segment.is_empty() && !last) {
            return Err(PathError::Segment);
        }
    }
    if text.starts_with(WELL_KNOWN) {
        return Err(PathError::WellKnown);
    }
    Ok(text)
}

/// A canonical path, with or without a query of canonical parameters; what objects are named by.
pub fn canonical_target(target: &[u8]) -> Result<&str, PathError> {
    let (path, query) = split_query(target);
    let path_text = canonical_path(path)?;
    let Some(query) = query else { return Ok(path_text) };
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$'()*,;:@/=&".contains(b);
    if target.len() > MAX_PATH_BYTES || query.is_empty() || !query.iter().all(plain) {
        return Err(PathError::Query);
    }
    std::str::from_utf8(target).map_err(|_| PathError::Query)
}

/// A request target's path, and its query if there is a `?`.
pub fn split_query(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    match target.iter().position(|b| *b == b'?') {
        Some(at) => (target.get(..at).unwrap_or_default(), target.get(at + 1..)),
        None => (target, None),
    }
}

/// Key of the keyed hash; drawn by the agent so that nobody outside can make keys collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HashKey(pub [u64; 2]);

impl HashKey {
    /// The 64-bit key of an object: SipHash-1-3 over the authority in lower case without `:443`, a zero byte, and the path.
    pub fn of(self, authority: &[u8], path: &[u8]) -> u64 {
        let [k0, k1] = self.0;
        let mut hasher = SipHasher13::new_with_keys(k0, k1);
        let authority = authority.strip_suffix(b":443").unwrap_or(authority);
        if authority.iter().any(u8::is_ascii_uppercase) {
            authority.iter().for_each(|b| hasher.write_u8(b.to_ascii_lowercase()));
        } else {
            hasher.write(authority);
        }
        hasher.write_u8(0);
        hasher.write(path);
        hasher.finish()
    }

    /// What stands for a strong entity tag in the table: 32 bits of its keyed hash, never 0.
    pub fn validator(self, etag: &[u8]) -> u32 {
        (self.of(b"", etag) as u32).max(1)
    }
}

/// The parts of a replica's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaPath<'a> {
    /// Authority of the origin.
    pub origin: &'a str,
    /// Digest of the version asked for.
    pub sha256: Sha256,
    /// Canonical target at the origin.
    pub path: &'a str,
}

impl<'a> ReplicaPath<'a> {
    /// Takes a request target apart; `None` if it is not a well-formed replica path.
    pub fn parse(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix(REPLICA_PREFIX)?;
        let (origin, rest) = rest.split_once('/')?;
        let (digest, _) = rest.split_once('/')?;
        let path = rest.get(digest.len()..)?;
        canonical_target(path.as_bytes()).ok()?;
        is_authority(origin).then_some(())?;
        Some(Self { origin, sha256: digest.parse().ok()?, path })
    }
}

/// The path at the origin that a return URL names, if `path` is one.
pub fn returned_path(path: &[u8]) -> Option<&[u8]> {
    let prefix = RETURN_PREFIX.len().checked_sub(1)?;
    path.starts_with(RETURN_PREFIX.as_bytes()).then(|| path.get(prefix..)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_paths_that_every_hop_reads_alike_are_canonical() {
        for good in ["/", "/a", "/a/", "/a.b/c~d_e-f", "/@scope/x+y,z;v=1:2", "/.well-known/other", "/..a/b"] {
            assert_eq!(canonical_path(good.as_bytes()), Ok(good));
        }
        let table = [
            ("", PathError::Relative),
            ("a", PathError::Relative),
            ("/a%2Fb", PathError::Byte),
            ("/a%41", PathError::Byte),
            ("/a?b", PathError::Byte),
            ("/a\\b", PathError::Byte),
            ("/a b", PathError::Byte),
            ("/a\r\nLocation: x", PathError::Byte),
            ("/ä", PathError::Byte),
            ("//a", PathError::Segment),
            ("/a//b", PathError::Segment),
            ("/a/./b", PathError::Segment),
            ("/a/..", PathError::Segment),
            ("/.well-known/p2pcdn/v1/back/a", PathError::WellKnown),
        ];
        for (bad, error) in table {
            assert_eq!(canonical_path(bad.as_bytes()), Err(error), "{bad}");
        }
        assert_eq!(canonical_path(&vec![b'/'; MAX_PATH_BYTES + 1]), Err(PathError::TooLong));
    }

    #[test]
    fn authorities_are_compared_without_case_and_default_port() {
        let key = HashKey([1, 2]);
        assert_eq!(key.of(b"A.test:443", b"/x"), key.of(b"a.test", b"/x"));
        assert_ne!(key.of(b"a.test:8443", b"/x"), key.of(b"a.test", b"/x"));
        assert_ne!(HashKey([1, 3]).of(b"a.test", b"/x"), key.of(b"a.test", b"/x"));
    }

    #[test]
    fn replica_paths_are_taken_apart_or_refused() {
        let hex = Sha256([0xab; 32]).to_string();
        let path = format!("{REPLICA_PREFIX}a.test:8443/{hex}/x/y.png");
        let parsed = ReplicaPath::parse(&path).unwrap();
        assert_eq!((parsed.origin, parsed.sha256, parsed.path), ("a.test:8443", Sha256([0xab; 32]), "/x/y.png"));
        for bad in [
            format!("{REPLICA_PREFIX}a.test/{hex}"),
            format!("{REPLICA_PREFIX}a.test/{}/x", &hex[1..]),
            format!("{REPLICA_PREFIX}/{hex}/x"),
            format!("{REPLICA_PREFIX}a.test/{hex}//x"),
            format!("{REPLICA_PREFIX}a.test/{hex}{REPLICA_PREFIX}a.test/{hex}/x"),
            "/x".into(),
        ] {
            assert_eq!(ReplicaPath::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn return_urls_name_the_path_at_the_origin() {
        assert_eq!(returned_path(b"/.well-known/p2pcdn/v1/back/a/b.png"), Some(&b"/a/b.png"[..]));
        assert_eq!(returned_path(b"/a"), None);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic_and_never_inject(bytes: Vec<u8>) {
            if let Ok(text) = canonical_path(&bytes) {
                prop_assert!(text.bytes().all(|b| (0x21..=0x7e).contains(&b)));
            }
            let _ = ReplicaPath::parse(&String::from_utf8_lossy(&bytes));
            let _ = returned_path(&bytes);
        }
    }
}
