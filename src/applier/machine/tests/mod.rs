//! The machine over a small kernel: what it has, what it refuses, and what was done to it.

use ipnet::IpNet;

use super::*;
use crate::applier::desired::fou_port;
use crate::applier::desired::tests::desired;
use crate::applier::owner_alias::OwnerAlias;
use crate::applier::receive_links::remotes;
use crate::kernel::tunnel::dump::ObservedTunnel;
use crate::tunnel::op::KernelOp;
use crate::tunnel::state::LinkConfig;
use crate::tunnel::state::TunnelState;

mod any_order;
mod sources;

const SECOND: Duration = Duration::from_secs(1);

fn peer(byte: u8) -> NodePublic {
    NodePublic::from_bytes([byte; 32])
}

fn own() -> NodePublic {
    peer(0xee)
}

/// Links, FOU ports, and a will of its own.
#[derive(Default)]
struct Kernel {
    links: Links,
    fou_ports: Vec<FouPort>,
    last_index: u32,
    /// Steps whose words contain one of these are refused.
    refuses: Vec<String>,
    cannot_be_read: bool,
    /// The steps of all plans, in their order.
    done: Vec<String>,
}

impl Kernel {
    fn carry_out(&mut self, plan: &Plan) -> Result<Option<u32>, Failure> {
        let before = (self.links.clone(), self.fou_ports.clone());
        for (step, op) in plan.ops.iter().enumerate() {
            if let Err(error) = self.apply(op) {
                (self.links, self.fou_ports) = before;
                let step = Some(step);
                return Err(Failure { step, error });
            }
            self.check_sources();
        }
        self.done.extend(plan.ops.iter().map(ToString::to_string));
        Ok(plan.makes().map(|name| self.links.indices[name]))
    }

    fn apply(&mut self, op: &KernelOp) -> Result<(), String> {
        let words = op.to_string();
        if self.refuses.iter().any(|it| words.contains(it)) {
            return Err(format!("cannot {words}: refused"));
        }
        match op {
            KernelOp::AddFou(port) => self.fou_ports.push(*port),
            KernelOp::DeleteFou(port) => self.fou_ports.retain(|it| it != port),
            KernelOp::AddLink(link) => {
                self.check_ends(link)?;
                if self.links.indices.contains_key(&link.name) {
                    return Err(format!("cannot {words}: File exists"));
                }
                self.last_index += 1;
                let state = TunnelState {
                    link: link.clone(),
                    alt_names: Vec::new(),
                    addresses: Vec::new(),
                    routes: Vec::new(),
                    snat: Vec::new(),
                };
                self.add(state);
            }
            KernelOp::ChangeLink { to, .. } => {
                self.check_ends(to)?;
                self.tunnel(&to.name)?.state.link = to.clone();
            }
            KernelOp::DeleteLink(tunnel) => self.remove(&tunnel.link.name),
            KernelOp::AddAltName { link, name } => {
                self.tunnel(link)?.state.alt_names.push(name.clone());
            }
            KernelOp::AddAddress { link, address } => {
                self.tunnel(link)?.state.addresses.push(*address);
            }
            KernelOp::AddRoute { link, route } => self.tunnel(link)?.state.routes.push(*route),
            KernelOp::DeleteAltName { link, name } => {
                self.tunnel(link)?.state.alt_names.retain(|it| it != name);
            }
            KernelOp::DeleteAddress { link, address } => {
                self.tunnel(link)?
                    .state
                    .addresses
                    .retain(|it| it != address);
            }
            KernelOp::DeleteRoute { link, route } => {
                self.tunnel(link)?.state.routes.retain(|it| it != route);
            }
            KernelOp::AddSnat { .. } | KernelOp::DeleteSnat { .. } => {}
            KernelOp::AddSource { link, network } => {
                let networks = self.links.sources.entry(link.clone()).or_default();
                // An element that is there already is no error.
                let overlaps =
                    |it: &IpNet| it != network && (it.contains(network) || network.contains(it));
                if networks.iter().any(overlaps) {
                    return Err("File exists".to_owned());
                }
                networks.insert(*network);
            }
            KernelOp::DeleteSource { link, network } => {
                let networks = self.links.sources.entry(link.clone()).or_default();
                if !networks.remove(network) {
                    return Err("No such file or directory".to_owned());
                }
            }
        }
        Ok(())
    }

