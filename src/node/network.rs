//! What the tunnel of each peer carries inside: interface name, addresses, routes, masquerading.
//!
//! [`Network`] knows this host's settings and addresses in the overlay, the record of every peer, the outside of every
//! tunnel and whether data crosses it. Whenever one of these changes, [`Network::update`] decides again and hands out the
//! tunnels that differ.
//!
//! A network that several peers offer has exactly one carrier: the peer whose tunnel gets the route. A peer whose tunnel is
//! verified comes first, then the carrier that the network has already, then the lowest node key. So a route moves when its
//! carrier fails or leaves, and does not move back for the former carrier's return alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::interface_names::{IfaceTemplate, InterfaceNumbers};
use crate::peer::{DesiredTunnel, Inside, Output, Outside};
use crate::proto::NodePublic;
use crate::proto::api::PeerRecord;

/// This host's settings for what its tunnels carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Names of the interfaces (`--iface`).
    pub iface: IfaceTemplate,
    /// Networks behind this host that it offers to peers (`--advertise-routes`).
    pub advertise_routes: Vec<IpNet>,
    /// Whether to route the networks that peers offer into their tunnels (`--accept-routes`).
    pub accept_routes: bool,
    /// Whether to masquerade what peers send to `advertise_routes` (`--snat-routes`).
    pub snat_routes: bool,
}

/// Why a network that a peer offers is not routed into the peer's tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteRefusal {
    /// This host takes no routes: `--accept-routes` is off.
    NotAccepted,
    /// A default route: a peer must not take all traffic.
    DefaultRoute,
    /// It overlaps the loopback range.
    Loopback,
    /// It overlaps a link-local range, which means something else on each link.
    LinkLocal,
    /// It overlaps a multicast range.
    Multicast,
    /// It overlaps a pool of the overlay, or contains an address in the overlay.
    Overlay,
    /// It overlaps a network that this host offers itself.
    Advertised,
    /// The peer's tunnel sends its outer packets there: they would be routed into the tunnel itself.
    ContainsEndpoint,
    /// Another peer carries the same network.
    CarriedBy(NodePublic),
    /// The peer has no tunnel yet.
    NoTunnel,
}

impl fmt::Display for RouteRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteRefusal::NotAccepted => f.write_str("this host takes no routes (--accept-routes)"),
            RouteRefusal::DefaultRoute => f.write_str("a default route is never taken"),
            RouteRefusal::Loopback => f.write_str("it overlaps the loopback addresses"),
            RouteRefusal::LinkLocal => f.write_str("it overlaps the link-local addresses"),
            RouteRefusal::Multicast => f.write_str("it overlaps the multicast addresses"),
            RouteRefusal::Overlay => f.write_str("it overlaps the overlay's own addresses"),
            RouteRefusal::Advertised => f.write_str("it overlaps a network that this host offers"),
            RouteRefusal::ContainsEndpoint => {
                f.write_str("it contains the address that the peer's tunnel leads to")
            }
            RouteRefusal::CarriedBy(peer) => write!(f, "{peer} carries it"),
            RouteRefusal::NoTunnel => f.write_str("the peer has no tunnel yet"),
        }
    }
}

/// A network that a peer offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferedRoute {
    /// The network, without host bits.
    pub network: IpNet,
    /// Why it is not routed into the peer's tunnel; `None` when it is.
    pub refusal: Option<RouteRefusal>,
}

/// One peer, or a tunnel that was found at start and whose peer is not known yet.
#[derive(Debug, Default)]
struct Member {
    record: Option<Record>,
    /// As last asked for; `None` without a tunnel.
    outside: Option<Outside>,
    /// Whether data crosses the tunnel.
    is_connected: bool,
    /// Whether the outside was asked for since the last [`Network::update`].
    is_asked: bool,
    /// The inside as last handed out, or as found at start.
    inside: Option<Inside>,
    offers: Vec<OfferedRoute>,
}

