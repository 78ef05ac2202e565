//! The start of the daemon: everything that can fail, in an order in which a failure leaves nothing behind.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt as _;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use super::conductor::{self, Conductor, Found};
use super::event_loop::{Daemon, Sockets, source_addresses};
use super::metrics::{Metrics, MetricsError};
use super::metrics_server::{self, MetricsServerError};
use super::offloaded::Offloaded;
use super::port_mapping;
use super::settings::Config;
use super::state_dir::{StateDir, StateError};
use super::state_writer::StateWriter;
use super::stun_servers;
use super::teardown::TeardownError;
use crate::applier::desired::ListenPort;
use crate::applier::owner_alias::OwnerAlias;
use crate::applier::thread::LinkChanges;
use crate::applier::{machine, thread};
use crate::coordinator::{self, ClientError, Registration};
use crate::error::{Kind, UserError, chain};
use crate::kernel::host::preflight::{self, PreflightError};
use crate::kernel::packet::discovery_socket::DiscoverySocket;
use crate::kernel::packet::probe_socket::ProbeSocket;
use crate::kernel::tunnel::dump::ObservedTunnel;
use crate::kernel::tunnel::fou::{Added, Family};
use crate::kernel::{Kernel, KernelError};
use crate::local_api::{LocalApiError, Server};
use crate::node::{
    DesiredTunnel, EXTRA_PORTS, Inside, NetworkSettings, Node, NodeConfig, Outside, Path,
};
use crate::portmap::Lease;
use crate::proto::keys::{DiscoSecret, NodePublic};
use crate::tunnel::mtu;
use crate::tunnel::state::TunnelState;

/// Events waiting for the event loop, of any one kind, before their senders wait.
const QUEUE: usize = 64;

/// Opens everything. The FOU ports, the only thing that would outlive a failure, are taken back in one.
pub async fn start(config: Config) -> Result<Daemon, DaemonError> {
    preflight::check(&preflight::OVERLAY)?;
    let has_ipv6 = preflight::check(&preflight::OVERLAY_IPV6);
    if let Err(error) = &has_ipv6 {
        info!(%error, "no tunnels over IPv6");
    }
    let state = StateDir::open(&config.state_dir)?;
    let kernel = Kernel::open()?;
    let mut made = Vec::new();
    let mut families = vec![Family::V4];
    families.extend(has_ipv6.is_ok().then_some(Family::V6));
    for &family in &families {
        match kernel.add_fou(config.port, family) {
            Ok(Added::Made) => made.push(family),
            Ok(Added::Found) => {
                debug!(port = config.port, ?family, "the FOU port is there already")
            }
            Err(error) => {
                take_back(&kernel, config.port, &made);
                return Err(DaemonError::FouPort {
                    port: config.port,
                    source: error,
                });
            }
        }
    }
    let port = config.port;
    match open(config, state, kernel.clone(), families).await {
        Ok(daemon) => Ok(daemon),
        Err(error) => {
            take_back(&kernel, port, &made);
            Err(error)
        }
    }
}

fn take_back(kernel: &Kernel, port: u16, made: &[Family]) {
    for &family in made {
        if let Err(error) = kernel.delete_fou(port, family) {
            warn!(%error, "the FOU port stays");
        }
    }
}

