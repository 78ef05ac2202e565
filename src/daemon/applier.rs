//! The kernel applier: one task that makes the kernel's tunnels match the wanted ones. It is fed the latest wanted state, so
//! that several wishes in a row become one write, and reports every result as an event. It also repairs what others
//! changed, and removes tunnels of ours that nobody wants any more.

mod overlap;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use super::extra_ports::ExtraPorts;
use super::owner_alias::OwnerAlias;
use super::sleep_until;
use super::state_dir::ExtraPortsFile;
use crate::error::{Kind, UserError, chain};
use crate::kernel::execute::StepError;
use crate::kernel::fou::Family;
use crate::kernel::lock::{Lock, LockError};
use crate::kernel::observe::{Links, ObservedTunnel};
use crate::kernel::{Kernel, KernelError};
use crate::node::{DesiredTunnel, FIRST_PATH_MTU, Path};
use crate::proto::keys::NodePublic;
use crate::tunnel::encap::{Encap, Udp};
use crate::tunnel::header_fields::InheritOrFixed;
use crate::tunnel::mode::Mode;
use crate::tunnel::mtu;
use crate::tunnel::op::KernelOp;
use crate::tunnel::plan::{self, PlanError};
use crate::tunnel::state::{LinkConfig, TunnelAddress, TunnelRoute, TunnelState};

/// How soon a failed operation is tried again, without anything having changed.
const RETRY: Duration = Duration::from_secs(1);

/// Changes of links come in bursts, and the applier's own are among them: all tunnels are looked at together this long after the first.
const LINK_SETTLE: Duration = Duration::from_millis(100);

/// What all tunnels should be.
pub type DesiredTunnels = BTreeMap<NodePublic, DesiredTunnel>;

/// Where the kernel takes what comes through a tunnel.
fn fou_port(wanted: &DesiredTunnel) -> (u16, Family) {
    let path = wanted.outside.path;
    (path.port, Family::of(path.remote.ip()))
}

/// One of our links, as it is in the kernel.
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

/// What became of a tunnel.
#[derive(Debug)]
pub enum Applied {
    /// The kernel's link is as wanted.
    Done {
        /// Whose.
        peer: NodePublic,
        /// The highest number of a request that the link satisfies.
        number: u64,
        /// The path that it uses.
        path: Path,
        /// The link.
        link: Link,
    },
    /// It could not be made so.
    Failed {
        /// Whose.
        peer: NodePublic,
        /// The number of the request.
        number: u64,
        /// The path that was wanted.
        path: Path,
        /// What failed, and the kernel's words.
        error: String,
    },
    /// It is gone, as wanted.
    Removed {
        /// Whose.
        peer: NodePublic,
    },
}

/// What the kernel has of one peer.
struct Observed<'a> {
    tunnel: Option<&'a ObservedTunnel>,
    overlap: Vec<&'a ObservedTunnel>,
    links: &'a Links,
}

/// The applier's task.
pub struct Applier {
    kernel: Kernel,
    own: NodePublic,
    port: u16,
    wanted: watch::Receiver<DesiredTunnels>,
    link_changed: watch::Receiver<()>,
    results: mpsc::Sender<Applied>,
    /// What was wanted of each tunnel when it was last made so, and the link as reported then: what is as before is neither done nor
    /// reported twice.
    applied: BTreeMap<NodePublic, (DesiredTunnel, Link)>,
    /// Steps that the kernel refused and that tunnels do without, so that each is said once.
    left_out: BTreeSet<String>,
    /// Whether some tunnel may have routes or address translation.
    has_routes: bool,
    extra_ports: ExtraPorts,
}

