//! The event loop: one task owns the node; everything else sends it events and takes its outputs.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, trace, warn};

use super::metrics::Metrics;
use super::offloaded::Offloaded;
use super::port_mapping;
use super::port_mapping_status;
use super::settings::Config;
use super::state_dir::{Network, StateDir};
use super::state_writer::{Content, StateWriter};
use super::{DaemonError, Ended, sleep_until, stun_servers};
use crate::applier::machine::{Applied, Link};
use crate::applier::thread;
use crate::coordinator::{self, Event};
use crate::error::chain;
use crate::kernel::packet::discovery_socket::{DiscoverySocket, Received};
use crate::kernel::packet::probe_socket::ProbeSocket;
use crate::kernel::{self, Kernel, KernelError, NetChange};
use crate::local_api::{self, Query};
use crate::node::{
    DropReason, EXTRA_PORTS, LinkKind, LocalAddress, Node, Output, State, TunnelReport,
};
use crate::portmap::{self, Lease};
use crate::proto::api::{PeerRecord, RegisterResponse};
use crate::proto::keys::NodePublic;

/// Address and link changes come in bursts; they are looked at together this long after the first.
const CHANGE_SETTLE: Duration = Duration::from_millis(20);

/// The same after changes of routes alone, while no packet lacks one: a routing daemon changes thousands a second.
const ROUTES_SETTLE: Duration = Duration::from_millis(500);

/// After this time the host's addresses are read again that could not be read.
const ADDRESSES_RETRY: Duration = Duration::from_secs(1);

/// Most packets taken from a socket before everything else has its turn: more than all peers send during a stall of some
/// seconds, and handled within milliseconds.
const RECEIVE_BATCH: usize = 1024;

/// The running daemon.
pub struct Daemon {
    pub(super) config: Config,
    pub(super) state: StateDir,
    pub(super) writer: StateWriter,
    pub(super) own: NodePublic,
    pub(super) node: Node,
    pub(super) kernel: Kernel,
    pub(super) port: DiscoverySocket,
    pub(super) probes: ProbeSocket,
    pub(super) coordinator: coordinator::Handle,
    pub(super) coordinator_events: mpsc::Receiver<Event>,
    pub(super) stun_names: watch::Sender<Vec<String>>,
    pub(super) stun_servers: mpsc::Receiver<Vec<SocketAddr>>,
    /// `None` when the router is not to be asked for a port.
    pub(super) port_mapping: Option<port_mapping::Handle>,
    /// The router's port, as the state directory has it.
    pub(super) lease: Option<Lease>,
    pub(super) changes: BoxStream<'static, NetChange>,
    pub(super) queries: mpsc::Receiver<Query>,
    pub(super) wanted: thread::Handle,
    pub(super) applied: mpsc::UnboundedReceiver<Applied>,
    /// The coordinator's last answer, as it is kept on disk.
    pub(super) network: Network,
    pub(super) metrics: Metrics,
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
    pub(super) _socket: local_api::Server,
    /// Links as the applier last saw them.
    pub(super) tunnels: BTreeMap<NodePublic, Link>,
    pub(super) peer_of_link: HashMap<u32, NodePublic>,
    pub(super) addresses: Vec<LocalAddress>,
    /// When to look at the host's addresses, after something changed.
    pub(super) look_at_network: Option<Instant>,
    /// The host's addresses, and the router that may be asked for a port.
    pub(super) host_network: Offloaded<(Addresses, Option<portmap::Network>)>,
    /// Whether something could not be sent for want of a route.
    pub(super) lacked_route: bool,
    pub(super) coordinator_up: bool,
    pub(super) kernel_failures: u64,
}

impl Daemon {
    /// Runs until a signal or `gretun down`.
    ///
    /// Packets that have arrived are handled before time is let pass: after a stall, the answer to a probe lies in the socket
    /// when the probe's deadline is over.
    ///
    /// # Errors
    /// When the kernel closes a socket under the daemon.
    pub async fn run(mut self) -> Result<Ended, DaemonError> {
        let mut watchdog = watchdog();
        notify(NotifyState::Ready);
        loop {
            self.take_waiting_packets()?;
            self.let_time_pass();
            self.drain_outputs();
            let deadline = self.node.poll_timeout();
            tokio::select! {
                received = self.port.recv() => self.handle_datagram(&received.map_err(DaemonError::Port)?),
                probe = self.probes.recv() => {
                    let (link, data) = probe.map_err(DaemonError::Probes)?;
                    self.handle_probe(link, &data);
                }
                // The next turn lets time pass, after the packets.
                () = sleep_until(deadline.map(|(at, _)| at)) => {}
                Some(event) = self.coordinator_events.recv() => self.handle_coordinator(event),
                applied = self.applied.recv() => match applied {
                    Some(applied) => self.handle_applied(applied),
                    None => return Err(DaemonError::Applier),
                },
                Some(servers) = self.stun_servers.recv() => {
                    debug!(?servers, "STUN servers");
                    self.node.handle_stun_servers(Instant::now(), servers);
                }
                status = port_mapping_status::changed(&mut self.port_mapping) => self.handle_router_port(&status),
                Some(change) = self.changes.next() => self.look_at_network_after(change),
                () = sleep_until(self.look_at_network.filter(|_| !self.host_network.is_asking())) => self.read_host_network(),
                Some((addresses, router)) = self.host_network.answer() => self.handle_host_network(addresses, router),
                Some(query) = self.queries.recv() => {
                    if self.answer(query).await {
                        return Ok(Ended::Down);
                    }
                }
                () = tick(&mut watchdog) => notify(NotifyState::Watchdog),
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
            }
        }
        info!("stopping; the tunnels stay up (`gretun down` removes them)");
        notify(NotifyState::Stopping);
        Ok(Ended::Stopped)
    }

