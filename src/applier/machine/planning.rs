//! The plans of one pass: from the links that the kernel has to the operations that make them as desired.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ipnet::IpNet;
use tracing::{debug, info};

use super::{Job, Link, Machine, Observation, Plan, Progress, TunnelJob};
use crate::applier::owner_alias::OwnerAlias;
use crate::applier::receive_links::{free_name, remotes};
use crate::kernel::tunnel::dump::{Links, ObservedTunnel};
use crate::node::{DesiredTunnel, FIRST_PATH_MTU};
use crate::proto::keys::NodePublic;
use crate::tunnel::op::{KernelOp, Stage};
use crate::tunnel::plan;
use crate::tunnel::sources::{self, Sources};
use crate::tunnel::state::{LinkConfig, TunnelState};

impl Machine {
    /// Our links by their peers: what the aliases say.
    pub(super) fn own_links<'a>(&self, links: &'a Links) -> BTreeMap<NodePublic, OwnLinks<'a>> {
        let mut own: BTreeMap<NodePublic, OwnLinks<'a>> = BTreeMap::new();
        for tunnel in &links.tunnels {
            let Some(alias) = OwnerAlias::of(tunnel).filter(|it| it.is_of(self.config.own)) else {
                continue;
            };
            let links = own.entry(alias.peer).or_default();
            if alias.is_overlap {
                links.receiving.push(tunnel);
            } else if links.tunnel.is_none() {
                links.tunnel = Some(tunnel);
            } else {
                // Whoever gave two links one alias: one tunnel is enough.
                links.surplus.push(tunnel);
            }
        }
        own
    }

    pub(super) fn plan_removals(
        &mut self,
        now: Instant,
        own: &mut BTreeMap<NodePublic, OwnLinks<'_>>,
        observation: &Observation,
    ) {
        let known = self.tunnels.keys().copied();
        let is_gone = |it: &NodePublic| !self.desired.contains_key(it) && !own.contains_key(it);
        let gone: Vec<_> = known.filter(is_gone).collect();
        for peer in gone {
            // Where somebody else removed the link, or it never came, the sources that it was to let in are still there.
            let name = self.tunnels.get(&peer).and_then(Progress::link_name);
            let name = name.map(str::to_owned);
            let is_missing = |name: &String| !observation.links.indices.contains_key(name);
            if let Some(name) = name.filter(is_missing) {
                let ops = self.let_in(&name, &BTreeSet::new());
                self.plan_unless_done(Job::Receive(peer), ops);
            }
            self.removed(peer);
        }
        let held_back = |peer: &NodePublic| {
            let progress = self.tunnels.get(peer);
            progress
                .and_then(|it| it.retry_at(None))
                .is_some_and(|at| at > now)
        };
        let desired = &self.desired;
        let leavers = own.iter().filter(|(peer, _)| !desired.contains_key(peer));
        let leavers: BTreeMap<NodePublic, Vec<TunnelState>> = leavers
            .filter(|(peer, _)| !held_back(peer))
            .map(|(peer, links)| (*peer, links.states()))
            .collect();
        let names = leavers.values().flatten();
        self.leaving = names.map(|it| it.link.name.clone()).collect();
        if !leavers.is_empty() {
            for state in leavers.values().flatten() {
                info!(interface = state.link.name, "removing tunnel");
            }
            let links = leavers.values().flatten().map(|it| &it.link.name);
            let sources = links.filter_map(|name| self.sources.remove_entry(name));
            let sources = sources.collect();
            self.plans.push_back(removal(leavers, sources));
        }
        debug!(
            links = observation.links.tunnels.len(),
            "looked at the kernel's tunnels"
        );
    }

    pub(super) fn plan_tunnel(
        &mut self,
        now: Instant,
        peer: NodePublic,
        desired: DesiredTunnel,
        own: &OwnLinks<'_>,
        observation: &Observation,
    ) {
        let links = &observation.links;
        let local = desired.outside.path.local;
        let device_mtu = match observation.mtus.get(&peer) {
            Some(Ok(mtu)) => *mtu,
            // Nothing leaves now; later packets must not leave from an address that the host has lost.
            _ if local.is_unspecified() => u32::from(FIRST_PATH_MTU),
            route => {
                let error = match route {
                    Some(Err(error)) => error.clone(),
                    _ => "the route was not asked for".to_owned(),
                };
                return self.failed(now, peer, Some(&desired), error);
            }
        };
        let alias = OwnerAlias::new(self.config.own, peer);
        let path_mtu = desired.outside.path_mtu.unwrap_or(FIRST_PATH_MTU);
        let path_mtu = u32::from(path_mtu).min(device_mtu);
        let mut state = desired.state(alias.to_string(), path_mtu);
        if let Some(observed) = own.tunnel {
            // A link that a person renamed keeps its new name.
            state.link.name.clone_from(&observed.state.link.name);
        }
        let before = own.tunnel.map(|it| &it.state);
        let ops = match plan::overlay(before, Some(&state), &links.others) {
            Ok(ops) => ops,
            Err(error) => return self.failed(now, peer, Some(&desired), error.to_string()),
        };
        let makes_link = ops.iter().any(|op| matches!(op, KernelOp::AddLink(_)));
        let is_free = |name: &String| {
            !links.indices.contains_key(name)
                || self.leaving.contains(name)
                || own.all().any(|it| it.state.link.name == *name)
                || links.half_made.iter().any(|it| it.1 == *name)
        };
        let name = &state.link.name;
        if makes_link && !is_free(name) {
            // Of another peer, renamed by somebody: it would let in what this tunnel is to let in.
            let error = format!("there is another link {name}");
            return self.failed(now, peer, Some(&desired), error);
        }
        // What stands in the way is closed first: no link of ours may have the ends that the tunnel is about to have.
        let wanted = remotes(&desired);
        let is_wanted =
            |it: &ObservedTunnel| it.state.link.remote.is_some_and(|it| wanted.contains(&it));
        let (kept, unwanted): (Vec<&ObservedTunnel>, Vec<_>) =
            own.receiving.iter().partition(|it| is_wanted(it));
        let unwanted = unwanted.into_iter().chain(own.surplus.iter().copied());
        let unwanted: Vec<&TunnelState> = unwanted.map(|it| &it.state).collect();
        let removed = plan::overlay_removal(&unwanted, &self.sources);
        let is_unwanted = |name: &str| unwanted.iter().any(|it| it.link.name == name);
        self.sources.retain(|name, _| !is_unwanted(name));
        self.plan_unless_done(Job::Receive(peer), removed);
        let sources = desired.sources();
        for tunnel in &kept {
            let ops = self.let_in(&tunnel.state.link.name, &sources);
            self.plan_unless_done(Job::Receive(peer), ops);
        }
        let mut names: BTreeSet<String> = links.indices.keys().cloned().collect();
        let mut receiving: Vec<String> = kept.iter().map(|it| it.state.link.name.clone()).collect();
        let mut after = Vec::new();
        for remote in wanted {
            if kept.iter().any(|it| it.state.link.remote == Some(remote)) {
                continue;
            }
            let name = free_name(&desired.inside.name, |name| names.contains(name));
            names.insert(name.clone());
            receiving.push(name.clone());
            let link = LinkConfig {
                name: name.clone(),
                ..desired.receiving_link(alias.clone().of_overlap().to_string(), remote)
            };
            let ends = |it: &LinkConfig| (it.local, it.remote, it.ikey);
            // The tunnel's own link has these ends until it is changed, or is still to be made.
            let is_first = before.is_some_and(|it| ends(&it.link) != ends(&link));
            // A link lets nothing in before its sources are there, so they come first.
            let mut ops = self.let_in(&name, &sources);
            ops.push(KernelOp::AddLink(link));
            let mut plan = Plan::new(Job::Receive(peer), ops);
            plan.half_made = half_made(&plan.ops, links);
            plan.redirects = vec![(name, state.link.name.clone())];
            if is_first {
                self.plans.push_back(plan);
            } else {
                after.push(plan);
            }
        }
        let link = Link {
            index: own.tunnel.map_or(0, |it| it.index),
            name: state.link.name.clone(),
            mtu: state.link.mtu,
            device_mtu,
        };
        let let_in = self.let_in(&state.link.name, &sources);
        let ops: Vec<KernelOp> = let_in.into_iter().chain(ops).collect();
        let progress = self.tunnels.entry(peer).or_default();
        let steps: BTreeSet<String> = ops.iter().map(ToString::to_string).collect();
        progress.left_out.retain(|it| steps.contains(it));
        let mut plan = Plan::new(
            Job::Tunnel(Box::new(TunnelJob {
                peer,
                desired,
                link,
            })),
            ops,
        );
        plan.half_made = half_made(&plan.ops, links);
        if makes_link {
            // The redirections went with the link that they led to.
            let to = state.link.name;
            plan.redirects = receiving
                .into_iter()
                .map(|from| (from, to.clone()))
                .collect();
        }
        self.plans.push_back(plan);
        self.plans.extend(after);
    }

    /// Takes the changes of sources out of the plans of single tunnels, and puts them before all of these as one plan. Not where the plan
    /// makes a link under a name that is taken: there the link of before would let in what the new one is to let in, and only a
    /// plan that fails as a whole is undone as a whole.
    pub(super) fn let_in_together(&mut self, links: &Links) {
        let is_taken = |op: &KernelOp| matches!(op, KernelOp::AddLink(link) if links.indices.contains_key(&link.name));
        let mut together: BTreeMap<NodePublic, Vec<KernelOp>> = BTreeMap::new();
        for plan in &mut self.plans {
            let Job::Tunnel(job) = &plan.job else {
                continue;
            };
            if plan.ops.iter().any(is_taken) {
                continue;
            }
            let (sources, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut plan.ops)
                .into_iter()
                .partition(|op| op.stage() == Stage::Source);
            plan.ops = rest;
            if !sources.is_empty() {
                together.insert(job.peer, sources);
            }
        }
        let is_tunnel = |it: &Plan| matches!(it.job, Job::Tunnel(_));
        if let Some(first) = self.plans.iter().position(is_tunnel)
            && !together.is_empty()
        {
            let ops = together.values().flatten().cloned().collect();
            self.plans
                .insert(first, Plan::new(Job::LetIn(together), ops));
        }
    }

    /// Gives the changes of sources back to the plans of their tunnels: whichever the kernel refuses, the others are carried out.
    pub(super) fn let_in_singly(&mut self, mut sources: BTreeMap<NodePublic, Vec<KernelOp>>) {
        for plan in &mut self.plans {
            if let Job::Tunnel(job) = &plan.job
                && let Some(sources) = sources.remove(&job.peer)
            {
                plan.ops.splice(..0, sources);
            }
        }
    }

    fn plan_unless_done(&mut self, job: Job, ops: Vec<KernelOp>) {
        if !ops.is_empty() {
            self.plans.push_back(Plan::new(job, ops));
        }
    }

    /// The operations after which the link lets in these sources alone.
    fn let_in(&mut self, link: &str, desired: &BTreeSet<IpNet>) -> Vec<KernelOp> {
        let ops = sources::change(link, &self.sources, desired);
        self.sources.insert(link.to_owned(), desired.clone());
        ops
    }
}

