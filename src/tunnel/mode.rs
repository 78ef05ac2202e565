//! The eight kinds of tunnel, each with its inner and outer protocols.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The version of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The version of a network.
    pub fn of_net(net: IpNet) -> Self {
        Family::of(net.addr())
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// A kind of tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Layer 3 over IPv4.
    Gre,
    /// Layer 3 over IPv6.
    Ip6gre,
    /// Ethernet over IPv4.
    Gretap,
    /// Ethernet over IPv6.
    Ip6gretap,
    /// IPv4 in IPv4.
    Ipip,
    /// IPv6 in IPv4.
    Sit,
    /// IPv6 in IPv6.
    Ip6ip6,
    /// IPv4 in IPv6 (DS-Lite).
    Ipip6,
}

impl Mode {
    /// All kinds.
    pub const ALL: [Mode; 8] = [
        Mode::Gre,
        Mode::Ip6gre,
        Mode::Gretap,
        Mode::Ip6gretap,
        Mode::Ipip,
        Mode::Sit,
        Mode::Ip6ip6,
        Mode::Ipip6,
    ];

    /// The name that `--mode` takes.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Gre => "gre",
            Mode::Ip6gre => "ip6gre",
            Mode::Gretap => "gretap",
            Mode::Ip6gretap => "ip6gretap",
            Mode::Ipip => "ipip",
            Mode::Sit => "sit",
            Mode::Ip6ip6 => "ip6ip6",
            Mode::Ipip6 => "ipip6",
        }
    }

    /// The kernel's link kind, as after `ip link add type`.
    pub fn link_kind(self) -> &'static str {
        match self {
            Mode::Ip6ip6 | Mode::Ipip6 => "ip6tnl",
            other => other.name(),
        }
    }

    /// The version of the outer packets.
    pub fn outer(self) -> Family {
        match self {
            Mode::Gre | Mode::Gretap | Mode::Ipip | Mode::Sit => Family::V4,
            Mode::Ip6gre | Mode::Ip6gretap | Mode::Ip6ip6 | Mode::Ipip6 => Family::V6,
        }
    }

    /// Returns whether packets of this version can be inside.
    pub fn carries(self, inner: Family) -> bool {
        match self {
            Mode::Gre | Mode::Ip6gre | Mode::Gretap | Mode::Ip6gretap => true,
            Mode::Ipip | Mode::Ipip6 => inner == Family::V4,
            Mode::Sit | Mode::Ip6ip6 => inner == Family::V6,
        }
    }

    /// Returns whether the kind is GRE, and so has keys.
    pub fn is_gre(self) -> bool {
        matches!(
            self,
            Mode::Gre | Mode::Ip6gre | Mode::Gretap | Mode::Ip6gretap
        )
    }

    /// Returns whether the device is an Ethernet one.
    pub fn is_ethernet(self) -> bool {
        matches!(self, Mode::Gretap | Mode::Ip6gretap)
    }

    /// The IP protocol number directly inside the outer header, which a FOU port has to be told.
    pub fn protocol(self) -> u8 {
        const IPIP: u8 = 4;
        const IPV6: u8 = 41;
        const GRE: u8 = 47;
        match self {
            Mode::Gre | Mode::Ip6gre | Mode::Gretap | Mode::Ip6gretap => GRE,
            Mode::Ipip | Mode::Ipip6 => IPIP,
            Mode::Sit | Mode::Ip6ip6 => IPV6,
        }
    }

    /// The kernel module that makes links of this kind.
    pub fn module(self) -> &'static str {
        match self {
            Mode::Gre | Mode::Gretap => "ip_gre",
            Mode::Ip6gre | Mode::Ip6gretap => "ip6_gre",
            Mode::Ipip => "ipip",
            Mode::Sit => "sit",
            Mode::Ip6ip6 | Mode::Ipip6 => "ip6_tunnel",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text names no kind of tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownMode;

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        Mode::ALL
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or(UnknownMode)
    }
}