/// The parts of a [`PeerRecord`] that the inside depends on.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    name: String,
    tunnel_ips: Vec<IpAddr>,
    /// Without host bits, each once.
    routes: Vec<IpNet>,
}

impl Record {
    fn new(record: &PeerRecord) -> Self {
        let routes: BTreeSet<IpNet> = record.routes.iter().map(IpNet::trunc).collect();
        Record {
            name: record.name.clone(),
            tunnel_ips: record.tunnel_ips.clone(),
            routes: routes.into_iter().collect(),
        }
    }
}

impl Member {
    fn offers_routes(&self) -> bool {
        self.record.as_ref().is_some_and(|it| !it.routes.is_empty())
    }
}

/// The decision what each tunnel carries.
#[derive(Debug, Default)]
pub(super) struct Network {
    settings: NetworkSettings,
    own_ips: Vec<IpAddr>,
    pools: Vec<IpNet>,
    numbers: InterfaceNumbers,
    members: BTreeMap<NodePublic, Member>,
    /// Who carries each network. Every carrier is among `members`, has an outside and offers the network.
    carriers: BTreeMap<IpNet, NodePublic>,
    /// Whether the carriers may be others now.
    routes_changed: bool,
    /// The members whose inside may be another now, or that were asked for.
    changed: BTreeSet<NodePublic>,
    numbers_changed: bool,
}

impl Network {
    /// A network without peers, with the interface numbers that the peers had before.
    pub(super) fn new(settings: NetworkSettings, numbers: InterfaceNumbers) -> Self {
        Network {
            settings,
            numbers,
            ..Network::default()
        }
    }

    /// Notes this host's own addresses in the overlay, and the pools that all overlay addresses come from.
    pub(super) fn set_own(&mut self, own_ips: Vec<IpAddr>, pools: Vec<IpNet>) {
        if (&self.own_ips, &self.pools) != (&own_ips, &pools) {
            self.own_ips = own_ips;
            self.pools = pools;
            self.all_changed();
        }
    }

    /// Notes a tunnel that was found in the kernel at start. It stays as it is until the record of its peer is known.
    pub(super) fn adopt(&mut self, peer: NodePublic, tunnel: DesiredTunnel) {
        let DesiredTunnel { outside, inside } = tunnel;
        if let Some(number) = self.settings.iface.number(&inside.name) {
            self.numbers.keep(peer, number);
        }
        for &network in &inside.routes {
            self.carriers.entry(network).or_insert(peer);
        }
        let member = self.members.entry(peer).or_default();
        member.outside = Some(outside);
        member.is_asked = true;
        member.inside = Some(inside);
        self.changed.insert(peer);
        self.routes_changed = true;
    }