impl Applier {
    /// An applier for the tunnels of `own` that leave from UDP port `port`. `link_changed` tells that some link changed.
    pub fn new(
        kernel: Kernel,
        own: NodePublic,
        port: u16,
        wanted: watch::Receiver<DesiredTunnels>,
        link_changed: watch::Receiver<()>,
        results: mpsc::Sender<Applied>,
        extra_ports: ExtraPortsFile,
    ) -> Self {
        let found: Vec<_> = wanted.borrow().values().map(fou_port).collect();
        let found = found.into_iter().filter(|(extra, _)| *extra != port);
        let extra_ports = ExtraPorts::new(kernel.clone(), extra_ports, found);
        Applier {
            kernel,
            own,
            port,
            wanted,
            link_changed,
            results,
            applied: BTreeMap::new(),
            left_out: BTreeSet::new(),
            // The daemon before this one may have made some.
            has_routes: true,
            extra_ports,
        }
    }

    /// Runs until the daemon goes away.
    pub async fn run(mut self) {
        // When to hold all tunnels against the kernel. In between, only those of which something else is wanted: there may be
        // hundreds, and each costs requests to the kernel.
        let mut look_at_all = Some(Instant::now());
        loop {
            let all = look_at_all.take_if(|at| *at <= Instant::now()).is_some();
            let settled = match self.reconcile(all).await {
                Ok(settled) => settled,
                Err(error) => {
                    warn!(error = %chain(&error), "the kernel's tunnels cannot be read");
                    false
                }
            };
            if !settled {
                look_at_all.get_or_insert_with(|| Instant::now() + RETRY);
            }
            loop {
                tokio::select! {
                    changed = self.wanted.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    changed = self.link_changed.changed() => match changed {
                        Ok(()) => look_at_all = earlier(look_at_all, Instant::now() + LINK_SETTLE),
                        Err(_) => return,
                    },
                    () = sleep_until(look_at_all) => break,
                    () = self.results.closed() => return,
                }
            }
        }
    }

    /// Brings the kernel to what is wanted: all tunnels, or those of which something else is wanted than before. False when
    /// something failed and is to be tried again.
    async fn reconcile(&mut self, all: bool) -> Result<bool, ApplyError> {
        let wanted = self.wanted.borrow_and_update().clone();
        if all {
            self.link_changed.mark_unchanged();
        }
        let links = self.observe(&wanted).await?;
        let ours = links.tunnels.iter();
        let ours = ours.filter_map(|tunnel| Some((self.peer_of(tunnel)?, tunnel)));
        let (mut ours, unwanted): (BTreeMap<NodePublic, &ObservedTunnel>, BTreeMap<_, _>) =
            ours.partition(|(peer, _)| wanted.contains_key(peer));
        let mut overlaps = self.overlaps(&links);
        let mut settled = true;
        // First what makes room: a name, or a network, that another tunnel has now.
        for (peer, tunnel) in unwanted {
            info!(interface = tunnel.state.link.name, "removing tunnel");
            let ops = plan::overlay(Some(&tunnel.state), None, &links.others)?;
            self.kernel.execute(&ops).await?;
            self.applied.remove(&peer);
            self.report(Applied::Removed { peer }).await;
        }
        let mut in_order: Vec<(&NodePublic, &DesiredTunnel)> = wanted.iter().collect();
        in_order.sort_by_key(|(peer, tunnel)| {
            let routes = ours.get(peer).map(|it| &it.state.routes[..]);
            let mut networks = routes.unwrap_or_default().iter().map(|it| it.network);
            let loses_one = networks.any(|it| !tunnel.inside.routes.contains(&it));
            !loses_one
        });
        for (&peer, tunnel) in in_order {
            let there = Observed {
                tunnel: ours.remove(&peer),
                overlap: overlaps.remove(&peer).unwrap_or_default(),
                links: &links,
            };
            if !all && self.applied.get(&peer).is_some_and(|it| it.0 == *tunnel) {
                continue;
            }
            match self.apply(peer, tunnel, &there).await {
                Ok(link) => self.report_done(peer, tunnel, link).await,
                Err(error) => {
                    settled = false;
                    self.applied.remove(&peer);
                    let error = chain(&error);
                    let failed = Applied::Failed {
                        peer,
                        number: tunnel.outside.number,
                        path: tunnel.outside.path,
                        error,
                    };
                    self.report(failed).await;
                }
            }
        }
        for left in overlaps.into_values() {
            self.close_overlap(None, &left, &links.others).await?;
        }
        let used: BTreeSet<_> = wanted.values().map(fou_port).collect();
        let used = |port, family| used.contains(&(port, family));
        self.extra_ports.close_unused(used).await?;
        Ok(settled)
    }

