//! The desired state of one peer's kernel tunnel. [`crate::peer::Peer`] decides the outside, [`crate::node`] the inside.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::peer::path::Path;

/// The desired state of a peer's tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredTunnel {
    /// Where its outer packets go.
    pub outside: Outside,
    /// The addresses, routes and names inside it.
    pub inside: Inside,
}

/// The part of a tunnel that the network between the two hosts sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The number of the request for it; numbers of one node grow. 0 for a tunnel that was found at start.
    pub number: u64,
    /// From where to where the outer packets go.
    pub path: Path,
    /// A path that the peer's data may come over as well: the two sides are moving from one to the other.
    pub overlap: Option<Path>,
    /// The largest outer packet that gets through, bytes. `None`: not known yet; what the device takes, and no more than
    /// [`crate::peer::FIRST_PATH_MTU`].
    pub path_mtu: Option<u16>,
    /// The pair's GRE key, for both directions.
    pub gre_key: u32,
}

/// The part of a tunnel that this host's programs see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// Name of the interface.
    pub name: String,
    /// The peer's name, as alternative name of the interface.
    pub alt_name: String,
    /// This host's addresses inside the network.
    pub own_ips: Vec<IpAddr>,
    /// The peer's addresses inside the network.
    pub peer_ips: Vec<IpAddr>,
    /// Networks behind the peer that are routed into the tunnel, in order.
    pub routes: Vec<IpNet>,
    /// Networks behind this host towards which packets out of the tunnel are masqueraded.
    pub snat: Vec<IpNet>,
}
