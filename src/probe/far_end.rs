//! Finds the inner address of a tunnel's far end, which is probed because it answers only if the tunnel works.
//! Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::tunnel::state::TunnelAddress;

/// The far ends of a tunnel with these addresses, each once, in their order.
pub fn far_ends(addresses: &[TunnelAddress]) -> Vec<IpAddr> {
    let mut ends = Vec::new();
    for end in addresses.iter().filter_map(far_end) {
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    ends
}

/// Returns the far end of one address: the point-to-point peer, or else the other host of a network with two hosts. These are /30
/// (its hosts are the middle two), /31 (RFC 3021) and /127 (RFC 6164). A larger network does not determine the far end.
fn far_end(address: &TunnelAddress) -> Option<IpAddr> {
    if address.peer.is_some() {
        return address.peer;
    }
    match (address.net.addr(), address.net.prefix_len()) {
        (IpAddr::V4(ip), 30) => {
            let is_host = matches!(ip.to_bits() & 3, 1 | 2);
            is_host.then(|| Ipv4Addr::from_bits(ip.to_bits() ^ 3).into())
        }
        (IpAddr::V4(ip), 31) => Some(Ipv4Addr::from_bits(ip.to_bits() ^ 1).into()),
        (IpAddr::V6(ip), 127) => Some(Ipv6Addr::from_bits(ip.to_bits() ^ 1).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;

    fn address(net: &str, peer: Option<&str>) -> TunnelAddress {
        TunnelAddress {
            net: net.parse().unwrap(),
            peer: peer.map(|peer| peer.parse().unwrap()),
        }
    }

    #[test]
    fn small_networks_and_peers_tell_the_far_end() {
        let cases = [
            ("10.0.0.1/30", None, Some("10.0.0.2")),
            ("10.0.0.6/30", None, Some("10.0.0.5")),
            ("10.0.0.4/30", None, None),
            ("10.0.0.7/30", None, None),
            ("10.0.0.8/31", None, Some("10.0.0.9")),
            ("10.0.0.255/31", None, Some("10.0.0.254")),
            ("fd00::1/127", None, Some("fd00::")),
            ("fd00::/127", None, Some("fd00::1")),
            ("10.0.0.1/32", Some("10.9.9.9"), Some("10.9.9.9")),
            ("10.0.0.1/30", Some("10.9.9.9"), Some("10.9.9.9")),
            ("10.0.0.1/32", None, None),
            ("10.0.0.1/29", None, None),
            ("fd00::1/64", None, None),
            ("fd00::1/126", None, None),
            ("fd00::1/31", None, None),
        ];
        for (net, peer, end) in cases {
            let end = end.map(|end| end.parse().unwrap());
            assert_eq!(far_end(&address(net, peer)), end, "{net}");
        }
    }

    #[test]
    fn each_far_end_is_given_once() {
        let addresses = [
            address("10.0.0.1/32", Some("10.0.0.2")),
            address("10.0.0.1/30", None),
            address("fd00::1/64", None),
            address("fd01::/127", None),
        ];
        let ends: Vec<_> = far_ends(&addresses).iter().map(IpAddr::to_string).collect();
        assert_eq!(ends, ["10.0.0.2", "fd01::1"]);
    }

    proptest! {
        #[test]
        fn the_far_end_is_another_host_of_the_same_network_and_sees_us(bits: u128, prefix in 0_u8..=128) {
            let nets = [
                IpNet::new(Ipv6Addr::from_bits(bits).into(), prefix),
                IpNet::new(Ipv4Addr::from_bits(bits as u32).into(), prefix),
            ];
            for net in nets.into_iter().flatten() {
                if let Some(end) = far_end(&TunnelAddress { net, peer: None }) {
                    prop_assert!(end != net.addr() && net.contains(&end));
                    let back = IpNet::new(end, net.prefix_len()).unwrap();
                    prop_assert_eq!(far_end(&TunnelAddress { net: back, peer: None }), Some(net.addr()));
                }
            }
        }
    }
}
