//! Lists the host's tunnels: one dump of links, addresses and routes each, however many tunnels there are.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, Prop};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::RouteMessageBuilder;
use serde::Serialize;

use crate::kernel::tunnel::link_codec;
use crate::kernel::tunnel::op_messages::CHANGE;
use crate::kernel::{Kernel, KernelError};
use crate::tunnel::mode::Family;
use crate::tunnel::name::is_reserved;
use crate::tunnel::owner::Owner;
use crate::tunnel::snat::SnatPair;
use crate::tunnel::sources::{self, Sources};
use crate::tunnel::state::{LinkConfig, Observed, TunnelAddress, TunnelRoute, TunnelState};

/// A tunnel device, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedTunnel {
    /// Interface index.
    pub index: u32,
    /// Device, names, addresses, and the routes that a static configuration made.
    pub state: TunnelState,
    /// Routes through it that routing daemons and people made.
    pub other_routes: Vec<TunnelRoute>,
    /// Whether `state` says everything; else gretun can remove it but would not have made it.
    pub exact: bool,
    /// The packets and bytes since the link was created.
    pub counters: Counters,
}

/// Packets and bytes of a link since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be received.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Received packets that were dropped.
    pub rx_dropped: u64,
    /// Packets to send that were dropped.
    pub tx_dropped: u64,
}

/// All links of the host, as far as tunnels are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// The tunnels.
    pub tunnels: Vec<ObservedTunnel>,
    /// Names of all links that are no tunnels.
    pub others: Vec<String>,
    /// MTU of every link by its index, bytes.
    pub mtus: HashMap<u32, u32>,
    /// Index of every link by its name.
    pub indices: HashMap<String, u32>,
    /// Indices of links that gretun was killed while making.
    pub half_made: Vec<(u32, String)>,
    /// The sources that links let in, where that was asked for; nothing where the rules that look at them are missing.
    pub sources: Sources,
}

impl Links {
    /// The tunnel of this name or alternative name.
    pub fn tunnel(&self, name: &str) -> Option<&ObservedTunnel> {
        self.tunnels.iter().find(|tunnel| {
            tunnel.state.link.name == name || tunnel.state.alt_names.iter().any(|n| n == name)
        })
    }
}

impl Kernel {
    /// All links, with the addresses and routes of those that are tunnels.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn links(&self) -> Result<Links, KernelError> {
        let mut links = self.links_without_routes()?;
        let positions = positions(&links.tunnels);
        if positions.is_empty() {
            return Ok(links);
        }
        for family in [Family::V4, Family::V6] {
            for (position, route, protocol) in self.list_routes(family, &positions)? {
                let tunnel = &mut links.tunnels[position];
                if protocol == RouteProtocol::Static {
                    tunnel.state.routes.push(route);
                } else {
                    tunnel.other_routes.push(route);
                }
            }
        }
        Ok(links)
    }

    /// The routes of the main table that lead through one of these devices and that the kernel did not make itself, with
    /// the device's position and who made them.
    fn list_routes(
        &self,
        family: Family,
        positions: &HashMap<u32, usize>,
    ) -> Result<Vec<(usize, TunnelRoute, RouteProtocol)>, KernelError> {
        let mut request = match family {
            Family::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            Family::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        };
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        request.header.kind = RouteType::Unicast;
        request.header.protocol = RouteProtocol::Unspec;
        let take = |message: &RouteMessage| {
            let (device, route) = read_route(message, family)?;
            let position = *positions.get(&device)?;
            Some((position, route, message.header.protocol))
        };
        match self.list.routes(request, is_made_by_someone, take) {
            // The main table comes into being with its first route.
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// All links, with the addresses of those that are tunnels: cheap also on a router with a million routes.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn links_without_routes(&self) -> Result<Links, KernelError> {
        let mut links = read_links(&self.list.links()?);
        if links.tunnels.is_empty() {
            return Ok(links);
        }
        let positions = positions(&links.tunnels);
        for message in self.list.addresses()? {
            if let Some(&position) = positions.get(&message.header.index)
                && let Some(address) = read_address(&message)
            {
                links.tunnels[position].state.addresses.push(address);
            }
        }
        Ok(links)
    }

    /// The index of the link of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn link_index(&self, name: &str) -> Result<u32, KernelError> {
        let operation = format!("find link {name}");
        self.change
            .index(name)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENODEV) => KernelError::no_device(operation, name),
                _ => KernelError::netlink(operation, error),
            })
    }

    /// Removes a link; one that is gone already is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_link(&self, index: u32, name: &str) -> Result<(), KernelError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let request = Ok((RouteNetlinkMessage::DelLink(message), CHANGE));
        let operation = |_| format!("remove link {name}");
        let removed: Result<(), KernelError> = self
            .change
            .change(vec![request], operation)
            .into_iter()
            .collect();
        match removed {
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Adds the address translation of each tunnel, which the links themselves do not tell. Gives what belongs to no
    /// tunnel of ours.
    pub fn add_snat(&self, links: &mut Links) -> Vec<SnatPair> {
        let mut stray = Vec::new();
        for (name, network) in self.snat_pairs() {
            let mut tunnels = links.tunnels.iter_mut();
            match tunnels.find(|tunnel| tunnel.state.link.name == name) {
                Some(tunnel) if tunnel.state.owner() != Owner::Other => {
                    tunnel.state.snat.push(network);
                }
                _ => stray.push((name, network)),
            }
        }
        stray
    }

    /// Everything that a plan is made from.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn observe(&self, links: &Links) -> Result<Observed, KernelError> {
        let mut links = links.clone();
        let stray_snat = self.add_snat(&mut links);
        Ok(Observed {
            tunnels: links
                .tunnels
                .into_iter()
                .map(|tunnel| tunnel.state)
                .collect(),
            fou_ports: self.fou_ports()?,
            other_links: links.others,
            stray_snat,
        })
    }
}

