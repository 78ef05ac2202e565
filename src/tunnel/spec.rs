//! The specification of a tunnel. A [`TunnelSpec`] can only be made from [`TunnelOptions`] that are consistent, so that its
//! users need not check anything again.

mod error;

use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;

use ipnet::IpNet;

use super::encap::{Encap, Udp};
use super::header_fields::InheritOrFixed;
use super::mode::{Family, Mode};
use super::mtu;
use super::name;
use super::state::{LinkConfig, TunnelAddress, TunnelRoute, TunnelState};

pub use error::{AddressFlaw, NetworkFlaw, Problem, SpecError};

/// The expected form of an address, for errors.
pub(super) const IP_ADDRESS: &str = "an IP address";

/// All there is to say about a tunnel, checked or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelOptions {
    /// Interface name.
    pub name: String,
    /// Alternative interface name.
    pub alt_name: Option<String>,
    /// Kind.
    pub mode: Mode,
    /// Our outer address; the kernel's choice where there is none.
    pub local: Option<IpAddr>,
    /// The far end's outer address.
    pub remote: IpAddr,
    /// Device that outer packets are bound to.
    pub dev: Option<String>,
    /// GRE key of received packets.
    pub ikey: Option<u32>,
    /// GRE key of sent packets.
    pub okey: Option<u32>,
    /// Time to live of outer packets.
    pub ttl: InheritOrFixed,
    /// Type of service (traffic class) of outer packets.
    pub tos: InheritOrFixed,
    /// Whether outer IPv4 packets may not be fragmented.
    pub pmtudisc: bool,
    /// UDP encapsulation.
    pub encap: Encap,
    /// Largest inner packet, bytes; worked out from the path where there is none.
    pub mtu: Option<u32>,
    /// Inner addresses.
    pub addresses: Vec<TunnelAddress>,
    /// Networks behind the far end.
    pub routes: Vec<IpNet>,
    /// Networks towards which the tunnel's traffic is masqueraded.
    pub snat: Vec<IpNet>,
}

impl TunnelOptions {
    /// A tunnel with nothing but its ends; the rest at its default.
    pub fn new(name: impl Into<String>, mode: Mode, remote: IpAddr) -> Self {
        TunnelOptions {
            name: name.into(),
            alt_name: None,
            mode,
            local: None,
            remote,
            dev: None,
            ikey: None,
            okey: None,
            ttl: InheritOrFixed::TTL,
            tos: InheritOrFixed::TOS,
            pmtudisc: true,
            encap: Encap::None,
            mtu: None,
            addresses: Vec::new(),
            routes: Vec::new(),
            snat: Vec::new(),
        }
    }

    /// Returns whether outer packets with a fixed time to live may be fragmented. iproute2 refuses that in these modes: such packets
    /// neither expire nor grow too large in a tunnel that leads into itself (ip-tunnel(8)).
    pub fn fragments_with_fixed_ttl(&self) -> bool {
        let is_fixed = self.ttl != InheritOrFixed::Inherit;
        !self.pmtudisc && is_fixed && matches!(self.mode, Mode::Ipip | Mode::Sit)
    }
}

/// A tunnel that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSpec(TunnelOptions);

impl Deref for TunnelSpec {
    type Target = TunnelOptions;

    fn deref(&self) -> &TunnelOptions {
        &self.0
    }
}

impl TunnelSpec {
    /// Checks that the options hold together.
    ///
    /// # Errors
    /// Names the option at fault, as its flag is called.
    pub fn new(options: TunnelOptions) -> Result<Self, SpecError> {
        check_names(&options)?;
        check_ends(&options)?;
        check_header(&options)?;
        check_addresses(&options)?;
        check_networks(&options)?;
        Ok(TunnelSpec(options))
    }

    /// Returns the MTU over a path that carries outer packets of `path` bytes: the requested MTU, or the rest after the overhead.
    pub fn mtu_over(&self, path: u32) -> u32 {
        self.mtu
            .unwrap_or_else(|| mtu::inner(path, self.mode, self.encap, self.okey.is_some()))
    }

