//! What belongs together as far as strangers can tell: names that one owner registered, addresses that one network has.
//!
//! Names below one registration and addresses in one network cost their owner next to nothing, so whatever is shared out between
//! strangers is shared out between these.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name that somebody has registered, of which `authority` is one below: by the public suffix list, and without a port.
///
/// An IP address stands for itself, with its port; so does a name that is a public suffix itself, without.
pub fn registrable(authority: &str) -> &str {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    if host.parse::<IpAddr>().is_ok() {
        return authority;
    }
    psl::domain_str(host).unwrap_or(host)
}

/// A network prefix: what its holder can draw addresses from for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// The first 24 bits of an IPv4 address.
    V4([u8; 3]),
    /// The first 48 bits of an IPv6 address.
    V6([u8; 6]),
}

/// The /24 of an IPv4 address, also of one that is mapped into IPv6, or the /48 of an IPv6 address.
pub fn network(address: IpAddr) -> Network {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            Network::V4([a, b, c])
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, ..] = v6.octets();
            Network::V6([a, b, c, d, e, f])
        }
    }
}

/// The text is no prefix as [`Network`] writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a network is written as 192.0.2.0/24 or 2001:db8::/48")]
pub struct NetworkError;

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = text.split_once('/').ok_or(NetworkError)?;
        let found = network(address.parse().map_err(|_| NetworkError)?);
        let is_right = matches!((found, bits), (Self::V4(_), "24") | (Self::V6(_), "48"));
        if is_right && found.to_string() == text { Ok(found) } else { Err(NetworkError) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4([a, b, c]) => write!(f, "{}/24", Ipv4Addr::new(a, b, c, 0)),
            Self::V6([a, b, c, d, e, g]) => {
                let address = Ipv6Addr::from([a, b, c, d, e, g, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                write!(f, "{address}/48")
            }
        }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_one_owner_are_one_and_names_of_several_are_several() {
        for (authority, owner) in [
            ("example.org", "example.org"),
            ("a.b.example.org:8443", "example.org"),
            ("shop.example.co.uk", "example.co.uk"),
            ("alice.github.io", "alice.github.io"),
            ("www.alice.github.io", "alice.github.io"),
            ("co.uk", "co.uk"),
            ("alpha.localhost:9443", "alpha.localhost"),
            ("localhost:9443", "localhost"),
            ("10.77.1.1:8443", "10.77.1.1:8443"),
            ("10.77.1.1", "10.77.1.1"),
        ] {
            assert_eq!(registrable(authority), owner, "{authority}");
        }
    }

    #[test]
    fn addresses_of_one_network_are_one() {
        for (address, prefix) in [
            ("192.0.2.7", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.0/24"),
            ("2001:db8:1:2::3", "2001:db8:1::/48"),
            ("::1", "::/48"),
        ] {
            assert_eq!(network(address.parse().unwrap()).to_string(), prefix);
        }
    }

    proptest! {
        #[test]
        fn a_network_is_read_as_it_is_written(bits: u128, is_v4: bool) {
            let address = if is_v4 { Ipv4Addr::from_bits(bits as u32).into() } else { IpAddr::from(Ipv6Addr::from_bits(bits)) };
            let found = network(address);
            prop_assert_eq!(found.to_string().parse(), Ok(found));
            let json = serde_json::to_string(&found).unwrap();
            prop_assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), found);
        }

        #[test]
        fn no_text_makes_it_panic_and_what_comes_out_is_a_part_of_it(text in ".{0,40}") {
            prop_assert!(text.contains(registrable(&text)));
            let _ = text.parse::<Network>();
        }
    }
}
