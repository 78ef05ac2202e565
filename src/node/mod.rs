//! All peers of one node, its STUN client and its endpoints, behind one queue of outputs.
//!
//! Pure: time and randomness come in, nothing is sent. The driver calls a `handle_*`, then takes [`Node::poll_output`] until
//! it is empty, then sleeps until [`Node::poll_timeout`] or the next input, whichever comes first.

mod deadlines;
mod disco_keys;
mod early_signals;
mod endpoints;
mod explain;
mod host;
mod interface_names;
mod network;
mod port_allocation;
mod stun;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use ipnet::IpNet;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tracing::{info_span, trace};

use crate::peer::{
    Channel, Context, Host, HostSnapshot, NatState, PacketWindow, Peer, StepOutcome,
};
use crate::proto::api::{Endpoint, EndpointsRequest, PeerRecord};
use crate::proto::disco::Envelope;
use crate::proto::{DiscoSecret, NodePublic};

use deadlines::Deadlines;
use disco_keys::DiscoKeys;
use early_signals::EarlySignals;
use network::Network;
use port_allocation::AllocationSampler;
use stun::StunClient;

pub use interface_names::{IfaceTemplate, IfaceTemplateError, InterfaceNumbers};
pub use network::{NetworkSettings, OfferedRoute, RouteRefusal};

pub use crate::proto::NatMapping;

pub use crate::peer::{
    Cause, Counters, Datagram, DesiredTunnel, DropReason, EXTRA_PORTS, Evidence, Explanation,
    FIRST_PATH_MTU, Inside, LinkKind, LocalAddress, MAX_PACKETS_PER_SECOND,
    MAX_SEARCH_PACKETS_PER_SECOND, Output, Outside, Path, PeerStatus, PortSearchOutcome, Remedy,
    RouterPort, Side, Signal, State, StateChange, StateReason, SwitchReason, Tried, TunnelReport,
    TunnelSeen, VerdictChange, Via,
};

/// What a node is made of.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node's identity.
    pub node_key: NodePublic,
    /// This node's disco key.
    pub disco: DiscoSecret,
    /// The data port.
    pub port: u16,
    /// Whether ports may be searched for where nothing else helps.
    pub aggressive_punch: bool,
    /// What this host's tunnels carry.
    pub network: NetworkSettings,
    /// The interface numbers of the last run.
    pub interface_numbers: InterfaceNumbers,
    /// Fresh random bytes: all nonces and transaction ids are drawn from them.
    pub seed: [u8; 32],
}

/// A tunnel found at start whose peer is not known yet.
#[derive(Debug)]
struct Adopted {
    path: Path,
    path_mtu: u16,
    gre_key: u32,
    /// What the kernel said of it meanwhile.
    report: Option<TunnelReport>,
}

/// The node.
#[derive(Debug)]
pub struct Node {
    disco: DiscoSecret,
    host: Host,
    published: EndpointsRequest,
    rng: ChaCha20Rng,
    stun: StunClient,
    allocation_sampler: AllocationSampler,
    search_limiter: PacketWindow,
    /// The number of the latest [`Output::SetTunnel`]. One sequence for all peers, so that a peer that leaves and comes back
    /// goes on with higher numbers.
    requests: u64,
    /// The peers for which extra ports are listened to.
    on_extra_ports: BTreeSet<NodePublic>,
    listens: bool,
    peers: BTreeMap<NodePublic, Peer>,
    /// What the tunnels of the peers carry; its members are the peers and the adopted tunnels.
    network: Network,
    /// Exactly the keys of `peers`.
    disco_keys: DiscoKeys,
    deadlines: Deadlines,
    /// Tunnels found at start whose peers are not known yet.
    adopted: BTreeMap<NodePublic, Adopted>,
    early_signals: EarlySignals,
    out: VecDeque<Output>,
    counters: Counters,
}

