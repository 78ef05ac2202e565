//! Tunnel devices as rtnetlink has them: `IFLA_LINKINFO` of the kinds gre, gretap, ip6gre, ip6gretap, ipip, sit and ip6tnl,
//! to and from [`LinkConfig`].

use std::collections::HashMap;
use std::net::IpAddr;

use netlink_packet_core::DefaultNla;
use netlink_packet_route::IpProtocol;
use netlink_packet_route::link::{
    GreEncapFlags, GreEncapType, GreIOFlags, InfoData, InfoGre, InfoGre6, InfoIpTunnel, InfoKind,
    Ip6TunnelFlags, LinkInfo, TunnelEncapFlags, TunnelEncapType,
};

use crate::tunnel::encap::{Encap, Udp};
use crate::tunnel::header_fields::InheritOrFixed;
use crate::tunnel::mode::{Family, Mode};
use crate::tunnel::state::LinkConfig;

/// `IFLA_GRE_FLAGS` of ip6gre (linux/if_tunnel.h), which the netlink crate has no name for.
const IFLA_GRE_FLAGS: u16 = 13;
/// `IP6_TNL_F_IGN_ENCAP_LIMIT` (linux/ip6_tunnel.h): no tunnel encapsulation limit, which would cost eight bytes.
const IGNORE_ENCAP_LIMIT: u32 = 1;
/// `IP6_TNL_F_USE_ORIG_TCLASS`: the traffic class is the inner packet's.
const INHERIT_CLASS: u32 = 2;
/// Position of the traffic class in the flow information of an IPv6 header.
const CLASS_SHIFT: u32 = 20;
/// The type of service that means "inherit" to the kernel's IPv4 tunnels.
const TOS_INHERIT: u8 = 1;

/// The kernel's kind of link for a mode.
fn kind(mode: Mode) -> InfoKind {
    match mode {
        Mode::Gre => InfoKind::GreTun,
        Mode::Gretap => InfoKind::GreTap,
        Mode::Ip6gre => InfoKind::GreTun6,
        Mode::Ip6gretap => InfoKind::GreTap6,
        Mode::Ipip => InfoKind::IpIp,
        Mode::Sit => InfoKind::SitTun,
        Mode::Ip6ip6 | Mode::Ipip6 => InfoKind::Ip6Tnl,
    }
}

/// Encodes all attributes of the tunnel. The kernel takes a change as a whole and resets omitted attributes to their defaults.
pub(in crate::kernel) fn encode(link: &LinkConfig, parent: Option<u32>) -> Vec<LinkInfo> {
    let data = match link.mode {
        Mode::Gre => InfoData::GreTun(gre(link, parent)),
        Mode::Gretap => InfoData::GreTap(gre(link, parent)),
        Mode::Ip6gre => InfoData::GreTun6(gre6(link, parent)),
        Mode::Ip6gretap => InfoData::GreTap6(gre6(link, parent)),
        Mode::Ipip | Mode::Sit | Mode::Ip6ip6 | Mode::Ipip6 => {
            InfoData::IpTunnel(ip_tunnel(link, parent))
        }
    };
    vec![LinkInfo::Kind(kind(link.mode)), LinkInfo::Data(data)]
}

fn ttl(link: &LinkConfig) -> u8 {
    match link.ttl {
        InheritOrFixed::Inherit => 0,
        InheritOrFixed::Fixed(ttl) => ttl,
    }
}

fn tos(link: &LinkConfig) -> u8 {
    match link.tos {
        InheritOrFixed::Inherit => TOS_INHERIT,
        InheritOrFixed::Fixed(tos) => tos,
    }
}

/// Flow information and flags of the IPv6 kinds.
fn class(link: &LinkConfig) -> (u32, u32) {
    match link.tos {
        InheritOrFixed::Inherit => (0, IGNORE_ENCAP_LIMIT | INHERIT_CLASS),
        InheritOrFixed::Fixed(class) => (u32::from(class) << CLASS_SHIFT, IGNORE_ENCAP_LIMIT),
    }
}

fn key_flags(key: Option<u32>) -> GreIOFlags {
    if key.is_some() {
        GreIOFlags::Key
    } else {
        GreIOFlags::empty()
    }
}

fn gre_encap(link: &LinkConfig) -> (GreEncapType, GreEncapFlags, Udp) {
    let off = Udp {
        sport: 0,
        dport: 0,
        csum: false,
    };
    let (kind, udp) = match link.encap {
        Encap::None => (GreEncapType::None, off),
        Encap::Fou(udp) => (GreEncapType::Fou, udp),
        Encap::Gue(udp) => (GreEncapType::Gue, udp),
    };
    let flags = match link.mode.outer() {
        _ if !udp.csum => GreEncapFlags::empty(),
        Family::V4 => GreEncapFlags::Checksum,
        Family::V6 => GreEncapFlags::Checksum6,
    };
    (kind, flags, udp)
}

