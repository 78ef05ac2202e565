//! The simulated world: networks, NATs, links, hosts, STUN servers and the coordinator, under a virtual clock.
//!
//! Everything random comes from one seed, so a run can be repeated. Building and changing the world is here;
//! what it does is in `clock`, `network`, `driver` and `coordinator`, and what must hold in `judge`.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use gretun::daemon::conductor::{Conductor, Found, Settings};
use gretun::kernel::NetChange;
use gretun::node::{DesiredTunnel, Node, Outside, PeerStatus, RouterPort, State};
use gretun::portmap;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::applier::Kernel;
use crate::clock::{Event, Queue};
use crate::coordinator::Coordinator;
use crate::host::{Host, Interface};
use crate::judge::UserData;
use crate::nat::{Nat, NatKind};
use crate::network::{ACCESS, INTERNET, Link, NetId, Router, RouterId, WIRE};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub usize);

/// Time for which routers go on sending to the link address of a host that has lost the IP address: Linux asks again after 5 s of use,
/// three times, or notices 30 s later that it should.
const NEIGHBOUR_LIFETIME: Duration = Duration::from_secs(10);

/// Everything there is.
pub struct World {
    pub seed: u64,
    pub now: Instant,
    pub start: Instant,
    pub rng: ChaCha8Rng,
    pub queue: Queue,
    /// Numbers events, and wishes for tunnels.
    pub order: u64,
    /// The number of networks.
    pub nets: usize,
    pub hosts: Vec<Host>,
    pub routers: Vec<Router>,
    /// The MTU of routers' interfaces inside their sites.
    pub wire_mtu: u16,
    /// The STUN servers: two ports of one address, as the coordinator has them.
    pub servers: Vec<SocketAddr>,
    pub servers_answer: bool,
    /// Whether daemons know the servers when they start, or only from the coordinator's answer.
    pub servers_known: bool,
    /// Between these two addresses data is dropped, disco is not.
    pub blocked_data: Vec<(&'static str, &'static str)>,
    pub coordinator: Coordinator,
    /// The latest datagrams on their way to hosts, for those who replay them.
    pub overheard: VecDeque<Vec<u8>>,
    /// The latest data that came out of the tunnel at the second host from the first.
    pub crossed: BTreeMap<(HostId, HostId), Instant>,
    /// Deliveries of user data, with the longest gap since [`World::watch_user_data`].
    pub user: BTreeMap<(HostId, HostId), UserData>,
    /// The number of user packets sent.
    pub user_sent: BTreeMap<(HostId, HostId), u64>,
    /// Interval at which hosts send user data through each of their tunnels.
    pub user_gap: Duration,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let start = Instant::now();
        let server = |port| SocketAddr::new(IpAddr::from([198, 51, 100, 1]), port);
        World {
            seed,
            now: start,
            start,
            rng: ChaCha8Rng::seed_from_u64(seed),
            queue: Queue::new(),
            order: 0,
            nets: 1,
            hosts: Vec::new(),
            routers: Vec::new(),
            wire_mtu: 1500,
            servers: vec![server(3478), server(3479)],
            servers_answer: true,
            servers_known: false,
            blocked_data: Vec::new(),
            coordinator: Coordinator {
                up: true,
                latency: Duration::from_millis(10),
                records: BTreeMap::new(),
                removed: Vec::new(),
            },
            overheard: VecDeque::new(),
            crossed: BTreeMap::new(),
            user: BTreeMap::new(),
            user_sent: BTreeMap::new(),
            user_gap: Duration::ZERO,
        }
    }

    // Building.

    pub fn net(&mut self) -> NetId {
        self.nets += 1;
        NetId(self.nets - 1)
    }

    pub fn router(&mut self, kind: NatKind, outside: NetId, ip: &str, inside: NetId) -> RouterId {
        self.routers.push(Router {
            nat: Nat::new(kind, parse(ip)),
            inside,
            outside,
            link: ACCESS,
            bursts: None,
            spacing: Duration::ZERO,
            free_at: [None; 2],
        });
        RouterId(self.routers.len() - 1)
    }

    /// A host with one interface; the greater `key_byte` is controlling.
    pub fn host(&mut self, name: &str, key_byte: u8, net: NetId, ip: &str) -> HostId {
        let mut host = Host::new(name, key_byte);
        host.interfaces.push(Interface {
            net,
            ip: parse(ip),
            up: true,
            link: if net == INTERNET { ACCESS } else { WIRE },
        });
        self.hosts.push(host);
        HostId(self.hosts.len() - 1)
    }

    /// A host alone behind a NAT of its own, or on the public network.
    pub fn site(&mut self, name: &str, key_byte: u8, kind: Option<NatKind>) -> HostId {
        let number = self.hosts.len() + 1;
        match kind {
            None => self.host(name, key_byte, INTERNET, &format!("203.0.113.{number}")),
            Some(kind) => {
                let inside = self.net();
                self.router(kind, INTERNET, &format!("203.0.113.{number}"), inside);
                self.host(name, key_byte, inside, &format!("192.168.{number}.10"))
            }
        }
    }

    // Doing things to it.

    /// Starts the daemon: it adopts the tunnels in the kernel and knows the peers of last time.
    pub fn start(&mut self, id: HostId) {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let now = self.local_time(id);
        let host = &mut self.hosts[id.0];
        host.incarnation += 1;
        host.registered = false;
        host.listens = false;
        // Another process, with caps of its own.
        host.sent.clear();
        host.searched.clear();
        host.search_pings = 0;
        let mut tunnels = Vec::new();
        for (peer, tunnel) in &host.tunnels {
            let tunnel = DesiredTunnel {
                outside: Outside {
                    number: 0,
                    path: tunnel.path,
                    overlap: None,
                    path_mtu: Some(tunnel.path_mtu),
                    gre_key: tunnel.key,
                },
                inside: host.insides.get(peer).cloned().unwrap_or_default(),
            };
            tunnels.push((*peer, tunnel));
        }
        let found = Found {
            addresses: host.locals(),
            tunnels,
            network: host.kept.clone(),
            lease: None,
        };
        // The servers are told apart from the coordinator's word.
        let settings = Settings { stun_host: None };
        let mut daemon = Conductor::new(now, Node::new(host.config(seed)), settings, found);
        if let Some(status) = port_mapping_status(host.router_port) {
            daemon.handle_port_mapping(now, &status);
        }
        if self.servers_known {
            daemon.handle_stun_servers(now, self.servers.clone());
        }
        host.wanted.clear();
        host.daemon = Some(daemon);
        let incarnation = host.incarnation;
        // The tunnels that were found are desired before the applier begins.
        self.drain(id);
        let now = self.local_time(id);
        self.hosts[id.0].start_applier(now);
        self.wake_applier(id);
        // TCP's handshake, then the request.
        self.at(
            self.coordinator.latency * 2,
            Event::Register(id, incarnation),
        );
    }

    /// Stops the daemon; the kernel's tunnels stay.
    pub fn stop(&mut self, id: HostId) {
        self.hosts[id.0].daemon = None;
        self.hosts[id.0].applier = None;
        self.hosts[id.0].next_timer = None;
        self.hosts[id.0].incarnation += 1;
        self.hosts[id.0].sent.clear();
        self.hosts[id.0].searched.clear();
        self.hosts[id.0].search_pings = 0;
        self.hosts[id.0].listens = false;
    }

    /// Restarts the whole host: the tunnels are gone.
    pub fn reboot(&mut self, id: HostId) {
        self.stop(id);
        self.hosts[id.0].tunnels.clear();
        self.hosts[id.0].insides.clear();
        self.hosts[id.0].kernel = Kernel::default();
        self.start(id);
    }

    /// The router loses its mappings, and perhaps gets another address.
    pub fn reboot_router(&mut self, id: RouterId, ip: Option<&str>) {
        let nat = &mut self.routers[id.0].nat;
        nat.forget();
        if let Some(ip) = ip {
            nat.ip = parse(ip);
        }
    }

    /// The host's routers grant it a port each, the innermost first; it is told of the first, as its own router tells it.
    pub fn grant_port(&mut self, id: HostId, routers: &[RouterId], port: u16) {
        let host = &self.hosts[id.0];
        let mut inner = SocketAddr::new(host.interfaces[0].ip, host.port);
        let mut granted = None;
        for router in routers {
            let nat = &mut self.routers[router.0].nat;
            nat.forwards.insert(port, inner);
            inner = SocketAddr::new(nat.ip, port);
            granted = granted.or(Some(inner));
        }
        if let Some(SocketAddr::V4(granted)) = granted {
            self.set_router_port(id, RouterPort::Granted(granted));
        }
    }

    pub fn set_router_port(&mut self, id: HostId, port: RouterPort) {
        let now = self.local_time(id);
        let host = &mut self.hosts[id.0];
        host.router_port = port;
        if let Some(daemon) = &mut host.daemon
            && let Some(status) = port_mapping_status(port)
        {
            daemon.handle_port_mapping(now, &status);
        }
        self.drain(id);
    }

    pub fn link(&mut self, id: RouterId) -> &mut Link {
        &mut self.routers[id.0].link
    }

    /// Changes a host's interfaces, and tells its daemon as the kernel would.
    pub fn rewire(&mut self, id: HostId, change: impl FnOnce(&mut Vec<Interface>)) {
        let until = self.now + NEIGHBOUR_LIFETIME;
        let host = &mut self.hosts[id.0];
        let before = host.interfaces.clone();
        change(&mut host.interfaces);
        let gone = before.iter().zip(&host.interfaces);
        let gone = gone.filter(|(before, after)| before.ip != after.ip);
        host.former
            .extend(gone.map(|(it, _)| (it.net, it.ip, until)));
        self.tell_locals(id);
    }

    pub fn tell_locals(&mut self, id: HostId) {
        let now = self.local_time(id);
        if let Some(daemon) = &mut self.hosts[id.0].daemon {
            let change = NetChange {
                links: true,
                addresses: true,
                routes: true,
            };
            daemon.handle_net_change(now, change);
        }
        self.drain(id);
        // The applier looks at its tunnels whenever a link changes.
        self.links_changed(id);
    }

    /// Takes the host's default route away, or gives it back and tells its daemon as the kernel would.
    pub fn set_route(&mut self, id: HostId, has_route: bool) {
        let now = self.local_time(id);
        let host = &mut self.hosts[id.0];
        host.has_route = has_route;
        if let Some(daemon) = &mut host.daemon {
            let change = NetChange {
                links: false,
                addresses: false,
                routes: true,
            };
            daemon.handle_net_change(now, change);
        }
        self.drain(id);
    }

    /// Ends the user data; how much of what `from` sent to `to` did not come in.
    pub fn lost_user_data(&mut self, from: HostId, to: HostId) -> u64 {
        self.user_gap = Duration::ZERO;
        self.run(Duration::from_secs(2));
        let sent = self.user_sent.get(&(from, to)).copied();
        let received = self.user_data(from, to).map(|it| it.received);
        sent.unwrap_or_default() - received.unwrap_or_default()
    }

    /// Lets every tunnel carry user data from now on, and measures the longest gap.
    pub fn watch_user_data(&mut self, gap: Duration) {
        self.user_gap = gap;
        for id in self.host_ids() {
            self.at(gap, Event::User(id));
        }
    }

    /// The daemon's thread stands still for so long; what comes in meanwhile waits in the sockets, and the timers fire before those are
    /// read.
    pub fn stall(&mut self, id: HostId, time: Duration) {
        let host = &mut self.hosts[id.0];
        host.stalled_until = Some(self.now + time);
        host.next_timer = None;
        let incarnation = host.incarnation;
        self.at(time, Event::GoOn(id, incarnation));
    }

    /// The kernel answers no request of the applier for so long; the pass that goes on, or the next one, waits.
    pub fn stall_applier(&mut self, id: HostId, time: Duration) {
        self.hosts[id.0].kernel_answers_at = Some(self.now + time);
    }

    /// Suspends the host: its processes and its clock stand still, and what is sent to it is lost.
    pub fn suspend(&mut self, id: HostId) {
        let now = self.now;
        let host = &mut self.hosts[id.0];
        host.clock.stop(now);
        host.next_timer = None;
    }

    /// Resumes the host: for its daemon no time has passed.
    pub fn resume(&mut self, id: HostId) {
        let now = self.now;
        if !self.hosts[id.0].clock.is_stopped() {
            return;
        }
        self.hosts[id.0].clock.go(now);
        let incarnation = self.hosts[id.0].incarnation;
        self.drain(id);
        self.applier_resumes(id);
        // The connection to the coordinator has died meanwhile.
        self.at(Duration::from_secs(1), Event::Register(id, incarnation));
    }

    /// Returns the time of the host's clock.
    pub fn local_time(&self, id: HostId) -> Instant {
        self.hosts[id.0].clock.at(self.now)
    }

    pub fn send_garbage(&mut self, to: HostId, from: SocketAddr, data: Vec<u8>) {
        let now = self.local_time(to);
        let host = &self.hosts[to.0];
        let local = SocketAddr::new(host.interfaces[0].ip, host.port);
        if let Some(daemon) = &mut self.hosts[to.0].daemon {
            daemon.handle_datagram(now, 0, local, from, &data);
        }
        self.drain(to);
    }

    // Looking at it.

    pub fn host_ids(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..self.hosts.len()).map(HostId)
    }

    pub fn node(&self, id: HostId) -> &Node {
        let daemon = self.hosts[id.0].daemon.as_ref();
        daemon.expect("the daemon runs").node()
    }

    pub fn status(&self, at: HostId, of: HostId) -> PeerStatus {
        let key = self.hosts[of.0].node_key;
        let status = self.node(at).status(self.local_time(at));
        status
            .into_iter()
            .find(|it| it.node_key == key)
            .unwrap_or_else(|| panic!("{at:?} does not know {of:?}"))
    }

    pub fn state(&self, at: HostId, of: HostId) -> State {
        let key = self.hosts[of.0].node_key;
        let daemon = self.hosts[at.0].daemon.as_ref();
        let state = daemon.and_then(|it| it.node().states().find(|(peer, _)| *peer == key));
        state.map_or(State::Unknown, |(_, state)| state)
    }

    pub fn joined(&self, one: HostId, other: HostId) -> bool {
        self.state(one, other) == State::Direct && self.state(other, one) == State::Direct
    }
}

/// What the mapper says of such a router; nothing where it is not asked.
fn port_mapping_status(port: RouterPort) -> Option<portmap::Status> {
    let (gateway, own) = (
        Ipv4Addr::new(192, 168, 1, 1),
        Ipv4Addr::new(192, 168, 1, 10),
    );
    let lease = |external| portmap::Lease {
        protocol: portmap::Protocol::Pcp,
        network: portmap::Network { gateway, own },
        port: 7777,
        external,
        nonce: [0; 12],
        control: None,
    };
    let lease = match port {
        RouterPort::Off => return None,
        RouterPort::None => None,
        RouterPort::Granted(external) => Some(lease(external)),
    };
    Some(portmap::Status {
        lease,
        ..portmap::Status::default()
    })
}

/// The kernel's error if an address is not the host's, or its interface is down.
pub const NO_ROUTE: &str = "Network is unreachable";

pub fn parse(ip: &str) -> IpAddr {
    ip.parse().expect("an address")
}