    fn look_at_network_after(&mut self, change: NetChange) {
        let is_urgent = change.links || change.addresses || self.lacked_route;
        let settle = if is_urgent {
            CHANGE_SETTLE
        } else {
            ROUTES_SETTLE
        };
        let at = Instant::now() + settle;
        self.look_at_network = Some(self.look_at_network.map_or(at, |before| before.min(at)));
    }

    fn take_waiting_packets(&mut self) -> Result<(), DaemonError> {
        for _ in 0..RECEIVE_BATCH {
            let Some(received) = self.port.try_recv().map_err(DaemonError::Port)? else {
                break;
            };
            self.handle_datagram(&received);
        }
        for _ in 0..RECEIVE_BATCH {
            let Some((link, data)) = self.probes.try_recv().map_err(DaemonError::Probes)? else {
                break;
            };
            self.handle_probe(link, &data);
        }
        Ok(())
    }

    fn let_time_pass(&mut self) {
        let now = Instant::now();
        if let Some((_, reason)) = self.node.poll_timeout().filter(|(at, _)| *at <= now) {
            trace!(reason, "timeout");
            self.node.handle_timeout(now);
        }
    }
}

impl Daemon {
    /// Carries out what the node decided.
    pub(super) fn drain_outputs(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send {
                    local,
                    port,
                    to,
                    data,
                } => {
                    if let Err(error) = self.port.send(local, port, to, &data) {
                        // A candidate in a network that this host cannot reach; others are tried at the same time. Or all of them, while
                        // the host has an address and no route yet.
                        let errno = error.raw_os_error();
                        self.lacked_route |=
                            matches!(errno, Some(libc::ENETUNREACH | libc::EHOSTUNREACH));
                        trace!(%to, %error, "datagram not sent");
                    }
                }
                Output::ListenOnExtraPorts(listen) => {
                    let extra = listen.then_some(EXTRA_PORTS);
                    if let Err(error) = self.port.listen_on_extra_ports(extra) {
                        warn!(%error, "the ports of a port search cannot be listened to");
                    }
                }
                Output::SendThroughTunnel { peer, data } => self.send_through_tunnel(peer, &data),
                Output::Signal { to, sealed } => self.coordinator.signal(to, &sealed),
                Output::PublishEndpoints(latest) => self.coordinator.publish(latest),
                Output::SetTunnel { peer, tunnel } => {
                    self.wanted.send_modify(|all| {
                        all.insert(peer, tunnel);
                    });
                }
                Output::RemoveTunnel { peer } => {
                    self.wanted.send_modify(|all| {
                        all.remove(&peer);
                    });
                }
                Output::KeepInterfaceNumbers => {
                    let numbers = self.node.interface_numbers().clone();
                    self.writer.write(Content::InterfaceNumbers(numbers));
                }
                Output::StateChange {
                    name,
                    from,
                    to,
                    after,
                    reason,
                    ..
                } => {
                    info!(peer = name, %from, %to, after_ms = after.as_millis(), %reason, "peer state");
                    if (from, to) == (State::Punching, State::Direct) {
                        self.metrics.hole_punched(after.as_secs_f64());
                    }
                    if let Some(port_mapping) = &self.port_mapping
                        && from == State::Direct
                    {
                        port_mapping.doubt();
                    }
                }
                Output::VerdictChange {
                    name,
                    state,
                    reason,
                    ..
                } => info!(peer = name, %state, %reason, "peer verdict"),
            }
        }
    }

    fn send_through_tunnel(&self, peer: NodePublic, data: &[u8]) {
        match self.tunnels.get(&peer) {
            Some(link) => {
                if let Err(error) = self.probes.send(link.index, data) {
                    debug!(interface = link.name, %error, "probe not sent");
                }
            }
            None => trace!(%peer, "probe not sent: the tunnel is not there yet"),
        }
    }

    fn handle_datagram(&mut self, received: &Received) {
        if self.peer_of_link.contains_key(&received.device) {
            return self.node.count_drop(DropReason::ThroughTunnel);
        }
        let (local, from) = (received.local, received.from);
        self.node
            .handle_datagram(Instant::now(), local, from, &received.data);
    }

    fn handle_probe(&mut self, link: u32, data: &[u8]) {
        match self.peer_of_link.get(&link) {
            Some(&peer) => self.node.handle_data_probe(Instant::now(), peer, data),
            None => self.node.count_drop(DropReason::NoTunnel),
        }
    }

    fn handle_coordinator(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Registered(RegisterResponse {
                tunnel_ips,
                networks,
                stun_ports,
                peers,
                ..
            }) => {
                self.set_coordinator_up(true);
                if self.config.stun_servers.is_empty() {
                    let host = self.config.coordinator.host();
                    let names = stun_servers::at_host(host, &stun_ports);
                    self.stun_names.send_if_modified(|current| {
                        let changed = *current != names;
                        *current = names;
                        changed
                    });
                }
                self.node
                    .handle_own_addresses(tunnel_ips.clone(), networks.clone());
                self.network = Network {
                    tunnel_ips,
                    networks,
                    stun_ports,
                    peers: Vec::new(),
                };
                self.handle_peers(peers.peers);
            }
            Event::Peers(list) => self.handle_peers(list.peers),
            Event::Signal { from, sealed } => self.node.handle_signal(now, from, &sealed),
            Event::BadSignal => self.node.count_drop(DropReason::Malformed),
            Event::Lost => self.set_coordinator_up(false),
        }
    }

    fn set_coordinator_up(&mut self, is_up: bool) {
        self.coordinator_up = is_up;
        self.node.handle_coordinator(is_up);
    }

    /// The whole list of peers, as the coordinator just said.
    fn handle_peers(&mut self, peers: Vec<PeerRecord>) {
        self.node.handle_peers(Instant::now(), &peers);
        self.network.peers = peers;
        self.writer.write(Content::Network(self.network.clone()));
    }

    fn handle_applied(&mut self, applied: Applied) {
        let now = Instant::now();
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

    /// Addresses, links or routes changed: has them read on another thread.
    pub(super) fn read_host_network(&mut self) {
        self.look_at_network = None;
        let kernel = self.kernel.clone();
        let asks_router = self.port_mapping.is_some();
        self.host_network.ask(move || {
            let router = asks_router.then(|| port_mapping::network(&kernel));
            (source_addresses(&kernel), router.flatten())
        });
    }

    /// Tells the node which source addresses there are now.
    fn handle_host_network(&mut self, addresses: Addresses, router: Option<portmap::Network>) {
        if let Some(port_mapping) = &self.port_mapping {
            port_mapping.look_at(router);
        }
        let addresses = match addresses {
            Ok(addresses) => addresses,
            Err(error) => {
                warn!(error = %chain(&error), "the host's addresses cannot be read; they are read again in a moment");
                self.look_at_network = Some(Instant::now() + ADDRESSES_RETRY);
                return;
            }
        };
        if addresses != self.addresses {
            info!(?addresses, "local addresses changed");
            self.addresses.clone_from(&addresses);
            self.node.handle_local_addresses(Instant::now(), addresses);
            self.coordinator.reconnect();
        } else if std::mem::take(&mut self.lacked_route) {
            self.node.handle_route_change(Instant::now());
            if !self.coordinator_up {
                self.coordinator.reconnect();
            }
        }
    }
}

/// The host's addresses, or why they cannot be read.
pub(super) type Addresses = Result<Vec<LocalAddress>, KernelError>;

/// The addresses that packets to peers can leave from.
pub(super) fn source_addresses(kernel: &Kernel) -> Addresses {
    let mut addresses: Vec<LocalAddress> = kernel
        .local_addresses()?
        .into_iter()
        .map(|address| LocalAddress {
            link: match address.link {
                kernel::LinkKind::Network => LinkKind::Network,
                kernel::LinkKind::Bridge => LinkKind::Bridge,
                kernel::LinkKind::Overlay => LinkKind::Overlay,
            },
            ip: address.ip,
            prefix_len: address.prefix_len,
            is_published: address.is_lasting,
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Tells the service manager; without one there is nobody to tell, and that is no error.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        debug!(%error, "the service manager cannot be told");
    }
}

/// Ticks twice in the service manager's watchdog time; never where there is none.
fn watchdog() -> Option<tokio::time::Interval> {
    let timeout = sd_notify::watchdog_enabled()?;
    Some(tokio::time::interval(timeout / 2))
}

async fn tick(watchdog: &mut Option<tokio::time::Interval>) {
    match watchdog {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}