    /// What there is. Routes and address translation are looked at where some are wanted, or were a moment ago: on a
    /// router with a million routes that is not cheap.
    async fn observe(&mut self, wanted: &DesiredTunnels) -> Result<Links, KernelError> {
        let wants_routes = wanted
            .values()
            .any(|tunnel| !tunnel.inside.routes.is_empty() || !tunnel.inside.snat.is_empty());
        let had_routes = std::mem::replace(&mut self.has_routes, wants_routes);
        if !wants_routes && !had_routes {
            return self.kernel.links_without_routes().await;
        }
        let mut links = self.kernel.links().await?;
        self.kernel.add_snat(&mut links).await;
        Ok(links)
    }

    async fn apply(
        &mut self,
        peer: NodePublic,
        wanted: &DesiredTunnel,
        there: &Observed<'_>,
    ) -> Result<Link, ApplyError> {
        let (observed, links) = (there.tunnel, there.links);
        let Path {
            local,
            port,
            remote,
        } = wanted.outside.path;
        let device_mtu = match self.kernel.route_to(local, remote.ip()).await {
            Ok(route) => route.mtu,
            // Nothing leaves now; what will, must not leave from an address that the host has lost.
            Err(_) if local.is_unspecified() => u32::from(FIRST_PATH_MTU),
            Err(error) => return Err(error.into()),
        };
        let mark = OwnerAlias::new(self.own, peer);
        let path_mtu = wanted.outside.path_mtu.unwrap_or(FIRST_PATH_MTU);
        let path_mtu = u32::from(path_mtu).min(device_mtu);
        let mut state = tunnel_state(wanted, mark.to_string(), path_mtu);
        if let Some(observed) = observed {
            // A link that a person renamed keeps its new name.
            state.link.name.clone_from(&observed.state.link.name);
        }
        let receiving = match observed {
            Some(tunnel) => {
                let there = (&there.overlap[..], links);
                self.open_overlap(wanted, mark.of_overlap(), tunnel.index, there)
                    .await
            }
            None => Vec::new(),
        };
        let before = observed.map(|tunnel| &tunnel.state);
        let mut ops = plan::overlay(before, Some(&state), &links.others)?;
        let makes_link = ops.iter().any(|op| matches!(op, KernelOp::AddLink(_)));
        let _lock = if makes_link {
            // Commands that see a link before it is marked take it for one that was never finished.
            let lock = Lock::take().await?;
            self.remove_half_made(&state.link.name, links).await?;
            Some(lock)
        } else {
            None
        };
        if port != self.port {
            let family = Family::of(remote.ip());
            self.extra_ports.open(port, family).await?;
        }
        self.execute(&mut ops).await?;
        let index = match observed.filter(|_| !makes_link) {
            Some(observed) => observed.index,
            None => self.kernel.link_index(&state.link.name)?,
        };
        if makes_link {
            for from in receiving {
                self.redirect(from, index).await;
            }
        }
        self.close_overlap(Some(wanted), &there.overlap, &links.others)
            .await?;
        debug!(interface = state.link.name, path = %wanted.outside.path, steps = ops.len(), "tunnel is as wanted");
        Ok(Link {
            index,
            name: state.link.name,
            mtu: state.link.mtu,
            device_mtu,
        })
    }

