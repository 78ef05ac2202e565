//! What the daemon decides beside its node: which link is whose, when the host's addresses are read again, what is kept on disk, when
//! the coordinator is connected to again.
//!
//! Pure: no clock, no sockets. The event loop hands over what came in, by a `handle_*`, carries out each [`Act`] of
//! [`Conductor::poll_act`], and sleeps until [`Conductor::poll_timeout`]. The simulator's hosts do the same.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tracing::{debug, info, trace, warn};

use super::state_dir::Network;
use super::state_writer::Content;
use super::stun_servers;
use crate::applier::machine::{Applied, Link};
use crate::coordinator::Event;
use crate::kernel::NetChange;
use crate::node::{
    Datagram, DesiredTunnel, DropReason, LocalAddress, Node, Output, RouterPort, Signal, State,
    StateChange, TunnelReport, VerdictChange,
};
use crate::portmap::{self, Lease};
use crate::proto::api::{EndpointsRequest, PeerRecord, RegisterResponse};
use crate::proto::keys::NodePublic;

/// Address and link changes come in bursts; they are looked at together this long after the first.
pub const CHANGE_SETTLE: Duration = Duration::from_millis(20);

/// The same after changes of routes alone, while no packet lacks one: a routing daemon changes thousands a second.
pub const ROUTES_SETTLE: Duration = Duration::from_millis(500);

/// Destinations without a route that are remembered: enough to notice that one of them has a route now.
const MAX_WITHOUT_ROUTE: usize = 16;

/// After this time the host's addresses are read again that could not be read.
pub const ADDRESSES_RETRY: Duration = Duration::from_secs(1);

/// What the daemon is to do.
#[derive(Debug)]
pub enum Act {
    /// Send a datagram from the data port or a search port. Where that fails for want of a route,
    /// [`Conductor::handle_lack_of_route`] is told.
    Send(Datagram),
    /// Receive on the search ports too, or no longer.
    ListenOnExtraPorts(bool),
    /// Send a data probe through the tunnel of this link.
    SendThroughTunnel {
        /// The link.
        index: u32,
        /// The peer at its far end.
        peer: NodePublic,
        /// Payload of the Ethernet frame.
        data: Vec<u8>,
    },
    /// Have the coordinator hand over an envelope.
    Signal(Signal),
    /// Publish where this node can be reached.
    Publish(EndpointsRequest),
    /// Desire this tunnel to a peer, or none.
    SetTunnel {
        /// The peer at the far end.
        peer: NodePublic,
        /// The tunnel; `None` removes it.
        tunnel: Option<DesiredTunnel>,
    },
    /// Keep this on disk.
    Write(Content),
    /// Ask these STUN servers, `host:port`.
    LookUpStunServers(Vec<String>),
    /// Read the host's addresses, look for routes to these destinations, and tell [`Conductor::handle_host`].
    ReadHost {
        /// Where something could not be sent for want of a route.
        without_route: Vec<IpAddr>,
    },
    /// Open new connections to the coordinator.
    Reconnect,
    /// Ask the router soon whether it still has the port mapping.
    RecheckPortMapping,
    /// Log that a peer changed its state.
    LogState(StateChange),
    /// Log why a peer is not connected, which is another reason than before.
    LogVerdict(VerdictChange),
    /// Count a path that hole punching found.
    CountHolePunch {
        /// The time that it took.
        after: Duration,
    },
}

/// The host as it was read.
#[derive(Clone, Debug, Default)]
pub struct HostView {
    /// The addresses that packets to peers can leave from.
    pub addresses: Vec<LocalAddress>,
    /// The destinations of [`Act::ReadHost`] to which there is a route now.
    pub with_route: Vec<IpAddr>,
}

/// The settings that decisions depend on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The coordinator's host, which has STUN servers; `None` where others were named.
    pub stun_host: Option<String>,
}

/// What is there when the daemon starts.
#[derive(Debug, Default)]
pub struct Found {
    /// The host's addresses.
    pub addresses: Vec<LocalAddress>,
    /// The tunnels of this node that the kernel has.
    pub tunnels: Vec<(NodePublic, DesiredTunnel)>,
    /// The coordinator's last answer, from the state directory.
    pub network: Network,
    /// The router's port, from the state directory.
    pub lease: Option<Lease>,
}

