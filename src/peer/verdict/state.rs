//! A peer as seen from outside: its state, and the kernel's reports on its tunnel.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::peer::path::{Path, Via};
use crate::peer::verdict::state_reason::StateReason;
use crate::proto::{DiscoPublic, NodePublic};

/// How far this node got with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// No endpoint of the peer is known.
    Unknown,
    /// Endpoints are known, but the coordinator says that the peer is offline; it is tried now and then.
    HaveEndpoints,
    /// Paths are being tried.
    Punching,
    /// A probe of this node crossed the kernel tunnel and its answer came back through it.
    Direct,
    /// Every known path was tried and none carries data; they are tried again now and then.
    Unreachable,
}

impl State {
    /// All states, for metrics with one label value each.
    pub const ALL: [State; 5] = [
        State::Unknown,
        State::HaveEndpoints,
        State::Punching,
        State::Direct,
        State::Unreachable,
    ];

    /// Whether data crossed the tunnel both ways and is taken to do so still, over whatever kind of path.
    pub fn is_connected(self) -> bool {
        self == State::Direct
    }

    /// The name in `gretun --json peers` and in metrics; stable.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::HaveEndpoints => "have_endpoints",
            State::Punching => "punching",
            State::Direct => "direct",
            State::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kernel's answer to a [`crate::peer::Output::SetTunnel`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelReport {
    /// The kernel's link is as this request asked.
    Applied {
        /// The number of the request; every earlier one is settled with it. 0 for a tunnel that was found at start.
        number: u64,
        /// The MTU of the device that its packets leave through, bytes.
        device_mtu: u16,
    },
    /// The link could not be made or changed.
    Failed {
        /// The number of the request.
        number: u64,
        /// The kernel's words, for the log and for `gretun peers`.
        error: String,
    },
}

/// A peer as `gretun peers` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name in the network.
    pub name: String,
    /// Its identity.
    pub node_key: NodePublic,
    /// Its key for disco.
    pub disco_key: DiscoPublic,
    /// Its addresses inside the network.
    pub tunnel_ips: Vec<IpAddr>,
    /// Whether the coordinator heard from it lately.
    pub online: bool,
    /// How far this node got.
    pub state: State,
    /// Why the peer is in this state; for a pair that is not connected, what [`crate::node::Node::explain`] says.
    pub reason: StateReason,
    /// When it came into this state.
    pub since: Instant,
    /// The path its tunnel is set to, proven or not.
    pub path: Option<Path>,
    /// The kind of that path; only while data crosses it ([`State::Direct`]).
    pub via: Option<Via>,
    /// Smoothed round trip: through the tunnel where data crossed it, else of disco over the path.
    pub rtt: Option<Duration>,
}
