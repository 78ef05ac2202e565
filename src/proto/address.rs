//! Kinds of IP addresses: public, private, such that a datagram can be sent to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Returns whether an address can be one of the internet: not of RFC 1918, nor of the shared space of carrier NATs (RFC 6598), nor
/// link-local, loopback or unspecified.
pub fn is_public(ip: Ipv4Addr) -> bool {
    let is_shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
    !(ip.is_private() || is_shared || ip.is_link_local() || ip.is_loopback() || ip.is_unspecified())
}

/// The first address of the range that is shared by many networks, if the address is in one: of RFC 1918, or of carriers (RFC 6598).
pub fn private_range(ip: Ipv4Addr) -> Option<Ipv4Addr> {
    let [first, second, ..] = ip.octets();
    match (first, second) {
        (10, _) => Some(Ipv4Addr::new(10, 0, 0, 0)),
        (172, 16..=31) => Some(Ipv4Addr::new(172, 16, 0, 0)),
        (192, 168) => Some(Ipv4Addr::new(192, 168, 0, 0)),
        (100, 64..=127) => Some(Ipv4Addr::new(100, 64, 0, 0)),
        _ => None,
    }
}

/// Whether an address means something only inside one site: RFC 1918, IPv4 and IPv6 link-local, RFC 4193. The shared
/// space of carrier NATs (RFC 6598) is not among them: two customers of one carrier share no LAN.
pub fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// Whether a datagram can be sent there at all, from one host to one other.
pub fn is_sendable(remote: SocketAddr) -> bool {
    let ip = remote.ip();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    // A link-local IPv6 address needs a scope, which no candidate carries.
    let scoped = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    // An IPv4 address inside an IPv6 one (RFC 4291 section 2.5.5) is on no wire.
    let embedded = matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let nowhere = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || broadcast;
    remote.port() != 0 && !(nowhere || scoped || embedded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_private_range_ends_where_its_rfc_says() {
        for (ip, expected) in [
            ("10.255.255.255", Some("10.0.0.0")),
            ("11.0.0.0", None),
            ("172.15.255.255", None),
            ("172.31.255.255", Some("172.16.0.0")),
            ("172.32.0.0", None),
            ("192.168.1.1", Some("192.168.0.0")),
            ("100.63.255.255", None),
            ("100.127.255.255", Some("100.64.0.0")),
            ("100.128.0.0", None),
            ("169.254.169.254", None),
        ] {
            let range = private_range(ip.parse().unwrap());
            let expected = expected.map(|it| it.parse::<Ipv4Addr>().unwrap());
            assert_eq!(range, expected, "{ip}");
        }
    }
}
