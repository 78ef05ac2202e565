//! The event loop: one task owns the node; everything else sends it events and takes its outputs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use ipnet::IpNet;
use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, trace, warn};

use super::applier::{self, Applied, DesiredTunnel, DesiredTunnels};
use super::metrics::{Gauges, Metrics};
use super::port_mapping;
use super::port_mapping_status;
use super::settings::Config;
use super::state_dir::{InterfaceNumbers, Network, StateDir};
use super::{DaemonError, Ended, sleep_until, stun_servers, teardown};
use crate::coordinator::{self, Event};
use crate::error::chain;
use crate::kernel::probe_socket::ProbeSocket;
use crate::kernel::raw_port::{RawPort, Received};
use crate::kernel::{Kernel, NetChange};
use crate::local_api::{self, DaemonNetView, PeerView, Query, Request, StunView};
use crate::node::{EXTRA_PORTS, Node, Output, Path, State, TunnelReport};
use crate::portmap::Lease;
use crate::proto::api::{PeerRecord, RegisterResponse};
use crate::proto::keys::NodePublic;

/// Address and link changes come in bursts; they are looked at together this long after the first.
const CHANGE_SETTLE: Duration = Duration::from_millis(20);

/// Datagrams handled between two looks at everything else.
const RECEIVE_BATCH: usize = 64;

/// Time for the last answer to reach its client.
const ANSWER_GRACE: Duration = Duration::from_millis(50);

/// The running daemon.
pub struct Daemon {
    pub(super) config: Config,
    pub(super) state: StateDir,
    pub(super) own: NodePublic,
    pub(super) node: Node,
    pub(super) kernel: Kernel,
    pub(super) port: RawPort,
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
    pub(super) wanted: watch::Sender<DesiredTunnels>,
    pub(super) applied: mpsc::Receiver<Applied>,
    pub(super) network: Network,
    pub(super) links: InterfaceNumbers,
    pub(super) metrics: Metrics,
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
    pub(super) _socket: local_api::Server,
    /// Links as the applier last saw them.
    pub(super) tunnels: BTreeMap<NodePublic, applier::Link>,
    pub(super) peer_of_link: HashMap<u32, NodePublic>,
    pub(super) addresses: Vec<IpAddr>,
    /// When to look at the host's addresses, after something changed.
    pub(super) look_at_network: Option<Instant>,
    /// Whether something could not be sent for want of a route.
    pub(super) lacked_route: bool,
    pub(super) coordinator_up: bool,
    pub(super) kernel_failures: u64,
}

