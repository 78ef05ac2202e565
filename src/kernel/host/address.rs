//! Addresses and routes of the host, as far as tunnels need them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressScope};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric};

use crate::kernel::{Kernel, KernelError};

/// An address to which only the default route leads: of TEST-NET-1 (RFC 5737).
const ANYWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The kind of link that an address is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A network card, or what stands for one.
    Network,
    /// A bridge.
    Bridge,
    /// Another overlay's or tunnel's: WireGuard, a tun device, VXLAN and the like.
    Overlay,
}

/// An address that packets can leave from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address.
    pub ip: IpAddr,
    /// How many bits of it name the network that is on-link.
    pub prefix_len: u8,
    /// Index of its device.
    pub device: u32,
    /// The kind of its device.
    pub link: LinkKind,
    /// Whether it stays and its device has a carrier: it is neither an IPv6 temporary address (RFC 8981) nor deprecated.
    pub is_lasting: bool,
}

/// A route, as far as tunnels need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index of the device that packets leave through.
    pub device: u32,
    /// The route's own MTU, where it has one: an administrator's, not one that the kernel learned and will forget. Bytes.
    pub mtu: Option<u32>,
    /// The address of this host that they leave from, where the route says one.
    pub source: Option<IpAddr>,
}

/// How packets get to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteTo {
    /// Index of the device that they leave through.
    pub device: u32,
    /// The largest packet that fits: the device's MTU, or the route's where it is smaller. Bytes. Not what ICMP messages have
    /// said lately of the way beyond.
    pub mtu: u32,
}

