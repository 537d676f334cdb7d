//! Which addresses are somewhere on the public internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether a packet to `address` leaves for the public internet, also through an IPv4-mapped or NAT64 form.
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_global_v4(v4),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => is_global_v4(v4),
            None => is_global_v6(v6),
        },
    }
}

/// Whether `address` names one machine at all: not unspecified, broadcast, multicast or reserved.
pub fn is_unicast(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !(within_v4(v4, [0, 0, 0, 0], 8) || within_v4(v4, [224, 0, 0, 0], 3)),
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_multicast()),
    }
}

/// IPv4 blocks that the IANA special-purpose registry does not list as globally reachable, multicast and reserved ones.
const NOT_GLOBAL_V4: [([u8; 4], u32); 15] = [
    ([0, 0, 0, 0], 8),       // this network
    ([10, 0, 0, 0], 8),      // private
    ([100, 64, 0, 0], 10),   // carrier-grade NAT
    ([127, 0, 0, 0], 8),     // loopback
    ([169, 254, 0, 0], 16),  // link-local, cloud metadata among it
    ([172, 16, 0, 0], 12),   // private
    ([192, 0, 0, 0], 24),    // protocol assignments
    ([192, 0, 2, 0], 24),    // documentation
    ([192, 88, 99, 0], 24),  // former 6to4 relays
    ([192, 168, 0, 0], 16),  // private
    ([198, 18, 0, 0], 15),   // benchmarks
    ([198, 51, 100, 0], 24), // documentation
    ([203, 0, 113, 0], 24),  // documentation
    ([224, 0, 0, 0], 4),     // multicast
    ([240, 0, 0, 0], 4),     // reserved and broadcast
];

/// Blocks within 2000::/3, the only part of IPv6 in global use, that are not globally reachable or lead somewhere else.
const NOT_GLOBAL_V6: [([u16; 2], u32); 4] = [
    ([0x2001, 0], 23),     // protocol assignments: Teredo, benchmarks, ORCHID
    ([0x2001, 0xdb8], 32), // documentation
    ([0x2002, 0], 16),     // 6to4, which embeds IPv4
    ([0x3fff, 0], 20),     // documentation
];

fn is_global_v4(address: Ipv4Addr) -> bool {
    !NOT_GLOBAL_V4.iter().any(|(block, bits)| within_v4(address, *block, *bits))
}

fn within_v4(address: Ipv4Addr, block: [u8; 4], bits: u32) -> bool {
    (address.to_bits() ^ u32::from_be_bytes(block)) >> (32 - bits) == 0
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    let within = |block: [u16; 2], bits: u32| {
        let head = (address.to_bits() >> 96) as u32;
        (head ^ (u32::from(block[0]) << 16 | u32::from(block[1]))) >> (32 - bits) == 0
    };
    within([0x2000, 0], 3) && !NOT_GLOBAL_V6.iter().any(|(block, bits)| within(*block, *bits))
}

/// The IPv4 address that `::ffff:0:0/96` (mapped) and `64:ff9b::/96` (NAT64) stand for.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            Some(Ipv4Addr::from_bits(address.to_bits() as u32))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn special_addresses_are_not_global() {
        for text in "
            0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254
            169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1
            198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1
            ::2 fe80::1 fec0::1 fc00::1 fdff::1 ff02::1 100::1 2001::1 2001:2::1 2001:10::1 2001:db8::1
            2002:a00:1:: 2002:808:808:: 3fff::1 5f00::1 64:ff9b:1::a00:1 ::ffff:127.0.0.1 ::ffff:10.0.0.1
            ::ffff:169.254.169.254 64:ff9b::127.0.0.1 64:ff9b::192.168.0.1 ::127.0.0.1 ::8.8.8.8 4000::1"
            .split_whitespace()
        {
            assert!(!is_global(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn public_addresses_are_global() {
        for text in "
            1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
            169.253.255.255 172.15.255.255 172.32.0.0 192.0.1.1 192.167.255.255 198.17.255.255 198.20.0.0
            223.255.255.255 2001:200::1 2001:4860:4860::8888 2a00:1450::1 2600::1 ::ffff:8.8.8.8
            64:ff9b::8.8.8.8"
            .split_whitespace()
        {
            assert!(is_global(text.parse().unwrap()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_embedded_address_is_judged_as_the_address_itself(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            let nat64 = Ipv6Addr::from_bits(0x64_ff9b_u128 << 96 | u128::from(bits));
            prop_assert_eq!(is_global(v4.to_ipv6_mapped().into()), is_global(v4.into()));
            prop_assert_eq!(is_global(nat64.into()), is_global(v4.into()));
        }

        #[test]
        fn what_the_standard_library_calls_special_is_never_global(bits: u128, v4: u32) {
            let v4 = Ipv4Addr::from_bits(v4);
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
                || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified();
            prop_assert!(!(special && is_global(v4.into())));
            let v6 = Ipv6Addr::from_bits(bits);
            let special = v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_multicast();
            prop_assert!(!(special && is_global(v6.into())));
        }

        #[test]
        fn every_global_address_is_unicast(bits: u128, v4: u32) {
            for address in [IpAddr::from(Ipv6Addr::from_bits(bits)), Ipv4Addr::from_bits(v4).into()] {
                prop_assert!(!is_global(address) || is_unicast(address));
            }
        }
    }
}