    /// Takes the records of all peers; members that are not among them are gone.
    pub(super) fn set_records<'a>(&mut self, records: impl Iterator<Item = &'a PeerRecord>) {
        let mut gone: BTreeSet<NodePublic> = self.members.keys().copied().collect();
        for record in records {
            let peer = record.node_key;
            gone.remove(&peer);
            let record = Some(Record::new(record));
            let member = self.members.entry(peer).or_default();
            if member.record != record {
                member.record = record;
                self.changed.insert(peer);
                self.routes_changed = true;
            }
        }
        for peer in gone {
            self.members.remove(&peer);
            self.routes_changed = true;
        }
        let before = self.numbers.clone();
        let members = &self.members;
        self.numbers.retain(|peer| members.contains_key(peer));
        self.numbers_changed |= self.numbers != before;
    }

    /// Notes the outside that the machine of `peer` asks for; the tunnel is handed out even if nothing about it changed.
    pub(super) fn ask(&mut self, peer: NodePublic, outside: Outside) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        self.routes_changed |= member.outside != Some(outside) && member.offers_routes();
        member.outside = Some(outside);
        member.is_asked = true;
        self.changed.insert(peer);
    }

    /// Notes whether data crosses the tunnel of `peer`.
    pub(super) fn set_connected(&mut self, peer: NodePublic, is_connected: bool) {
        if let Some(member) = self.members.get_mut(&peer)
            && member.is_connected != is_connected
        {
            member.is_connected = is_connected;
            self.routes_changed |= member.offers_routes();
        }
    }

    /// Returns the number in the interface name of each peer.
    pub(super) fn interface_numbers(&self) -> &InterfaceNumbers {
        &self.numbers
    }

    /// Returns the networks that `peer` offers, each with the reason if it is not routed into the peer's tunnel.
    pub(super) fn offers(&self, peer: NodePublic) -> &[OfferedRoute] {
        self.members.get(&peer).map_or(&[], |it| &it.offers)
    }

    /// Returns whether `ip` is an address of `peer` inside the overlay.
    pub(super) fn is_tunnel_ip(&self, peer: NodePublic, ip: IpAddr) -> bool {
        let record = self.members.get(&peer).and_then(|it| it.record.as_ref());
        record.is_some_and(|it| it.tunnel_ips.contains(&ip))
    }

    /// Decides again what each tunnel carries, and hands out the tunnels that were asked for or that carry something else
    /// than before. Cheap when nothing has changed.
    pub(super) fn update(&mut self, out: &mut VecDeque<Output>) {
        if std::mem::take(&mut self.routes_changed) {
            self.share_out_routes();
        }
        for peer in std::mem::take(&mut self.changed) {
            let Some(outside) = self.members.get(&peer).and_then(|it| it.outside) else {
                continue;
            };
            let inside = self.inside(peer);
            let Some(member) = self.members.get_mut(&peer) else {
                continue;
            };
            let is_asked = std::mem::take(&mut member.is_asked);
            if is_asked || member.inside.as_ref() != Some(&inside) {
                member.inside = Some(inside.clone());
                let tunnel = DesiredTunnel { outside, inside };
                out.push_back(Output::SetTunnel { peer, tunnel });
            }
        }
        if std::mem::take(&mut self.numbers_changed) {
            out.push_back(Output::KeepInterfaceNumbers);
        }
    }

    fn all_changed(&mut self) {
        self.changed.extend(self.members.keys());
        self.routes_changed = true;
    }

    /// Decides what the tunnel of `peer` carries. Gives the peer an interface number where it has none.
    fn inside(&mut self, peer: NodePublic) -> Inside {
        let carriers = &self.carriers;
        let is_carrier = |network: &IpNet| carriers.get(network) == Some(&peer);
        let Some(member) = self.members.get(&peer) else {
            return Inside::default();
        };
        let Some(record) = &member.record else {
            let mut found = member.inside.clone().unwrap_or_default();
            found.routes.retain(is_carrier);
            return found;
        };
        let taken = member.offers.iter().filter(|it| it.refusal.is_none());
        let routes = taken.map(|it| it.network).collect();
        let (alt_name, peer_ips) = (record.name.clone(), record.tunnel_ips.clone());
        let before = self.numbers.clone();
        let number = self.numbers.number(peer);
        self.numbers_changed |= self.numbers != before;
        Inside {
            name: self.settings.iface.name(number),
            alt_name,
            own_ips: self.own_ips.clone(),
            peer_ips,
            routes,
            snat: if self.settings.snat_routes {
                self.settings.advertise_routes.clone()
            } else {
                Vec::new()
            },
        }
    }

    /// Gives every acceptable network one carrier, and notes for each offer why it is not taken.
    fn share_out_routes(&mut self) {
        let overlay = self.overlay_addresses();
        let mut candidates: BTreeMap<IpNet, Vec<NodePublic>> = BTreeMap::new();
        let mut offers: BTreeMap<NodePublic, Vec<OfferedRoute>> = BTreeMap::new();
        for (&peer, member) in &self.members {
            let offered = match (&member.record, &member.inside) {
                (Some(record), _) => &record.routes,
                (None, Some(found)) => &found.routes,
                (None, None) => continue,
            };
            for &network in offered {
                let refusal = match &member.record {
                    Some(_) => self.refusal(network, member, &overlay),
                    // A tunnel that was found at start is not judged before its peer is known.
                    None => None,
                };
                if refusal.is_none() {
                    candidates.entry(network).or_default().push(peer);
                }
                let offer = OfferedRoute { network, refusal };
                offers.entry(peer).or_default().push(offer);
            }
        }
        let before = std::mem::take(&mut self.carriers);
        for (network, peers) in candidates {
            let rank = |peer: &NodePublic| {
                let is_connected = self.members.get(peer).is_some_and(|it| it.is_connected);
                let is_carrier = before.get(&network) == Some(peer);
                (is_connected, is_carrier, Reverse(*peer))
            };
            if let Some(carrier) = peers.into_iter().max_by_key(rank) {
                self.carriers.insert(network, carrier);
            }
        }
        for (peer, member) in &mut self.members {
            let mut now = offers.remove(peer).unwrap_or_default();
            for offer in now.iter_mut().filter(|it| it.refusal.is_none()) {
                let carrier = self.carriers.get(&offer.network).copied();
                offer.refusal = carrier.filter(|it| it != peer).map(RouteRefusal::CarriedBy);
            }
            if member.offers != now {
                member.offers = now;
                self.changed.insert(*peer);
            }
        }
    }

    /// Why `network`, which is offered by `member`, must not be routed into the member's tunnel.
    fn refusal(
        &self,
        network: IpNet,
        member: &Member,
        overlay: &BTreeSet<IpAddr>,
    ) -> Option<RouteRefusal> {
        let own = &self.settings.advertise_routes;
        let contains_overlay = overlay
            .range(network.network()..=network.broadcast())
            .next()
            .is_some();
        let outside = member.outside.as_ref();
        let leads_into = |it: &Outside| {
            let overlap = it
                .overlap
                .is_some_and(|it| network.contains(&it.remote.ip()));
            overlap || network.contains(&it.path.remote.ip())
        };
        if !self.settings.accept_routes {
            Some(RouteRefusal::NotAccepted)
        } else if network.prefix_len() == 0 {
            Some(RouteRefusal::DefaultRoute)
        } else if let Some((_, refusal)) =
            SPECIAL_RANGES.iter().find(|(it, _)| overlaps(*it, network))
        {
            Some(*refusal)
        } else if contains_overlay || self.pools.iter().any(|it| overlaps(*it, network)) {
            Some(RouteRefusal::Overlay)
        } else if own.iter().any(|it| overlaps(*it, network)) {
            Some(RouteRefusal::Advertised)
        } else if outside.is_none() {
            Some(RouteRefusal::NoTunnel)
        } else if outside.is_some_and(leads_into) {
            Some(RouteRefusal::ContainsEndpoint)
        } else {
            None
        }
    }

    /// All addresses in the overlay that are known.
    fn overlay_addresses(&self) -> BTreeSet<IpAddr> {
        let records = self.members.values().filter_map(|it| it.record.as_ref());
        let peers = records.flat_map(|it| &it.tunnel_ips);
        peers.chain(&self.own_ips).copied().collect()
    }
}

/// Ranges that mean something of their own on each host or link.
const SPECIAL_RANGES: [(IpNet, RouteRefusal); 6] = [
    (v4([127, 0, 0, 0], 8), RouteRefusal::Loopback),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), RouteRefusal::Loopback),
    (v4([169, 254, 0, 0], 16), RouteRefusal::LinkLocal),
    (
        v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
        RouteRefusal::LinkLocal,
    ),
    (v4([224, 0, 0, 0], 4), RouteRefusal::Multicast),
    (
        v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
        RouteRefusal::Multicast,
    ),
];

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix)
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix)
}

fn overlaps(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
