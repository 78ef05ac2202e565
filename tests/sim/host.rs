//! A simulated host: the node under test, the kernel's tunnels, the host's firewall.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use gretun::daemon::conductor::Conductor;
use gretun::daemon::state_dir::Network;
use gretun::node::{
    EXTRA_PORTS, Inside, InterfaceNumbers, LinkKind, LocalAddress, NetworkSettings, NodeConfig,
    Path, RouterPort, State,
};
use gretun::proto::api::{EndpointsRequest, PeerRecord};
use gretun::proto::{DiscoSecret, NodePublic};
use ipnet::IpNet;

use crate::applier::{Applier, Kernel, Wanted};
use crate::local_clock::LocalClock;
use crate::network::{INTERNET, Link, NetId};

/// One network interface.
#[derive(Clone, Debug)]
pub struct Interface {
    pub net: NetId,
    pub ip: IpAddr,
    pub up: bool,
    pub link: Link,
}

/// One GRE-over-FOU link of the kernel: it sends from `path.local` and `path.port` to `path.remote`, and receives what matches
/// `(path.local, path.remote.ip(), key)` at any FOU port.
#[derive(Clone, Debug)]
pub struct KernelTunnel {
    /// The link's index.
    pub index: u32,
    pub path: Path,
    pub key: u32,
    /// The largest outer packet: the tunnel's MTU and the overhead.
    pub path_mtu: u16,
    /// Remotes that links beside it receive from, while it moves.
    pub receiving: Vec<IpAddr>,
    pub since: Instant,
}

/// The host's firewall for data. Disco is received ahead of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Firewall {
    pub drops_data: bool,
    /// Everything over UDP is dropped in front of the host, both ways, before disco sees it.
    pub drops_udp: bool,
    /// Packets from this address are dropped in front of the host.
    pub ignores: Option<IpAddr>,
}

pub struct Host {
    pub name: String,
    pub node_key: NodePublic,
    pub disco: DiscoSecret,
    /// The data port.
    pub port: u16,
    /// Whether the daemon listens to [`EXTRA_PORTS`].
    pub listens: bool,
    /// `--aggressive-punch`.
    pub aggressive_punch: bool,
    /// The port mapping of the router; `--port-mapping` is on.
    pub router_port: RouterPort,
    pub interfaces: Vec<Interface>,
    /// Addresses that it had, and until when its neighbours believe that it still has them. Disco is seen there, for packet
    /// sockets see everything; the kernel takes nothing.
    pub former: Vec<(NetId, IpAddr, Instant)>,
    /// Whether it has a default route; without one nothing leaves.
    pub has_route: bool,
    pub firewall: Firewall,
    pub clock: LocalClock,
    /// The daemon, while it runs.
    pub daemon: Option<Conductor>,
    /// Until when the daemon's thread stands still.
    pub stalled_until: Option<Instant>,
    /// When the daemon's next timer is due.
    pub next_timer: Option<Instant>,
    /// Rises with each start of the daemon, so that what belonged to an earlier one is ignored.
    pub incarnation: u64,
    pub registered: bool,
    /// The coordinator's last answer, which the daemon keeps on disk.
    pub kept: Network,
    /// The endpoints that the daemon would publish.
    pub published: EndpointsRequest,
    /// `--accept-routes` and the like.
    pub network: NetworkSettings,
    /// Networks behind it that it offers.
    pub routes: Vec<IpNet>,
    /// The kernel's tunnels; they outlive the daemon.
    pub tunnels: BTreeMap<NodePublic, KernelTunnel>,
    /// The last requested inside of each tunnel.
    pub insides: BTreeMap<NodePublic, Inside>,
    /// The number of times that a tunnel was created or changed.
    pub tunnel_changes: u64,
    /// The latest desired state of each tunnel.
    pub wanted: Wanted,
    /// The daemon's applier, while it runs.
    pub applier: Option<Applier>,
    /// Links and ports, of which `tunnels` are what a reader makes.
    pub kernel: Kernel,
    /// How long the applier takes from its look at the kernel until its plans are carried out.
    pub apply_delay: Duration,
    /// The kernel answers the applier no request before this time.
    pub kernel_answers_at: Option<Instant>,
    /// The kernel's error to every request for a tunnel, when it refuses.
    pub refuses: Option<String>,
    /// Times of packets to peers in the last second, to check the rate.
    pub sent: std::collections::VecDeque<Instant>,
    /// Times of port search pings in the last second, to check the rate.
    pub searched: std::collections::VecDeque<Instant>,
    /// Packets sent to peers, ever.
    pub sent_total: u64,
    /// The daemon's count of pings of port searches, as last seen.
    pub search_pings: u64,
    /// State changes seen, newest last.
    pub log: Vec<(Instant, String)>,
    /// The latest line of the log about each peer: when, its state and the reason.
    pub said: BTreeMap<NodePublic, (Instant, State, String)>,
}

