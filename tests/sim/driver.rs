//! What a daemon's driver and the kernel do: carry out a node's outputs, and deliver what comes in.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gretun::node::{Node, Output, Path, State, TunnelReport};
use gretun::proto::NodePublic;

use crate::clock::Event;
use crate::host::{Interface, KernelTunnel};
use crate::judge::UserData;
use crate::network::{Frame, Packet, Payload};
use crate::world::{HostId, World};

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
                Output::SetTunnel {
                    peer,
                    path,
                    gre_key,
                } => {
                    self.order += 1;
                    let number = self.order;
                    let host = &mut self.hosts[id.0];
                    host.wanted.insert(peer, number);
                    let delay = host.apply_delay;
                    self.at(delay, Event::Apply(id, peer, number, path, gre_key));
                }
                Output::RemoveTunnel { peer } => {
                    self.hosts[id.0].tunnels.remove(&peer);
                    self.hosts[id.0].wanted.remove(&peer);
                }
                Output::StateChange {
                    peer,
                    from,
                    to,
                    after,
                    reason,
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
        let node = self.hosts[id.0].node.as_ref();
        self.hosts[id.0].next_timer = node.and_then(|it| Some(it.poll_timeout()?.0));
    }

    pub fn apply(&mut self, id: HostId, peer: NodePublic, number: u64, path: Path, key: u32) {
        let now = self.now;
        let host = &mut self.hosts[id.0];
        if host.wanted.get(&peer) != Some(&number) {
            return;
        }
        let report = match host.refuses.clone() {
            Some(error) => TunnelReport::Failed { path, error },
            None => {
                let same = |it: &KernelTunnel| it.path == path && it.key == key;
                if !host.tunnels.get(&peer).is_some_and(same) {
                    host.tunnel_changes += 1;
                    let since = now;
                    host.tunnels.insert(peer, KernelTunnel { path, key, since });
                }
                TunnelReport::Applied { path }
            }
        };
        if let Some(node) = &mut host.node {
            node.handle_tunnel(now, peer, report);
        }
        self.drain(id);
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
        let source = (Some(local), port);
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
        if host.firewall.drops_udp {
            return;
        }
        if local.is_some_and(|local| !host.locals().contains(&local)) {
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
        let now = self.now;
        let host = &mut self.hosts[id.0];
        let local = packet.to.ip();
        let here = host.interfaces.get(interface);
        if !here.is_some_and(|it| it.up && it.ip == local) {
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
                    node.handle_datagram(now, packet.to, packet.from, &data);
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
                            node.handle_data_probe(now, peer, &data);
                        }
                    }
                    Frame::User => {
                        let entry = self.user.entry((from, id)).or_insert(UserData {
                            last: now,
                            longest_gap: Duration::ZERO,
                        });
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