async fn open(
    config: Config,
    state: StateDir,
    kernel: Kernel,
    families: Vec<Family>,
) -> Result<Daemon, DaemonError> {
    let identity = state.identity()?;
    let own = identity.node.public();
    let (queries_tx, queries) = mpsc::channel(QUEUE);
    let socket = Server::start(&config.socket, queries_tx.clone())?;
    if let Some(address) = config.metrics_addr {
        metrics_server::start(address, queries_tx)?;
    }
    let port = DiscoverySocket::open(config.port).map_err(DaemonError::Port)?;
    let probes = ProbeSocket::open().map_err(DaemonError::Probes)?;
    let now = Instant::now();
    let node = node(&config, &state, own, identity.disco.clone())?;
    let mut links_there = kernel.links()?;
    kernel.add_snat(&mut links_there);
    let tunnels = links_there.tunnels.iter();
    let found = Found {
        addresses: source_addresses(&kernel)?,
        tunnels: tunnels
            .filter_map(|tunnel| adopt(tunnel, own, config.port))
            .collect(),
        network: state.network(),
        lease: state.router_port(),
    };
    info!(node = %own, addresses = ?found.addresses, port = config.port, "starting");
    let asks_coordinator = config.stun_servers.is_empty();
    let conductor_settings = conductor::Settings {
        stun_host: asks_coordinator.then(|| config.coordinator.host().to_owned()),
    };
    let port_mapping = port_mapping(&config, &state, found.lease.clone())?;
    let conductor = Conductor::new(now, node, conductor_settings, found);
    let (stun_names, names) = watch::channel(config.stun_servers.clone());
    let (stun_found, stun_servers) = mpsc::channel(QUEUE);
    tokio::spawn(stun_servers::resolve(names, stun_found));
    let (coordinator_tx, coordinator_events) = mpsc::channel(QUEUE);
    let registration = Registration {
        url: config.coordinator.clone(),
        node: Arc::new(identity.node),
        disco: identity.disco.public(),
        name: config.node_name.clone(),
        routes: config.advertise_routes.clone(),
        auth_key_file: config.auth_key_file.clone(),
    };
    let coordinator = coordinator::start(registration, coordinator_tx)?;
    let (applied_tx, applied) = mpsc::unbounded_channel();
    let extra_ports = state.extra_ports();
    let noted = extra_ports.load();
    // Without the note a port may be left open one day; without the port there would be no tunnel now.
    let note_ports = Box::new(move |ports: &BTreeSet<ListenPort>| {
        if let Err(error) = extra_ports.save(ports) {
            warn!(%error, "extra FOU ports cannot be noted");
        }
    });
    let applier_config = machine::Config {
        own,
        port: config.port,
        families,
    };
    let wanted = thread::start(applier_config, noted, note_ports, applied_tx)?;
    let link_changes = wanted.link_changes();
    watch_nftables(wanted.link_changes());
    let changes = Kernel::watch()?.inspect(move |change| {
        if change.links {
            link_changes.notify();
        }
    });
    let mut daemon = Daemon {
        writer: StateWriter::start(&state).map_err(DaemonError::Runtime)?,
        state,
        own,
        conductor,
        kernel,
        sockets: Sockets { port, probes },
        coordinator,
        coordinator_events,
        stun_names,
        stun_servers,
        port_mapping,
        changes: changes.boxed(),
        queries,
        wanted,
        applied,
        metrics: Metrics::new()?,
        terminate: signal(SignalKind::terminate()).map_err(DaemonError::Runtime)?,
        interrupt: signal(SignalKind::interrupt()).map_err(DaemonError::Runtime)?,
        _socket: socket,
        host_network: Offloaded::new(),
        config,
    };
    // The applier removes tunnels that nobody asks for, so those that were found are asked for before it begins.
    daemon.carry_out();
    daemon.wanted.begin();
    Ok(daemon)
}

/// A node that knows nothing yet but its own keys and settings.
fn node(
    config: &Config,
    state: &StateDir,
    own: NodePublic,
    disco: DiscoSecret,
) -> Result<Node, DaemonError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|_| StateError::Randomness)?;
    Ok(Node::new(NodeConfig {
        node_key: own,
        disco,
        port: config.port,
        aggressive_punch: config.aggressive_punch,
        network: NetworkSettings {
            iface: config.iface.clone(),
            advertise_routes: config.advertise_routes.clone(),
            accept_routes: config.accept_routes,
            snat_routes: config.snat_routes,
        },
        interface_numbers: state.interface_numbers(),
        seed,
    }))
}

/// Has the applier look whenever somebody changes gretun's table, such as by `nft flush ruleset`.
fn watch_nftables(changes: LinkChanges) {
    match Kernel::watch_nftables() {
        Ok(watch) => drop(changes.follow(watch)),
        Err(error) => {
            warn!(error = %chain(&error), "rules that somebody removes come back only with the next change of a link");
        }
    }
}

/// Begins to ask the router for a port; or gives back what an earlier run was granted, where it is not to be asked any more.
fn port_mapping(
    config: &Config,
    state: &StateDir,
    before: Option<Lease>,
) -> Result<Option<port_mapping::Handle>, DaemonError> {
    if config.port_mapping {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|_| StateError::Randomness)?;
        return Ok(Some(port_mapping::start(config.port, before, seed)));
    }
    if let Some(lease) = before {
        tokio::spawn(port_mapping::give_back(lease));
        if let Err(error) = state.save_router_port(None) {
            warn!(error = %chain(&error), "the next start gives the router's port back once more");
        }
    }
    Ok(None)
}