    /// Carries a plan out. What a tunnel can do without is left out where the kernel refuses it: an alternative name that
    /// another link has, a route that the host has elsewhere, address translation without `nft`.
    async fn execute(&mut self, ops: &mut Vec<KernelOp>) -> Result<(), StepError> {
        while let Err(error) = self.kernel.execute(ops).await {
            let is_extra = |op: &KernelOp| {
                matches!(
                    op,
                    KernelOp::AddAltName { .. }
                        | KernelOp::AddRoute { .. }
                        | KernelOp::AddSnat { .. }
                )
            };
            let failed = ops
                .iter()
                .position(|op| is_extra(op) && op.to_string() == error.step);
            let Some(failed) = failed else {
                return Err(error);
            };
            if self.left_out.insert(error.step.clone()) {
                warn!(step = error.step, error = %chain(&error), "the tunnel does without");
            }
            ops.remove(failed);
        }
        Ok(())
    }

    /// Removes what a process that was killed while making this link left behind.
    async fn remove_half_made(&self, name: &str, links: &Links) -> Result<(), KernelError> {
        for (index, half_made) in &links.half_made {
            if half_made == name {
                self.kernel.delete_link(*index, name).await?;
            }
        }
        Ok(())
    }

    /// Whose tunnel this is, if it is one of ours.
    fn peer_of(&self, tunnel: &ObservedTunnel) -> Option<NodePublic> {
        let mark = OwnerAlias::of(tunnel).filter(|it| it.is_of(self.own) && !it.is_overlap)?;
        Some(mark.peer)
    }

    async fn report_done(&mut self, peer: NodePublic, wanted: &DesiredTunnel, link: Link) {
        let told = |it: &DesiredTunnel| it.outside.number;
        let done = (wanted.clone(), link.clone());
        let before = self.applied.insert(peer, done);
        if before.is_none_or(|it| (told(&it.0), it.1) != (told(wanted), link.clone())) {
            let done = Applied::Done {
                peer,
                number: wanted.outside.number,
                path: wanted.outside.path,
                link,
            };
            self.report(done).await;
        }
    }

    async fn report(&self, applied: Applied) {
        if self.results.send(applied).await.is_err() {
            debug!("nobody waits for the applier any more");
        }
    }
}

fn earlier(one: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(one.map_or(other, |one| one.min(other)))
}

/// What the kernel should have for a wanted tunnel, over a path that carries outer packets of `path_mtu` bytes.
fn tunnel_state(wanted: &DesiredTunnel, alias: String, path_mtu: u32) -> TunnelState {
    let Path {
        local,
        port,
        remote,
    } = wanted.outside.path;
    let only_receives = receiving_link(wanted, alias, remote.ip());
    let encap = Encap::Fou(Udp {
        sport: port,
        dport: remote.port(),
        csum: true,
    });
    let mtu = mtu::inner(path_mtu, only_receives.mode, encap, true);
    TunnelState {
        link: LinkConfig {
            local: Some(local).filter(|it| !it.is_unspecified()),
            encap,
            mtu,
            ..only_receives
        },
        alt_names: Some(&wanted.inside.alt_name)
            .filter(|name| !name.is_empty())
            .cloned()
            .into_iter()
            .collect(),
        addresses: inner_addresses(&wanted.inside.own_ips, &wanted.inside.peer_ips, mtu),
        routes: wanted
            .inside
            .routes
            .iter()
            .map(|&network| TunnelRoute { network, via: None })
            .collect(),
        snat: wanted.inside.snat.clone(),
    }
}

/// A link of the pair's key that takes what comes from `remote`, to whichever local address and UDP port. It sends nothing.
fn receiving_link(wanted: &DesiredTunnel, alias: String, remote: IpAddr) -> LinkConfig {
    let mode = if remote.is_ipv4() {
        Mode::Gre
    } else {
        Mode::Ip6gre
    };
    LinkConfig {
        name: wanted.inside.name.clone(),
        alias: Some(alias),
        mode,
        local: None,
        remote: Some(remote),
        dev: None,
        ikey: Some(wanted.outside.gre_key),
        okey: Some(wanted.outside.gre_key),
        ttl: InheritOrFixed::TTL,
        tos: InheritOrFixed::TOS,
        pmtudisc: true,
        encap: Encap::None,
        mtu: mtu::MIN_IPV6,
        up: true,
    }
}

