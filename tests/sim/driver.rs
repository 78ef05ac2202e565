//! The driver of a daemon and its kernel: carries out a node's outputs, and delivers its inputs.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gretun::daemon::conductor::{Act, Conductor, HostView};
use gretun::daemon::state_writer::Content;
use gretun::node::{Datagram, Path, Signal, State, StateChange, VerdictChange};
use gretun::proto::NodePublic;

use crate::clock::Event;
use crate::host::Interface;
use crate::judge::UserData;
use crate::network::{Frame, Packet, Payload};
use crate::world::{HostId, World};

/// Datagrams that are kept to be replayed: more than a peer remembers.
const OVERHEARD: usize = 4096;

impl World {
    /// Carries out what a daemon asks for.
    pub fn drain(&mut self, id: HostId) {
        let mut packets = 0;
        while let Some(act) = self.hosts[id.0]
            .daemon
            .as_mut()
            .and_then(Conductor::poll_act)
        {
            match act {
                Act::Send(Datagram {
                    local,
                    port,
                    to,
                    data,
                }) => {
                    if !self.servers.contains(&to) {
                        packets += 1;
                    }
                    let host = &mut self.hosts[id.0];
                    if !host.has_route
                        && let Some(daemon) = &mut host.daemon
                    {
                        daemon.handle_lack_of_route(to.ip());
                    }
                    self.send_from_host(id, (local, port), to, Payload::Datagram(data));
                }
                Act::ListenOnExtraPorts(listen) => self.hosts[id.0].listens = listen,
                Act::SendThroughTunnel { peer, data, .. } => {
                    packets += 1;
                    self.send_data(id, peer, Frame::Probe(data));
                }
                Act::Signal(Signal { to, sealed }) => {
                    let host = &self.hosts[id.0];
                    if host.registered && self.has_network(id) {
                        let from = host.node_key;
                        let latency = self.coordinator.latency;
                        self.at(latency, Event::SignalUp(from, to, sealed));
                    }
                }
                Act::Publish(latest) => {
                    self.hosts[id.0].published = latest;
                    self.publish(id);
                }
                Act::SetTunnel { peer, tunnel } => {
                    let host = &mut self.hosts[id.0];
                    match tunnel {
                        Some(tunnel) => {
                            host.insides.insert(peer, tunnel.inside.clone());
                            host.wanted.insert(peer, tunnel);
                        }
                        None => {
                            host.insides.remove(&peer);
                            host.wanted.remove(&peer);
                        }
                    }
                    self.wake_applier(id);
                }
                Act::Write(Content::Network(network)) => self.hosts[id.0].kept = network,
                Act::ReadHost { without_route } => {
                    let now = self.local_time(id);
                    let host = &mut self.hosts[id.0];
                    let view = HostView {
                        addresses: host.locals(),
                        with_route: if host.has_route {
                            without_route
                        } else {
                            Vec::new()
                        },
                    };
                    if let Some(daemon) = &mut host.daemon {
                        daemon.handle_host(now, Some(view));
                    }
                }
                Act::LogState(change) => {
                    let StateChange {
                        peer,
                        from,
                        to,
                        after,
                        reason,
                        ..
                    } = change;
                    let line = format!("{from} -> {to} after {after:.1?}: {reason}");
                    self.hosts[id.0].log.push((self.now, line));
                    let said = (self.now, to, reason.to_string());
                    self.hosts[id.0].said.insert(peer, said);
                    if to == State::Direct {
                        self.check_claim(id, peer);
                    }
                }
                Act::LogVerdict(VerdictChange {
                    peer,
                    state,
                    reason,
                    ..
                }) => {
                    let said = (self.now, state, reason.to_string());
                    self.hosts[id.0].said.insert(peer, said);
                    let line = format!("{state}: {reason}");
                    self.hosts[id.0].log.push((self.now, line));
                }
                // Connections to the simulated coordinator survive, it has the servers' addresses at hand, and it keeps no other files.
                Act::Reconnect
                | Act::LookUpStunServers(_)
                | Act::Write(_)
                | Act::RecheckPortMapping
                | Act::CountHolePunch { .. } => {}
            }
        }
        self.count_packets(id, packets);
        let host = &mut self.hosts[id.0];
        let timer = host.daemon.as_ref().and_then(Conductor::poll_timeout);
        host.next_timer = timer.and_then(|(at, _)| host.clock.when(at));
    }