/// Reads the desired state off a tunnel of ours, so that the applier leaves it exactly as it is until the node knows better.
fn adopt(
    tunnel: &ObservedTunnel,
    own: NodePublic,
    port: u16,
) -> Option<(NodePublic, DesiredTunnel)> {
    let mark = OwnerAlias::of(tunnel).filter(|mark| mark.is_of(own) && !mark.is_overlap)?;
    let is_own_port = |sport| sport == port || EXTRA_PORTS.contains(&sport);
    let TunnelState {
        link,
        alt_names,
        addresses,
        routes,
        snat,
    } = &tunnel.state;
    let udp = link.encap.udp().filter(|udp| is_own_port(udp.sport))?;
    let path = Path {
        local: link.local?,
        port: udp.sport,
        remote: (link.remote?, udp.dport).into(),
    };
    let path_mtu = link.mtu + mtu::overhead(link.mode, link.encap, link.ikey.is_some());
    let outside = Outside {
        number: 0,
        path,
        overlap: None,
        path_mtu: Some(u16::try_from(path_mtu).unwrap_or(u16::MAX)),
        gre_key: link.ikey?,
    };
    let peer_ips = addresses.iter().filter_map(|address| address.peer);
    let inside = Inside {
        name: link.name.clone(),
        alt_name: alt_names.first().cloned().unwrap_or_default(),
        own_ips: addresses.iter().map(|address| address.net.addr()).collect(),
        peer_ips: peer_ips.collect(),
        routes: routes.iter().map(|route| route.network).collect(),
        snat: snat.clone(),
    };
    let wanted = DesiredTunnel { outside, inside };
    Some((mark.peer, wanted))
}

/// Why the daemon did not start, or ended.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// A capability or a module is missing.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The tunnels cannot be removed.
    #[error(transparent)]
    Teardown(#[from] TeardownError),
    /// The applier's thread is gone.
    #[error("the thread that sets up tunnels has ended")]
    Applier,
    /// The FOU port cannot be had.
    #[error("UDP port {port} cannot carry the tunnels")]
    FouPort {
        /// The port.
        port: u16,
        /// The kernel's answer.
        source: KernelError,
    },
    /// The raw sockets of the data port.
    #[error("the data port cannot be used for discovery")]
    Port(#[source] io::Error),
    /// The packet socket of the probes.
    #[error("no probes can be sent through tunnels")]
    Probes(#[source] io::Error),
    /// The local API socket.
    #[error(transparent)]
    LocalApi(#[from] LocalApiError),
    /// The metrics address.
    #[error(transparent)]
    MetricsServer(#[from] MetricsServerError),
    /// The metrics library.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The coordinator's client.
    #[error(transparent)]
    Coordinator(#[from] ClientError),
    /// The process cannot get what every daemon needs.
    #[error("the daemon cannot run")]
    Runtime(#[source] io::Error),
}

impl UserError for DaemonError {
    fn kind(&self) -> Kind {
        match self {
            DaemonError::Preflight(error) => error.kind(),
            DaemonError::State(error) => error.kind(),
            DaemonError::Kernel(error) => error.kind(),
            DaemonError::Teardown(error) => error.kind(),
            DaemonError::FouPort { source, .. } => source.kind(),
            DaemonError::LocalApi(error) => error.kind(),
            DaemonError::MetricsServer(error) => error.kind(),
            DaemonError::Port(error) | DaemonError::Probes(error)
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                Kind::Environment
            }
            _ => Kind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            DaemonError::Preflight(error) => error.hint(),
            DaemonError::State(error) => error.hint(),
            DaemonError::Kernel(error) => error.hint(),
            DaemonError::Teardown(error) => error.hint(),
            DaemonError::FouPort { port, source } if source.errno() == Some(libc::EADDRINUSE) => {
                Some(format!(
                    "`ss -ulpn 'sport = :{port}'` shows who has it; choose another with --fou-port"
                ))
            }
            DaemonError::FouPort { source, .. } => source.hint(),
            DaemonError::LocalApi(error) => error.hint(),
            DaemonError::MetricsServer(error) => error.hint(),
            DaemonError::Port(_) | DaemonError::Probes(_) => Some(
                "raw and packet sockets need CAP_NET_RAW and must not be denied by a sandbox"
                    .to_owned(),
            ),
            DaemonError::Applier
            | DaemonError::Metrics(_)
            | DaemonError::Coordinator(_)
            | DaemonError::Runtime(_) => None,
        }
    }
}

#[cfg(test)]
#[path = "startup_tests.rs"]
mod tests;