/// Our addresses, each with the peer's of the same family as the far end. A link too narrow for IPv6 gets none of it.
fn inner_addresses(own: &[IpAddr], peer: &[IpAddr], mtu: u32) -> Vec<TunnelAddress> {
    let fits = |ip: &&IpAddr| ip.is_ipv4() || mtu >= mtu::MIN_IPV6;
    own.iter()
        .filter(fits)
        .map(|&own| TunnelAddress {
            net: IpNet::from(own),
            peer: peer
                .iter()
                .copied()
                .find(|peer| peer.is_ipv4() == own.is_ipv4()),
        })
        .collect()
}

/// Why the kernel's tunnels are not as wanted.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The kernel cannot be asked.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel refused a step.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The tunnel cannot be had.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Another process changes tunnels.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl UserError for ApplyError {
    fn kind(&self) -> Kind {
        match self {
            ApplyError::Kernel(error) => error.kind(),
            ApplyError::Step(error) => error.kind(),
            ApplyError::Plan(error) => error.kind(),
            ApplyError::Lock(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ApplyError::Kernel(error) => error.hint(),
            ApplyError::Step(error) => error.hint(),
            ApplyError::Plan(error) => error.hint(),
            ApplyError::Lock(error) => error.hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Inside, Outside};

    pub(super) fn wanted() -> DesiredTunnel {
        let outside = Outside {
            number: 1,
            path: Path {
                local: "192.0.2.1".parse().unwrap(),
                port: 7777,
                remote: "198.51.100.7:50360".parse().unwrap(),
            },
            overlap: None,
            path_mtu: None,
            gre_key: 5,
        };
        let inside = Inside {
            name: "gretun0".to_owned(),
            alt_name: "bob".to_owned(),
            own_ips: vec!["100.64.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            peer_ips: vec!["fd00::2".parse().unwrap(), "100.64.0.2".parse().unwrap()],
            ..Inside::default()
        };
        DesiredTunnel { outside, inside }
    }

    #[test]
    fn addresses_are_paired_by_family_and_the_mtu_is_what_is_left() {
        let state = tunnel_state(&wanted(), "mark".to_owned(), 1500);
        assert_eq!(state.link.mtu, 1464);
        let shown: Vec<String> = state.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["100.64.0.1 peer 100.64.0.2/32", "fd00::1 peer fd00::2/128"]
        );
    }

    #[test]
    fn a_link_too_narrow_for_ipv6_has_only_ipv4() {
        let state = tunnel_state(&wanted(), "mark".to_owned(), 1280);
        assert_eq!(state.link.mtu, 1244);
        assert_eq!(state.addresses.len(), 1);
    }

    #[test]
    fn another_path_is_a_change_in_place_and_the_same_path_is_nothing() {
        let before = tunnel_state(&wanted(), "mark".to_owned(), 1500);
        let mut other = wanted();
        other.outside.path.remote = "203.0.113.9:7777".parse().unwrap();
        let after = tunnel_state(&other, "mark".to_owned(), 1500);
        assert!(
            plan::overlay(Some(&before), Some(&before), &[])
                .unwrap()
                .is_empty()
        );
        let ops = plan::overlay(Some(&before), Some(&after), &[]).unwrap();
        assert!(matches!(ops[..], [KernelOp::ChangeLink { .. }]), "{ops:?}");
        // The FOU port is the daemon's own business.
        let ops = plan::overlay(Some(&before), None, &[]).unwrap();
        assert!(matches!(ops[..], [KernelOp::DeleteLink(_)]), "{ops:?}");
    }
}
