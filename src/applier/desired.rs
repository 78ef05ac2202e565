//! The desired state of tunnels, and the link that each asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use crate::node::{DesiredTunnel, Path};
use crate::proto::keys::NodePublic;
use crate::tunnel::encap::{Encap, FouPort, Receives, Udp};
use crate::tunnel::header_fields::InheritOrFixed;
use crate::tunnel::mode::{Family, Mode};
use crate::tunnel::mtu;
use crate::tunnel::state::{LinkConfig, TunnelAddress, TunnelRoute, TunnelState};

/// Link-local addresses of IPv6 (RFC 4291 section 2.5.6).
const LINK_LOCAL: IpNet = IpNet::V6(Ipv6Net::new_assert(
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0),
    10,
));

/// The desired state of all tunnels.
pub type DesiredTunnels = BTreeMap<NodePublic, DesiredTunnel>;

/// A UDP port where the kernel takes GRE packets out of UDP.
pub type ListenPort = (u16, Family);

impl DesiredTunnel {
    /// The port where the kernel takes this tunnel's packets.
    pub fn listen_port(&self) -> ListenPort {
        (
            self.outside.path.port,
            Family::of(self.outside.path.remote.ip()),
        )
    }

    /// The whole tunnel over a path that carries outer packets of `path_mtu` bytes.
    pub(crate) fn state(&self, alias: String, path_mtu: u32) -> TunnelState {
        let Path {
            local,
            port,
            remote,
        } = self.outside.path;
        let only_receives = self.receiving_link(alias, remote.ip());
        let encap = Encap::Fou(Udp {
            sport: port,
            dport: remote.port(),
            csum: true,
        });
        let mtu = mtu::inner(path_mtu, only_receives.mode, encap, true);
        let alt_names = Some(&self.inside.alt_name).filter(|name| !name.is_empty());
        let routes = self.inside.routes.iter();
        TunnelState {
            link: LinkConfig {
                local: Some(local).filter(|it| !it.is_unspecified()),
                encap,
                mtu,
                ..only_receives
            },
            alt_names: alt_names.cloned().into_iter().collect(),
            addresses: inner_addresses(&self.inside.own_ips, &self.inside.peer_ips, mtu),
            routes: routes
                .map(|&network| TunnelRoute { network, via: None })
                .collect(),
            snat: self.inside.snat.clone(),
        }
    }

    /// The sources that the tunnel lets in: the peer's addresses, the networks that are routed to it, and link-local addresses, which
    /// mean nothing on other links.
    pub(super) fn sources(&self) -> BTreeSet<IpNet> {
        let addresses = self.inside.peer_ips.iter().map(|&it| IpNet::from(it));
        let networks = addresses.chain(self.inside.routes.iter().copied());
        let networks: Vec<IpNet> = networks.chain([LINK_LOCAL]).collect();
        // Within a set of the kernel those of one link must not overlap.
        IpNet::aggregate(&networks).into_iter().collect()
    }

    /// A link of the pair's key that takes packets from `remote`, to whichever local address and UDP port. It sends nothing.
    pub(super) fn receiving_link(&self, alias: String, remote: IpAddr) -> LinkConfig {
        let mode = match Family::of(remote) {
            Family::V4 => Mode::Gre,
            Family::V6 => Mode::Ip6gre,
        };
        LinkConfig {
            name: self.inside.name.clone(),
            alias: Some(alias),
            mode,
            local: None,
            remote: Some(remote),
            dev: None,
            ikey: Some(self.outside.gre_key),
            okey: Some(self.outside.gre_key),
            ttl: InheritOrFixed::TTL,
            tos: InheritOrFixed::TOS,
            pmtudisc: true,
            encap: Encap::None,
            mtu: mtu::MIN_IPV6,
            up: true,
            checks_sources: true,
        }
    }
}

/// The kernel's FOU port for GRE at a port and family.
pub(super) fn fou_port((port, family): ListenPort) -> FouPort {
    FouPort {
        port,
        family,
        receives: Receives::Protocol(Mode::Gre.protocol()),
    }
}

/// Our addresses, each with the peer's of the same family as the far end. A link too narrow for IPv6 gets no IPv6 address.
fn inner_addresses(own: &[IpAddr], peer: &[IpAddr], mtu: u32) -> Vec<TunnelAddress> {
    let fits = |ip: &&IpAddr| ip.is_ipv4() || mtu >= mtu::MIN_IPV6;
    let far_end = |own: IpAddr| {
        peer.iter()
            .copied()
            .find(|it| it.is_ipv4() == own.is_ipv4())
    };
    let fitting = own.iter().filter(fits);
    fitting
        .map(|&own| TunnelAddress {
            net: IpNet::from(own),
            peer: far_end(own),
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::node::{Inside, Outside};
    use crate::tunnel::op::KernelOp;
    use crate::tunnel::plan;
    use crate::tunnel::sources::Sources;

    pub fn desired() -> DesiredTunnel {
        let outside = Outside {
            number: 1,
            path: Path {
                local: "192.0.2.1".parse().unwrap(),
                port: 7777,
                remote: "198.51.100.7:50360".parse().unwrap(),
            },
            overlap: None,
            path_mtu: None,
            gre_key: 5,
        };
        let inside = Inside {
            name: "gretun0".to_owned(),
            alt_name: "bob".to_owned(),
            own_ips: vec!["100.64.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            peer_ips: vec!["fd00::2".parse().unwrap(), "100.64.0.2".parse().unwrap()],
            ..Inside::default()
        };
        DesiredTunnel { outside, inside }
    }

    #[test]
    fn addresses_are_paired_by_family_and_the_mtu_is_what_is_left() {
        let state = desired().state("alias".to_owned(), 1500);
        assert_eq!(state.link.mtu, 1464);
        let shown: Vec<String> = state.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["100.64.0.1 peer 100.64.0.2/32", "fd00::1 peer fd00::2/128"]
        );
    }

    #[test]
    fn a_link_too_narrow_for_ipv6_has_only_ipv4() {
        let state = desired().state("alias".to_owned(), 1280);
        assert_eq!(state.link.mtu, 1244);
        assert_eq!(state.addresses.len(), 1);
    }

    #[test]
    fn another_path_is_a_change_in_place_and_the_same_path_is_nothing() {
        let before = desired().state("alias".to_owned(), 1500);
        let mut other = desired();
        other.outside.path.remote = "203.0.113.9:7777".parse().unwrap();
        let after = other.state("alias".to_owned(), 1500);
        let same = plan::overlay(Some(&before), Some(&before), &[]).unwrap();
        assert!(same.is_empty());
        let ops = plan::overlay(Some(&before), Some(&after), &[]).unwrap();
        assert!(matches!(ops[..], [KernelOp::ChangeLink { .. }]), "{ops:?}");
        // FOU ports are the applier's own business.
        let ops = plan::overlay_removal(&[&before], &Sources::new());
        assert!(matches!(ops[..], [KernelOp::DeleteLink(_)]), "{ops:?}");
    }
}
