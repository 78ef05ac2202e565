//! The requests to the daemon, and its answers. The names are stable.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::node::{Evidence, Explanation};
use crate::portmap::{Lease, Protocol, Status};
use crate::proto::NatMapping;
use crate::proto::keys::NodePublic;

/// A request to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// All peers, as a list of [`PeerView`].
    Peers,
    /// Our public endpoints as STUN servers see them, as a list of [`StunView`].
    Stun,
    /// Why the peer of this name, tunnel address or node key is joined or not:
    /// [`ExplainView`], or null when there is no such peer.
    Explain(String),
    /// Every path to that peer: [`PathsView`], or null.
    Paths(String),
    /// The paths of a peer; afterwards one more ping goes over every path and through the tunnel.
    Ping(String),
    /// The daemon's view of the network around its own port: [`DaemonNetView`].
    Net,
    /// The text of a Prometheus scrape.
    Metrics,
    /// Remove all tunnels and stop; the answer is null.
    Down,
}

/// One peer as `gretun peers` shows it. The names are stable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// The peer's name.
    pub name: String,
    /// Its node key.
    pub node_key: NodePublic,
    /// Its addresses inside the tunnel.
    pub tunnel_ips: Vec<IpAddr>,
    /// `unknown`, `have_endpoints`, `punching`, `direct` or `unreachable`.
    pub state: String,
    /// Why it is in this state.
    pub reason: String,
    /// The kind of the path that data crosses: `lan`; `direct` (from host to host, through NATs or not); `overlay` (through another
    /// overlay's link).
    pub via: Option<String>,
    /// The outer address and port of the peer.
    pub endpoint: Option<SocketAddr>,
    /// The networks that it offers and that are routed into its tunnel.
    pub routes: Vec<IpNet>,
    /// The networks that it offers and that are not.
    pub routes_refused: Vec<RefusedRouteView>,
    /// The tunnel interface.
    pub interface: Option<String>,
    /// Round trip of the last probe through the tunnel, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// MTU of the tunnel interface, in bytes.
    pub mtu: Option<u32>,
    /// Bytes received through the tunnel interface.
    pub rx_bytes: u64,
    /// Bytes sent through the tunnel interface.
    pub tx_bytes: u64,
    /// Since when it is in this state, RFC 3339.
    pub since: String,
}

/// A network that a peer offers and that is not routed into its tunnel. The names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRouteView {
    /// The network.
    pub network: IpNet,
    /// Why it is not, in a sentence.
    pub reason: String,
}

/// One public endpoint as `gretun stun` shows it. The names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StunView {
    /// The STUN server that was asked.
    pub server: SocketAddr,
    /// The address and port that it saw.
    pub endpoint: SocketAddr,
}

/// The daemon's view of the network around its port. The names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonNetView {
    /// The data port.
    pub port: u16,
    /// The NAT's mapping of the port.
    pub mapping: NatMapping,
    /// The STUN servers that are asked.
    pub servers: Vec<SocketAddr>,
    /// The coordinator's URL.
    pub coordinator: String,
    /// The directory of the keys.
    pub state_dir: PathBuf,
    /// The router's port; null when it is not asked (`--port-mapping=false`).
    #[serde(default)]
    pub port_mapping: Option<PortMappingView>,
}

/// Why a peer is joined or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainView {
    /// The peer's name.
    pub peer: String,
    /// `unknown`, `have_endpoints`, `punching`, `direct` or `unreachable`.
    pub state: String,
    /// The verdict for scripts, such as `direct`, `symmetric-both` or `data-dropped-here`.
    pub cause: String,
    /// The verdict in a sentence.
    pub verdict: String,
    /// The observations, one line each.
    pub evidence: Vec<String>,
    /// The remedies, the easiest first; one is enough. Empty for a connected pair.
    pub remedies: Vec<String>,
}

/// Every path to a peer with the pings that were sent over it so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathsView {
    /// The peer's name.
    pub peer: String,
    /// As in [`ExplainView`].
    pub state: String,
    /// The candidate paths to the peer.
    pub paths: Vec<PathView>,
    /// The kernel tunnel, once a path was chosen.
    pub tunnel: Option<PathView>,
}

/// One path, or the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathView {
    /// The peer's end.
    pub endpoint: SocketAddr,
    /// Pings sent so far: disco's, or data through the tunnel.
    pub pings: u32,
    /// Number of pings that were answered.
    pub pongs: u32,
    /// The latest round trip, in milliseconds.
    pub rtt_ms: Option<f64>,
}

impl ExplainView {
    /// Words for what the node found.
    pub fn new(evidence: &Evidence, explanation: Explanation) -> Self {
        let remedies = explanation.remedies.iter();
        ExplainView {
            peer: evidence.peer.clone(),
            state: evidence.state.to_string(),
            cause: explanation.cause.to_string(),
            verdict: explanation.verdict,
            evidence: explanation.evidence,
            remedies: remedies.map(|it| it.text(evidence)).collect(),
        }
    }
}

impl PathsView {
    /// The paths that the node has tried.
    pub fn new(evidence: Evidence) -> Self {
        let millis = |rtt: Duration| rtt.as_secs_f64() * 1e3;
        let tried = evidence.tried.iter().filter(|it| it.has_family);
        PathsView {
            state: evidence.state.to_string(),
            paths: tried
                .map(|it| PathView {
                    endpoint: it.remote,
                    pings: it.pings,
                    pongs: it.pongs,
                    rtt_ms: it.latest.map(millis),
                })
                .collect(),
            tunnel: evidence.tunnel.map(|it| PathView {
                endpoint: it.path.remote,
                pings: it.pings,
                pongs: it.pongs,
                rtt_ms: it.latest.map(millis),
            }),
            peer: evidence.peer,
        }
    }
}

/// The result of asking the router, as `gretun netcheck` shows it. The names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMappingView {
    /// The router that is asked; null without a default route, or with a public address.
    pub gateway: Option<Ipv4Addr>,
    /// The protocol by which it granted a port.
    pub protocol: Option<Protocol>,
    /// The external address and port of the data port.
    pub external: Option<SocketAddr>,
    /// Seconds until the port ends unless it is renewed; null for one without end.
    pub expires_in_s: Option<u64>,
    /// Whether that is itself a private address: another NAT is in front of the router.
    pub behind_another_nat: bool,
    /// The result of each protocol.
    pub protocols: Vec<ProtocolView>,
}

/// The result of one protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolView {
    /// The protocol.
    pub protocol: Protocol,
    /// In words.
    pub finding: String,
}

impl PortMappingView {
    /// At this time.
    pub fn new(status: &Status, now: Instant) -> Self {
        let lease = status.lease.as_ref();
        let protocols = Protocol::ALL.iter().zip(&status.findings);
        PortMappingView {
            gateway: status.network.map(|it| it.gateway),
            protocol: lease.map(|it| it.protocol),
            external: lease.map(|it| it.external.into()),
            expires_in_s: status
                .expires
                .map(|at| at.saturating_duration_since(now).as_secs()),
            behind_another_nat: lease.is_some_and(Lease::is_behind_another_nat),
            protocols: protocols
                .map(|(protocol, finding)| ProtocolView {
                    protocol: *protocol,
                    finding: finding.to_string(),
                })
                .collect(),
        }
    }
}
