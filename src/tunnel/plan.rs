//! Plans the way from the observed to the desired state: the operations, in an order in which each can succeed.

use std::collections::{BTreeSet, HashMap, HashSet};

use ipnet::IpNet;
use thiserror::Error;

use super::encap::FouPort;
use super::mode::Family;
use super::op::{self, KernelOp};
use super::owner::Owner;
use super::sources::{self, Sources};
use super::state::{Observed, TunnelState};
use crate::error::{Kind, UserError};

/// Makes one tunnel. Where there is one of this name already it is changed with `replace`, if gretun made it.
///
/// # Errors
/// When the name or the FOU port is taken.
pub fn create(
    wanted: &TunnelState,
    observed: &Observed,
    replace: bool,
) -> Result<Vec<KernelOp>, PlanError> {
    let existing = observed.tunnel(&wanted.link.name);
    if let Some(existing) = existing {
        if !replace {
            return Err(PlanError::Exists {
                name: wanted.link.name.clone(),
            });
        }
        match existing.owner() {
            Owner::Static { .. } | Owner::Foreground(_) => {}
            owner => return Err(foreign(existing, owner)),
        }
    }
    transition(existing.as_slice(), std::slice::from_ref(wanted), observed)
}

/// Makes the set of this name be exactly the wanted tunnels, and leaves all others alone.
///
/// # Errors
/// When a name or a FOU port is taken.
pub fn apply(
    wanted: &[TunnelState],
    observed: &Observed,
    set: &str,
) -> Result<Vec<KernelOp>, PlanError> {
    let ours = Owner::Static {
        set: set.to_owned(),
    };
    let existing = by_name(&observed.tunnels);
    for tunnel in wanted {
        if let Some(existing) = existing.get(tunnel.link.name.as_str())
            && existing.owner() != ours
        {
            return Err(foreign(existing, existing.owner()));
        }
    }
    let ours: Vec<_> = observed
        .tunnels
        .iter()
        .filter(|tunnel| tunnel.owner() == ours)
        .collect();
    transition(&ours, wanted, observed)
}

/// Removes tunnels with all that belongs to them.
///
/// # Errors
/// When one belongs to the overlay daemon, which would make it again.
pub fn delete(tunnels: &[&TunnelState], observed: &Observed) -> Result<Vec<KernelOp>, PlanError> {
    if let Some(tunnel) = tunnels
        .iter()
        .find(|tunnel| tunnel.owner() == Owner::Overlay)
    {
        return Err(foreign(tunnel, Owner::Overlay));
    }
    transition(tunnels, &[], observed)
}

/// Makes, changes or removes one tunnel of the overlay daemon, which looks after the FOU ports itself.
///
/// # Errors
/// When the name is taken.
pub fn overlay(
    from: Option<&TunnelState>,
    to: Option<&TunnelState>,
    other_links: &[String],
) -> Result<Vec<KernelOp>, PlanError> {
    let listeners = from.into_iter().chain(to);
    let observed = Observed {
        tunnels: Vec::new(),
        fou_ports: listeners
            .filter_map(|tunnel| tunnel.link.listener())
            .collect(),
        other_links: other_links.to_vec(),
        stray_snat: Vec::new(),
    };
    let mut ops = transition(
        from.as_slice(),
        to.map_or(&[], std::slice::from_ref),
        &observed,
    )?;
    ops.retain(|op| !matches!(op, KernelOp::AddFou(_) | KernelOp::DeleteFou(_)));
    Ok(ops)
}

/// Removes tunnels of the overlay daemon, which looks after the FOU ports itself, and of `sources` those that they let in.
pub fn overlay_removal(tunnels: &[&TunnelState], sources: &Sources) -> Vec<KernelOp> {
    let mut steps = Steps::default();
    for tunnel in tunnels {
        let name = &tunnel.link.name;
        steps.remove.push(KernelOp::DeleteLink((*tunnel).clone()));
        steps.snat(name, &tunnel.snat, &[]);
        steps
            .shut
            .extend(sources::change(name, sources, &BTreeSet::new()));
    }
    steps.in_order()
}

fn by_name<'a>(
    tunnels: impl IntoIterator<Item = &'a TunnelState>,
) -> HashMap<&'a str, &'a TunnelState> {
    let tunnels = tunnels.into_iter();
    tunnels
        .map(|tunnel| (tunnel.link.name.as_str(), tunnel))
        .collect()
}

