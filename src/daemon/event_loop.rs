//! The event loop: one task owns the node; everything else sends it events and takes its outputs.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, info_span, trace, warn};

use super::conductor::{Act, Conductor, HostView};
use super::metrics::Metrics;
use super::offloaded::Offloaded;
use super::port_mapping;
use super::port_mapping_status;
use super::settings::Config;
use super::state_dir::StateDir;
use super::state_writer::StateWriter;
use super::{DaemonError, Ended, sleep_until};
use crate::applier::machine::Applied;
use crate::applier::thread;
use crate::coordinator::{self, Event};
use crate::error::chain;
use crate::kernel::packet::discovery_socket::{DiscoverySocket, Received};
use crate::kernel::packet::probe_socket::ProbeSocket;
use crate::kernel::{self, Kernel, KernelError, NetChange};
use crate::local_api::{self, Query};
use crate::node::{
    self, Datagram, EXTRA_PORTS, LinkKind, LocalAddress, StateChange, VerdictChange,
};
use crate::portmap;
use crate::proto::keys::NodePublic;

/// Most packets taken from a socket before everything else has its turn: more than all peers send during a stall of some
/// seconds, and handled within milliseconds.
const RECEIVE_BATCH: usize = 1024;

/// The sockets that packets arrive at.
#[derive(Debug)]
pub(super) struct Sockets {
    /// The data port.
    pub(super) port: DiscoverySocket,
    /// Data probes, through tunnels.
    pub(super) probes: ProbeSocket,
}

/// Packets that have arrived.
trait Arrivals {
    /// Takes a datagram.
    fn datagram(&mut self) -> Result<Option<Received>, DaemonError>;

    /// Takes a data probe, with the index of its link.
    fn probe(&mut self) -> Result<Option<(u32, Vec<u8>)>, DaemonError>;
}

impl Arrivals for Sockets {
    fn datagram(&mut self) -> Result<Option<Received>, DaemonError> {
        self.port.try_recv().map_err(DaemonError::Port)
    }

    fn probe(&mut self) -> Result<Option<(u32, Vec<u8>)>, DaemonError> {
        self.probes.try_recv().map_err(DaemonError::Probes)
    }
}

/// Hands over the packets that have arrived, then lets time pass: after a stall, the answer to a probe lies in a socket when the
/// probe's deadline is over.
fn catch_up(
    conductor: &mut Conductor,
    arrivals: &mut impl Arrivals,
    now: impl Fn() -> Instant,
) -> Result<(), DaemonError> {
    for _ in 0..RECEIVE_BATCH {
        let Some(received) = arrivals.datagram()? else {
            break;
        };
        let Received {
            local,
            from,
            device,
            data,
        } = received;
        conductor.handle_datagram(now(), device, local, from, &data);
    }
    for _ in 0..RECEIVE_BATCH {
        let Some((link, data)) = arrivals.probe()? else {
            break;
        };
        conductor.handle_probe(now(), link, &data);
    }
    conductor.handle_timeout(now());
    Ok(())
}

/// The running daemon.
pub struct Daemon {
    pub(super) config: Config,
    pub(super) state: StateDir,
    pub(super) writer: StateWriter,
    pub(super) own: NodePublic,
    pub(super) conductor: Conductor,
    pub(super) kernel: Kernel,
    pub(super) sockets: Sockets,
    pub(super) coordinator: coordinator::Handle,
    pub(super) coordinator_events: mpsc::Receiver<Event>,
    pub(super) stun_names: watch::Sender<Vec<String>>,
    pub(super) stun_servers: mpsc::Receiver<Vec<SocketAddr>>,
    /// `None` when the router is not to be asked for a port.
    pub(super) port_mapping: Option<port_mapping::Handle>,
    pub(super) changes: BoxStream<'static, NetChange>,
    pub(super) queries: mpsc::Receiver<Query>,
    pub(super) wanted: thread::Handle,
    pub(super) applied: mpsc::UnboundedReceiver<Applied>,
    pub(super) metrics: Metrics,
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
    pub(super) _socket: local_api::Server,
    /// The host's addresses, and the router that may be asked for a port, while they are being read.
    pub(super) host_network: Offloaded<HostNetwork>,
}