/// Where each tunnel is in the list, by its index.
fn positions(tunnels: &[ObservedTunnel]) -> HashMap<u32, usize> {
    let indices = tunnels.iter().enumerate();
    indices
        .map(|(position, tunnel)| (tunnel.index, position))
        .collect()
}

fn read_links(messages: &[LinkMessage]) -> Links {
    let names: HashMap<u32, String> = messages
        .iter()
        .filter_map(|message| Some((message.header.index, name_of(message)?.to_owned())))
        .collect();
    let mut links = Links {
        mtus: messages.iter().filter_map(mtu_of).collect(),
        indices: names
            .iter()
            .map(|(index, name)| (name.clone(), *index))
            .collect(),
        ..Links::default()
    };
    for message in messages {
        let Some(name) = name_of(message) else {
            continue;
        };
        match read_link(message, name, &names) {
            Some(tunnel) if is_half_made(message, &tunnel.state.link) => {
                links.half_made.push((tunnel.index, name.to_owned()));
            }
            // The fallback devices of the kernel's modules are there whether anyone uses them or not.
            Some(tunnel) if !is_reserved(name) => links.tunnels.push(tunnel),
            _ => links.others.push(name.to_owned()),
        }
    }
    links
}

/// A device that was killed between its making and its marking: see `apply`.
fn is_half_made(message: &LinkMessage, link: &LinkConfig) -> bool {
    let unfinished = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::Group(group) if *group == crate::kernel::tunnel::op_messages::UNFINISHED);
    link.alias.is_none() && message.attributes.iter().any(unfinished)
}

fn mtu_of(message: &LinkMessage) -> Option<(u32, u32)> {
    let mtu = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        })?;
    Some((message.header.index, mtu))
}

fn name_of(message: &LinkMessage) -> Option<&str> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })
}

fn read_link(
    message: &LinkMessage,
    name: &str,
    names: &HashMap<u32, String>,
) -> Option<ObservedTunnel> {
    let infos = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        })?;
    let decoded = link_codec::decode(infos, names)?;
    let mut tunnel = ObservedTunnel {
        index: message.header.index,
        state: TunnelState {
            link: LinkConfig {
                name: name.to_owned(),
                up: message.header.flags.contains(LinkFlags::Up),
                ..decoded.link
            },
            alt_names: Vec::new(),
            addresses: Vec::new(),
            routes: Vec::new(),
            snat: Vec::new(),
        },
        other_routes: Vec::new(),
        exact: decoded.exact,
        counters: Counters::default(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfAlias(alias) => tunnel.state.link.alias = Some(alias.clone()),
            LinkAttribute::Mtu(mtu) => tunnel.state.link.mtu = *mtu,
            LinkAttribute::Group(group) => {
                tunnel.state.link.checks_sources = *group == sources::GROUP;
            }
            LinkAttribute::PropList(properties) => {
                let names = properties.iter().filter_map(|property| match property {
                    Prop::AltIfName(name) => Some(name.clone()),
                    _ => None,
                });
                tunnel.state.alt_names.extend(names);
            }
            LinkAttribute::Stats64(stats) => {
                tunnel.counters = Counters {
                    rx_bytes: stats.rx_bytes,
                    tx_bytes: stats.tx_bytes,
                    rx_packets: stats.rx_packets,
                    tx_packets: stats.tx_packets,
                    rx_errors: stats.rx_errors,
                    tx_errors: stats.tx_errors,
                    rx_dropped: stats.rx_dropped,
                    tx_dropped: stats.tx_dropped,
                };
            }
            _ => {}
        }
    }
    Some(tunnel)
}

fn read_address(message: &AddressMessage) -> Option<TunnelAddress> {
    let (mut local, mut far) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => far = Some(*ip),
            _ => {}
        }
    }
    // The kernel gives both for IPv4 and for point-to-point IPv6, and only the second for other IPv6.
    let ip = local.or(far)?;
    if matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
        return None;
    }
    Some(TunnelAddress {
        net: IpNet::new(ip, message.header.prefix_len).ok()?,
        peer: far.filter(|far| *far != ip),
    })
}

/// Whether a route is of the main table and neither the kernel's own nor an announced one.
fn is_made_by_someone(header: &RouteHeader) -> bool {
    let is_kernels = matches!(header.protocol, RouteProtocol::Kernel | RouteProtocol::Ra);
    header.table == RouteHeader::RT_TABLE_MAIN && header.kind == RouteType::Unicast && !is_kernels
}

fn read_route(message: &RouteMessage, family: Family) -> Option<(u32, TunnelRoute)> {
    let as_ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    };
    let (mut device, mut via) = (None, None);
    let mut destination = match family {
        Family::V4 => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(ip) => via = as_ip(ip),
            RouteAttribute::Destination(ip) => destination = as_ip(ip)?,
            _ => {}
        }
    }
    let network = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some((device?, TunnelRoute { network, via }))
}