/// The daemon's decisions, its node among them.
#[derive(Debug)]
pub struct Conductor {
    node: Node,
    settings: Settings,
    /// Links as the applier last saw them.
    tunnels: BTreeMap<NodePublic, Link>,
    peer_of_link: HashMap<u32, NodePublic>,
    addresses: Vec<LocalAddress>,
    /// When to look at the host's addresses, after something changed.
    look_at: Option<Instant>,
    /// Whether they are being read.
    is_looking: bool,
    /// Where something could not be sent for want of a route, the latest last.
    without_route: VecDeque<IpAddr>,
    /// Whether there was such a thing since the host was read.
    lacked_route: bool,
    /// The coordinator's last answer, as it is kept on disk.
    network: Network,
    stun_names: Vec<String>,
    coordinator_up: bool,
    /// The router's port, as the state directory has it.
    lease: Option<Lease>,
    kernel_failures: u64,
    acts: VecDeque<Act>,
}

impl Conductor {
    /// Begins with what is there already. The host is looked at as soon as time passes.
    pub fn new(now: Instant, mut node: Node, settings: Settings, found: Found) -> Self {
        node.handle_local_addresses(now, found.addresses.clone());
        for (peer, tunnel) in found.tunnels {
            info!(interface = tunnel.inside.name, path = %tunnel.outside.path, "adopting tunnel");
            node.handle_adopted(now, peer, tunnel);
        }
        let network = &found.network;
        node.handle_own_addresses(network.tunnel_ips.clone(), network.networks.clone());
        node.handle_kept_peers(now, &network.peers);
        let mut stun_ports = network.stun_ports.clone();
        if stun_ports.is_empty() {
            stun_ports.extend(stun_servers::DEFAULT_PORTS);
        }
        let mut conductor = Conductor {
            node,
            settings,
            tunnels: BTreeMap::new(),
            peer_of_link: HashMap::new(),
            addresses: found.addresses,
            look_at: Some(now),
            is_looking: false,
            without_route: VecDeque::new(),
            lacked_route: false,
            network: found.network,
            stun_names: Vec::new(),
            coordinator_up: false,
            lease: found.lease,
            kernel_failures: 0,
            acts: VecDeque::new(),
        };
        conductor.set_stun_ports(&stun_ports);
        conductor
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The link of a peer's tunnel, as the applier last saw it.
    pub fn link(&self, peer: NodePublic) -> Option<&Link> {
        self.tunnels.get(&peer)
    }

    /// Whether the coordinator knows this node, as far as is known.
    pub fn is_coordinator_up(&self) -> bool {
        self.coordinator_up
    }

    /// The number of tunnels that could not be set up, since the start.
    pub fn kernel_failures(&self) -> u64 {
        self.kernel_failures
    }

    /// Pings every path to a peer, and through its tunnel.
    pub fn ping(&mut self, now: Instant, peer: NodePublic) {
        self.node.ping_paths(now, peer);
    }

    /// A datagram came to the data port or a search port, by the device of this index.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        device: u32,
        local: SocketAddr,
        from: SocketAddr,
        data: &[u8],
    ) {
        // A path inside a tunnel of ours would have the tunnel run inside itself.
        if self.peer_of_link.contains_key(&device) {
            return self.node.count_drop(DropReason::ThroughTunnel);
        }
        self.node.handle_datagram(now, local, from, data);
    }

    /// A data probe came by this link.
    pub fn handle_probe(&mut self, now: Instant, link: u32, data: &[u8]) {
        match self.peer_of_link.get(&link) {
            Some(&peer) => self.node.handle_data_probe(now, peer, data),
            None => self.node.count_drop(DropReason::NoTunnel),
        }
    }

