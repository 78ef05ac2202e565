//! The driver of a daemon and its kernel: carries out a node's outputs, and delivers its inputs.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gretun::node::{FIRST_PATH_MTU, Node, Output, Path, State, TunnelReport};
use gretun::proto::NodePublic;

use crate::clock::Event;
use crate::host::{Interface, KernelTunnel};
use crate::judge::UserData;
use crate::network::{Frame, Packet, Payload};
use crate::world::{HostId, NO_ROUTE, World};

/// The desired state of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// The latest of a peer counts.
    pub number: u64,
    pub path: Path,
    pub key: u32,
    pub path_mtu: Option<u16>,
    pub overlap: Option<Path>,
}

impl Wish {
    /// That a tunnel stays as it is.
    pub fn of(tunnel: &KernelTunnel) -> Self {
        Wish {
            number: 0,
            path: tunnel.path,
            key: tunnel.key,
            path_mtu: Some(tunnel.path_mtu),
            overlap: tunnel.overlap,
        }
    }
}

impl World {
    /// Carries out what a daemon asks for.
    pub fn drain(&mut self, id: HostId) {
        let mut packets = 0;
        while let Some(output) = self.hosts[id.0].node.as_mut().and_then(Node::poll_output) {
            match output {
                Output::Send {
                    local,
                    port,
                    to,
                    data,
                } => {
                    if !self.servers.contains(&to) {
                        packets += 1;
                    }
                    self.send_from_host(id, (local, port), to, Payload::Datagram(data));
                }
                Output::ListenOnExtraPorts(listen) => self.hosts[id.0].listens = listen,
                Output::SendThroughTunnel { peer, data } => {
                    packets += 1;
                    self.send_data(id, peer, Frame::Probe(data));
                }
                Output::Signal { to, sealed } => {
                    let host = &self.hosts[id.0];
                    if host.registered && self.has_network(id) {
                        let from = host.node_key;
                        let latency = self.coordinator.latency;
                        self.at(latency, Event::SignalUp(from, to, sealed));
                    }
                }
                Output::PublishEndpoints(latest) => {
                    self.hosts[id.0].published = latest;
                    self.publish(id);
                }
                Output::SetTunnel { peer, tunnel } => {
                    let host = &mut self.hosts[id.0];
                    let delay = host.apply_delay;
                    let wish = Wish {
                        number: tunnel.outside.number,
                        path: tunnel.outside.path,
                        key: tunnel.outside.gre_key,
                        path_mtu: tunnel.outside.path_mtu,
                        overlap: tunnel.outside.overlap,
                    };
                    host.insides.insert(peer, tunnel.inside);
                    host.wanted.insert(peer, wish);
                    self.at(delay, Event::Apply(id, peer, wish));
                }
                Output::KeepInterfaceNumbers => {}
                Output::RemoveTunnel { peer } => {
                    self.hosts[id.0].tunnels.remove(&peer);
                    self.hosts[id.0].insides.remove(&peer);
                    self.hosts[id.0].wanted.remove(&peer);
                }
                Output::StateChange {
                    peer,
                    from,
                    to,
                    after,
                    reason,
                    ..
                } => {
                    let line = format!("{from} -> {to} after {after:.1?}: {reason}");
                    self.hosts[id.0].log.push((self.now, line));
                    if to == State::Direct {
                        self.check_claim(id, peer);
                    }
                }
            }
        }
        self.count_packets(id, packets);
        let host = &mut self.hosts[id.0];
        let timer = host.node.as_ref().and_then(Node::poll_timeout);
        host.next_timer = timer.and_then(|(at, _)| host.clock.when(at));
    }

    pub fn apply(&mut self, id: HostId, peer: NodePublic, wish: Wish) {
        let (since, now) = (self.now, self.local_time(id));
        let Wish {
            number, path, key, ..
        } = wish;
        let host = &mut self.hosts[id.0];
        if host.wanted.get(&peer).map(|it| it.number) != Some(wish.number) {
            return;
        }
        let device_mtu = host.device_mtu(path.local);
        let no_route = || Some(NO_ROUTE.to_owned());
        let refuses = host.refuses.clone();
        let refuses = refuses.or_else(|| device_mtu.is_none().then(no_route).flatten());
        let report = match refuses {
            Some(error) => TunnelReport::Failed { number, error },
            None => {
                let device_mtu = device_mtu.unwrap_or_default();
                let path_mtu = wish.path_mtu.unwrap_or(FIRST_PATH_MTU).min(device_mtu);
                let same = |it: &KernelTunnel| it.path == path && it.key == key;
                if !host.tunnels.get(&peer).is_some_and(same) {
                    host.tunnel_changes += 1;
                    let tunnel = KernelTunnel {
                        path,
                        key,
                        path_mtu,
                        overlap: None,
                        since,
                    };
                    host.tunnels.insert(peer, tunnel);
                }
                if let Some(tunnel) = host.tunnels.get_mut(&peer) {
                    tunnel.path_mtu = path_mtu;
                    tunnel.overlap = wish.overlap;
                }
                TunnelReport::Applied { number, device_mtu }
            }
        };
        if let Some(node) = &mut host.node {
            node.handle_tunnel(now, peer, report);
        }
        self.drain(id);
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
        let Some(tunnel) = self.hosts[id.0].tunnels.get(&peer).copied() else {
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
                if self.overheard.len() == 64 {
                    self.overheard.pop_front();
                }
                self.overheard.push_back(data.clone());
                if let Some(node) = &mut host.node {
                    node.handle_datagram(local_time, packet.to, packet.from, &data);
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
                        if let Some(node) = &mut self.hosts[id.0].node {
                            node.handle_data_probe(local_time, peer, &data);
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
