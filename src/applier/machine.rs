//! Decides what the applier does: desired tunnels and the links that the kernel has come in, plans and reports come out.
//!
//! Pure: no clock, no kernel. The driver calls [`Machine::begin`]; when that asks for a look, it dumps the kernel, hands over
//! what it found ([`Machine::handle_observation`]), carries out each plan of [`Machine::next_plan`] and says how it went
//! ([`Machine::handle_result`]). Whatever happens meanwhile waits for the next pass.
//!
//! Every desired tunnel has a number. A pass ends with a report on each tunnel whose number, link or error is another than in
//! the report before. So the highest number that the kernel satisfies is always reported, also when nothing had to be done.

mod plan;
mod planning;
mod ports;
mod progress;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::desired::{DesiredTunnels, ListenPort};
use crate::kernel::tunnel::dump::Links;
use crate::node::{DesiredTunnel, Path};
use crate::proto::keys::NodePublic;
use crate::tunnel::encap::FouPort;
use crate::tunnel::mode::Family;
use crate::tunnel::sources::Sources;

pub use plan::Plan;
use plan::{Job, TunnelJob};
use planning::removal;
use ports::Ports;
use progress::{Progress, Refused};

/// Changes of links come in bursts, and the applier's own are among them: all tunnels are looked at together this long after
/// the first.
const LINK_SETTLE: Duration = Duration::from_millis(100);

/// A failed operation is tried again after this time, and after twice the time before from then on. Another request for the
/// tunnel is tried at once.
const RETRY: Duration = Duration::from_secs(1);
/// The longest time between two tries.
const MAX_RETRY: Duration = Duration::from_secs(30);

/// Nothing tells that somebody closed a FOU port, so the applier looks this often.
const PORT_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// The machine's knowledge of the node from the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node, whose links are ours.
    pub own: NodePublic,
    /// The data port.
    pub port: u16,
    /// The versions of IP over which the data port is open.
    pub families: Vec<Family>,
}

/// A link of ours, as it is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// MTU, bytes.
    pub mtu: u32,
    /// MTU of the device that its packets leave through, bytes.
    pub device_mtu: u32,
}

/// A report on a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The kernel's link is as desired.
    Done {
        /// The peer at the far end.
        peer: NodePublic,
        /// The highest number of a request that the link satisfies.
        number: u64,
        /// The path that it uses.
        path: Path,
        /// The link.
        link: Link,
    },
    /// The link could not be made so.
    Failed {
        /// The peer at the far end.
        peer: NodePublic,
        /// The number of the request.
        number: u64,
        /// The path that was desired.
        path: Path,
        /// The step that failed, and the kernel's words.
        error: String,
        /// Whether the request before failed with the same words.
        is_repeated: bool,
    },
    /// The link is gone, as desired.
    Removed {
        /// The peer at the far end.
        peer: NodePublic,
    },
}

/// The parts of the kernel's state that the driver dumps for a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Whether routes and address translation are of interest. On a router with a million routes a dump of them is not cheap.
    pub routes: bool,
    /// The ends between which the route's MTU is asked for, for each tunnel that may be changed.
    pub paths: Vec<(NodePublic, IpAddr, IpAddr)>,
}

/// The kernel's state, as the driver dumped it.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// The host's links.
    pub links: Links,
    /// The MTU of the route of each path of the look, bytes, or why there is no route.
    pub mtus: BTreeMap<NodePublic, Result<u32, String>>,
    /// All FOU ports.
    pub fou_ports: Vec<FouPort>,
}

/// How a plan failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The step of the plan that the kernel refused; `None` where it was not a step.
    pub step: Option<usize>,
    /// The step and the kernel's words.
    pub error: String,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    desired: DesiredTunnels,
    tunnels: BTreeMap<NodePublic, Progress>,
    ports: Ports,
    /// When to hold all tunnels against the kernel. In between, only those of which something else is desired: there may be
    /// hundreds, and each costs requests to the kernel.
    look_at_all: Option<Instant>,
    check_ports: Instant,
    /// Looks that failed one after the other, and the error of the last.
    failed_looks: (u32, String),
    /// No look before this.
    held_until: Option<Instant>,
    /// Whether some tunnel may have routes or address translation.
    has_routes: bool,
    /// The tunnels that the pass which goes on is about, as desired when it began.
    due: DesiredTunnels,
    plans: VecDeque<Plan>,
    /// The names of links that this pass removes before it makes any.
    leaving: BTreeSet<String>,
    /// The sources that links let in when the plans so far have been carried out.
    sources: Sources,
    reports: VecDeque<Applied>,
}

