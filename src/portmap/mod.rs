//! A port mapping from the router: PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP IGD, whichever the router knows.
//!
//! With a mapping anybody can send to the data port, as if the NAT were a full cone. So one router that grants a mapping connects
//! even two symmetric NATs. [`PortMapper`] asks, renews, notices a router that lost its state, and deletes the mapping. It is
//! pure: `crate::daemon::port_mapping` has the sockets. The kernel's FOU socket owns the data port, so requests leave from another
//! port and name the data port.

mod epoch;
mod igd;
mod mapper;
pub mod nat_pmp;
pub mod pcp;
mod schedule;
pub mod upnp;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::proto::address::is_public;

pub use igd::HttpRequest;
pub use mapper::{Output, PortMapper};

/// A protocol for port mappings, in the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device.
    UpnpIgd,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 3] = [Protocol::Pcp, Protocol::NatPmp, Protocol::UpnpIgd];

    /// The name in JSON; stable.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Pcp => "pcp",
            Protocol::NatPmp => "nat-pmp",
            Protocol::UpnpIgd => "upnp-igd",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The result of asking by one protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Finding {
    /// Not asked yet, or another one had granted a port before.
    #[default]
    Unasked,
    /// No answer yet.
    Asking,
    /// No answer.
    Silent,
    /// The router does speak it, but grants no port.
    Refused(String),
    /// It granted the port.
    Granted,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Unasked => f.write_str("not asked"),
            Finding::Asking => f.write_str("no answer yet"),
            Finding::Silent => f.write_str("no answer"),
            Finding::Refused(why) => write!(f, "refused: {why}"),
            Finding::Granted => f.write_str("granted a port"),
        }
    }
}

/// The router that is asked, and this host's address towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The gateway of the default route.
    pub gateway: Ipv4Addr,
    /// This host's address on the way there.
    pub own: Ipv4Addr,
}

impl Network {
    /// `None` where there is nothing to ask for: a host with a public address has no NAT in front of it.
    pub fn behind(gateway: Ipv4Addr, own: Ipv4Addr) -> Option<Self> {
        (!is_public(own)).then_some(Network { gateway, own })
    }
}

/// A port that a router has granted. What is needed to renew it and to give it back, also after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The protocol that granted the mapping.
    pub protocol: Protocol,
    /// The router that granted it, and the host's address that the router forwards to.
    pub network: Network,
    /// The data port.
    pub port: u16,
    /// The external address and port (RFC 6887 section 3).
    pub external: SocketAddrV4,
    /// The nonce that identifies the mapping in PCP.
    pub nonce: pcp::Nonce,
    /// The service that takes UPnP IGD's requests.
    pub control: Option<upnp::Control>,
}

impl Lease {
    /// Returns whether the router's own external address is none of the internet: it is itself behind another NAT, and only
    /// hosts between the two can use the port.
    pub fn is_behind_another_nat(&self) -> bool {
        !is_public(*self.external.ip())
    }
}

/// The state of the mapper, for people and for other parts of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The router that is asked; `None` without a default route, or if the host has a public address.
    pub network: Option<Network>,
    /// The result of each protocol, in the order of [`Protocol::ALL`].
    pub findings: [Finding; 3],
    /// The port, while there is one.
    pub lease: Option<Lease>,
    /// When it ends unless it is renewed; `None` for a permanent one.
    pub expires: Option<Instant>,
}
