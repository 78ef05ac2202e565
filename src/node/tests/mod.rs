//! One node, and a puppet that speaks for its peer: transitions, and input of no use. Whole journeys are in `tests/sim`.

mod chaos;
mod conduct;
mod drops;
mod port_search;
mod stun;
mod transitions;

use std::time::Duration;

use super::*;
use crate::proto::api::EndpointKind;
use crate::proto::disco::{self, Message};
use crate::proto::{DiscoShared, TxId};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

const LOCAL: &str = "192.0.2.1";
const REMOTE: &str = "192.0.2.2:7777";
/// The transaction id of all pings of the puppet.
const PING: TxId = TxId([1; 12]);
const ELSEWHERE: &str = "192.0.2.99:1234";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Whether the node under test chooses the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Controlling,
    Controlled,
}

/// A node, the time, and the secrets of its only peer.
struct Bench {
    node: Node,
    now: Instant,
    peer: NodePublic,
    peer_disco: DiscoSecret,
    shared: DiscoShared,
    nonces: u64,
    outputs: Vec<Output>,
    /// The number of the latest request for a tunnel.
    request: u64,
}

impl Bench {
    /// A node with an address that knows nobody.
    fn new(role: Role) -> Self {
        let (own, peer) = match role {
            Role::Controlling => (2, 1),
            Role::Controlled => (1, 2),
        };
        let disco = DiscoSecret::from_bytes([own; 32]);
        let peer_disco = DiscoSecret::from_bytes([peer; 32]);
        let shared = peer_disco.shared(&disco.public());
        let mut bench = Bench {
            node: Node::new(NodeConfig {
                node_key: NodePublic::from_bytes([own; 32]),
                disco,
                port: 7777,
                aggressive_punch: true,
                network: NetworkSettings::default(),
                interface_numbers: InterfaceNumbers::default(),
                seed: [7; 32],
            }),
            now: Instant::now(),
            peer: NodePublic::from_bytes([peer; 32]),
            peer_disco,
            shared,
            nonces: 0,
            outputs: Vec::new(),
            request: 0,
        };
        bench
            .node
            .handle_local_addresses(bench.now, vec![ip(LOCAL)]);
        bench.collect();
        bench
    }

    /// A node that was told of its peer.
    fn with_peer(role: Role) -> Self {
        let mut bench = Bench::new(role);
        bench.tell(&[REMOTE], true);
        bench
    }

    /// A node whose tunnel over [`REMOTE`] is applied, and not proven yet.
    fn with_tunnel(role: Role) -> Self {
        let mut bench = Bench::with_peer(role);
        match role {
            Role::Controlling => bench.ping_from(REMOTE),
            Role::Controlled => bench.nominate(1, REMOTE),
        }
        bench.wanted_path().expect("a tunnel is asked for");
        bench.report_applied(1500);
        bench
    }

    /// A node whose peer is direct.
    fn direct(role: Role) -> Self {
        let mut bench = Bench::with_tunnel(role);
        bench.answer_probes();
        bench.answer_mtu_pings();
        assert_eq!(bench.state(), State::Direct);
        bench
    }

    fn record(&self, endpoints: &[&str], online: bool) -> PeerRecord {
        PeerRecord {
            name: "peer".to_owned(),
            node_key: self.peer,
            disco_key: self.peer_disco.public(),
            tunnel_ips: vec![ip("100.64.0.2")],
            endpoints: endpoints
                .iter()
                .map(|it| Endpoint {
                    addr: addr(it),
                    kind: EndpointKind::Local,
                })
                .collect(),
            nat_mapping: NatMapping::Unknown,
            routes: Vec::new(),
            online,
        }
    }

    fn tell(&mut self, endpoints: &[&str], online: bool) {
        let record = self.record(endpoints, online);
        self.node.handle_peers(self.now, &[record]);
        self.collect();
    }

    fn seal(&mut self, message: &Message) -> Vec<u8> {
        self.nonces += 1;
        let mut nonce = [0; 24];
        nonce[..8].copy_from_slice(&self.nonces.to_be_bytes());
        disco::seal(&self.shared, &self.peer_disco.public(), nonce, message)
    }

    fn datagram(&mut self, from: &str, data: &[u8]) {
        let local = SocketAddr::new(ip(LOCAL), 7777);
        self.node.handle_datagram(self.now, local, addr(from), data);
        self.collect();
    }

