//! The applier of a simulated host: the real machine over a kernel that is slow, refuses and loses links. What is desired
//! while a pass goes on waits for the next pass, and only the latest counts.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use gretun::applier::desired::DesiredTunnels;
use gretun::applier::machine::{Applied, Config, Failure, Machine, Observation, Plan};
use gretun::applier::owner_alias::OwnerAlias;
use gretun::kernel::tunnel::dump::{Links, ObservedTunnel};
use gretun::node::Path;
use gretun::tunnel::encap::{FouPort, Receives};
use gretun::tunnel::mode::{Family, Mode};
use gretun::tunnel::mtu;
use gretun::tunnel::op::KernelOp;
use gretun::tunnel::state::{LinkConfig, TunnelState};
use ipnet::IpNet;

use crate::clock::Event;
use crate::host::{Host, KernelTunnel};
use crate::world::{HostId, NO_ROUTE, World};

/// The daemon's applier.
#[derive(Debug)]
pub struct Applier {
    machine: Machine,
    /// When it looks at the kernel next.
    looks_at: Option<Instant>,
    /// Whether it has looked and is about to carry out its plans.
    in_pass: bool,
}

/// Links and FOU ports; they outlive the daemon.
#[derive(Debug, Default)]
pub struct Kernel {
    pub links: Links,
    pub fou_ports: Vec<FouPort>,
    last_index: u32,
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Kernel {
    fn open_data_port(&mut self, port: u16) {
        for family in FAMILIES {
            let receives = Receives::Protocol(Mode::Gre.protocol());
            let port = FouPort {
                port,
                family,
                receives,
            };
            if !self.fou_ports.contains(&port) {
                self.fou_ports.push(port);
            }
        }
    }

    /// Carries out a plan or nothing.
    fn carry_out(&mut self, plan: &Plan, refuses: Option<&String>) -> Result<Option<u32>, Failure> {
        let before = (self.links.clone(), self.fou_ports.clone());
        for (step, op) in plan.ops.iter().enumerate() {
            if let Err(error) = self.apply(op, refuses) {
                (self.links, self.fou_ports) = before;
                let step = Some(step);
                return Err(Failure { step, error });
            }
        }
        Ok(plan.makes().map(|name| self.links.indices[name]))
    }

    fn apply(&mut self, op: &KernelOp, refuses: Option<&String>) -> Result<(), String> {
        match op {
            KernelOp::AddFou(port) => self.fou_ports.push(*port),
            KernelOp::DeleteFou(port) => self.fou_ports.retain(|it| it != port),
            KernelOp::AddLink(_) | KernelOp::ChangeLink { .. } if refuses.is_some() => {
                return Err(refuses.cloned().unwrap_or_default());
            }
            KernelOp::AddLink(link) => self.add(link)?,
            KernelOp::ChangeLink { to, .. } => {
                self.check_ends(to)?;
                self.state(&to.name)?.link = to.clone();
            }
            KernelOp::DeleteLink(tunnel) => {
                let name = &tunnel.link.name;
                self.links.indices.remove(name);
                self.links.tunnels.retain(|it| it.state.link.name != *name);
            }
            // What tunnels carry inside is asked for, and of no more interest here than that it is there.
            KernelOp::AddAltName { link, name } => self.state(link)?.alt_names.push(name.clone()),
            KernelOp::AddAddress { link, address } => self.state(link)?.addresses.push(*address),
            KernelOp::AddRoute { link, route } => self.state(link)?.routes.push(*route),
            KernelOp::AddSnat { link, network } => self.state(link)?.snat.push(*network),
            KernelOp::DeleteAltName { link, name } => {
                self.state(link)?.alt_names.retain(|it| it != name);
            }
            KernelOp::DeleteAddress { link, address } => {
                self.state(link)?.addresses.retain(|it| it != address);
            }
            KernelOp::DeleteRoute { link, route } => {
                self.state(link)?.routes.retain(|it| it != route);
            }
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
            KernelOp::DeleteSnat { link, network } => {
                if let Ok(state) = self.state(link) {
                    state.snat.retain(|it| it != network);
                }
            }
        }
        Ok(())
    }

    fn state(&mut self, name: &str) -> Result<&mut TunnelState, String> {
        let mut tunnels = self.links.tunnels.iter_mut();
        let found = tunnels.find(|it| it.state.link.name == name);
        let found = found.ok_or_else(|| "No such device".to_owned())?;
        Ok(&mut found.state)
    }

    fn add(&mut self, link: &LinkConfig) -> Result<(), String> {
        self.check_ends(link)?;
        self.last_index += 1;
        let index = self.last_index;
        if self
            .links
            .indices
            .insert(link.name.clone(), index)
            .is_some()
        {
            return Err("File exists".to_owned());
        }
        self.links.tunnels.push(ObservedTunnel {
            index,
            state: TunnelState {
                link: link.clone(),
                alt_names: Vec::new(),
                addresses: Vec::new(),
                routes: Vec::new(),
                snat: Vec::new(),
            },
            other_routes: Vec::new(),
            exact: true,
            counters: Default::default(),
        });
        Ok(())
    }

    /// The kernel has one tunnel for each pair of ends and key.
    fn check_ends(&self, link: &LinkConfig) -> Result<(), String> {
        let ends = |it: &LinkConfig| (it.local, it.remote, it.ikey);
        let mut tunnels = self.links.tunnels.iter().map(|it| &it.state.link);
        match tunnels.any(|it| it.name != link.name && ends(it) == ends(link)) {
            true => Err("File exists".to_owned()),
            false => Ok(()),
        }
    }
}

/// The path of a tunnel's link, its key and what its outer packets may measure.
fn read(link: &LinkConfig) -> Option<(Path, u32, u16)> {
    let udp = link.encap.udp()?;
    let remote = link.remote?;
    let any: IpAddr = match remote {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let path = Path {
        local: link.local.unwrap_or(any),
        port: udp.sport,
        remote: (remote, udp.dport).into(),
    };
    let path_mtu = link.mtu + mtu::overhead(link.mode, link.encap, true);
    Some((path, link.ikey?, u16::try_from(path_mtu).ok()?))
}

impl Host {
    /// Starts the applier, which finds the tunnels that the kernel has.
    pub fn start_applier(&mut self, now: Instant) {
        self.kernel.open_data_port(self.port);
        let config = Config {
            own: self.node_key,
            port: self.port,
            families: FAMILIES.to_vec(),
        };
        let noted = BTreeSet::new();
        self.applier = Some(Applier {
            machine: Machine::new(now, config, self.wanted.clone(), noted),
            looks_at: None,
            in_pass: false,
        });
    }

    /// The host's tunnels as the kernel has them now.
    fn read_tunnels(&mut self, now: Instant) {
        let mut before = std::mem::take(&mut self.tunnels);
        let mut receiving = Vec::new();
        for tunnel in &self.kernel.links.tunnels {
            let link = &tunnel.state.link;
            let alias = OwnerAlias::of(tunnel).expect("nobody else makes links here");
            let Some((path, key, path_mtu)) = read(link) else {
                receiving.push((alias.peer, link.remote));
                continue;
            };
            let before = before.remove(&alias.peer);
            let same = before.filter(|it| (it.path, it.key) == (path, key));
            self.tunnel_changes += u64::from(same.is_none());
            let index = tunnel.index;
            let tunnel = KernelTunnel {
                index,
                path,
                key,
                path_mtu,
                receiving: Vec::new(),
                since: same.map_or(now, |it| it.since),
            };
            self.tunnels.insert(alias.peer, tunnel);
        }
        for (peer, remote) in receiving {
            if let Some(tunnel) = self.tunnels.get_mut(&peer) {
                tunnel.receiving.extend(remote);
            }
        }
    }
}

impl World {
    /// Hands the latest desired state to the applier, unless it is busy, and has it look when that is due.
    pub fn wake_applier(&mut self, id: HostId) {
        let (now, local_time) = (self.now, self.local_time(id));
        let host = &mut self.hosts[id.0];
        let Some(applier) = host.applier.as_mut().filter(|it| !it.in_pass) else {
            return;
        };
        applier.machine.handle_desired(host.wanted.clone());
        let due = applier.machine.poll_timeout(local_time);
        let Some(at) = due.and_then(|at| host.clock.when(at.max(local_time))) else {
            return;
        };
        let at = at.max(now);
        if applier.looks_at.is_none_or(|before| at < before) {
            applier.looks_at = Some(at);
            let incarnation = host.incarnation;
            self.at(at - now, Event::ApplierLooks(id, incarnation));
        }
    }

    /// The host was suspended, and its applier with it.
    pub fn applier_resumes(&mut self, id: HostId) {
        if let Some(applier) = &mut self.hosts[id.0].applier {
            applier.looks_at = None;
        }
        self.wake_applier(id);
    }

    /// Some link of the host changed.
    pub fn links_changed(&mut self, id: HostId) {
        let local_time = self.local_time(id);
        if let Some(applier) = &mut self.hosts[id.0].applier {
            applier.machine.handle_link_change(local_time);
        }
        self.wake_applier(id);
    }

    pub fn applier_looks(&mut self, id: HostId, incarnation: u64) {
        let (now, local_time) = (self.now, self.local_time(id));
        let host = &mut self.hosts[id.0];
        if host.incarnation != incarnation || host.clock.is_stopped() {
            return;
        }
        let Some(applier) = host.applier.as_mut().filter(|it| it.looks_at == Some(now)) else {
            return;
        };
        applier.looks_at = None;
        let Some(look) = applier.machine.begin(local_time) else {
            return self.wake_applier(id);
        };
        applier.in_pass = true;
        let mtus = look.paths.iter().map(|&(peer, local, _)| {
            let mtu = host_mtu(&host.interfaces, local).map(u32::from);
            (peer, mtu.ok_or_else(|| NO_ROUTE.to_owned()))
        });
        let observation = Observation {
            links: host.kernel.links.clone(),
            mtus: mtus.collect(),
            fou_ports: host.kernel.fou_ports.clone(),
        };
        applier.machine.handle_observation(local_time, &observation);
        let delay = host.apply_delay;
        self.at(delay, Event::ApplierActs(id, incarnation));
    }

    pub fn applier_acts(&mut self, id: HostId, incarnation: u64) {
        let (now, local_time) = (self.now, self.local_time(id));
        let host = &mut self.hosts[id.0];
        if host.incarnation != incarnation {
            return;
        }
        if host.clock.is_stopped() {
            // It goes on where it stopped, some time after the host does.
            return self.at(host_sleep(), Event::ApplierActs(id, incarnation));
        }
        if let Some(at) = host.kernel_answers_at.filter(|at| *at > now) {
            return self.at(at - now, Event::ApplierActs(id, incarnation));
        }
        let Some(applier) = &mut host.applier else {
            return;
        };
        while let Some(plan) = applier.machine.next_plan() {
            let result = host.kernel.carry_out(&plan, host.refuses.as_ref());
            applier.machine.handle_result(local_time, plan, result);
        }
        applier.in_pass = false;
        let reports: Vec<Applied> = std::iter::from_fn(|| applier.machine.poll_report()).collect();
        host.read_tunnels(now);
        if let Some(daemon) = &mut self.hosts[id.0].daemon {
            for report in reports {
                daemon.handle_applied(local_time, report);
            }
        }
        self.drain(id);
        self.wake_applier(id);
    }
}

/// How often a suspended host is looked at.
fn host_sleep() -> Duration {
    Duration::from_millis(100)
}

fn host_mtu(interfaces: &[crate::host::Interface], local: IpAddr) -> Option<u16> {
    if local.is_unspecified() {
        return Some(gretun::node::FIRST_PATH_MTU);
    }
    let interface = interfaces.iter().find(|it| it.up && it.ip == local);
    interface.map(|it| it.link.mtu)
}

/// What is desired of all tunnels of a host.
pub type Wanted = DesiredTunnels;
