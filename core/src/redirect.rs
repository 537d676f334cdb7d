//! The redirect itself.

use crate::lookup::REPLICA_PREFIX;
use crate::object::Sha256;

/// Status of every redirect: the method must stay as it is (RFC 9110, section 15.4.8).
pub const STATUS: u16 = 307;

/// Headers of every redirect besides `location`. It must not outlive this moment's table, and hosts need not learn the page.
pub const HEADERS: [(&str, &[u8]); 2] = [("cache-control", b"no-store"), ("referrer-policy", b"no-referrer")];

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

    proptest! {
        #[test]
        fn no_authority_injects_into_the_header(origin: Vec<u8>) {
            let mut out = Vec::new();
            write_location(&mut out, "b.test", &origin, &Sha256([0; 32]), "/x");
            prop_assert!(out.iter().all(|b| (0x21..=0x7e).contains(b)));
        }
    }
}