fn gre(link: &LinkConfig, parent: Option<u32>) -> Vec<InfoGre> {
    let (encap, flags, udp) = gre_encap(link);
    let mut data = vec![
        InfoGre::Ttl(ttl(link)),
        InfoGre::Tos(tos(link)),
        InfoGre::PathMTUDiscovery(link.pmtudisc),
        InfoGre::IFlags(key_flags(link.ikey)),
        InfoGre::OFlags(key_flags(link.okey)),
        InfoGre::IKey(link.ikey.unwrap_or(0)),
        InfoGre::OKey(link.okey.unwrap_or(0)),
        InfoGre::EncapType(encap),
        InfoGre::EncapFlags(flags),
        InfoGre::SourcePort(udp.sport),
        InfoGre::DestinationPort(udp.dport),
    ];
    data.extend(parent.map(InfoGre::Link));
    if let Some(IpAddr::V4(ip)) = link.local {
        data.push(InfoGre::Local(ip));
    }
    if let Some(IpAddr::V4(ip)) = link.remote {
        data.push(InfoGre::Remote(ip));
    }
    data
}

fn gre6(link: &LinkConfig, parent: Option<u32>) -> Vec<InfoGre6> {
    let (encap, encap_flags, udp) = gre_encap(link);
    let (flow, flags) = class(link);
    let mut data = vec![
        InfoGre6::Ttl(ttl(link)),
        InfoGre6::FlowLabel(flow),
        InfoGre6::Other(DefaultNla::new(
            IFLA_GRE_FLAGS,
            flags.to_ne_bytes().to_vec(),
        )),
        InfoGre6::IFlags(key_flags(link.ikey)),
        InfoGre6::OFlags(key_flags(link.okey)),
        InfoGre6::IKey(link.ikey.unwrap_or(0)),
        InfoGre6::OKey(link.okey.unwrap_or(0)),
        InfoGre6::EncapType(encap),
        InfoGre6::EncapFlags(encap_flags),
        InfoGre6::SourcePort(udp.sport),
        InfoGre6::DestinationPort(udp.dport),
    ];
    data.extend(parent.map(InfoGre6::Link));
    if let Some(IpAddr::V6(ip)) = link.local {
        data.push(InfoGre6::Local(ip));
    }
    if let Some(IpAddr::V6(ip)) = link.remote {
        data.push(InfoGre6::Remote(ip));
    }
    data
}

fn ip_tunnel(link: &LinkConfig, parent: Option<u32>) -> Vec<InfoIpTunnel> {
    let mut data = vec![
        InfoIpTunnel::Ttl(ttl(link)),
        InfoIpTunnel::Protocol(IpProtocol::from(link.mode.protocol())),
    ];
    let checksum = match link.mode.outer() {
        Family::V4 => {
            data.push(InfoIpTunnel::Tos(tos(link)));
            data.push(InfoIpTunnel::PMtuDisc(link.pmtudisc));
            TunnelEncapFlags::CSum
        }
        Family::V6 => {
            let (flow, flags) = class(link);
            data.push(InfoIpTunnel::FlowInfo(flow));
            let flags = Ip6TunnelFlags::from_bits_retain(flags);
            data.push(InfoIpTunnel::Ipv6Flags(flags));
            TunnelEncapFlags::CSum6
        }
    };
    let encap = match link.encap {
        Encap::None => TunnelEncapType::None,
        Encap::Fou(_) => TunnelEncapType::Fou,
        Encap::Gue(_) => TunnelEncapType::Gue,
    };
    data.push(InfoIpTunnel::EncapType(encap));
    let flags = link.encap.udp().filter(|udp| udp.csum);
    data.push(InfoIpTunnel::EncapFlags(
        flags.map_or(TunnelEncapFlags::empty(), |_| checksum),
    ));
    let (sport, dport) = link
        .encap
        .udp()
        .map_or((0, 0), |udp| (udp.sport, udp.dport));
    data.push(InfoIpTunnel::EncapSPort(sport));
    data.push(InfoIpTunnel::EncapDPort(dport));
    data.extend(parent.map(InfoIpTunnel::Link));
    data.extend(link.local.map(InfoIpTunnel::Local));
    data.extend(link.remote.map(InfoIpTunnel::Remote));
    data
}