impl Machine {
    /// A machine for the tunnels that were found at start. `noted` are the ports that an earlier run may have opened.
    pub fn new(
        now: Instant,
        config: Config,
        found: DesiredTunnels,
        noted: BTreeSet<ListenPort>,
    ) -> Self {
        let used = found.values().map(DesiredTunnel::listen_port);
        let of_others = used.filter(|it| it.0 != config.port);
        Machine {
            ports: Ports::new(noted.into_iter().chain(of_others).collect()),
            config,
            desired: found,
            tunnels: BTreeMap::new(),
            look_at_all: Some(now),
            check_ports: now,
            failed_looks: (0, String::new()),
            held_until: None,
            // The daemon before this one may have made some.
            has_routes: true,
            due: DesiredTunnels::new(),
            plans: VecDeque::new(),
            leaving: BTreeSet::new(),
            sources: Sources::new(),
            reports: VecDeque::new(),
        }
    }

    /// Takes the latest desired state of all tunnels.
    pub fn handle_desired(&mut self, desired: DesiredTunnels) {
        self.desired = desired;
    }

    /// Some link of the host changed.
    pub fn handle_link_change(&mut self, now: Instant) {
        let at = now + LINK_SETTLE;
        self.look_at_all = Some(self.look_at_all.map_or(at, |before| before.min(at)));
    }