impl Node {
    /// A node that knows nobody yet.
    pub fn new(config: NodeConfig) -> Self {
        Node {
            host: Host {
                node_key: config.node_key,
                disco_key: config.disco.public(),
                port: config.port,
                locals: Vec::new(),
                addresses: Vec::new(),
                endpoints: Vec::new(),
                nat: NatState::default(),
                router_port: RouterPort::default(),
                snapshot: HostSnapshot::default(),
                aggressive: config.aggressive_punch,
            },
            disco: config.disco,
            published: EndpointsRequest::default(),
            rng: ChaCha20Rng::from_seed(config.seed),
            stun: StunClient::default(),
            allocation_sampler: AllocationSampler::default(),
            search_limiter: PacketWindow::default(),
            requests: 0,
            on_extra_ports: BTreeSet::new(),
            listens: false,
            peers: BTreeMap::new(),
            network: Network::new(config.network, config.interface_numbers),
            disco_keys: DiscoKeys::default(),
            deadlines: Deadlines::default(),
            adopted: BTreeMap::new(),
            early_signals: EarlySignals::default(),
            out: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// A datagram came: disco or STUN. `local` is where it was sent to: the data port, or one of [`EXTRA_PORTS`].
    ///
    /// Packet sockets also see what is sent to an address that the host has lost. The kernel takes no data there, so disco at
    /// such an address shows no path.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        local: SocketAddr,
        from: SocketAddr,
        data: &[u8],
    ) {
        if !self.host.locals.contains(&local.ip()) {
            return self.drop_input(DropReason::NotLocal);
        }
        if crate::proto::stun::is_stun(data) {
            if local.port() != self.host.port {
                return self.handle_observation(now, from, data);
            }
            let handled = self.stun.handle_datagram(now, from, data, &mut self.rng);
            match handled {
                Ok(()) => {
                    self.counters.stun_answers_received += 1;
                    self.endpoints_changed(now, false);
                }
                Err(reason) => self.drop_input(reason),
            }
            return;
        }
        let Ok(envelope) = Envelope::parse(data) else {
            return self.drop_input(DropReason::Malformed);
        };
        let Some(peer) = self.disco_keys.owner(&envelope.sender) else {
            return self.drop_input(DropReason::UnknownSender);
        };
        // It came through the tunnel's link, or through another host that knows the way into the overlay. Over a path to
        // such an address, the tunnel would run inside itself.
        if self.network.is_tunnel_ip(peer, from.ip()) {
            return self.drop_input(DropReason::ThroughTunnel);
        }
        let channel = Channel::Udp(Path {
            local: local.ip(),
            port: local.port(),
            remote: from,
        });
        self.with_peer(now, peer, |peer, cx| {
            peer.handle_envelope(cx, channel, &envelope);
        });
    }

    /// A frame of EtherType 0x88B5 came through `peer`'s kernel tunnel.
    pub fn handle_data_probe(&mut self, now: Instant, peer: NodePublic, data: &[u8]) {
        self.handle_from(now, peer, Channel::Tunnel, data);
    }

    /// The coordinator handed over an envelope that it says is `from`'s. An envelope of a peer that is not in the list yet is
    /// kept for a moment: list and signals come over different connections.
    pub fn handle_signal(&mut self, now: Instant, from: NodePublic, sealed: &[u8]) {
        let sender = Envelope::parse(sealed).ok().map(|it| it.sender);
        if sender.is_some_and(|it| self.disco_keys.owner(&it).is_none()) {
            let lost = self.early_signals.keep(now, from, sealed);
            self.counters.count_drops(DropReason::UnknownSender, lost);
            return;
        }
        self.handle_from(now, from, Channel::Coordinator, sealed);
    }

    /// This host's own addresses in the overlay, and the pools that all overlay addresses come from: from the coordinator, or at
    /// start those kept from last time.
    pub fn handle_own_addresses(&mut self, own_ips: Vec<IpAddr>, pools: Vec<IpNet>) {
        self.network.set_own(own_ips, pools);
        self.network.update(&mut self.out);
    }

    /// The list of peers kept from last time, at start. Without a list nothing is known of the peers, least of all that they
    /// are gone, so an empty one changes nothing: the tunnels stay until the coordinator answers.
    pub fn handle_kept_peers(&mut self, now: Instant, records: &[PeerRecord]) {
        if !records.is_empty() {
            self.handle_peers(now, records);
        }
    }

    /// The whole list of peers, from the coordinator. Tunnels that are to be adopted must be told before it: those of peers not
    /// in the list are removed.
    pub fn handle_peers(&mut self, now: Instant, records: &[PeerRecord]) {
        let listed: BTreeSet<NodePublic> = records.iter().map(|it| it.node_key).collect();
        self.disco_keys.retain_conflicts(&listed);
        let unlisted_peers = self.peers.keys().filter(|key| !listed.contains(key));
        let unlisted_tunnels = self.adopted.keys().filter(|key| !listed.contains(key));
        let gone: Vec<NodePublic> = unlisted_peers.chain(unlisted_tunnels).copied().collect();
        for peer in gone {
            if let Some(gone) = self.peers.remove(&peer) {
                self.disco_keys.free(&gone.disco_key());
            }
            self.deadlines.set(peer, None);
            self.on_extra_ports.remove(&peer);
            self.adopted.remove(&peer);
            self.out.push_back(Output::RemoveTunnel { peer });
        }
        let mut taken: Vec<&PeerRecord> = Vec::with_capacity(records.len());
        for record in records {
            let before = self.peers.get(&record.node_key).map(Peer::disco_key);
            if record.node_key != self.host.node_key && self.disco_keys.claim(record, before) {
                taken.push(record);
            }
        }
        self.network.set_records(taken.iter().copied());
        self.network.update(&mut self.out);
        for record in taken {
            self.handle_record(now, record);
        }
        self.update_listening();
    }

    /// A tunnel of `peer` was found in the kernel at start. It is kept, tested, and counts as direct once data crossed it. It is
    /// asked for as it is, so that it stays until more is known.
    pub fn handle_adopted(&mut self, now: Instant, peer: NodePublic, tunnel: DesiredTunnel) {
        let path = tunnel.outside.path;
        let adopted = Adopted {
            path,
            path_mtu: tunnel.outside.path_mtu.unwrap_or(FIRST_PATH_MTU),
            gre_key: tunnel.outside.gre_key,
            report: None,
        };
        self.network.adopt(peer, tunnel);
        self.network.update(&mut self.out);
        self.adopt(now, peer, adopted);
    }

    fn adopt(&mut self, now: Instant, peer: NodePublic, adopted: Adopted) {
        if self.peers.contains_key(&peer) {
            let Adopted {
                path,
                path_mtu,
                gre_key,
                report,
            } = adopted;
            self.with_peer(now, peer, |peer, cx| {
                peer.handle_adopted(cx, path, path_mtu, gre_key);
            });
            if let Some(report) = report {
                self.handle_tunnel(now, peer, report);
            }
        } else {
            self.adopted.insert(peer, adopted);
        }
        self.update_listening();
    }

    /// What became of an [`Output::SetTunnel`].
    pub fn handle_tunnel(&mut self, now: Instant, peer: NodePublic, report: TunnelReport) {
        if let Some(adopted) = self.adopted.get_mut(&peer) {
            adopted.report = Some(report);
            return;
        }
        self.with_peer(now, peer, |peer, cx| peer.handle_tunnel(cx, report));
    }

    /// The time of [`Node::poll_timeout`] has come. Harmless at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.stun.poll_timeout().is_some_and(|at| at <= now) {
            self.send_stun(now);
            // An address that no server confirmed may have been given up.
            self.endpoints_changed(now, false);
        }
        for peer in self.deadlines.due(now) {
            self.with_peer(now, peer, |peer, cx| peer.handle_timeout(cx));
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Node::handle_timeout`] must be called, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let stun = self.stun.poll_timeout().map(|at| (at, "stun"));
        let peers = self.deadlines.next();
        peers.into_iter().chain(stun).min_by_key(|(at, _)| *at)
    }

    /// Every peer, by node key.
    pub fn status(&self, now: Instant) -> Vec<PeerStatus> {
        let peers = self.peers.values();
        peers.map(|it| it.status(now, &self.host)).collect()
    }

    /// The state of every peer, by node key.
    pub fn states(&self) -> impl Iterator<Item = (NodePublic, State)> {
        self.peers.iter().map(|(key, it)| (*key, it.state()))
    }

    /// The peer of this name, node key or address inside the overlay.
    pub fn find(&self, named: &str) -> Option<NodePublic> {
        let ip = named.parse().ok();
        let is_named = |key: NodePublic, peer: &Peer| {
            peer.name() == named
                || key.to_string() == named
                || ip.is_some_and(|ip| self.network.is_tunnel_ip(key, ip))
        };
        let mut peers = self.peers.iter().map(|(key, peer)| (*key, peer));
        peers
            .find(|(key, peer)| is_named(*key, peer))
            .map(|(key, _)| key)
    }

    /// The networks that a peer offers, each with the reason if it is not routed into the peer's tunnel.
    pub fn offered_routes(&self, peer: NodePublic) -> &[OfferedRoute] {
        self.network.offers(peer)
    }

    /// The number in the interface name of each peer, to be kept across restarts.
    pub fn interface_numbers(&self) -> &InterfaceNumbers {
        self.network.interface_numbers()
    }

    /// The peer's name for the log; its key where the name is not known.
    pub fn name(&self, peer: NodePublic) -> String {
        let known = self.peers.get(&peer);
        known.map_or_else(|| peer.to_string(), |it| it.name().to_owned())
    }

    /// Totals since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Where this node can perhaps be reached, as last published.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.published.endpoints
    }

    /// Each STUN server that has answered, and where it saw the data port of this node.
    pub fn stun_answers(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        self.stun.answers()
    }

    /// The STUN servers that are asked.
    pub fn stun_servers(&self) -> impl Iterator<Item = SocketAddr> {
        self.stun.servers()
    }

    fn handle_from(&mut self, now: Instant, from: NodePublic, channel: Channel, data: &[u8]) {
        let Ok(envelope) = Envelope::parse(data) else {
            return self.drop_input(DropReason::Malformed);
        };
        // The channel says whose it is, and the envelope must agree.
        if self.disco_keys.owner(&envelope.sender) != Some(from) {
            return self.drop_input(DropReason::UnknownSender);
        }
        self.with_peer(now, from, |peer, cx| {
            peer.handle_envelope(cx, channel, &envelope);
        });
    }

    fn handle_record(&mut self, now: Instant, record: &PeerRecord) {
        let key = record.node_key;
        match self.peers.get(&key).map(Peer::disco_key) {
            None => {
                let shared = self.disco.shared(&record.disco_key);
                let peer = Peer::new(now, &self.host, record, shared);
                self.peers.insert(key, peer);
                if let Some(adopted) = self.adopted.remove(&key) {
                    self.adopt(now, key, adopted);
                }
            }
            Some(known) if known != record.disco_key => {
                let shared = self.disco.shared(&record.disco_key);
                let disco_key = record.disco_key;
                self.with_peer(now, key, |peer, cx| peer.rekey(cx, disco_key, shared));
            }
            Some(_) => {}
        }
        self.with_peer(now, key, |peer, cx| peer.update(cx, record));
        if let Some(sealed) = self.early_signals.take(now, key) {
            self.handle_from(now, key, Channel::Coordinator, &sealed);
        }
    }

    /// Extra ports are listened to as long as some peer needs them.
    fn update_listening(&mut self) {
        let data_port = self.host.port;
        let adopted = self.adopted.values().any(|it| it.path.port != data_port);
        let needed = adopted || !self.on_extra_ports.is_empty();
        if needed != self.listens {
            self.listens = needed;
            self.out.push_back(Output::ListenOnExtraPorts(needed));
        }
    }

    fn with_peer(
        &mut self,
        now: Instant,
        key: NodePublic,
        step: impl FnOnce(&mut Peer, &mut Context<'_>),
    ) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        let _span = info_span!("peer", name = peer.name(), %key).entered();
        let mut cx = Context {
            now,
            host: &self.host,
            rng: &mut self.rng,
            out: &mut self.out,
            counters: &mut self.counters,
            outcome: StepOutcome::default(),
            search_limiter: &mut self.search_limiter,
            requests: &mut self.requests,
        };
        step(peer, &mut cx);
        let StepOutcome {
            tunnel,
            asks_stun,
            samples_nat,
            udp_came_in,
        } = cx.outcome;
        if udp_came_in {
            self.host.snapshot.udp_came_in = Some(now);
        }
        // Nothing else changes a peer, and whatever changes the host tells all peers.
        self.deadlines.set(key, peer.poll_timeout(&self.host));
        let changed = if peer.needs_extra_ports(now, self.host.port) {
            self.on_extra_ports.insert(key)
        } else {
            self.on_extra_ports.remove(&key)
        };
        if let Some(outside) = tunnel {
            self.network.ask(key, outside);
        }
        self.network.set_connected(key, peer.state().is_connected());
        self.network.update(&mut self.out);
        if changed {
            self.update_listening();
        }
        if samples_nat {
            self.sample_nat();
        }
        if asks_stun {
            self.stun.refresh(now);
            self.send_stun(now);
        }
    }

    /// Counts input that the driver dropped.
    pub fn count_drop(&mut self, reason: DropReason) {
        trace!(%reason, "dropped");
        self.counters.count_drop(reason);
    }

    fn drop_input(&mut self, reason: DropReason) {
        self.count_drop(reason);
    }
}

#[cfg(test)]
mod tests;