impl Kernel {
    /// The addresses of global scope on links that are up and are not tunnels themselves. The loopback link may have such, where
    /// a host has one address over several uplinks.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn local_addresses(&self) -> Result<Vec<LocalAddress>, KernelError> {
        let links = self.list.links()?;
        let kinds = link_kinds(&links);
        let usable: HashMap<u32, (LinkKind, bool)> = links
            .iter()
            .filter(|link| link.header.flags.contains(LinkFlags::Up))
            .filter(|link| !is_tunnel(link))
            .map(|link| {
                let has_carrier = link.header.flags.contains(LinkFlags::LowerUp);
                let index = link.header.index;
                (index, (kinds[&index], has_carrier))
            })
            .collect();
        let addresses = self.list.addresses()?;
        Ok(addresses
            .iter()
            .filter(|address| {
                let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
                address.header.scope == AddressScope::Universe
                    && !address.header.flags.intersects(unusable)
            })
            .filter_map(|address| {
                let (link, has_carrier) = *usable.get(&address.header.index)?;
                let local = address
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        AddressAttribute::Local(ip) => Some(*ip),
                        _ => None,
                    });
                let ip = local.or_else(|| {
                    address
                        .attributes
                        .iter()
                        .find_map(|attribute| match attribute {
                            AddressAttribute::Address(ip) => Some(*ip),
                            _ => None,
                        })
                })?;
                // `IFA_F_TEMPORARY` is `IFA_F_SECONDARY`, which says nothing of the kind for IPv4.
                let flags = address.header.flags;
                let is_passing = flags.contains(AddressHeaderFlags::Deprecated)
                    || (ip.is_ipv6() && flags.contains(AddressHeaderFlags::Secondary));
                Some(LocalAddress {
                    ip,
                    prefix_len: address.header.prefix_len,
                    device: address.header.index,
                    link,
                    is_lasting: has_carrier && !is_passing,
                })
            })
            .collect())
    }

    /// The way that packets from `source` to `remote` take; an unspecified `source` leaves it to the kernel.
    ///
    /// # Errors
    /// When there is none.
    pub fn route_to(&self, source: IpAddr, remote: IpAddr) -> Result<RouteTo, KernelError> {
        let source = Some(source).filter(|it| !it.is_unspecified());
        let route = self.route_between(source, remote)?;
        let mtu = self.device_mtu(route.device)?;
        Ok(RouteTo {
            device: route.device,
            mtu: route.mtu.map_or(mtu, |route| route.min(mtu)),
        })
    }

    /// Asks the kernel for its route of packets from `source`, or from wherever the kernel chooses, to `remote`. Nothing is sent.
    ///
    /// # Errors
    /// When there is none.
    pub fn route_between(
        &self,
        source: Option<IpAddr>,
        remote: IpAddr,
    ) -> Result<Route, KernelError> {
        let route = self.lookup_route(source, remote)?;
        let (mut device, mut mtu, mut source) = (None, None, None);
        let mut is_learned = false;
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => device = Some(*index),
                RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => source = Some((*ip).into()),
                RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => source = Some((*ip).into()),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                RouteAttribute::CacheInfo(cache) => is_learned = cache.expires != 0,
                _ => {}
            }
        }
        let no_device = || {
            let operation = format!("find the route to {remote}");
            KernelError::netlink(operation, "the kernel's route has no device")
        };
        Ok(Route {
            device: device.ok_or_else(no_device)?,
            mtu: mtu.filter(|_| !is_learned),
            source,
        })
    }

    /// The router that packets to the internet are handed to over IPv4, and the address of this host that they leave from; `None`
    /// where they leave without a router. Nothing is sent.
    ///
    /// # Errors
    /// When there is no way to the internet.
    pub fn gateway(&self) -> Result<Option<(Ipv4Addr, Ipv4Addr)>, KernelError> {
        let route = self.lookup_route(None, ANYWHERE.into())?;
        let address = |it: &RouteAddress| match it {
            RouteAddress::Inet(ip) => Some(*ip),
            _ => None,
        };
        let attributes = || route.attributes.iter();
        let gateway = attributes().find_map(|it| match it {
            RouteAttribute::Gateway(ip) => address(ip),
            _ => None,
        });
        let source = attributes().find_map(|it| match it {
            RouteAttribute::PrefSource(ip) => address(ip),
            _ => None,
        });
        Ok(gateway.zip(source))
    }

    fn lookup_route(
        &self,
        source: Option<IpAddr>,
        remote: IpAddr,
    ) -> Result<RouteMessage, KernelError> {
        let operation = format!("find the route to {remote}");
        let (family, whole) = match remote {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.destination_prefix_length = whole;
        let destination = RouteAttribute::Destination(route_address(remote));
        request.attributes.push(destination);
        if let Some(source) = source {
            request.header.source_prefix_length = whole;
            let source = RouteAttribute::Source(route_address(source));
            request.attributes.push(source);
        }
        self.list.route(&operation, request)
    }

    fn device_mtu(&self, device: u32) -> Result<u32, KernelError> {
        let link = self.list.link(device)?;
        let mtu = link.attributes.iter().find_map(|it| match it {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        let none =
            || KernelError::netlink(format!("read the MTU of link {device}"), "there is none");
        mtu.ok_or_else(none)
    }
}

fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

/// Whether the link is of the kinds that the overlay makes: addresses inside it are no way to reach a peer.
fn is_tunnel(link: &LinkMessage) -> bool {
    matches!(
        info_kind(&link.attributes),
        Some(InfoKind::GreTun | InfoKind::GreTun6)
    )
}

/// Links of links: a VLAN of a bridge of a VXLAN has three levels, and hardly anybody has more.
const LEVELS: usize = 4;

/// The kinds of the links that addresses for packets to peers are on. A bridge or bond with an overlay's link among its ports, and a VLAN or
/// the like on top of one, lead into the overlay.
fn link_kinds(links: &[LinkMessage]) -> HashMap<u32, LinkKind> {
    let mut kinds: HashMap<u32, LinkKind> = links
        .iter()
        .map(|it| (it.header.index, link_kind(info_kind(&it.attributes))))
        .collect();
    let edges: Vec<(u32, u32)> = links.iter().flat_map(below_and_above).collect();
    for _ in 0..LEVELS {
        for (below, above) in &edges {
            if kinds.get(below) == Some(&LinkKind::Overlay)
                && let Some(kind) = kinds.get_mut(above)
            {
                *kind = LinkKind::Overlay;
            }
        }
    }
    kinds
}

/// The indices of a link and of the links that it is a port of or stands on, each time the lower one first.
fn below_and_above(link: &LinkMessage) -> impl Iterator<Item = (u32, u32)> {
    let kind = info_kind(&link.attributes);
    // Of a pair of links it is the other end, and it may be a link of another network namespace.
    let is_elsewhere = |it: &LinkAttribute| matches!(it, LinkAttribute::LinkNetNsId(_));
    let has_link_below = kind != Some(&InfoKind::Veth) && !link.attributes.iter().any(is_elsewhere);
    // A tap in a bridge is a virtual machine's.
    let is_tap = kind == Some(&InfoKind::Tun);
    let index = link.header.index;
    link.attributes.iter().filter_map(move |it| match it {
        LinkAttribute::Controller(above) if !is_tap => Some((index, *above)),
        LinkAttribute::Link(below) if has_link_below => Some((*below, index)),
        _ => None,
    })
}

fn info_kind(attributes: &[LinkAttribute]) -> Option<&InfoKind> {
    let infos = attributes.iter().filter_map(|it| match it {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten().find_map(|it| match it {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

fn link_kind(kind: Option<&InfoKind>) -> LinkKind {
    match kind {
        Some(InfoKind::Bridge) => LinkKind::Bridge,
        Some(
            InfoKind::Wireguard
            | InfoKind::Tun
            | InfoKind::Vxlan
            | InfoKind::Geneve
            | InfoKind::GreTap
            | InfoKind::GreTap6
            | InfoKind::IpIp
            | InfoKind::Ip6Tnl
            | InfoKind::SitTun
            | InfoKind::Vti
            | InfoKind::Vti6
            | InfoKind::Xfrm
            | InfoKind::Gtp
            | InfoKind::Amt
            | InfoKind::BareUdp
            | InfoKind::ErSpan
            | InfoKind::Ip6ErSpan,
        ) => LinkKind::Overlay,
        // OpenVPN's own kind has no name in the netlink crate.
        Some(InfoKind::Other(name)) if name == "ovpn" => LinkKind::Overlay,
        _ => LinkKind::Network,
    }
}