/// The contents of a link's `IFLA_LINKINFO`.
#[derive(Debug)]
pub(in crate::kernel) struct Decoded {
    /// The link; the caller fills in its name, alias and MTU.
    pub link: LinkConfig,
    /// Whether [`LinkConfig`] describes the link completely: no checksums, sequence numbers, marks or unusual protocols.
    pub exact: bool,
}

/// Reads a link; `None` if it is no tunnel of gretun's kinds. `names` are the interface names by index.
pub(in crate::kernel) fn decode(
    infos: &[LinkInfo],
    names: &HashMap<u32, String>,
) -> Option<Decoded> {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })?;
    let mode = Mode::ALL
        .into_iter()
        .find(|mode| self::kind(*mode) == *kind)?;
    let mut raw = Raw::new(mode);
    for info in infos {
        match info {
            LinkInfo::Data(InfoData::GreTun(data) | InfoData::GreTap(data)) => {
                data.iter().for_each(|info| raw.gre(info));
            }
            LinkInfo::Data(InfoData::GreTun6(data) | InfoData::GreTap6(data)) => {
                data.iter().for_each(|info| raw.gre6(info));
            }
            LinkInfo::Data(InfoData::IpTunnel(data)) => {
                data.iter().for_each(|info| raw.ip_tunnel(info));
            }
            _ => {}
        }
    }
    Some(raw.finish(names))
}

/// Attributes as they come, one by one.
struct Raw {
    mode: Mode,
    local: Option<IpAddr>,
    remote: Option<IpAddr>,
    parent: u32,
    has_ikey: bool,
    has_okey: bool,
    ikey: u32,
    okey: u32,
    ttl: u8,
    tos: u8,
    flow: u32,
    flags: u32,
    pmtudisc: bool,
    encap: u16,
    encap_flags: u16,
    sport: u16,
    dport: u16,
    exact: bool,
}

impl Raw {
    fn new(mode: Mode) -> Self {
        Raw {
            mode,
            local: None,
            remote: None,
            parent: 0,
            has_ikey: false,
            has_okey: false,
            ikey: 0,
            okey: 0,
            ttl: 0,
            tos: 0,
            flow: 0,
            flags: 0,
            pmtudisc: true,
            encap: 0,
            encap_flags: 0,
            sport: 0,
            dport: 0,
            exact: true,
        }
    }

    fn gre(&mut self, info: &InfoGre) {
        match info {
            InfoGre::Link(index) => self.parent = *index,
            InfoGre::Local(ip) => self.local = Some((*ip).into()),
            InfoGre::Remote(ip) => self.remote = Some((*ip).into()),
            InfoGre::Ttl(ttl) => self.ttl = *ttl,
            InfoGre::Tos(tos) => self.tos = *tos,
            InfoGre::PathMTUDiscovery(on) => self.pmtudisc = *on,
            InfoGre::IFlags(flags) => self.has_ikey = self.has_key(*flags),
            InfoGre::OFlags(flags) => self.has_okey = self.has_key(*flags),
            InfoGre::IKey(key) => self.ikey = *key,
            InfoGre::OKey(key) => self.okey = *key,
            InfoGre::EncapType(kind) => self.encap = kind.into(),
            InfoGre::EncapFlags(flags) => self.encap_flags = flags.bits(),
            InfoGre::SourcePort(port) => self.sport = *port,
            InfoGre::DestinationPort(port) => self.dport = *port,
            InfoGre::FwMask(0) => {}
            InfoGre::CollectMetadata | InfoGre::FwMask(_) => self.exact = false,
            _ => {}
        }
    }

    fn gre6(&mut self, info: &InfoGre6) {
        match info {
            InfoGre6::Link(index) => self.parent = *index,
            InfoGre6::Local(ip) => self.local = Some((*ip).into()),
            InfoGre6::Remote(ip) => self.remote = Some((*ip).into()),
            InfoGre6::Ttl(ttl) => self.ttl = *ttl,
            InfoGre6::FlowLabel(flow) => self.flow = *flow,
            InfoGre6::IFlags(flags) => self.has_ikey = self.has_key(*flags),
            InfoGre6::OFlags(flags) => self.has_okey = self.has_key(*flags),
            InfoGre6::IKey(key) => self.ikey = *key,
            InfoGre6::OKey(key) => self.okey = *key,
            InfoGre6::EncapType(kind) => self.encap = kind.into(),
            InfoGre6::EncapFlags(flags) => self.encap_flags = flags.bits(),
            InfoGre6::SourcePort(port) => self.sport = *port,
            InfoGre6::DestinationPort(port) => self.dport = *port,
            InfoGre6::Other(attribute) => {
                use netlink_packet_core::Nla as _;
                let mut value = [0; 4];
                if attribute.kind() == IFLA_GRE_FLAGS && attribute.value_len() == value.len() {
                    attribute.emit_value(&mut value);
                    self.flags = u32::from_ne_bytes(value);
                }
            }
            InfoGre6::FwMask(0) => {}
            InfoGre6::CollectMetadata | InfoGre6::FwMask(_) => self.exact = false,
            _ => {}
        }
    }