fn foreign(tunnel: &TunnelState, owner: Owner) -> PlanError {
    PlanError::Foreign {
        name: tunnel.link.name.clone(),
        owner,
    }
}

/// The operations of a plan, by the order in which they can succeed.
///
/// FOU ports and masquerade elements cannot store an owner. So a plan creates the link before what belongs to it, and deletes the
/// link last: whenever the process is killed, the next plan finds all leftovers through the links.
#[derive(Default)]
struct Steps {
    close: Vec<KernelOp>,
    unmasquerade: Vec<KernelOp>,
    remove: Vec<KernelOp>,
    link: Vec<KernelOp>,
    open: Vec<KernelOp>,
    unroute: Vec<KernelOp>,
    address: Vec<KernelOp>,
    route: Vec<KernelOp>,
    masquerade: Vec<KernelOp>,
    shut: Vec<KernelOp>,
}

impl Steps {
    fn in_order(self) -> Vec<KernelOp> {
        [
            self.close,
            self.unmasquerade,
            self.remove,
            self.link,
            self.open,
            self.unroute,
            self.address,
            self.route,
            self.masquerade,
            self.shut,
        ]
        .concat()
    }

    fn create(&mut self, tunnel: &TunnelState) {
        for op in op::create(tunnel) {
            match op {
                KernelOp::AddLink(_) => self.link.push(op),
                KernelOp::AddRoute { .. } => self.route.push(op),
                other => self.address.push(other),
            }
        }
    }

    fn snat(&mut self, link: &str, from: &[IpNet], to: &[IpNet]) {
        let missing = |in_: &[IpNet], of: &[IpNet]| -> Vec<IpNet> {
            of.iter()
                .filter(|net| !in_.contains(net))
                .copied()
                .collect()
        };
        for network in missing(to, from) {
            let link = link.to_owned();
            self.unmasquerade
                .push(KernelOp::DeleteSnat { link, network });
        }
        for network in missing(from, to) {
            let link = link.to_owned();
            self.masquerade.push(KernelOp::AddSnat { link, network });
        }
    }

    /// Changes names, addresses and routes of a device that stays.
    fn change_content(&mut self, from: &TunnelState, to: &TunnelState) {
        let link = &to.link.name;
        for name in from.alt_names.iter().filter(|n| !to.alt_names.contains(n)) {
            let (link, name) = (link.clone(), name.clone());
            self.address.push(KernelOp::DeleteAltName { link, name });
        }
        for name in to.alt_names.iter().filter(|n| !from.alt_names.contains(n)) {
            let (link, name) = (link.clone(), name.clone());
            self.address.push(KernelOp::AddAltName { link, name });
        }
        for family in [Family::V4, Family::V6] {
            let of = |tunnel: &TunnelState| -> Vec<_> {
                let addresses = tunnel.addresses.iter().copied();
                addresses
                    .filter(|address| Family::of_net(address.net) == family)
                    .collect()
            };
            let (old, new) = (of(from), of(to));
            let mut gone: Vec<_> = old.iter().filter(|a| !new.contains(a)).copied().collect();
            let mut added: Vec<_> = new.iter().filter(|a| !old.contains(a)).copied().collect();
            // The kernel removes an IPv4 address together with its secondaries, and with the last one the routes. So when
            // one goes, all are taken down and put up again.
            let all_again = family == Family::V4 && !gone.is_empty();
            if all_again {
                (gone, added) = (old, new);
            }
            self.address.extend(gone.iter().rev().map(|&address| {
                let link = link.clone();
                KernelOp::DeleteAddress { link, address }
            }));
            self.address.extend(added.iter().map(|&address| {
                let link = link.clone();
                KernelOp::AddAddress { link, address }
            }));
            let of_family =
                |route: &&super::state::TunnelRoute| Family::of_net(route.network) == family;
            for &route in from.routes.iter().filter(of_family) {
                if all_again || !to.routes.contains(&route) {
                    let link = link.clone();
                    self.unroute.push(KernelOp::DeleteRoute { link, route });
                }
            }
            for &route in to.routes.iter().filter(of_family) {
                if all_again || !from.routes.contains(&route) {
                    let link = link.clone();
                    self.route.push(KernelOp::AddRoute { link, route });
                }
            }
        }
    }
}