/// The kernel's links of one peer.
#[derive(Debug, Default)]
pub(super) struct OwnLinks<'a> {
    pub(super) tunnel: Option<&'a ObservedTunnel>,
    receiving: Vec<&'a ObservedTunnel>,
    surplus: Vec<&'a ObservedTunnel>,
}

impl OwnLinks<'_> {
    fn all(&self) -> impl Iterator<Item = &ObservedTunnel> {
        let links = self.tunnel.iter().chain(&self.receiving);
        links.chain(&self.surplus).copied()
    }

    fn states(&self) -> Vec<TunnelState> {
        self.all().map(|it| it.state.clone()).collect()
    }
}

/// The plan that removes the links of peers, with the sources that they let in.
pub(super) fn removal(peers: BTreeMap<NodePublic, Vec<TunnelState>>, sources: Sources) -> Plan {
    let states: Vec<&TunnelState> = peers.values().flatten().collect();
    let ops = plan::overlay_removal(&states, &sources);
    Plan::new(Job::Remove(peers, sources), ops)
}

/// Unfinished links under the names that the operations need.
fn half_made(ops: &[KernelOp], links: &Links) -> Vec<(u32, String)> {
    let is_needed = |name: &str| {
        let mut ops = ops.iter();
        ops.any(|op| matches!(op, KernelOp::AddLink(link) if link.name == name))
    };
    let half_made = links.half_made.iter();
    half_made.filter(|it| is_needed(&it.1)).cloned().collect()
}
