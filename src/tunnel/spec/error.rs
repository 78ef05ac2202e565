//! The errors in the options of a tunnel, each with the way out.

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

use super::IP_ADDRESS;
use crate::tunnel::mode::{Family, Mode};
use crate::tunnel::name::NameFlaw;

/// An option that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{key}: {problem}")]
pub struct SpecError {
    /// The option, as its flag and its key in a file are called.
    pub key: &'static str,
    /// The fault.
    pub problem: Problem,
}

impl SpecError {
    pub(in crate::tunnel) fn new(key: &'static str, problem: Problem) -> Self {
        SpecError { key, problem }
    }

    /// The way out, where the error itself does not tell it.
    pub fn hint(&self) -> Option<String> {
        match &self.problem {
            Problem::Malformed { expected, .. } if *expected == IP_ADDRESS => Some(
                "names are not looked up here: `getent ahosts NAME` shows their addresses"
                    .to_owned(),
            ),
            // These errors name the correct form themselves.
            Problem::Malformed { .. } | Problem::Range { .. } | Problem::Needs { .. } => None,
            Problem::Missing => Some("give it; `gretun create --help` has examples".to_owned()),
            Problem::Name { flaw, .. } => Some(flaw.hint().to_owned()),
            Problem::Address { flaw, .. } => Some(flaw.hint()),
            Problem::Network { net, flaw } => flaw.hint(*net),
            Problem::NotForMode { .. } => Some(match self.key {
                "pmtudisc" => "leave it out: IPv6 routers never fragment".to_owned(),
                _ => {
                    "leave it out, or choose a GRE mode: gre, ip6gre, gretap, ip6gretap".to_owned()
                }
            }),
            Problem::FixedTtl { .. } => {
                Some("add --ttl inherit, leave it on, or choose mode gre".to_owned())
            }
            Problem::Excludes { other } => Some(format!("leave {} or {other} out", self.key)),
            Problem::OwnParent => {
                Some("name the interface that outer packets leave through".to_owned())
            }
        }
    }
}

/// The fault of an option.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// It has to be given.
    #[error("is missing")]
    Missing,
    /// It cannot be read.
    #[error("{value:?} is not {expected}")]
    Malformed {
        /// The value as it was given.
        value: String,
        /// The expected form.
        expected: &'static str,
    },
    /// A number out of range.
    #[error("{value} is not within {least} to {most}")]
    Range {
        /// The value as it was given.
        value: String,
        /// The least that can be.
        least: u32,
        /// The most that can be.
        most: u32,
    },
    /// A bad interface name.
    #[error("{name:?} {flaw}")]
    Name {
        /// The name.
        name: String,
        /// The reason.
        flaw: NameFlaw,
    },
    /// A bad address.
    #[error("{ip} {flaw}")]
    Address {
        /// The address.
        ip: IpAddr,
        /// The reason.
        flaw: AddressFlaw,
    },
    /// A bad network or interface address.
    #[error("{net} {flaw}")]
    Network {
        /// The network.
        net: IpNet,
        /// The reason.
        flaw: NetworkFlaw,
    },
    /// The option has no meaning for this kind of tunnel.
    #[error("not for mode {mode}")]
    NotForMode {
        /// The kind.
        mode: Mode,
    },
    /// Path MTU discovery cannot be off.
    #[error("cannot be off with a fixed ttl in mode {mode}")]
    FixedTtl {
        /// The kind.
        mode: Mode,
    },
    /// The option needs another one.
    #[error("only together with {other}")]
    Needs {
        /// The other option.
        other: &'static str,
    },
    /// The option excludes another one.
    #[error("not together with {other}")]
    Excludes {
        /// The other option.
        other: &'static str,
    },
    /// The tunnel would leave through itself.
    #[error("is the tunnel itself")]
    OwnParent,
}

impl Problem {
    pub(in crate::tunnel) fn range(value: impl Into<String>, least: u32, most: u32) -> Self {
        Problem::Range {
            value: value.into(),
            least,
            most,
        }
    }
}