    fn ip_tunnel(&mut self, info: &InfoIpTunnel) {
        match info {
            InfoIpTunnel::Link(index) => self.parent = *index,
            InfoIpTunnel::Local(ip) => self.local = Some(*ip),
            InfoIpTunnel::Remote(ip) => self.remote = Some(*ip),
            InfoIpTunnel::Ttl(ttl) => self.ttl = *ttl,
            InfoIpTunnel::Tos(tos) => self.tos = *tos,
            InfoIpTunnel::FlowInfo(flow) => self.flow = *flow,
            InfoIpTunnel::Ipv6Flags(flags) => self.flags = flags.bits(),
            InfoIpTunnel::Protocol(protocol) => self.protocol(u8::from(*protocol)),
            InfoIpTunnel::PMtuDisc(on) => self.pmtudisc = *on,
            InfoIpTunnel::EncapType(kind) => self.encap = (*kind).into(),
            InfoIpTunnel::EncapFlags(flags) => self.encap_flags = flags.bits(),
            InfoIpTunnel::EncapSPort(port) => self.sport = *port,
            InfoIpTunnel::EncapDPort(port) => self.dport = *port,
            InfoIpTunnel::FwMark(0) => {}
            InfoIpTunnel::CollectMetadata | InfoIpTunnel::FwMark(_) => self.exact = false,
            _ => {}
        }
    }

    fn has_key(&mut self, flags: GreIOFlags) -> bool {
        if !(flags - GreIOFlags::Key).is_empty() {
            self.exact = false;
        }
        flags.contains(GreIOFlags::Key)
    }

    /// ip6tnl has one kind for both inner versions; all kinds can also carry others, which gretun does not make.
    fn protocol(&mut self, protocol: u8) {
        if kind(self.mode) == InfoKind::Ip6Tnl {
            self.mode = if protocol == Mode::Ipip6.protocol() {
                Mode::Ipip6
            } else {
                Mode::Ip6ip6
            };
        }
        if protocol != self.mode.protocol() {
            self.exact = false;
        }
    }

    fn finish(mut self, names: &HashMap<u32, String>) -> Decoded {
        let specified = |ip: &IpAddr| !ip.is_unspecified();
        let (checksum, tos) = match self.mode.outer() {
            Family::V4 => {
                let tos = match self.tos {
                    TOS_INHERIT => InheritOrFixed::Inherit,
                    tos => InheritOrFixed::Fixed(tos),
                };
                (GreEncapFlags::Checksum.bits(), tos)
            }
            Family::V6 => {
                let tos = if self.flags & INHERIT_CLASS != 0 {
                    InheritOrFixed::Inherit
                } else {
                    InheritOrFixed::Fixed((self.flow >> CLASS_SHIFT & 0xff) as u8)
                };
                if self.flags & IGNORE_ENCAP_LIMIT == 0 {
                    self.exact = false;
                }
                (GreEncapFlags::Checksum6.bits(), tos)
            }
        };
        let udp = Udp {
            sport: self.sport,
            dport: self.dport,
            csum: self.encap_flags & checksum != 0,
        };
        let encap = match TunnelEncapType::from(self.encap) {
            TunnelEncapType::Fou => Encap::Fou(udp),
            TunnelEncapType::Gue => Encap::Gue(udp),
            TunnelEncapType::None => Encap::None,
            _ => {
                self.exact = false;
                Encap::None
            }
        };
        let link = LinkConfig {
            name: String::new(),
            alias: None,
            mode: self.mode,
            local: self.local.filter(specified),
            remote: self.remote.filter(specified),
            dev: names.get(&self.parent).cloned(),
            ikey: self.has_ikey.then_some(self.ikey),
            okey: self.has_okey.then_some(self.okey),
            ttl: match self.ttl {
                0 => InheritOrFixed::Inherit,
                ttl => InheritOrFixed::Fixed(ttl),
            },
            tos,
            pmtudisc: self.pmtudisc,
            encap,
            mtu: 0,
            up: false,
            checks_sources: false,
        };
        Decoded {
            link,
            exact: self.exact,
        }
    }
}