    /// The coordinator, or the connection to it, has something to say.
    pub fn handle_coordinator(&mut self, now: Instant, event: Event) {
        match event {
            Event::Registered(RegisterResponse {
                tunnel_ips,
                networks,
                stun_ports,
                peers,
                ..
            }) => {
                self.set_coordinator_up(true);
                self.set_stun_ports(&stun_ports);
                self.node
                    .handle_own_addresses(tunnel_ips.clone(), networks.clone());
                self.network = Network {
                    tunnel_ips,
                    networks,
                    stun_ports,
                    peers: Vec::new(),
                };
                self.handle_peers(now, peers.peers);
            }
            Event::Peers(list) => self.handle_peers(now, list.peers),
            Event::Signal { from, sealed } => self.node.handle_signal(now, from, &sealed),
            Event::BadSignal => self.node.count_drop(DropReason::Malformed),
            Event::Lost => self.set_coordinator_up(false),
        }
    }

    fn set_coordinator_up(&mut self, is_up: bool) {
        self.coordinator_up = is_up;
        self.node.handle_coordinator(is_up);
    }

    /// The coordinator's STUN servers listen to these ports.
    fn set_stun_ports(&mut self, ports: &[u16]) {
        let Some(host) = &self.settings.stun_host else {
            return;
        };
        let names = stun_servers::at_host(host, ports);
        if self.stun_names != names {
            self.stun_names.clone_from(&names);
            self.acts.push_back(Act::LookUpStunServers(names));
        }
    }

    /// The whole list of peers, as the coordinator just said.
    fn handle_peers(&mut self, now: Instant, peers: Vec<PeerRecord>) {
        self.node.handle_peers(now, &peers);
        self.network.peers = peers;
        let network = Content::Network(self.network.clone());
        self.acts.push_back(Act::Write(network));
    }

    /// STUN servers were looked up.
    pub fn handle_stun_servers(&mut self, now: Instant, servers: Vec<SocketAddr>) {
        debug!(?servers, "STUN servers");
        self.node.handle_stun_servers(now, servers);
    }

    /// The router grants a port, or another, or none any more.
    pub fn handle_port_mapping(&mut self, now: Instant, status: &portmap::Status) {
        let granted = status.lease.as_ref().map(|it| it.external);
        let port = granted.map_or(RouterPort::None, RouterPort::Granted);
        self.node.handle_router_port(now, port);
        // One that is lost is kept: the router is asked for the same again.
        if status.lease.is_none() || status.lease == self.lease {
            return;
        }
        self.lease.clone_from(&status.lease);
        let lease = Content::RouterPort(self.lease.clone());
        self.acts.push_back(Act::Write(lease));
    }

    /// The applier reports on a tunnel.
    pub fn handle_applied(&mut self, now: Instant, applied: Applied) {
        match applied {
            Applied::Done {
                peer,
                number,
                path,
                link,
            } => {
                debug!(interface = link.name, %path, mtu = link.mtu, "tunnel in place");
                self.peer_of_link.retain(|_, other| *other != peer);
                self.peer_of_link.insert(link.index, peer);
                let device_mtu = u16::try_from(link.device_mtu).unwrap_or(u16::MAX);
                self.tunnels.insert(peer, link);
                self.node
                    .handle_tunnel(now, peer, TunnelReport::Applied { number, device_mtu });
            }
            Applied::Failed {
                peer,
                number,
                path,
                error,
                is_repeated,
            } => {
                self.kernel_failures += 1;
                let name = self.node.name(peer);
                if is_repeated {
                    debug!(peer = name, %path, error, "tunnel cannot be set up");
                } else {
                    warn!(peer = name, %path, error, "tunnel cannot be set up");
                }
                self.node
                    .handle_tunnel(now, peer, TunnelReport::Failed { number, error });
            }
            Applied::Removed { peer } => {
                self.peer_of_link.retain(|_, other| *other != peer);
                self.tunnels.remove(&peer);
            }
        }
    }

    /// Links, addresses or routes of the host changed.
    pub fn handle_net_change(&mut self, now: Instant, change: NetChange) {
        let is_urgent = change.links || change.addresses || self.lacked_route;
        let settle = if is_urgent {
            CHANGE_SETTLE
        } else {
            ROUTES_SETTLE
        };
        let at = now + settle;
        self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
    }

