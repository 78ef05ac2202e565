//! The state of one tunnel in the kernel, observed or desired: the link, its addresses, its routes, its address translation.
//! Desired and observed tunnels meet here, so that telling whether something has to change is a comparison.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::encap::{Encap, FouPort};
use super::header_fields::InheritOrFixed;
use super::mode::Mode;
use super::owner::Owner;
use super::snat::SnatPair;

/// One tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelState {
    /// The device.
    pub link: LinkConfig,
    /// Its alternative names.
    pub alt_names: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<TunnelAddress>,
    /// Routes through it.
    pub routes: Vec<TunnelRoute>,
    /// Networks towards which its traffic is masqueraded.
    pub snat: Vec<IpNet>,
}

/// The device of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Interface name.
    pub name: String,
    /// Alias, with the owner alias.
    pub alias: Option<String>,
    /// Kind.
    pub mode: Mode,
    /// Our outer address; any where there is none.
    pub local: Option<IpAddr>,
    /// The far end's outer address; any where there is none, which gretun itself never makes.
    pub remote: Option<IpAddr>,
    /// Device that outer packets are bound to.
    pub dev: Option<String>,
    /// GRE key of received packets.
    pub ikey: Option<u32>,
    /// GRE key of sent packets.
    pub okey: Option<u32>,
    /// Time to live of outer packets.
    pub ttl: InheritOrFixed,
    /// Type of service of outer packets.
    pub tos: InheritOrFixed,
    /// Whether outer IPv4 packets may not be fragmented; always true over IPv6.
    pub pmtudisc: bool,
    /// UDP encapsulation.
    pub encap: Encap,
    /// Largest inner packet, bytes.
    pub mtu: u32,
    /// Whether it is up, which gretun wants of every device.
    pub up: bool,
    /// Whether it is in the device group whose packets are let in only from known sources ([`super::sources`]).
    pub checks_sources: bool,
}

impl LinkConfig {
    /// The FOU port that this end needs.
    pub fn listener(&self) -> Option<FouPort> {
        self.encap.listener(self.mode)
    }

    /// Returns whether the kernel can turn this device into the other one without making a new one. It could also free one that is
    /// bound to a device, but iproute2 cannot ask for that, and every plan can be had as commands.
    pub fn can_become(&self, other: &LinkConfig) -> bool {
        let is_freed = self.dev.is_some() && other.dev.is_none();
        self.name == other.name && self.mode.link_kind() == other.mode.link_kind() && !is_freed
    }
}

/// An inner address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelAddress {
    /// Address and prefix length.
    pub net: IpNet,
    /// The far end's address, where the device is point to point; the prefix is the far end's then.
    pub peer: Option<IpAddr>,
}

impl fmt::Display for TunnelAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(
                f,
                "{} peer {peer}/{}",
                self.net.addr(),
                self.net.prefix_len()
            ),
            None => self.net.fmt(f),
        }
    }
}

/// A route through a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelRoute {
    /// The network behind the far end.
    pub network: IpNet,
    /// The far end, on an Ethernet device.
    pub via: Option<IpAddr>,
}

impl fmt::Display for TunnelRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.via {
            Some(via) => write!(f, "{} via {via}", self.network),
            None => self.network.fmt(f),
        }
    }
}

/// The tunnels that were found on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The tunnels, whoever made them.
    pub tunnels: Vec<TunnelState>,
    /// FOU ports.
    pub fou_ports: Vec<FouPort>,
    /// Names of all links that are no tunnels.
    pub other_links: Vec<String>,
    /// Address translation of ours for tunnels that are not, or no longer: somebody else removed the device.
    pub stray_snat: Vec<SnatPair>,
}

impl Observed {
    /// The tunnel of this name.
    pub fn tunnel(&self, name: &str) -> Option<&TunnelState> {
        self.tunnels.iter().find(|tunnel| tunnel.link.name == name)
    }
}

impl TunnelState {
    /// The owner of the tunnel.
    pub fn owner(&self) -> Owner {
        Owner::of_alias(self.link.alias.as_deref())
    }
}