    /// At no moment does a link of ours let in what another peer may send.
    fn check_sources(&self) {
        for tunnel in &self.links.tunnels {
            let Some(alias) = OwnerAlias::of(tunnel) else {
                continue;
            };
            let link = &tunnel.state.link;
            assert!(link.checks_sources, "{} is open", link.name);
            let [byte, ..] = *alias.peer.as_bytes();
            let others = (1..=9).filter(|it| *it != byte);
            let others = others.map(|it| IpNet::from(IpAddr::from([100, 64, 0, it])));
            let let_in = self.links.sources.get(&link.name);
            for other in others {
                let lets_in = let_in.is_some_and(|it| it.iter().any(|it| it.contains(&other)));
                assert!(!lets_in, "{} lets in {other}", link.name);
            }
        }
    }

    /// The kernel has one tunnel for each pair of ends and key (`ip_tunnel_find`, net/ipv4/ip_tunnel.c).
    fn check_ends(&self, link: &LinkConfig) -> Result<(), String> {
        let ends = |it: &LinkConfig| (it.local, it.remote, it.ikey);
        let mut tunnels = self.links.tunnels.iter().map(|it| &it.state.link);
        match tunnels.any(|it| it.name != link.name && ends(it) == ends(link)) {
            true => Err("cannot set up the link: File exists".to_owned()),
            false => Ok(()),
        }
    }

    fn add(&mut self, state: TunnelState) {
        let name = state.link.name.clone();
        self.links.indices.insert(name, self.last_index);
        self.links.tunnels.push(ObservedTunnel {
            index: self.last_index,
            state,
            other_routes: Vec::new(),
            exact: true,
            counters: Default::default(),
        });
    }

    fn remove(&mut self, name: &str) {
        self.links.indices.remove(name);
        self.links.tunnels.retain(|it| it.state.link.name != name);
    }

    fn tunnel(&mut self, name: &str) -> Result<&mut ObservedTunnel, String> {
        let mut tunnels = self.links.tunnels.iter_mut();
        let found = tunnels.find(|it| it.state.link.name == name);
        found.ok_or_else(|| "No such device".to_owned())
    }

    fn names(&self) -> Vec<&str> {
        let tunnels = self.links.tunnels.iter();
        tunnels.map(|it| it.state.link.name.as_str()).collect()
    }
}

/// The machine, its kernel and the time.
struct Bench {
    now: Instant,
    machine: Machine,
    kernel: Kernel,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let config = Config {
            own: own(),
            port: 7777,
            families: vec![Family::V4],
        };
        let mut kernel = Kernel::default();
        kernel.fou_ports.push(fou_port((7777, Family::V4)));
        let found = DesiredTunnels::new();
        let mut bench = Bench {
            now,
            machine: Machine::new(now, config, found, BTreeSet::new()),
            kernel,
        };
        assert_eq!(bench.pass(), []);
        bench
    }

    /// One pass, if one is due; gives the reports.
    fn pass(&mut self) -> Vec<Applied> {
        if let Some(look) = self.machine.begin(self.now) {
            if self.kernel.cannot_be_read {
                self.machine.handle_failed_look(self.now, "no");
                return std::iter::from_fn(|| self.machine.poll_report()).collect();
            }
            let mtus = look.paths.iter().map(|it| (it.0, Ok(1500))).collect();
            let mut links = self.kernel.links.clone();
            if !look.routes {
                let states = links.tunnels.iter_mut().map(|it| &mut it.state);
                states.for_each(|it| (it.routes, it.snat) = Default::default());
            }
            let observation = Observation {
                links,
                mtus,
                fou_ports: self.kernel.fou_ports.clone(),
            };
            self.machine.handle_observation(self.now, &observation);
            while let Some(plan) = self.machine.next_plan() {
                let result = self.kernel.carry_out(&plan);
                self.machine.handle_result(self.now, plan, result);
            }
        }
        std::iter::from_fn(|| self.machine.poll_report()).collect()
    }

    fn want(&mut self, all: impl IntoIterator<Item = (u8, DesiredTunnel)>) -> Vec<Applied> {
        let all = all.into_iter().map(|(byte, it)| (peer(byte), it));
        self.machine.handle_desired(all.collect());
        self.pass()
    }

    fn later(&mut self, time: Duration) -> Vec<Applied> {
        self.now += time;
        self.pass()
    }

    /// As soon as links have settled.
    fn links_changed(&mut self) -> Vec<Applied> {
        self.machine.handle_link_change(self.now);
        self.later(LINK_SETTLE)
    }
}