/// Plans the way from these tunnels to those. Tunnels that are in neither list stay as they are.
fn transition(
    from: &[&TunnelState],
    to: &[TunnelState],
    observed: &Observed,
) -> Result<Vec<KernelOp>, PlanError> {
    let mut steps = Steps::default();
    for (link, network) in observed.stray_snat.iter().cloned() {
        steps
            .unmasquerade
            .push(KernelOp::DeleteSnat { link, network });
    }
    let wanted = by_name(to);
    for old in from {
        let name = &old.link.name;
        match wanted.get(name.as_str()).copied() {
            Some(new) if old.link.can_become(&new.link) => {
                if old.link != new.link {
                    steps.link.push(KernelOp::ChangeLink {
                        from: old.link.clone(),
                        to: new.link.clone(),
                    });
                }
                steps.change_content(old, new);
                steps.snat(name, &old.snat, &new.snat);
            }
            other => {
                steps.remove.push(KernelOp::DeleteLink((*old).clone()));
                if let Some(new) = other {
                    steps.create(new);
                }
                steps.snat(name, &old.snat, other.map_or(&[], |new| &new.snat));
            }
        }
    }
    let there = by_name(from.iter().copied());
    let others: HashSet<&String> = observed.other_links.iter().collect();
    for new in to {
        let name = &new.link.name;
        if there.contains_key(name.as_str()) {
            continue;
        }
        if others.contains(name) {
            return Err(PlanError::NameTaken { name: name.clone() });
        }
        steps.create(new);
        steps.snat(name, &[], &new.snat);
    }
    fou_ports(&mut steps, from, to, observed)?;
    Ok(steps.in_order())
}

fn fou_ports(
    steps: &mut Steps,
    from: &[&TunnelState],
    to: &[TunnelState],
    observed: &Observed,
) -> Result<(), PlanError> {
    let wanted: BTreeSet<FouPort> = to.iter().filter_map(|t| t.link.listener()).collect();
    let touched = by_name(from.iter().copied());
    let untouched = observed
        .tunnels
        .iter()
        .filter(|tunnel| !touched.contains_key(tunnel.link.name.as_str()));
    let needed: BTreeSet<FouPort> = untouched
        .filter_map(|tunnel| tunnel.link.listener())
        .chain(wanted.iter().copied())
        .collect();
    let no_longer: BTreeSet<FouPort> = from.iter().filter_map(|t| t.link.listener()).collect();
    let mut there = observed.fou_ports.clone();
    for &port in no_longer.difference(&needed) {
        if there.contains(&port) {
            there.retain(|other| *other != port);
            steps.close.push(KernelOp::DeleteFou(port));
        }
    }
    for port in wanted {
        let same = |other: &&FouPort| other.port == port.port && other.family == port.family;
        match there.iter().find(same) {
            Some(other) if *other == port => {}
            Some(&other) => return Err(PlanError::PortTaken { port, other }),
            None => {
                there.push(port);
                steps.open.push(KernelOp::AddFou(port));
            }
        }
    }
    Ok(())
}

/// A tunnel that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// There is one of this name.
    #[error("tunnel {name} exists already")]
    Exists {
        /// The name.
        name: String,
    },
    /// There is a device of this name that is no tunnel.
    #[error("there is another network device named {name}")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// There is one of this name that is not ours to change.
    #[error("tunnel {name} belongs to {owner}")]
    Foreign {
        /// The name.
        name: String,
        /// The owner of the tunnel.
        owner: Owner,
    },
    /// The UDP port is in use for something else.
    #[error("cannot use {port}: the kernel has {other}")]
    PortTaken {
        /// The desired port.
        port: FouPort,
        /// The existing port.
        other: FouPort,
    },
    /// There is no tunnel of this name.
    #[error("there is no tunnel {name}")]
    NotFound {
        /// The name.
        name: String,
    },
}

impl UserError for PlanError {
    fn kind(&self) -> Kind {
        Kind::Failed
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            PlanError::Exists { name } => {
                format!("add --replace to change it, or remove it first: `gretun delete {name}`")
            }
            PlanError::NameTaken { name } => {
                format!("choose another name; `ip -d link show dev {name}` shows what it is")
            }
            PlanError::Foreign {
                owner: Owner::Overlay,
                ..
            } => "the overlay daemon looks after its own tunnels; `gretun down` removes them"
                .to_owned(),
            PlanError::Foreign { name, .. } => {
                format!("choose another name, or remove that tunnel first: `gretun delete {name}`")
            }
            PlanError::PortTaken { .. } => {
                "choose another --encap-dport or --encap-sport; `ip fou show` lists the ports"
                    .to_owned()
            }
            PlanError::NotFound { .. } => "`gretun list` shows what there is".to_owned(),
        })
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