impl Daemon {
    /// Runs until a signal or `gretun down`.
    ///
    /// # Errors
    /// When tunnels cannot be removed on `down`, or the kernel closes a socket under the daemon.
    pub async fn run(mut self) -> Result<Ended, DaemonError> {
        let mut watchdog = watchdog();
        notify(NotifyState::Ready);
        loop {
            self.drain_outputs();
            let deadline = self.node.poll_timeout();
            tokio::select! {
                received = self.port.recv() => self.receive(received.map_err(DaemonError::Port)?)?,
                probe = self.probes.recv() => {
                    let (link, data) = probe.map_err(DaemonError::Probes)?;
                    self.handle_probe(link, &data);
                }
                () = sleep_until(deadline.map(|(at, _)| at)) => {
                    trace!(reason = deadline.map(|(_, reason)| reason), "timeout");
                    self.node.handle_timeout(Instant::now());
                }
                Some(event) = self.coordinator_events.recv() => self.handle_coordinator(event),
                Some(applied) = self.applied.recv() => self.handle_applied(applied),
                Some(servers) = self.stun_servers.recv() => {
                    debug!(?servers, "STUN servers");
                    self.node.handle_stun_servers(Instant::now(), servers);
                }
                status = port_mapping_status::changed(&mut self.port_mapping) => self.handle_router_port(&status),
                Some(_) = self.changes.next() => {
                    self.look_at_network.get_or_insert_with(|| Instant::now() + CHANGE_SETTLE);
                }
                () = sleep_until(self.look_at_network) => self.handle_network_change().await?,
                Some(query) = self.queries.recv() => {
                    if self.answer(query).await? {
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
}

impl Daemon {
    /// Carries out what the node decided.
    fn drain_outputs(&mut self) {
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
                Output::SetTunnel {
                    peer,
                    number,
                    path,
                    gre_key,
                    path_mtu,
                    overlap,
                } => self.want_tunnel(peer, number, (path, overlap), gre_key, path_mtu),
                Output::RemoveTunnel { peer } => {
                    self.wanted.send_modify(|all| {
                        all.remove(&peer);
                    });
                }
                Output::StateChange {
                    peer,
                    from,
                    to,
                    after,
                    reason,
                } => {
                    let name = self.peer_name(peer);
                    info!(peer = name, %from, %to, after_ms = after.as_millis(), cause = reason, "peer state");
                    if (from, to) == (State::Punching, State::Direct) {
                        self.metrics.hole_punched(after.as_secs_f64());
                    }
                    if let Some(port_mapping) = &self.port_mapping
                        && from == State::Direct
                    {
                        port_mapping.doubt();
                    }
                }
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

    /// Tells the applier how this peer's tunnel should be.
    fn want_tunnel(
        &mut self,
        peer: NodePublic,
        number: u64,
        (path, overlap): (Path, Option<Path>),
        gre_key: u32,
        path_mtu: Option<u16>,
    ) {
        let Some(record) = self
            .network
            .peers
            .iter()
            .find(|record| record.node_key == peer)
        else {
            debug!(%peer, "no tunnel: the peer is not in the network any more");
            return;
        };
        let (index, is_new) = self.links.index(peer);
        if is_new && let Err(error) = self.state.save_links(&self.links) {
            warn!(error = %chain(&error), "link indices cannot be kept; interface names may change at the next start");
        }
        let mut wanted = DesiredTunnel {
            number,
            path,
            overlap,
            path_mtu,
            gre_key,
            name: self.config.iface.name(index),
            alt_name: String::new(),
            routes: Vec::new(),
            snat: Vec::new(),
            own_ips: Vec::new(),
            peer_ips: Vec::new(),
        };
        inner_side(&mut wanted, record, &self.network.tunnel_ips, &self.config);
        self.wanted.send_modify(|all| {
            all.insert(peer, wanted);
            share_out_routes(all);
        });
    }

    /// Takes one datagram and what else is waiting, up to a batch.
    fn receive(&mut self, first: Received) -> Result<(), DaemonError> {
        let now = Instant::now();
        let mut next = Some(first);
        for _ in 0..RECEIVE_BATCH {
            let Some(received) = next else { break };
            if self.peer_of_link.contains_key(&received.device) {
                // A path to a peer must not lead through a tunnel.
                trace!(from = %received.from, "datagram dropped: it came through a tunnel");
                next = self.port.try_recv().map_err(DaemonError::Port)?;
                continue;
            }
            self.node
                .handle_datagram(now, received.local, received.from, &received.data);
            next = self.port.try_recv().map_err(DaemonError::Port)?;
        }
        Ok(())
    }

    fn handle_probe(&mut self, link: u32, data: &[u8]) {
        match self.peer_of_link.get(&link) {
            Some(&peer) => self.node.handle_data_probe(Instant::now(), peer, data),
            None => trace!(link, "probe dropped: not one of our tunnels"),
        }
    }

    fn handle_coordinator(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Registered(RegisterResponse {
                tunnel_ips,
                stun_ports,
                peers,
                ..
            }) => {
                self.coordinator_up = true;
                self.network.tunnel_ips = tunnel_ips;
                self.network.stun_ports = stun_ports;
                if self.config.stun_servers.is_empty() {
                    let names = stun_servers::at_host(
                        self.config.coordinator.host(),
                        &self.network.stun_ports,
                    );
                    self.stun_names.send_if_modified(|current| {
                        let changed = *current != names;
                        *current = names;
                        changed
                    });
                }
                self.handle_peers(peers.peers);
            }
            Event::Peers(list) => self.handle_peers(list.peers),
            Event::Signal { from, sealed } => self.node.handle_signal(now, from, &sealed),
            Event::Lost => self.coordinator_up = false,
        }
    }

    /// The whole list of peers, as the coordinator just said.
    fn handle_peers(&mut self, mut peers: Vec<PeerRecord>) {
        peers.retain(|peer| peer.node_key != self.own);
        self.network.peers = peers;
        self.node.handle_peers(Instant::now(), &self.network.peers);
        if let Err(error) = self.state.save_network(&self.network) {
            warn!(error = %chain(&error), "the list of peers cannot be kept; a start without the coordinator would find none");
        }
        let known: HashSet<NodePublic> = self
            .network
            .peers
            .iter()
            .map(|peer| peer.node_key)
            .collect();
        self.links.retain(|peer| known.contains(peer));
        // Names and addresses may have changed; the node tells by itself of peers that left.
        let (own_ips, records, config) =
            (&self.network.tunnel_ips, &self.network.peers, &self.config);
        self.wanted.send_if_modified(|all| {
            let before = all.clone();
            for record in records {
                if let Some(wanted) = all.get_mut(&record.node_key) {
                    inner_side(wanted, record, own_ips, config);
                }
            }
            share_out_routes(all);
            *all != before
        });
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
            } => {
                self.kernel_failures += 1;
                warn!(peer = self.peer_name(peer), %path, error, "tunnel cannot be set up");
                self.node
                    .handle_tunnel(now, peer, TunnelReport::Failed { number, error });
            }
            Applied::Removed { peer } => {
                self.peer_of_link.retain(|_, other| *other != peer);
                self.tunnels.remove(&peer);
            }
        }
    }

    /// Addresses, links or routes changed: tell the node which source addresses there are now.
    async fn handle_network_change(&mut self) -> Result<(), DaemonError> {
        self.look_at_network = None;
        if let Some(port_mapping) = &self.port_mapping {
            port_mapping.look_at(port_mapping::network(&self.kernel).await);
        }
        let addresses = source_addresses(&self.kernel).await?;
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
        Ok(())
    }

    /// Answers one query; true when it was `down` and everything is gone.
    async fn answer(&mut self, query: Query) -> Result<bool, DaemonError> {
        let is_down = query.request == Request::Down;
        let value = match query.request {
            Request::Peers => serde_json::json!(self.peer_views().await?),
            Request::Stun => serde_json::json!(
                self.node
                    .stun_answers()
                    .map(|(server, endpoint)| StunView { server, endpoint })
                    .collect::<Vec<_>>()
            ),
            Request::Explain(peer) => serde_json::json!(self.explain(&peer)),
            Request::Paths(peer) => serde_json::json!(self.paths(&peer)),
            Request::Ping(peer) => serde_json::json!(self.ping(&peer)),
            Request::Net => serde_json::json!(DaemonNetView {
                port: self.config.port,
                mapping: self.node.nat_mapping(),
                servers: self.node.stun_servers().collect(),
                coordinator: self.config.coordinator.base().to_owned(),
                state_dir: self.config.state_dir.clone(),
                port_mapping: self.router_port_view(),
            }),
            Request::Metrics => serde_json::Value::String(
                self.metrics.render(&self.gauges(), self.node.counters())?,
            ),
            Request::Down => {
                info!("taking the tunnels down");
                let extra = self.state.extra_ports();
                teardown::remove_all(&self.kernel, self.own, self.config.port, &extra).await?;
                if let Some(port_mapping) = &self.port_mapping {
                    port_mapping.give_back().await;
                    self.state.save_router_port(None)?;
                }
                serde_json::Value::Null
            }
        };
        // A client that did not wait for its answer has no use for it.
        let _ = query.answer.send(value);
        if is_down {
            // The answer is written by another task of this runtime.
            tokio::time::sleep(ANSWER_GRACE).await;
        }
        Ok(is_down)
    }

    fn gauges(&self) -> Gauges {
        Gauges {
            states: self
                .node
                .status()
                .iter()
                .map(|status| status.state)
                .collect(),
            coordinator_up: self.coordinator_up,
            router_port: self.has_router_port(),
            receive_overruns: self.port.overruns(),
            kernel_failures: self.kernel_failures,
        }
    }

    async fn peer_views(&self) -> Result<Vec<PeerView>, DaemonError> {
        let observed = self.kernel.links_without_routes().await?.tunnels;
        let views = self.node.status().into_iter().map(|status| {
            let link = self
                .tunnels
                .get(&status.node_key)
                .and_then(|link| observed.iter().find(|tunnel| tunnel.index == link.index));
            PeerView {
                name: status.name,
                node_key: status.node_key,
                tunnel_ips: status.tunnel_ips,
                state: status.state.to_string(),
                reason: status.reason,
                via: status.via.map(|via| via.to_string()),
                endpoint: status.path.map(|path| path.remote),
                interface: link.map(|link| link.state.link.name.clone()),
                rtt_ms: status.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
                mtu: link.map(|link| link.state.link.mtu),
                rx_bytes: link.map_or(0, |link| link.counters.rx_bytes),
                tx_bytes: link.map_or(0, |link| link.counters.tx_bytes),
                since: rfc3339(status.since),
            }
        });
        Ok(views.collect())
    }

    /// The peer's name for the log; its key where the name is not known.
    fn peer_name(&self, peer: NodePublic) -> String {
        let record = self
            .network
            .peers
            .iter()
            .find(|record| record.node_key == peer);
        record.map_or_else(|| peer.to_string(), |record| record.name.clone())
    }
}

/// Fills in what does not depend on the path: names, addresses, routes. A network that the peer's own packets travel
/// to, or that this host offers itself, is not routed into the tunnel.
fn inner_side(
    wanted: &mut DesiredTunnel,
    record: &PeerRecord,
    own_ips: &[IpAddr],
    config: &Config,
) {
    let remote = wanted.path.remote.ip();
    let overlaps = |route: &IpNet| {
        let mut own = config.advertise_routes.iter();
        own.any(|network| network.contains(route) || route.contains(network))
    };
    let offered = record.routes.iter().filter(|_| config.accept_routes);
    let usable = offered
        .filter(|route| route.prefix_len() > 0 && !route.contains(&remote) && !overlaps(route));
    wanted.routes = usable.copied().collect();
    wanted.snat = if config.snat_routes {
        config.advertise_routes.clone()
    } else {
        Vec::new()
    };
    wanted.alt_name.clone_from(&record.name);
    wanted.own_ips = own_ips.to_vec();
    wanted.peer_ips.clone_from(&record.tunnel_ips);
}

/// One network, one way: where several peers offer the same, the first by node key has it.
fn share_out_routes(all: &mut DesiredTunnels) {
    let mut taken = HashSet::new();
    for wanted in all.values_mut() {
        wanted.routes.retain(|&route| taken.insert(route));
    }
}

/// The addresses that packets to peers can leave from.
pub(super) async fn source_addresses(kernel: &Kernel) -> Result<Vec<IpAddr>, DaemonError> {
    let mut addresses: Vec<IpAddr> = kernel
        .local_addresses()
        .await?
        .into_iter()
        .map(|address| address.ip)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// A point of the monotonic clock on the wall clock.
fn rfc3339(instant: Instant) -> String {
    let at = SystemTime::now()
        .checked_sub(instant.elapsed())
        .unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
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