/// The desired tunnel of the `byte`-th peer.
fn tunnel(byte: u8, number: u64) -> DesiredTunnel {
    let mut tunnel = desired();
    tunnel.outside.number = number;
    tunnel.inside.name = format!("gretun{byte}");
    tunnel.inside.alt_name = format!("peer{byte}");
    tunnel.outside.gre_key = u32::from(byte);
    tunnel.inside.peer_ips = vec![IpAddr::from([100, 64, 0, byte])];
    tunnel
}

fn variant(byte: u8, variant: u8, number: u64) -> DesiredTunnel {
    let mut tunnel = tunnel(byte, number);
    let other = Path {
        remote: "203.0.113.9:7777".parse().unwrap(),
        ..tunnel.outside.path
    };
    match variant {
        0 => {}
        1 => tunnel.outside.path = other,
        2 => tunnel.outside.overlap = Some(other),
        3 => tunnel.outside.path.local = "0.0.0.0".parse().unwrap(),
        4 => tunnel.outside.path.port = 20500 + u16::from(byte),
        _ => tunnel.inside.routes = vec!["10.0.0.0/8".parse().unwrap()],
    }
    tunnel
}

fn networks(all: &[&str]) -> BTreeSet<IpNet> {
    all.iter().map(|it| it.parse().unwrap()).collect()
}

fn done(reports: &[Applied]) -> Vec<u64> {
    let number = |it: &Applied| match it {
        Applied::Done { number, .. } => Some(*number),
        _ => None,
    };
    reports.iter().filter_map(number).collect()
}

fn failed(reports: &[Applied]) -> Vec<(u64, bool)> {
    let number = |it: &Applied| match it {
        Applied::Failed {
            number,
            is_repeated,
            ..
        } => Some((*number, *is_repeated)),
        _ => None,
    };
    reports.iter().filter_map(number).collect()
}

#[test]
fn a_request_is_answered_also_when_nothing_has_to_be_done() {
    let mut bench = Bench::new();
    assert_eq!(done(&bench.want([(1, tunnel(1, 1))])), [1]);
    bench.kernel.done.clear();
    // The path went elsewhere and came back before the applier looked: only the latest request is seen, and it is like the first.
    assert_eq!(done(&bench.want([(1, tunnel(1, 3))])), [3]);
    assert_eq!(bench.kernel.done, [] as [&str; 0]);
    // The same request is answered once.
    assert_eq!(bench.links_changed(), []);
    // A peer that left and came back while the applier was busy.
    assert_eq!(done(&bench.want([(1, tunnel(1, 4))])), [4]);
}

#[test]
fn a_tunnel_that_somebody_removed_is_made_again_and_reported() {
    let mut bench = Bench::new();
    bench.want([(1, tunnel(1, 1))]);
    bench.kernel.remove("gretun1");
    assert_eq!(done(&bench.links_changed()), [1]);
    assert_eq!(bench.kernel.names(), ["gretun1"]);
}

#[test]
fn failures_are_tried_again_at_growing_intervals_and_reported_once() {
    let mut bench = Bench::new();
    bench.kernel.refuses = vec!["create".to_owned()];
    assert_eq!(failed(&bench.want([(1, tunnel(1, 1))])), [(1, false)]);
    let mut passes = 0;
    let end = bench.now + 300 * SECOND;
    while let Some(at) = bench.machine.poll_timeout(bench.now).filter(|at| *at < end) {
        bench.now = bench.now.max(at);
        assert_eq!(bench.pass(), []);
        passes += 1;
    }
    // 1, 2, 4, 8, 16 and 30 s, and the looks at the ports.
    assert!((10..=25).contains(&passes), "{passes}");
    // Somebody's links change all the time: that is no reason to try each time.
    assert_eq!(bench.links_changed(), []);
    // Other words, and another request with the same words, are news.
    bench.kernel.refuses = vec!["gre link".to_owned()];
    assert_eq!(failed(&bench.want([(1, tunnel(1, 2))])), [(2, true)]);
    bench.kernel.refuses.clear();
    assert_eq!(done(&bench.later(SECOND)), [2]);
}

