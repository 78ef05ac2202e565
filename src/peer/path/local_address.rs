//! The addresses of this host, and the kind of a path over one of them.

use std::net::IpAddr;

use crate::peer::path::{Path, Via};
use crate::proto::address::is_private;

/// The kind of link that an address is on, the best for reaching peers first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkKind {
    /// A network card, or what stands for one.
    #[default]
    Network,
    /// A bridge: often one for containers, which no other host is behind.
    Bridge,
    /// Another overlay's link (WireGuard, a tun device, VXLAN and the like): what is sent there crosses the internet inside
    /// another program's packets.
    Overlay,
}

/// An address of this host that packets can leave from. Ordered as peers are told of them: the most useful first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalAddress {
    /// The kind of its link.
    pub link: LinkKind,
    /// The address.
    pub ip: IpAddr,
    /// How many bits of it name the network that is on-link.
    pub prefix_len: u8,
    /// Whether peers are told of it: not of one that is about to go (RFC 8981 temporary, deprecated), nor of one whose link has no
    /// carrier.
    pub is_published: bool,
}

impl LocalAddress {
    /// Whether the kernel's route to `remote` is on-link by this address.
    fn is_on_link(&self, remote: IpAddr) -> bool {
        let prefix_len = u32::from(self.prefix_len);
        match (self.ip, remote) {
            _ if prefix_len == 0 => false,
            (IpAddr::V4(own), IpAddr::V4(remote)) => {
                (own.to_bits() ^ remote.to_bits()).leading_zeros() >= prefix_len
            }
            (IpAddr::V6(own), IpAddr::V6(remote)) => {
                (own.to_bits() ^ remote.to_bits()).leading_zeros() >= prefix_len
            }
            _ => false,
        }
    }
}

/// An address of which nothing else is known: no other host is on-link.
impl From<IpAddr> for LocalAddress {
    fn from(ip: IpAddr) -> Self {
        LocalAddress {
            link: LinkKind::Network,
            ip,
            prefix_len: if ip.is_ipv4() { 32 } else { 128 },
            is_published: true,
        }
    }
}

/// The kind of `path` for a host with these addresses; `is_own_source` says whether the peer sees this host's packets come
/// from one of them, so that neither a NAT nor somebody who forwards them is in between.
pub(crate) fn via(addresses: &[LocalAddress], path: Path, is_own_source: bool) -> Via {
    let remote = path.remote.ip();
    let on_link = addresses
        .iter()
        .filter(|it| it.is_on_link(remote))
        .max_by_key(|it| it.prefix_len);
    let source = addresses.iter().find(|it| it.ip == path.local);
    let mut links = source.into_iter().chain(on_link);
    if links.any(|it| it.link == LinkKind::Overlay) {
        Via::Overlay
    } else if on_link.is_some() && is_private(remote) && is_own_source {
        Via::Lan
    } else {
        Via::Public
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(link: LinkKind, ip: &str, prefix_len: u8) -> LocalAddress {
        LocalAddress {
            link,
            prefix_len,
            ..LocalAddress::from(ip.parse::<IpAddr>().unwrap())
        }
    }

    #[test]
    fn a_lan_is_on_link_private_and_without_a_nat() {
        let addresses = [
            address(LinkKind::Network, "192.168.1.2", 24),
            address(LinkKind::Network, "10.0.0.1", 8),
            address(LinkKind::Overlay, "10.9.0.1", 24),
            address(LinkKind::Network, "203.0.113.5", 24),
            address(LinkKind::Bridge, "fd00::1", 64),
            address(LinkKind::Overlay, "100.64.0.1", 32),
        ];
        for (local, remote, is_own_source, expected) in [
            ("192.168.1.2", "192.168.1.9", true, Via::Lan),
            ("192.168.1.2", "192.168.1.9", false, Via::Public),
            // Behind a router, or by a VPN of the site.
            ("192.168.1.2", "192.168.2.9", true, Via::Public),
            ("10.0.0.1", "10.1.0.1", true, Via::Lan),
            // The more specific network is another overlay's.
            ("10.0.0.1", "10.9.0.7", true, Via::Overlay),
            ("10.9.0.1", "10.9.0.7", true, Via::Overlay),
            ("100.64.0.1", "100.64.0.2", true, Via::Overlay),
            ("203.0.113.5", "203.0.113.6", true, Via::Public),
            ("fd00::1", "fd00::2", true, Via::Lan),
            ("fd00::1", "fd00:0:0:1::2", true, Via::Public),
            // Of an address that the host has lost.
            ("172.16.0.1", "198.51.100.1", true, Via::Public),
        ] {
            let path = Path {
                local: local.parse().unwrap(),
                port: 7777,
                remote: std::net::SocketAddr::new(remote.parse().unwrap(), 7777),
            };
            let found = via(&addresses, path, is_own_source);
            assert_eq!(found, expected, "{local} {remote}");
        }
    }

    #[test]
    fn a_path_costs_less_in_the_lan_and_most_through_another_overlay() {
        assert!(Via::Lan < Via::Public && Via::Public < Via::Overlay);
    }
}
