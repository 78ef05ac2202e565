//! Paths, and what makes a path better than another.

pub(in crate::peer) mod local_address;
pub(in crate::peer) mod switch_reason;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The size that an unknown path is taken to carry, bytes: Ethernet's MTU. More has to be shown first.
pub const FIRST_PATH_MTU: u16 = 1500;

/// A path to a peer as the kernel's tunnel uses it: from `port` on `local` to `remote`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// This host's address: the tunnel's `local`. Unspecified where the route is to choose.
    pub local: IpAddr,
    /// This host's UDP port: the tunnel's `encap-sport`. The data port, or one that a port search found.
    pub port: u16,
    /// The peer's address and port as seen from here: the tunnel's `remote` and `encap-dport`.
    pub remote: SocketAddr,
}

impl Path {
    /// This host's address and port.
    pub(crate) fn source(&self) -> SocketAddr {
        SocketAddr::new(self.local, self.port)
    }

    /// Whether the packets of both paths go from one address to one address, whatever their ports.
    pub(crate) fn has_addresses_of(self, other: Path) -> bool {
        (self.local, self.remote.ip()) == (other.local, other.remote.ip())
    }

    /// The same from whichever address the route chooses: the tunnel's `local any`. For a host that lost `local`, which the kernel
    /// would go on to send from as long as a link that is down keeps it.
    #[must_use]
    pub(crate) fn without_local(self) -> Self {
        let local = match self.local {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Path { local, ..self }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.source(), self.remote)
    }
}

/// The kind of a path, ordered by what it costs apart from its round trip, the cheapest first. A cheaper path is taken however long
/// its round trip; the round trip decides between paths of one kind. The kind says nothing of whether data crosses: that is
/// [`crate::peer::State::Direct`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// Inside one LAN: the peer's private address is on-link, and the peer sees this host's own address.
    Lan,
    /// From host to host by public addresses or a site's routers, through whatever NATs there are. (A relayed path will come after
    /// it.)
    Public,
    /// Through another overlay's link, such as WireGuard's.
    Overlay,
}

impl Via {
    /// The name in `gretun peers`; stable. `direct` is the word there for a path without a relay.
    pub fn as_str(self) -> &'static str {
        match self {
            Via::Lan => "lan",
            Via::Public => "direct",
            Via::Overlay => "overlay",
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
