//! Many peers in one process, for measuring a daemon that has them: `swarm COORDINATOR FIRST-IPV4 COUNT`.
//!
//! Each peer has an address of this host to itself, the data port, the real state machine and the real client of the
//! coordinator. Its kernel is played: what comes out of a tunnel is unwrapped here, so that proofs and pings (ICMP echo) are
//! answered without hundreds of network namespaces. Peers of a swarm ignore each other.

#![allow(clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use gretun::daemon::coordinator::{self, Event, Handle, Registration};
use gretun::daemon::settings::CoordinatorUrl;
use gretun::node::{Node, NodeConfig, Output, Path, TunnelReport};
use gretun::proto::api::PeerRecord;
use gretun::proto::disco::Envelope;
use gretun::proto::stun::is_stun;
use gretun::proto::{DiscoSecret, NodePublic, NodeSecret};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

const NAME: &str = "swarm-";
const PORT: u16 = 7777;
/// GRE's flag for a key (RFC 2890), and the EtherTypes that come through the tunnels.
const HAS_KEY: u16 = 0x2000;
const DATA_PROBE: u16 = 0x88b5;
const IPV4: u16 = 0x0800;
const GRE_HEADER: usize = 8;

struct Member {
    node: Node,
    socket: UdpSocket,
    coordinator: Handle,
    tunnels: BTreeMap<NodePublic, (Path, u32)>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let mut next = || {
        args.next()
            .expect("usage: swarm COORDINATOR FIRST-IPV4 COUNT")
    };
    let url: CoordinatorUrl = next().parse().expect("the coordinator's URL");
    let first: Ipv4Addr = next().parse().expect("an IPv4 address");
    let count: u32 = next().parse().expect("a number");
    let members = (0..count).map(|index| {
        let ip = Ipv4Addr::from_bits(first.to_bits() + index);
        tokio::spawn(run(url.clone(), ip))
    });
    for member in members.collect::<Vec<_>>() {
        member.await.expect("no member panics");
    }
}

async fn run(url: CoordinatorUrl, ip: Ipv4Addr) {
    let (node_secret, disco) = (
        NodeSecret::from_bytes(random()),
        DiscoSecret::from_bytes(random()),
    );
    let registration = Registration {
        url,
        disco: disco.public(),
        name: format!("{NAME}{}", ip.to_string().replace('.', "-")),
        routes: Vec::new(),
        auth_key_file: None,
        node: Arc::new(node_secret),
    };
    let node_key = registration.node.public();
    let (events, mut news) = mpsc::channel(64);
    let mut member = Member {
        node: Node::new(NodeConfig {
            node_key,
            disco,
            port: PORT,
            aggressive_punch: false,
            seed: random(),
        }),
        socket: UdpSocket::bind((ip, PORT))
            .await
            .expect("an address of this host"),
        coordinator: coordinator::start(registration, events).expect("a client"),
        tunnels: BTreeMap::new(),
    };
    member
        .node
        .handle_local_addresses(Instant::now(), vec![IpAddr::V4(ip)]);
    let local = SocketAddr::from((ip, PORT));
    let mut buffer = [0; 2048];
    loop {
        member.carry_out().await;
        let timer = async {
            match member.node.poll_timeout() {
                Some((at, _)) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = news.recv() => member.handle_event(event.expect("the client lives")),
            received = member.socket.recv_from(&mut buffer) => {
                // An error here is another datagram's that did not reach anybody.
                if let Ok((len, from)) = received {
                    member.handle_packet(local, from, &buffer[..len]).await;
                }
            }
            () = timer => member.node.handle_timeout(Instant::now()),
        }
    }
}

impl Member {
    fn handle_event(&mut self, event: Event) {
        let now = Instant::now();
        let others = |peers: Vec<PeerRecord>| -> Vec<PeerRecord> {
            let mut peers = peers;
            peers.retain(|it| !it.name.starts_with(NAME));
            peers
        };
        match event {
            Event::Registered(answer) => self.node.handle_peers(now, &others(answer.peers.peers)),
            Event::Peers(list) => self.node.handle_peers(now, &others(list.peers)),
            Event::Signal { from, sealed } => self.node.handle_signal(now, from, &sealed),
            Event::Lost => {}
        }
    }

    async fn handle_packet(&mut self, local: SocketAddr, from: SocketAddr, data: &[u8]) {
        let now = Instant::now();
        if is_stun(data) || Envelope::parse(data).is_ok() {
            return self.node.handle_datagram(now, local, from, data);
        }
        let Some((header, payload)) = data.split_at_checked(GRE_HEADER) else {
            return;
        };
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let key = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let mut tunnels = self.tunnels.iter();
        let found = tunnels.find(|(_, (path, its))| path.remote.ip() == from.ip() && *its == key);
        let Some((peer, (path, _))) = found else {
            return;
        };
        match (word(0), word(2)) {
            (HAS_KEY, DATA_PROBE) => self.node.handle_data_probe(now, *peer, payload),
            (HAS_KEY, IPV4) => {
                if let Some(answer) = echo_reply(payload) {
                    let frame = [header, &answer].concat();
                    // A full queue loses packets, as everywhere.
                    let _ = self.socket.send_to(&frame, path.remote).await;
                }
            }
            _ => {}
        }
    }

    async fn carry_out(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send { to, data, .. } => {
                    let _ = self.socket.send_to(&data, to).await;
                }
                Output::SendThroughTunnel { peer, data } => {
                    if let Some((path, key)) = self.tunnels.get(&peer) {
                        let mut frame = Vec::with_capacity(GRE_HEADER + data.len());
                        frame.extend(HAS_KEY.to_be_bytes());
                        frame.extend(DATA_PROBE.to_be_bytes());
                        frame.extend(key.to_be_bytes());
                        frame.extend(data);
                        let _ = self.socket.send_to(&frame, path.remote).await;
                    }
                }
                Output::SetTunnel {
                    peer,
                    path,
                    gre_key,
                    ..
                } => {
                    self.tunnels.insert(peer, (path, gre_key));
                    let report = TunnelReport::Applied {
                        path,
                        device_mtu: 1500,
                    };
                    self.node.handle_tunnel(Instant::now(), peer, report);
                }
                Output::RemoveTunnel { peer } => {
                    self.tunnels.remove(&peer);
                }
                Output::Signal { to, sealed } => self.coordinator.signal(to, &sealed),
                Output::PublishEndpoints(latest) => self.coordinator.publish(latest),
                Output::ListenOnExtraPorts(_) | Output::StateChange { .. } => {}
            }
        }
    }
}

/// The answer to an ICMP echo request (RFC 792) without IP options: addresses swapped, which leaves IP's checksum, and the type.
fn echo_reply(packet: &[u8]) -> Option<Vec<u8>> {
    let request =
        packet.first() == Some(&0x45) && packet.get(9) == Some(&1) && packet.get(20) == Some(&8);
    let mut answer = packet.to_vec();
    let (source, destination) = answer.get_mut(12..20)?.split_at_mut(4);
    source.swap_with_slice(destination);
    let checksum = answer.get(22..24)?;
    // The type is the upper byte of a word of the one's complement sum: from 8 to 0.
    let (sum, carry) = u16::from_be_bytes([checksum[0], checksum[1]]).overflowing_add(0x0800);
    answer[22..24].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    answer[20] = 0;
    request.then_some(answer)
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("random numbers");
    bytes
}