#[test]
fn one_tunnel_that_fails_does_not_keep_others_from_theirs() {
    let mut bench = Bench::new();
    bench.want([(1, tunnel(1, 1)), (2, tunnel(2, 2))]);
    bench.kernel.refuses = vec!["remove link gretun1".to_owned(), "link gretun3".to_owned()];
    let reports = bench.want([(3, tunnel(3, 3)), (4, tunnel(4, 4))]);
    assert_eq!(done(&reports), [4]);
    assert_eq!(failed(&reports), [(3, false)]);
    let removed = Applied::Removed { peer: peer(2) };
    assert!(reports.contains(&removed), "{reports:?}");
    assert_eq!(bench.kernel.names(), ["gretun1", "gretun4"]);
    bench.kernel.refuses.clear();
    let reports = bench.later(SECOND);
    assert_eq!(done(&reports), [3]);
    assert!(reports.contains(&Applied::Removed { peer: peer(1) }));
}

#[test]
fn a_newcomer_gets_the_name_of_a_tunnel_that_leaves() {
    let mut bench = Bench::new();
    bench.want([(1, tunnel(1, 1))]);
    let mut newcomer = tunnel(2, 2);
    newcomer.inside.name = "gretun1".to_owned();
    let reports = bench.want([(2, newcomer)]);
    assert_eq!((done(&reports), failed(&reports)), (vec![2], vec![]));
    assert_eq!(bench.kernel.names(), ["gretun1"]);
}

#[test]
fn many_tunnels_are_removed_with_one_plan() {
    let mut bench = Bench::new();
    bench.want((1..=20).map(|byte| (byte, tunnel(byte, byte.into()))));
    bench.machine.handle_desired(DesiredTunnels::new());
    assert!(bench.machine.begin(bench.now).is_some());
    let observation = Observation {
        links: bench.kernel.links.clone(),
        fou_ports: bench.kernel.fou_ports.clone(),
        ..Observation::default()
    };
    bench.machine.handle_observation(bench.now, &observation);
    let plan = bench.machine.next_plan().unwrap();
    // One request removes them all, and one transaction what they let in.
    let stages: Vec<_> = plan.ops.chunk_by(|a, b| a.stage() == b.stage()).collect();
    let sizes: Vec<usize> = stages.into_iter().map(<[KernelOp]>::len).collect();
    assert_eq!(sizes, [20, 40]);
    assert!(bench.machine.next_plan().is_none());
}

/// The host lost the address that the tunnel sends from, in the middle of a move: the tunnel is to send from any address, and
/// the link that receives for the move has just these ends.
#[test]
fn a_receiving_link_does_not_keep_a_tunnel_from_losing_its_address() {
    for still_moving in [false, true] {
        let mut bench = Bench::new();
        let mut moving = tunnel(1, 1);
        bench.want([(1, moving.clone())]);
        let other = "203.0.113.9:7777".parse().unwrap();
        let path = moving.outside.path;
        moving.outside.number = 2;
        moving.outside.overlap = Some(Path {
            remote: other,
            ..path
        });
        assert_eq!(done(&bench.want([(1, moving.clone())])), [2]);
        assert_eq!(bench.kernel.names(), ["gretun1", "gretun1~1", "gretun1~2"]);
        moving.outside.number = 3;
        moving.outside.path.local = "0.0.0.0".parse().unwrap();
        if !still_moving {
            moving.outside.overlap = None;
        }
        let reports = bench.want([(1, moving.clone())]);
        assert_eq!(done(&reports), [3], "{reports:?}");
        let left = if still_moving { 2 } else { 1 };
        assert_eq!(
            bench.kernel.names().len(),
            left,
            "{:?}",
            bench.kernel.names()
        );
        // The address comes back while the move goes on.
        moving.outside.number = 4;
        moving.outside.path = path;
        assert_eq!(done(&bench.want([(1, moving)])), [4]);
    }
}

#[test]
fn the_data_port_is_opened_again() {
    let mut bench = Bench::new();
    bench.kernel.fou_ports.clear();
    bench.later(PORT_CHECK_INTERVAL);
    assert_eq!(bench.kernel.fou_ports, [fou_port((7777, Family::V4))]);
}

#[test]
fn a_port_of_its_own_is_noted_before_it_is_opened_and_closed_after_use() {
    let mut bench = Bench::new();
    let mut searched = tunnel(1, 1);
    searched.outside.path.port = 20500;
    bench.want([(1, searched.clone())]);
    let port = (20500, Family::V4);
    assert_eq!(bench.machine.poll_note(), Some(BTreeSet::from([port])));
    assert_eq!(bench.machine.poll_note(), None);
    assert!(bench.kernel.fou_ports.contains(&fou_port(port)));
    bench.want([(1, tunnel(1, 2))]);
    assert_eq!(bench.machine.poll_note(), Some(BTreeSet::new()));
    assert!(!bench.kernel.fou_ports.contains(&fou_port(port)));
    // Somebody else's port is used, and left alone.
    bench.kernel.fou_ports.push(fou_port(port));
    searched.outside.number = 3;
    bench.want([(1, searched)]);
    bench.want([(1, tunnel(1, 4))]);
    assert!(bench.kernel.fou_ports.contains(&fou_port(port)));
    assert_eq!(bench.machine.poll_note(), None);
}

