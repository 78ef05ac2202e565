//! Many peers in one process, for measuring a daemon that has them: `swarm COORDINATOR FIRST-IPV4 COUNT`.
//!
//! Each peer has an address of this host to itself, the data port and the real state machine. Its kernel is played: what comes
//! out of a tunnel is unwrapped here, so that proofs and pings (ICMP echo) are answered without hundreds of network
//! namespaces. Peers of a swarm ignore each other, so they never poll for news of peers: they know whom they found when they
//! registered, which is to be the daemon that is measured.

#![allow(clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gretun::node::{
    Datagram, InterfaceNumbers, NetworkSettings, Node, NodeConfig, Output, Outside, Path, Signal,
    TunnelReport,
};
use gretun::proto::api::{
    self, Endpoint, EndpointKind, PeerRecord, RegisterRequest, RegisterResponse, SignalList,
    SignalRequest, sign_request,
};
use gretun::proto::disco::Envelope;
use gretun::proto::stun::is_stun;
use gretun::proto::{DiscoSecret, NatMapping, NodePublic, NodeSecret};
use reqwest::{Client, Method};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

const NAME: &str = "swarm-";
const PORT: u16 = 7777;
/// GRE's flag for a key (RFC 2890), and the EtherTypes that come through the tunnels.
const HAS_KEY: u16 = 0x2000;
const DATA_PROBE: u16 = 0x88b5;
const IPV4: u16 = 0x0800;
const GRE_HEADER: usize = 8;
/// How long the coordinator is asked to hold a request for signals, in seconds.
const POLL_WAIT_S: u32 = 25;

/// What the coordinator said.
enum News {
    Peers(Vec<PeerRecord>),
    Signal { from: NodePublic, sealed: Vec<u8> },
}

/// The little of a client that peers need which do not care for each other.
struct Coordinator {
    http: Client,
    url: String,
    node: NodeSecret,
}

struct Member {
    node: Node,
    socket: UdpSocket,
    coordinator: Arc<Coordinator>,
    tunnels: BTreeMap<NodePublic, (Path, u32)>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let mut next = || {
        args.next()
            .expect("usage: swarm COORDINATOR FIRST-IPV4 COUNT")
    };
    let url = next();
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

async fn run(url: String, ip: Ipv4Addr) {
    let disco = DiscoSecret::from_bytes(random());
    let local = SocketAddr::from((ip, PORT));
    let coordinator = Arc::new(Coordinator {
        http: client(),
        url,
        node: NodeSecret::from_bytes(random()),
    });
    let registration = RegisterRequest {
        name: format!("{NAME}{}", ip.to_string().replace('.', "-")),
        disco_key: disco.public(),
        endpoints: vec![Endpoint {
            addr: local,
            kind: EndpointKind::Local,
        }],
        nat_mapping: NatMapping::None,
        routes: Vec::new(),
        auth_key: None,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let (events, mut news) = mpsc::channel(64);
    let mut member = Member {
        node: Node::new(NodeConfig {
            node_key: coordinator.node.public(),
            disco,
            port: PORT,
            aggressive_punch: false,
            network: NetworkSettings::default(),
            interface_numbers: InterfaceNumbers::default(),
            seed: random(),
        }),
        socket: UdpSocket::bind(local)
            .await
            .expect("an address of this host"),
        coordinator: coordinator.clone(),
        tunnels: BTreeMap::new(),
    };
    tokio::spawn(async move { coordinator.listen(registration, events).await });
    member
        .node
        .handle_local_addresses(Instant::now(), vec![IpAddr::V4(ip)]);
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
            event = news.recv() => member.handle_news(event.expect("the client lives")),
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

impl Coordinator {
    /// Registers, then takes signals for ever. What fails is tried again: the coordinator may be busy with all the others.
    async fn listen(&self, registration: RegisterRequest, news: mpsc::Sender<News>) {
        let body = to_json(&registration);
        let registered: RegisterResponse =
            self.insist(Method::POST, api::PATH_REGISTER, body).await;
        let mut peers = registered.peers.peers;
        peers.retain(|it| !it.name.starts_with(NAME));
        let mut told = news.send(News::Peers(peers)).await;
        let path = format!("{}?wait={POLL_WAIT_S}", api::PATH_SIGNAL);
        while told.is_ok() {
            let list: SignalList = self.insist(Method::GET, &path, Vec::new()).await;
            for signal in list.signals {
                let (from, sealed) = (signal.from, signal.envelope().expect("base64"));
                told = news.send(News::Signal { from, sealed }).await;
            }
        }
    }

    async fn insist<T: DeserializeOwned>(&self, method: Method, path: &str, body: Vec<u8>) -> T {
        loop {
            match self.request(method.clone(), path, body.clone()).await {
                Ok(answer) => match serde_json::from_slice(&answer) {
                    Ok(answer) => return answer,
                    Err(error) => eprintln!("{path}: {error}"),
                },
                Err(error) => eprintln!("{path}: {error}"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, reqwest::Error> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let time_ms =
            u64::try_from(since.expect("after 1970").as_millis()).expect("before 584556019");
        let signed = sign_request(&self.node, method.as_str(), path, &body, time_ms, random());
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        for (name, value) in signed.pairs() {
            request = request.header(name, value);
        }
        let answer = request.body(body).send().await?.error_for_status()?;
        Ok(answer.bytes().await?.to_vec())
    }
}

impl Member {
    fn handle_news(&mut self, news: News) {
        let now = Instant::now();
        match news {
            News::Peers(peers) => self.node.handle_peers(now, &peers),
            News::Signal { from, sealed } => self.node.handle_signal(now, from, &sealed),
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
                Output::Send(Datagram { to, data, .. }) => {
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
                Output::SetTunnel { peer, tunnel } => {
                    let Outside {
                        number,
                        path,
                        gre_key,
                        ..
                    } = tunnel.outside;
                    self.tunnels.insert(peer, (path, gre_key));
                    let report = TunnelReport::Applied {
                        number,
                        device_mtu: 1500,
                    };
                    self.node.handle_tunnel(Instant::now(), peer, report);
                }
                Output::RemoveTunnel { peer } => {
                    self.tunnels.remove(&peer);
                }
                Output::Signal(Signal { to, sealed }) => {
                    let body = to_json(&SignalRequest::new(to, &sealed));
                    let coordinator = self.coordinator.clone();
                    tokio::spawn(async move {
                        // One that is lost is repeated.
                        let _ = coordinator
                            .request(Method::POST, api::PATH_SIGNAL, body)
                            .await;
                    });
                }
                // The endpoints went with the registration.
                Output::PublishEndpoints(_)
                | Output::ListenOnExtraPorts(_)
                | Output::KeepInterfaceNumbers
                | Output::StateChange { .. }
                | Output::VerdictChange { .. } => {}
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

/// A client for HTTP without TLS: reqwest wants to know how it would do TLS all the same.
fn client() -> Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let builder = Client::builder().no_proxy().tls_backend_preconfigured(tls);
    builder.build().expect("a client")
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("any of these is JSON")
}

fn random<const LEN: usize>() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    getrandom::fill(&mut bytes).expect("random numbers");
    bytes
}