impl Host {
    pub fn new(name: &str, key_byte: u8) -> Self {
        let mut key = [key_byte; 32];
        key[31] = 1;
        Host {
            name: name.to_owned(),
            node_key: NodePublic::from_bytes(key),
            disco: DiscoSecret::from_bytes([key_byte; 32]),
            port: 7777,
            listens: false,
            aggressive_punch: true,
            router_port: RouterPort::None,
            interfaces: Vec::new(),
            former: Vec::new(),
            has_route: true,
            firewall: Firewall::default(),
            clock: LocalClock::default(),
            daemon: None,
            stalled_until: None,
            next_timer: None,
            incarnation: 0,
            registered: false,
            kept: Network::default(),
            published: EndpointsRequest::default(),
            network: NetworkSettings::default(),
            routes: Vec::new(),
            tunnels: BTreeMap::new(),
            insides: BTreeMap::new(),
            tunnel_changes: 0,
            wanted: Wanted::new(),
            applier: None,
            kernel: Kernel::default(),
            apply_delay: Duration::from_millis(2),
            kernel_answers_at: None,
            refuses: None,
            sent: std::collections::VecDeque::new(),
            searched: std::collections::VecDeque::new(),
            search_pings: 0,
            sent_total: 0,
            log: Vec::new(),
            said: BTreeMap::new(),
        }
    }

    pub fn config(&self, seed: [u8; 32]) -> NodeConfig {
        NodeConfig {
            node_key: self.node_key,
            disco: self.disco.clone(),
            port: self.port,
            aggressive_punch: self.aggressive_punch,
            network: self.network.clone(),
            interface_numbers: InterfaceNumbers::default(),
            seed,
        }
    }

    pub fn record(&self, online: bool) -> PeerRecord {
        PeerRecord {
            name: self.name.clone(),
            node_key: self.node_key,
            disco_key: self.disco.public(),
            tunnel_ips: Vec::new(),
            endpoints: self.published.endpoints.clone(),
            nat_mapping: self.published.nat_mapping,
            routes: self.routes.clone(),
            online,
        }
    }

    /// Nothing on the public network is on-link; in a site it is whoever has an address of the same 24 or 64 bits.
    pub fn locals(&self) -> Vec<LocalAddress> {
        let up = self.interfaces.iter().filter(|it| it.up);
        let address = |it: &Interface| LocalAddress {
            link: if it.link.is_overlay {
                LinkKind::Overlay
            } else {
                LinkKind::Network
            },
            prefix_len: match it.ip {
                _ if it.net == INTERNET => return LocalAddress::from(it.ip),
                IpAddr::V4(_) => 24,
                IpAddr::V6(_) => 64,
            },
            ..LocalAddress::from(it.ip)
        };
        up.map(address).collect()
    }

    /// Returns whether neighbours on `net` believe that it has this address, which it had.
    pub fn had(&self, net: NetId, ip: IpAddr, now: Instant) -> bool {
        let mut former = self.former.iter();
        former.any(|it| (it.0, it.1) == (net, ip) && now < it.2)
    }

    /// Returns the ports on which the daemon's packet sockets listen.
    pub fn listens_at(&self, port: u16) -> bool {
        port == self.port || (self.listens && EXTRA_PORTS.contains(&port))
    }

    /// Returns the FOU ports: the data port, and the port of each tunnel that has its own.
    pub fn has_fou_port(&self, port: u16) -> bool {
        self.kernel.fou_ports.iter().any(|it| it.port == port)
    }

    /// The peer whose tunnel takes a data packet, as the kernel finds it: never by port.
    pub fn receiver(&self, local: IpAddr, from: SocketAddr, key: u32) -> Option<NodePublic> {
        let matches = |it: &KernelTunnel| {
            let own = it.path.local == local || it.path.local.is_unspecified();
            let own = own && it.path.remote.ip() == from.ip();
            it.key == key && (own || it.receiving.contains(&from.ip()))
        };
        self.tunnels
            .iter()
            .find(|(_, it)| matches(it))
            .map(|(peer, _)| *peer)
    }
}
