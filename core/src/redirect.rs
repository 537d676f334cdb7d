//! The redirect itself, and what download tools are told beside it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::lookup::REPLICA_PREFIX;
use crate::object::{Embedding, Sha256, Sharing};

/// Status of every redirect: the method must stay as it is (RFC 9110, section 15.4.8).
pub const STATUS: u16 = 307;

/// Hosts need not learn which page a visitor reads.
pub const REFERRER_POLICY: (&str, &[u8]) = ("referrer-policy", b"no-referrer");

/// Without a lifetime, a redirect is for this moment's table.
pub const NO_STORE: &[u8] = b"no-store";

/// Longest lifetime of a redirect in seconds: a holder that dies meanwhile costs its visitors that much.
pub const MAX_LIFETIME_S: u32 = 30;

/// What a redirect that browsers may keep depends on: the same URL asked for in another way may have to stay.
pub const VARY: (&str, &[u8]) = ("vary", b"sec-fetch-dest, sec-fetch-mode, sec-fetch-site, range, cookie");

/// Lets the visitor's browser keep the redirect for `lifetime_s` seconds.
pub fn write_lifetime(out: &mut Vec<u8>, lifetime_s: u32) {
    out.clear();
    out.extend_from_slice(b"private, max-age=");
    let lifetime_s = lifetime_s.min(MAX_LIFETIME_S);
    let digit = |n: u32| b'0' + (n % 10) as u8;
    if lifetime_s >= 10 {
        out.push(digit(lifetime_s / 10));
    }
    out.push(digit(lifetime_s));
}

/// `access-control-allow-origin` of the redirect: the pages of other sites have to be let through it as well (Fetch, section 4.4).
pub fn allowed_origin(sharing: Sharing) -> Option<&'static [u8]> {
    (sharing == Sharing::Anyone).then_some(b"*")
}

/// `cross-origin-resource-policy` of the redirect, as the origin has it on the object.
pub fn resource_policy(embedding: Embedding) -> Option<&'static [u8]> {
    match embedding {
        Embedding::Unstated => None,
        // Pages of sibling domains are not redirected unless the operator opted in for all sites.
        Embedding::Own => Some(b"same-site"),
        Embedding::Anyone => Some(b"cross-origin"),
    }
}

/// The digest of the whole object for download tools (RFC 3230 with RFC 5843).
pub fn write_digest(out: &mut Vec<u8>, sha256: &Sha256) {
    out.clear();
    out.extend_from_slice(b"SHA-256=");
    out.extend_from_slice(BASE64_STANDARD.encode(sha256.0).as_bytes());
}

/// A further place where a download tool finds the same bytes (RFC 6249); aria2 1.36 reads one a header, and only without quotes.
/// `url` is one of [`write_location`], which has no `>`.
pub fn duplicate(url: &[u8]) -> Vec<u8> {
    [b"<", url, b">; rel=duplicate"].concat()
}

/// Writes the replica's URL into `out`, which is cleared first; `false`, and nothing written, if `origin` has a byte that no authority has.
///
/// `holder` has been checked when the table was loaded, `path` is canonical; so nothing that a client sent can end the header.
pub fn write_location(out: &mut Vec<u8>, holder: &str, origin: &[u8], sha256: &Sha256, path: &str) -> bool {
    out.clear();
    let origin = origin.strip_suffix(b":443").unwrap_or(origin);
    if !origin.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(b)) {
        return false;
    }
    out.extend_from_slice(b"https://");
    out.extend_from_slice(holder.as_bytes());
    out.extend_from_slice(REPLICA_PREFIX.as_bytes());
    out.extend(origin.iter().map(u8::to_ascii_lowercase));
    out.push(b'/');
    out.extend_from_slice(&sha256.hex());
    out.extend_from_slice(path.as_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::ReplicaPath;
    use proptest::prelude::*;

    #[test]
    fn a_location_is_a_replica_path_at_the_holder() {
        let mut out = b"old".to_vec();
        let digest = Sha256([0xcd; 32]);
        assert!(write_location(&mut out, "replica.b.test", b"A.test:443", &digest, "/x/y.png"));
        let text = String::from_utf8(out).unwrap();
        let path = text.strip_prefix("https://replica.b.test").unwrap();
        let parsed = ReplicaPath::parse(path).unwrap();
        assert_eq!((parsed.origin, parsed.sha256, parsed.path), ("a.test", digest, "/x/y.png"));
    }

    #[test]
    fn lifetimes_are_written_out_and_bounded() {
        let mut out = Vec::new();
        for (lifetime_s, text) in [(0, "0"), (9, "9"), (10, "10"), (30, "30"), (u32::MAX, "30")] {
            write_lifetime(&mut out, lifetime_s);
            assert_eq!(String::from_utf8_lossy(&out), format!("private, max-age={text}"));
        }
    }

    #[test]
    fn tools_are_told_the_digest_and_further_places() {
        let mut out = b"old".to_vec();
        write_digest(&mut out, &Sha256([0; 32]));
        assert_eq!(out, b"SHA-256=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        assert_eq!(duplicate(b"https://b.test/x"), b"<https://b.test/x>; rel=duplicate");
    }

    proptest! {
        #[test]
        fn no_authority_injects_into_the_header(origin: Vec<u8>) {
            let mut out = Vec::new();
            write_location(&mut out, "b.test", &origin, &Sha256([0; 32]), "/x");
            prop_assert!(out.iter().all(|b| (0x21..=0x7e).contains(b)));
        }
    }
}