    /// Somebody on the host sends the largest packet that the tunnel takes.
    pub fn send_user_data(&mut self, id: HostId, peer: NodePublic) {
        let to = self.host_of(peer);
        if let Some(tunnel) = self.hosts[id.0].tunnels.get(&peer) {
            let frame = Frame::User(tunnel.path_mtu);
            *self.user_sent.entry((id, to)).or_default() += 1;
            self.send_data(id, peer, frame);
        }
    }

    pub fn send_data(&mut self, id: HostId, peer: NodePublic, frame: Frame) {
        let Some(tunnel) = self.hosts[id.0].tunnels.get(&peer).cloned() else {
            return;
        };
        let Path {
            local,
            port,
            remote,
        } = tunnel.path;
        let source = (Some(local).filter(|it| !it.is_unspecified()), port);
        self.send_from_host(id, source, remote, Payload::Data(tunnel.key, frame));
    }

    /// The kernel's route: on-link where the destination is, else by the first interface.
    pub fn send_from_host(
        &mut self,
        id: HostId,
        (local, port): (Option<IpAddr>, u16),
        to: SocketAddr,
        payload: Payload,
    ) {
        let host = &self.hosts[id.0];
        if host.firewall.drops_udp || host.clock.is_stopped() || !host.has_route {
            return;
        }
        // Raw packets leave from any address that they name, the kernel's from one that the host has: also on a link that is down.
        let is_raw = matches!(payload, Payload::Datagram(_));
        let has = |local: IpAddr| host.interfaces.iter().any(|it| it.ip == local);
        if !is_raw && local.is_some_and(|local| !has(local)) {
            return;
        }
        let family = |it: &&Interface| it.up && it.ip.is_ipv4() == to.is_ipv4();
        let on_link = host
            .interfaces
            .iter()
            .filter(family)
            .find(|it| self.place_on(it.net, to).is_some());
        let Some(interface) = on_link.or_else(|| host.interfaces.iter().find(family)) else {
            return;
        };
        let from = SocketAddr::new(local.unwrap_or(interface.ip), port);
        let (net, link) = (interface.net, interface.link);
        self.transmit(net, link, Packet { from, to, payload });
    }

    pub fn arrive_at_host(&mut self, id: HostId, interface: usize, packet: Packet) {
        let (now, local_time) = (self.now, self.local_time(id));
        if self.hosts[id.0].clock.is_stopped() {
            return;
        }
        let host = &mut self.hosts[id.0];
        let local = packet.to.ip();
        let Some(here) = host.interfaces.get(interface).filter(|it| it.up) else {
            return;
        };
        let is_raw = matches!(packet.payload, Payload::Datagram(_));
        if here.ip != local && !(is_raw && host.had(here.net, local, now)) {
            return;
        }
        let firewall = host.firewall;
        if firewall.drops_udp || firewall.ignores == Some(packet.from.ip()) {
            return;
        }
        match packet.payload {
            Payload::Datagram(data) => {
                if !host.listens_at(packet.to.port()) {
                    return;
                }
                if self.overheard.len() == OVERHEARD {
                    self.overheard.pop_front();
                }
                self.overheard.push_back(data.clone());
                // No link of a tunnel: those have an index from 1 on.
                let device = 0;
                if let Some(daemon) = &mut host.daemon {
                    daemon.handle_datagram(local_time, device, packet.to, packet.from, &data);
                }
            }
            Payload::Data(key, frame) => {
                if host.firewall.drops_data || !host.has_fou_port(packet.to.port()) {
                    return;
                }
                let Some(peer) = host.receiver(local, packet.from, key) else {
                    return;
                };
                let from = self.host_of(peer);
                match frame {
                    Frame::Probe(data) => {
                        self.crossed.insert((from, id), now);
                        let host = &mut self.hosts[id.0];
                        let link = host.tunnels[&peer].index;
                        if let Some(daemon) = &mut host.daemon {
                            daemon.handle_probe(local_time, link, &data);
                        }
                    }
                    Frame::User(_) => {
                        let entry = self.user.entry((from, id)).or_insert(UserData {
                            last: now,
                            longest_gap: Duration::ZERO,
                            received: 0,
                        });
                        entry.received += 1;
                        entry.longest_gap = entry.longest_gap.max(now - entry.last);
                        entry.last = now;
                    }
                }
            }
        }
        self.drain(id);
    }

    pub fn host_of(&self, key: NodePublic) -> HostId {
        self.host_ids()
            .find(|id| self.hosts[id.0].node_key == key)
            .expect("every peer is a host")
    }
}