    /// A datagram could not be sent for want of a route: to a candidate in a network that this host cannot reach, or to all of them,
    /// while the host has an address and no route yet.
    pub fn handle_lack_of_route(&mut self, to: IpAddr) {
        self.lacked_route = true;
        self.without_route.retain(|it| *it != to);
        if self.without_route.len() == MAX_WITHOUT_ROUTE {
            self.without_route.pop_front();
        }
        self.without_route.push_back(to);
    }

    /// The host was read; `None` when that failed.
    pub fn handle_host(&mut self, now: Instant, host: Option<HostView>) {
        self.is_looking = false;
        let Some(HostView {
            addresses,
            with_route,
        }) = host
        else {
            let again = now + ADDRESSES_RETRY;
            self.look_at = Some(self.look_at.map_or(again, |at| at.min(again)));
            return;
        };
        let has_new_route = with_route.iter().any(|it| self.without_route.contains(it));
        if addresses != self.addresses || has_new_route {
            self.without_route.clear();
        }
        if addresses != self.addresses {
            info!(?addresses, "local addresses changed");
            self.addresses.clone_from(&addresses);
            self.node.handle_local_addresses(now, addresses);
            self.acts.push_back(Act::Reconnect);
        } else if has_new_route {
            self.node.handle_route_change(now);
            if !self.coordinator_up {
                self.acts.push_back(Act::Reconnect);
            }
        }
    }

    /// Lets time pass. What arrived before `now` must have been handed over: after a stall, the answer to a probe lies in a socket
    /// when the probe's deadline is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.is_looking && self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            self.is_looking = true;
            self.lacked_route = false;
            let without_route = self.without_route.iter().copied().collect();
            self.acts.push_back(Act::ReadHost { without_route });
        }
        if let Some((_, reason)) = self.node.poll_timeout().filter(|(at, _)| *at <= now) {
            trace!(reason, "timeout");
            self.node.handle_timeout(now);
        }
    }

    /// When [`Conductor::handle_timeout`] must be called, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let look_at = self.look_at.filter(|_| !self.is_looking);
        let look_at = look_at.map(|at| (at, "host addresses"));
        let node = self.node.poll_timeout();
        node.into_iter().chain(look_at).min_by_key(|(at, _)| *at)
    }

    /// The next thing to do, until there is none.
    pub fn poll_act(&mut self) -> Option<Act> {
        loop {
            if let Some(act) = self.acts.pop_front() {
                return Some(act);
            }
            let output = self.node.poll_output()?;
            if let Some(act) = self.act_on(output) {
                return Some(act);
            }
        }
    }

    fn act_on(&mut self, output: Output) -> Option<Act> {
        Some(match output {
            Output::Send(datagram) => Act::Send(datagram),
            Output::ListenOnExtraPorts(listen) => Act::ListenOnExtraPorts(listen),
            Output::SendThroughTunnel { peer, data } => {
                let Some(link) = self.tunnels.get(&peer) else {
                    trace!(%peer, "probe not sent: the tunnel is not there yet");
                    return None;
                };
                let index = link.index;
                Act::SendThroughTunnel { index, peer, data }
            }
            Output::Signal(signal) => Act::Signal(signal),
            Output::PublishEndpoints(latest) => Act::Publish(latest),
            Output::SetTunnel { peer, tunnel } => {
                let tunnel = Some(tunnel);
                Act::SetTunnel { peer, tunnel }
            }
            Output::RemoveTunnel { peer } => Act::SetTunnel { peer, tunnel: None },
            Output::KeepInterfaceNumbers => {
                let numbers = self.node.interface_numbers().clone();
                Act::Write(Content::InterfaceNumbers(numbers))
            }
            Output::StateChange(change) => {
                if change.from == State::Punching && change.to.is_connected() {
                    let after = change.after;
                    self.acts.push_back(Act::CountHolePunch { after });
                } else if change.from.is_connected() {
                    self.acts.push_back(Act::RecheckPortMapping);
                }
                Act::LogState(change)
            }
            Output::VerdictChange(change) => Act::LogVerdict(change),
        })
    }
}

#[cfg(test)]
#[path = "conductor_tests.rs"]
mod tests;