impl Daemon {
    /// Runs until a signal or `gretun down`.
    ///
    /// # Errors
    /// When the kernel closes a socket under the daemon.
    pub async fn run(mut self) -> Result<Ended, DaemonError> {
        let mut watchdog = watchdog();
        notify(NotifyState::Ready);
        loop {
            catch_up(&mut self.conductor, &mut self.sockets, Instant::now)?;
            self.carry_out();
            let deadline = self.conductor.poll_timeout();
            tokio::select! {
                // The next turn takes what is there.
                ready = self.sockets.port.ready() => ready.map_err(DaemonError::Port)?,
                ready = self.sockets.probes.ready() => ready.map_err(DaemonError::Probes)?,
                // The next turn lets time pass, after the packets.
                () = sleep_until(deadline.map(|(at, _)| at)) => {}
                Some(event) = self.coordinator_events.recv() => self.conductor.handle_coordinator(Instant::now(), event),
                applied = self.applied.recv() => match applied {
                    Some(applied) => self.conductor.handle_applied(Instant::now(), applied),
                    None => return Err(DaemonError::Applier),
                },
                Some(servers) = self.stun_servers.recv() => self.conductor.handle_stun_servers(Instant::now(), servers),
                status = port_mapping_status::changed(&mut self.port_mapping) => {
                    self.conductor.handle_port_mapping(Instant::now(), &status);
                }
                Some(change) = self.changes.next() => self.conductor.handle_net_change(Instant::now(), change),
                answer = self.host_network.answer() => self.handle_host_network(answer),
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

    /// Carries out what was decided.
    pub(super) fn carry_out(&mut self) {
        while let Some(act) = self.conductor.poll_act() {
            match act {
                Act::Send(Datagram {
                    local,
                    port,
                    to,
                    data,
                }) => {
                    if let Err(error) = self.sockets.port.send(local, port, to, &data) {
                        trace!(%to, %error, "datagram not sent");
                        let errno = error.raw_os_error();
                        if matches!(errno, Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) {
                            self.conductor.handle_lack_of_route(to.ip());
                        }
                    }
                }
                Act::ListenOnExtraPorts(listen) => {
                    let extra = listen.then_some(EXTRA_PORTS);
                    if let Err(error) = self.sockets.port.listen_on_extra_ports(extra) {
                        warn!(%error, "the ports of a port search cannot be listened to");
                    }
                }
                Act::SendThroughTunnel { index, peer, data } => {
                    if let Err(error) = self.sockets.probes.send(index, &data) {
                        debug!(%peer, %error, "probe not sent");
                    }
                }
                Act::Signal(node::Signal { to, sealed }) => self.coordinator.signal(to, &sealed),
                Act::Publish(latest) => self.coordinator.publish(latest),
                Act::SetTunnel { peer, tunnel } => self.wanted.set(peer, tunnel),
                Act::Write(content) => self.writer.write(content),
                Act::LookUpStunServers(names) => {
                    self.stun_names.send_replace(names);
                }
                Act::ReadHost { without_route } => self.read_host_network(without_route),
                Act::Reconnect => self.coordinator.reconnect(),
                Act::RecheckPortMapping => {
                    if let Some(port_mapping) = &self.port_mapping {
                        port_mapping.recheck();
                    }
                }
                Act::LogState(change) => {
                    let StateChange {
                        peer,
                        name,
                        from,
                        to,
                        after,
                        reason,
                    } = change;
                    let _span = info_span!("peer", name, key = %peer).entered();
                    info!(%from, %to, after_ms = after.as_millis(), %reason, "peer state");
                }
                Act::LogVerdict(VerdictChange {
                    peer,
                    name,
                    state,
                    reason,
                }) => {
                    let _span = info_span!("peer", name, key = %peer).entered();
                    info!(%state, %reason, "peer verdict");
                }
                Act::CountHolePunch { after } => self.metrics.hole_punched(after.as_secs_f64()),
            }
        }
    }

    /// Has the host's addresses read on another thread, its router found, and routes to these destinations looked for.
    fn read_host_network(&mut self, without_route: Vec<IpAddr>) {
        let kernel = self.kernel.clone();
        let asks_router = self.port_mapping.is_some();
        self.host_network.ask(move || {
            let router = asks_router.then(|| port_mapping::network(&kernel));
            let has_route = |to: &IpAddr| kernel.route_between(None, *to).is_ok();
            let with_route = without_route.into_iter().filter(has_route).collect();
            let addresses = source_addresses(&kernel);
            let host = addresses.map(|addresses| HostView {
                addresses,
                with_route,
            });
            (host, router.flatten())
        });
    }

    /// Passes on what was read; `None` where the thread panicked.
    fn handle_host_network(&mut self, read: Option<HostNetwork>) {
        let host = read.and_then(|(host, router)| {
            if let Some(port_mapping) = &self.port_mapping {
                port_mapping.look_at(router);
            }
            let warn = |error: &KernelError| {
                warn!(error = %chain(error), "the host's addresses cannot be read; they are read again in a moment");
            };
            host.inspect_err(warn).ok()
        });
        self.conductor.handle_host(Instant::now(), host);
    }
}

/// The host as it was read, or why it cannot be; and its router.
pub(super) type HostNetwork = (Result<HostView, KernelError>, Option<portmap::Network>);

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
pub(super) fn notify(state: NotifyState<'_>) {
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

#[cfg(test)]
#[path = "event_loop_tests.rs"]
mod tests;