#[test]
fn a_port_that_cannot_be_had_fails_only_the_tunnels_that_need_it() {
    let mut bench = Bench::new();
    let mut searched = tunnel(1, 1);
    searched.outside.path.port = 20500;
    bench.kernel.refuses = vec!["20500".to_owned()];
    let reports = bench.want([(1, searched), (2, tunnel(2, 2))]);
    assert_eq!(
        (done(&reports), failed(&reports)),
        (vec![2], vec![(1, false)])
    );
    assert_eq!(bench.kernel.names(), ["gretun2"]);
}

#[test]
fn a_tunnel_does_without_what_the_kernel_refuses() {
    let mut bench = Bench::new();
    bench.kernel.refuses = vec!["alternative name".to_owned(), "route 10.0.0.0/8".to_owned()];
    let mut wanted = tunnel(1, 1);
    wanted.inside.routes = ["10.0.0.0/8", "10.9.0.0/16"]
        .map(|it| it.parse().unwrap())
        .to_vec();
    assert_eq!(done(&bench.want([(1, wanted)])), [1]);
    let link = &bench.kernel.links.tunnels[0].state;
    assert_eq!((link.alt_names.len(), link.routes.len()), (0, 1));
}

#[test]
fn nothing_is_kept_of_tunnels_that_are_gone() {
    let mut bench = Bench::new();
    bench.kernel.refuses = vec!["alternative name".to_owned()];
    for round in 0..50 {
        let mut renamed = tunnel(1, round);
        renamed.inside.alt_name = format!("name{round}");
        bench.want([(1, renamed)]);
        assert!(bench.machine.tunnels[&peer(1)].left_out.len() <= 1);
        // Somebody else may be faster than the removal.
        bench.kernel.remove("gretun1");
        let removed = Applied::Removed { peer: peer(1) };
        assert_eq!(bench.want([]), [removed]);
        assert!(bench.machine.tunnels.is_empty());
    }
}

#[test]
fn a_kernel_that_cannot_be_read_is_asked_again_later() {
    let mut bench = Bench::new();
    assert_eq!(done(&bench.want([(1, tunnel(1, 1))])), [1]);
    bench.kernel.cannot_be_read = true;
    // Whoever waits for a tunnel is told why it does not come, and nobody else.
    let mut other_mtu = tunnel(1, 2);
    other_mtu.outside.path_mtu = Some(1400);
    let told = bench.want([(1, other_mtu), (2, tunnel(2, 2))]);
    let [
        Applied::Failed {
            peer: of, error, ..
        },
    ] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!((*of, error.as_str()), (peer(2), "no"));
    assert!(bench.machine.poll_timeout(bench.now) > Some(bench.now));
    bench.kernel.cannot_be_read = false;
    assert_eq!(done(&bench.later(SECOND)), [2, 2]);
}

/// The last network of all: nothing that is desired has routes any more, so that only this pass looks at them.
#[test]
fn a_network_that_is_not_desired_any_more_is_not_routed() {
    let mut bench = Bench::new();
    let mut routing = tunnel(1, 1);
    routing.inside.routes = vec!["10.0.0.0/8".parse().unwrap()];
    bench.want([(1, routing)]);
    assert_eq!(
        bench.kernel.tunnel("gretun1").unwrap().state.routes.len(),
        1
    );
    bench.want([(1, tunnel(1, 2))]);
    assert_eq!(bench.kernel.tunnel("gretun1").unwrap().state.routes, []);
}

#[test]
fn links_of_others_and_of_other_nodes_stay() {
    let mut bench = Bench::new();
    let mut theirs = tunnel(9, 1).state(OwnerAlias::new(peer(0xdd), peer(9)).to_string(), 1500);
    theirs.link.name = "theirs".to_owned();
    bench.kernel.last_index = 70;
    bench.kernel.add(theirs);
    bench.want([(1, tunnel(1, 1))]);
    bench.want([]);
    assert_eq!(bench.kernel.names(), ["theirs"]);
}