    /// Returns when [`Machine::begin`] has something to do: never, now or later.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let retries = self.tunnels.iter();
        let retries = retries.filter(|(peer, it)| !it.satisfies(self.desired.get(peer)));
        let retries = retries.map(|(peer, it)| it.retry_at(self.desired.get(peer)).unwrap_or(now));
        let new = self.desired.keys().any(|it| !self.tunnels.contains_key(it));
        let next = retries
            .chain(new.then_some(now))
            .chain(self.look_at_all)
            .chain([self.check_ports])
            .min()?;
        Some(self.held_until.map_or(next, |held| held.max(next)))
    }

    /// Begins a pass where one is due, and returns what to look at for it.
    pub fn begin(&mut self, now: Instant) -> Option<Look> {
        if self.poll_timeout(now).is_none_or(|at| at > now) {
            return None;
        }
        self.held_until = None;
        self.check_ports = now + PORT_CHECK_INTERVAL;
        let all = self.look_at_all.take_if(|at| *at <= now).is_some();
        let is_due = |peer: &NodePublic, desired: &DesiredTunnel| match self.tunnels.get(peer) {
            None => true,
            Some(it) if it.retry_at(Some(desired)).is_some_and(|at| at > now) => false,
            Some(it) => all || !it.satisfies(Some(desired)),
        };
        let due = self.desired.iter().filter(|(peer, it)| is_due(peer, it));
        let due: DesiredTunnels = due.map(|(peer, it)| (*peer, it.clone())).collect();
        let paths = due.iter();
        let paths = paths
            .map(|(peer, it)| (*peer, it.outside.path.local, it.outside.path.remote.ip()))
            .collect();
        self.due = due;
        let mut desired = self.desired.values();
        let wants_routes =
            desired.any(|it| !it.inside.routes.is_empty() || !it.inside.snat.is_empty());
        let had_routes = std::mem::replace(&mut self.has_routes, wants_routes);
        Some(Look {
            routes: wants_routes || had_routes,
            paths,
        })
    }

    /// The look of this pass failed: the pass is over, and all tunnels are looked at later.
    pub fn handle_failed_look(&mut self, now: Instant, error: &str) {
        let (count, before) = &mut self.failed_looks;
        if before != error {
            warn!(error, "the kernel's tunnels cannot be read");
            error.clone_into(before);
        }
        *count += 1;
        let at = now + backoff(*count);
        // Whoever waits for a tunnel learns why it does not come. One over the path in use is there, whatever else is desired of it.
        for (peer, desired) in std::mem::take(&mut self.due) {
            let progress = self.tunnels.get(&peer);
            let path = progress.and_then(|it| Some(it.satisfied.as_ref()?.outside.path));
            if path != Some(desired.outside.path) {
                self.failed(now, peer, Some(&desired), error.to_owned());
            }
        }
        self.held_until = Some(at);
        self.look_at_all = Some(at);
        self.has_routes = true;
    }

    /// Makes the plans of this pass. Removals come first, because a newcomer may have the name of a tunnel that leaves.
    pub fn handle_observation(&mut self, now: Instant, observation: &Observation) {
        self.failed_looks = (0, String::new());
        let due = std::mem::take(&mut self.due);
        let families = self.config.families.iter();
        let data_ports = families.map(|family| (self.config.port, *family));
        self.plans = self
            .ports
            .missing(data_ports, &observation.fou_ports, Job::DataPort);
        self.sources.clone_from(&observation.links.sources);
        let mut own = self.own_links(&observation.links);
        self.plan_removals(now, &mut own, observation);
        let used = due.values().map(DesiredTunnel::listen_port);
        let opened = used.clone().filter(|it| it.0 != self.config.port);
        let opened = self.ports.open(opened.collect(), &observation.fou_ports);
        self.plans.extend(opened);
        let used = used.chain(self.desired.values().map(DesiredTunnel::listen_port));
        let unused = self.ports.close_unused(&used.collect());
        let mut due: Vec<(NodePublic, DesiredTunnel)> = due.into_iter().collect();
        // A tunnel that gives a network up goes before the one that takes it.
        due.sort_by_key(|(peer, desired)| {
            let tunnel = own.get(peer).and_then(|it| it.tunnel);
            let routes = tunnel.map(|it| &it.state.routes[..]).unwrap_or_default();
            !routes
                .iter()
                .any(|it| !desired.inside.routes.contains(&it.network))
        });
        for (peer, desired) in due {
            if self.desired.contains_key(&peer) {
                let links = own.remove(&peer).unwrap_or_default();
                self.plan_tunnel(now, peer, desired, &links, observation);
            }
        }
        self.let_in_together(&observation.links);
        self.plans.extend(unused);
    }

    /// The next plan to carry out; `None` ends the pass.
    pub fn next_plan(&mut self) -> Option<Plan> {
        self.plans.pop_front()
    }

    /// A plan was carried out, or was not. `made` is the index of the link that it made.
    pub fn handle_result(
        &mut self,
        now: Instant,
        mut plan: Plan,
        result: Result<Option<u32>, Failure>,
    ) {
        let failure = match result {
            Ok(made) => return self.succeeded(plan.job, made),
            Err(failure) => failure,
        };
        if let Some(step) = failure.step
            && let Some(op) = plan.ops.get(step)
            && op.is_optional()
        {
            if let Some(progress) = plan.job.peer().and_then(|it| self.tunnels.get_mut(&it))
                && progress.left_out.insert(op.to_string())
            {
                warn!(step = %op, error = failure.error, "the tunnel does without");
            }
            plan.ops.remove(step);
            return self.plans.push_front(plan);
        }
        let error = failure.error;
        match plan.job {
            Job::DataPort => self.ports.warn_once(&error),
            Job::OpenPort(port) => {
                let desired = self.desired.iter();
                let users = desired.filter(|(_, it)| it.listen_port() == port);
                let users: BTreeSet<_> = users.map(|(peer, _)| *peer).collect();
                self.ports.forget(port);
                self.skip(now, &error, |plan| {
                    plan.job.peer().is_some_and(|it| users.contains(&it))
                });
            }
            Job::LetIn(sources) => {
                debug!(
                    error,
                    "the sources of all tunnels cannot be let in together"
                );
                self.let_in_singly(sources);
            }
            Job::ClosePorts(_) => self.ports.warn_once(&error),
            Job::Remove(peers, sources) if peers.len() > 1 => {
                debug!(error, "the links cannot be removed together");
                for (peer, states) in peers {
                    let plan = removal(BTreeMap::from([(peer, states)]), sources.clone());
                    self.plans.push_front(plan);
                }
            }
            Job::Remove(peers, _) => {
                // A newcomer under the name of a link that stays would give its sources to that link.
                let names: BTreeSet<String> = peers
                    .values()
                    .flatten()
                    .map(|it| it.link.name.clone())
                    .collect();
                self.skip(now, &error, |plan| {
                    plan.makes().is_some_and(|it| names.contains(it))
                });
                for peer in peers.into_keys() {
                    self.failed(now, peer, None, error.clone());
                }
            }
            Job::Receive(_) => warn!(error, "packets may be lost while the tunnel moves"),
            Job::Tunnel(job) => self.failed(now, job.peer, Some(&job.desired), error),
        }
    }

    /// The next report, until there is none.
    pub fn poll_report(&mut self) -> Option<Applied> {
        self.reports.pop_front()
    }

    /// The ports to note on disk where they are others than before: to be noted before the next plan is carried out, so
    /// that whatever a killed daemon left open the next one closes.
    pub fn poll_note(&mut self) -> Option<BTreeSet<ListenPort>> {
        self.ports.poll_note()
    }

    fn succeeded(&mut self, job: Job, made: Option<u32>) {
        match job {
            Job::DataPort => info!(
                port = self.config.port,
                "the FOU port was gone and is open again"
            ),
            Job::OpenPort(port) => info!(port = port.0, "FOU port of a port search"),
            Job::ClosePorts(ports) => {
                for port in ports {
                    info!(
                        port = port.0,
                        "the FOU port of a port search is not needed any more"
                    );
                    self.ports.forget(port);
                }
            }
            Job::Remove(peers, _) => peers.into_keys().for_each(|peer| self.removed(peer)),
            Job::LetIn(_) | Job::Receive(_) => {}
            Job::Tunnel(job) => {
                let TunnelJob {
                    peer,
                    desired,
                    mut link,
                } = *job;
                link.index = made.unwrap_or(link.index);
                let done = Applied::Done {
                    peer,
                    number: desired.outside.number,
                    path: desired.outside.path,
                    link,
                };
                let progress = self.tunnels.entry(peer).or_default();
                progress.satisfied = Some(desired);
                progress.refused = None;
                self.report(peer, done);
            }
        }
    }

    /// Something failed that these plans need: they are not carried out.
    fn skip(&mut self, now: Instant, error: &str, needs_it: impl Fn(&Plan) -> bool) {
        let (skipped, plans) = std::mem::take(&mut self.plans)
            .into_iter()
            .partition(needs_it);
        self.plans = plans;
        for Plan { job, .. } in Vec::from(skipped) {
            if let Job::Tunnel(job) = job {
                self.failed(now, job.peer, Some(&job.desired), error.to_owned());
            }
        }
    }

    /// The kernel refused a tunnel (`desired`), or its removal.
    fn failed(
        &mut self,
        now: Instant,
        peer: NodePublic,
        desired: Option<&DesiredTunnel>,
        error: String,
    ) {
        let progress = self.tunnels.entry(peer).or_default();
        progress.satisfied = None;
        let before = progress.refused.take();
        let tries = match &before {
            Some(before) if before.desired.as_ref() == desired => before.tries + 1,
            _ => 1,
        };
        let is_repeated = before.is_some_and(|it| it.error == error);
        progress.refused = Some(Refused {
            desired: desired.cloned(),
            error: error.clone(),
            tries,
            not_before: now + backoff(tries),
        });
        match desired {
            Some(desired) => {
                let failed = Applied::Failed {
                    peer,
                    number: desired.outside.number,
                    path: desired.outside.path,
                    error,
                    is_repeated,
                };
                self.report(peer, failed);
            }
            None if !is_repeated => warn!(error, "a tunnel cannot be removed"),
            None => {}
        }
    }

    fn removed(&mut self, peer: NodePublic) {
        self.tunnels.remove(&peer);
        self.reports.push_back(Applied::Removed { peer });
    }

    /// Reports unless the report before said the same.
    fn report(&mut self, peer: NodePublic, report: Applied) {
        let progress = self.tunnels.entry(peer).or_default();
        let before = progress.reported.replace(report.clone());
        if before.is_none_or(|before| !before.says_the_same(&report)) {
            self.reports.push_back(report);
        }
    }
}

impl Applied {
    fn says_the_same(&self, other: &Applied) -> bool {
        match (self, other) {
            (
                Applied::Failed { number, error, .. },
                Applied::Failed {
                    number: other_number,
                    error: other_error,
                    ..
                },
            ) => (number, error) == (other_number, other_error),
            _ => self == other,
        }
    }
}

/// How long to wait after so many failures.
fn backoff(tries: u32) -> Duration {
    let doubled = RETRY.saturating_mul(1 << tries.saturating_sub(1).min(16));
    doubled.min(MAX_RETRY)
}