    /// Returns whether the tunnel needs a local end that was not given. Over IPv6 the kernel sends nothing without one
    /// (`ip6_tnl_get_cap` in net/ipv6/ip6_tunnel.c). Over IPv4 it computes the UDP checksum before it chooses the source address
    /// (`ip_tunnel_xmit` in net/ipv4/ip_tunnel.c), so that the far end drops the packets.
    pub fn needs_local(&self) -> bool {
        let has_checksum = self.encap.udp().is_some_and(|udp| udp.csum);
        self.local.is_none() && (self.mode.outer() == Family::V6 || has_checksum)
    }

    /// Returns the values by which the kernel tells this tunnel's packets from those of other tunnels of the same kind
    /// (`ip_tunnel_find`, `ip6_tnl_locate`). No two tunnels of a host may have the same values.
    pub fn demux(&self) -> impl Eq + Hash + use<> {
        (
            self.mode.link_kind(),
            self.local,
            self.remote,
            self.ikey,
            self.dev.clone(),
        )
    }

    /// Returns the desired kernel state of the tunnel, with this MTU and this owner alias.
    pub fn state(&self, mtu: u32, alias: String) -> TunnelState {
        let far_end = |family| {
            let addresses = self.addresses.iter();
            addresses
                .filter_map(|address| address.peer)
                .find(|&peer| Family::of(peer) == family)
        };
        TunnelState {
            link: LinkConfig {
                name: self.name.clone(),
                alias: Some(alias),
                mode: self.mode,
                local: self.local,
                remote: Some(self.remote),
                dev: self.dev.clone(),
                ikey: self.ikey,
                okey: self.okey,
                ttl: self.ttl,
                tos: self.tos,
                pmtudisc: self.pmtudisc,
                encap: self.encap,
                mtu,
                up: true,
                checks_sources: false,
            },
            alt_names: self.alt_name.iter().cloned().collect(),
            addresses: self.addresses.clone(),
            routes: self
                .routes
                .iter()
                .map(|&network| TunnelRoute {
                    network,
                    via: far_end(Family::of_net(network)).filter(|_| self.mode.is_ethernet()),
                })
                .collect(),
            snat: self.snat.clone(),
        }
    }
}

fn check_names(options: &TunnelOptions) -> Result<(), SpecError> {
    let wrong = |key, value: &str, flaw| {
        SpecError::new(
            key,
            Problem::Name {
                name: value.to_owned(),
                flaw,
            },
        )
    };
    name::check_new(&options.name).map_err(|flaw| wrong("name", &options.name, flaw))?;
    if let Some(dev) = &options.dev {
        name::check(dev).map_err(|flaw| wrong("dev", dev, flaw))?;
        if *dev == options.name {
            return Err(SpecError::new("dev", Problem::OwnParent));
        }
    }
    Ok(())
}

fn check_ends(options: &TunnelOptions) -> Result<(), SpecError> {
    let outer = options.mode.outer();
    for (key, ip) in [("local", options.local), ("remote", Some(options.remote))] {
        let Some(ip) = ip else { continue };
        let flaw = if Family::of(ip) != outer {
            Some(AddressFlaw::Family { needed: outer })
        } else if ip.is_loopback() {
            Some(AddressFlaw::Loopback)
        } else if ip.is_unspecified() {
            Some(AddressFlaw::Unspecified)
        } else if ip.is_multicast() {
            Some(AddressFlaw::Multicast)
        } else if ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            Some(AddressFlaw::Broadcast)
        } else if is_link_local(ip) && options.dev.is_none() {
            Some(AddressFlaw::LinkLocalWithoutDevice)
        } else {
            None
        };
        if let Some(flaw) = flaw {
            return Err(SpecError::new(key, Problem::Address { ip, flaw }));
        }
    }
    if options.local == Some(options.remote) {
        return Err(SpecError::new(
            "remote",
            Problem::Address {
                ip: options.remote,
                flaw: AddressFlaw::SameAsLocal,
            },
        ));
    }
    Ok(())
}