/// The reason why an address cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddressFlaw {
    /// The address is of the other IP version.
    #[error("is not an {needed} address")]
    Family {
        /// The version that is needed.
        needed: Family,
    },
    /// 127.0.0.0/8, ::1.
    #[error("is a loopback address")]
    Loopback,
    /// 0.0.0.0, ::.
    #[error("is the unspecified address")]
    Unspecified,
    /// A group.
    #[error("is a multicast address")]
    Multicast,
    /// 255.255.255.255.
    #[error("is the broadcast address")]
    Broadcast,
    /// fe80::/10 means nothing without a device.
    #[error("is link-local, which needs dev")]
    LinkLocalWithoutDevice,
    /// Both ends are the same.
    #[error("is the local end too")]
    SameAsLocal,
    /// Both inner ends are the same.
    #[error("is the tunnel-ip too")]
    SameAsTunnelIp,
    /// Loopback, unspecified or multicast.
    #[error("is no host's address")]
    NoHost,
}

impl AddressFlaw {
    fn hint(self) -> String {
        match self {
            AddressFlaw::Family { needed } => format!(
                "give an {needed} address, or choose another mode: gre, gretap, ipip and sit go over IPv4, ip6gre, ip6gretap, ip6ip6 and ipip6 over IPv6"
            ),
            AddressFlaw::Loopback
            | AddressFlaw::Unspecified
            | AddressFlaw::Multicast
            | AddressFlaw::Broadcast => {
                "give an address of one host that the other host can reach; `ip address` shows this host's".to_owned()
            }
            AddressFlaw::LinkLocalWithoutDevice => {
                "add --dev with the interface that the address is on".to_owned()
            }
            AddressFlaw::SameAsLocal => {
                "local is this host's address, remote the other host's".to_owned()
            }
            AddressFlaw::SameAsTunnelIp => {
                "tunnel-ip is this host's inner address, peer-ip the other host's".to_owned()
            }
            AddressFlaw::NoHost => "give the inner address of the other host".to_owned(),
        }
    }
}

/// The reason why a network or an interface address cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NetworkFlaw {
    /// The kind of tunnel does not carry this IP version.
    #[error("cannot be inside a tunnel of mode {mode}")]
    NotCarried {
        /// The kind.
        mode: Mode,
    },
    /// Loopback, unspecified or multicast.
    #[error("is no host's address")]
    NoHost,
    /// The first address of the network.
    #[error("is the address of the network itself, not of a host in it")]
    NetworkAddress,
    /// The last address of the network.
    #[error("is the broadcast address of its network")]
    BroadcastAddress,
    /// Bits behind the prefix.
    #[error("has bits behind the prefix; the network is {meant}")]
    HostBits {
        /// The network without them.
        meant: IpNet,
    },
    /// Given before.
    #[error("is given twice")]
    Twice,
    /// Part of one given before, or the other way round.
    #[error("overlaps with {other}")]
    Overlaps {
        /// The other network.
        other: IpNet,
    },
}

impl NetworkFlaw {
    fn hint(self, net: IpNet) -> Option<String> {
        match self {
            NetworkFlaw::NotCarried { .. } => Some(
                "GRE modes carry both versions of IP; ipip and ipip6 only IPv4, sit and ip6ip6 only IPv6"
                    .to_owned(),
            ),
            NetworkFlaw::NoHost => Some("give unicast addresses".to_owned()),
            NetworkFlaw::NetworkAddress | NetworkFlaw::BroadcastAddress => net
                .hosts()
                .find(|host| *host != net.network())
                .map(|host| format!("give a host's address, such as {host}/{}", net.prefix_len())),
            // The error names the correct form itself.
            NetworkFlaw::HostBits { .. } => None,
            NetworkFlaw::Twice => Some("give it once".to_owned()),
            NetworkFlaw::Overlaps { .. } => Some("give only the larger network".to_owned()),
        }
    }
}