    fn receive(&mut self, from: &str, message: &Message) {
        let data = self.seal(message);
        self.datagram(from, &data);
    }

    fn receive_through_tunnel(&mut self, message: &Message) {
        let data = self.seal(message);
        self.node.handle_data_probe(self.now, self.peer, &data);
        self.collect();
    }

    fn receive_signal(&mut self, message: &Message) {
        let data = self.seal(message);
        self.node.handle_signal(self.now, self.peer, &data);
        self.collect();
    }

    fn ping_from(&mut self, from: &str) {
        let node_key = self.peer;
        let tx_id = PING;
        let ping = Message::Ping {
            tx_id,
            node_key,
            padding: 0,
        };
        self.receive(from, &ping);
    }

    fn nominate(&mut self, seq: u32, from: &str) {
        let tx_id = TxId([2; 12]);
        self.receive(from, &Message::Nominate { seq, tx_id });
    }

    /// The kernel did what it was last asked for.
    fn report_applied(&mut self, device_mtu: u16) {
        let number = self.request;
        self.report(TunnelReport::Applied { number, device_mtu });
    }

    /// The kernel refused what it was last asked for.
    fn report_failed(&mut self, error: &str) {
        let (number, error) = (self.request, error.to_owned());
        self.report(TunnelReport::Failed { number, error });
    }

    fn report(&mut self, report: TunnelReport) {
        self.node.handle_tunnel(self.now, self.peer, report);
        self.collect();
    }

    /// Answers every data ping that is waiting, through the tunnel.
    fn answer_probes(&mut self) {
        for message in self.sent_through_tunnel() {
            if let Message::DataPing { tx_id } = message {
                self.receive_through_tunnel(&Message::DataPong { tx_id });
            }
        }
    }

    /// Answers every padded ping that was sent: the path carries what the device does.
    fn answer_mtu_pings(&mut self) {
        let sent: Vec<(SocketAddr, Message)> = self
            .outputs
            .iter()
            .filter_map(|output| match output {
                Output::Send(Datagram { to, data, .. }) => Some((*to, self.open(data))),
                _ => None,
            })
            .collect();
        for (to, message) in sent {
            if let Message::Ping { tx_id, padding, .. } = message
                && padding > 0
            {
                let src = addr("198.51.100.1:1");
                self.receive(&to.to_string(), &Message::Pong { tx_id, src });
            }
        }
    }

    /// Lets time pass, in which nobody answers.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.node.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.node.handle_timeout(self.now);
            let next = self.node.poll_timeout();
            assert!(next.is_none_or(|(at, _)| at > self.now), "spins: {next:?}");
            self.collect();
        }
        self.now = end;
    }

    fn collect(&mut self) {
        while let Some(output) = self.node.poll_output() {
            if let Output::SetTunnel { tunnel, .. } = &output {
                // The same number where only the inside changed.
                assert!(tunnel.outside.number >= self.request, "numbers grow");
                self.request = tunnel.outside.number;
            }
            self.outputs.push(output);
        }
    }

    fn open(&self, sealed: &[u8]) -> Message {
        let envelope = Envelope::parse(sealed).unwrap();
        envelope.open(&self.shared).unwrap()
    }

    /// What was sent over UDP since the last call, with where to.
    fn sent(&mut self) -> Vec<(SocketAddr, Message)> {
        let mut sent = Vec::new();
        for output in std::mem::take(&mut self.outputs) {
            match output {
                Output::Send(Datagram { to, data, .. }) => sent.push((to, self.open(&data))),
                other => self.outputs.push(other),
            }
        }
        sent
    }

    fn sent_through_tunnel(&mut self) -> Vec<Message> {
        let mut sent = Vec::new();
        for output in std::mem::take(&mut self.outputs) {
            match output {
                Output::SendThroughTunnel { data, .. } => sent.push(self.open(&data)),
                other => self.outputs.push(other),
            }
        }
        sent
    }

    fn wanted_path(&self) -> Option<Path> {
        let wanted = self.outputs.iter().rev().find_map(|it| match it {
            Output::SetTunnel { tunnel, .. } => Some(tunnel.outside.path),
            _ => None,
        });
        wanted.or_else(|| self.status().path)
    }

    fn status(&self) -> PeerStatus {
        self.node.status(self.now).remove(0)
    }

    fn state(&self) -> State {
        self.status().state
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.node.counters().dropped(reason)
    }
}