fn check_header(options: &TunnelOptions) -> Result<(), SpecError> {
    let mode = options.mode;
    let not_for_mode = |key| Err(SpecError::new(key, Problem::NotForMode { mode }));
    if !mode.is_gre() {
        match (options.ikey, options.okey) {
            (None, None) => {}
            (Some(ikey), Some(okey)) if ikey == okey => return not_for_mode("key"),
            (Some(_), _) => return not_for_mode("ikey"),
            (None, Some(_)) => return not_for_mode("okey"),
        }
    }
    if !options.pmtudisc && mode.outer() == Family::V6 {
        return not_for_mode("pmtudisc");
    }
    if options.fragments_with_fixed_ttl() {
        return Err(SpecError::new("pmtudisc", Problem::FixedTtl { mode }));
    }
    if options.ttl == InheritOrFixed::Fixed(0) {
        return Err(SpecError::new("ttl", Problem::range("0", 1, 255)));
    }
    if let Some(Udp { dport: 0, .. }) = options.encap.udp() {
        return Err(SpecError::new(
            "encap-dport",
            Problem::range("0", 1, 65_535),
        ));
    }
    let carries_v6 = options
        .addresses
        .iter()
        .any(|address| Family::of(address.net.addr()) == Family::V6)
        || !mode.carries(Family::V4);
    let least = if carries_v6 {
        mtu::MIN_IPV6
    } else {
        mtu::MIN_IPV4
    };
    // The outer packet has to have room for it: the kernel makes less of more without a word.
    let most = mtu::inner(mtu::MAX, mode, options.encap, options.okey.is_some());
    match options.mtu {
        Some(mtu) if !(least..=most).contains(&mtu) => Err(SpecError::new(
            "mtu",
            Problem::range(mtu.to_string(), least, most),
        )),
        _ => Ok(()),
    }
}

fn check_addresses(options: &TunnelOptions) -> Result<(), SpecError> {
    for (i, address) in options.addresses.iter().enumerate() {
        let ip = address.net.addr();
        let bad = |flaw| {
            let net = address.net;
            Err(SpecError::new("tunnel-ip", Problem::Network { net, flaw }))
        };
        if !options.mode.carries(Family::of(ip)) {
            return bad(NetworkFlaw::NotCarried { mode: options.mode });
        }
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
            return bad(NetworkFlaw::NoHost);
        }
        let has_hosts_only = address.net.prefix_len() + 1 >= address.net.max_prefix_len();
        if !has_hosts_only && ip == address.net.network() {
            return bad(NetworkFlaw::NetworkAddress);
        }
        if !has_hosts_only && ip.is_ipv4() && ip == address.net.broadcast() {
            return bad(NetworkFlaw::BroadcastAddress);
        }
        if options.addresses[..i]
            .iter()
            .any(|other| other.net.addr() == ip)
        {
            return bad(NetworkFlaw::Twice);
        }
        if let Some(peer) = address.peer {
            let flaw = if Family::of(peer) != Family::of(ip) {
                Some(AddressFlaw::Family {
                    needed: Family::of(ip),
                })
            } else if peer == ip {
                Some(AddressFlaw::SameAsTunnelIp)
            } else if peer.is_loopback() || peer.is_unspecified() || peer.is_multicast() {
                Some(AddressFlaw::NoHost)
            } else {
                None
            };
            if let Some(flaw) = flaw {
                return Err(SpecError::new(
                    "peer-ip",
                    Problem::Address { ip: peer, flaw },
                ));
            }
        }
    }
    Ok(())
}

fn check_networks(options: &TunnelOptions) -> Result<(), SpecError> {
    for (key, networks) in [("route", &options.routes), ("snat", &options.snat)] {
        for (i, &net) in networks.iter().enumerate() {
            let flaw = if !options.mode.carries(Family::of_net(net)) {
                Some(NetworkFlaw::NotCarried { mode: options.mode })
            } else if net.addr() != net.network() {
                Some(NetworkFlaw::HostBits { meant: net.trunc() })
            } else if net.addr().is_loopback() || net.addr().is_multicast() {
                Some(NetworkFlaw::NoHost)
            } else if networks[..i].contains(&net) {
                Some(NetworkFlaw::Twice)
            } else if key == "snat" {
                // The kernel's set of networks takes no overlapping ones.
                let mut before = networks[..i].iter();
                let overlaps = |other: &&IpNet| other.contains(&net) || net.contains(*other);
                before
                    .find(overlaps)
                    .map(|&other| NetworkFlaw::Overlaps { other })
            } else {
                None
            };
            if let Some(flaw) = flaw {
                return Err(SpecError::new(key, Problem::Network { net, flaw }));
            }
        }
    }
    Ok(())
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
