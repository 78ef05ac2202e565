//! Shared parts of the commands for static tunnels: the namespace, the checks before anything is tried, the path MTU, and
//! carrying out a plan or only showing it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;

use serde_json::json;
use tracing::{info, warn};

use super::Context;
use super::out::{out, outln, progressln};
use super::report::Report;
use crate::kernel::host::lock::{COMMAND_PATIENCE, Lock};
use crate::kernel::host::preflight::{self, Need};
use crate::kernel::host::{netns, process};
use crate::kernel::tunnel::dump::Links;
use crate::kernel::{Kernel, Route};
use crate::tunnel::encap::Encap;
use crate::tunnel::mode::Family;
use crate::tunnel::op::KernelOp;
use crate::tunnel::owner::Owner;
use crate::tunnel::plan;
use crate::tunnel::spec::TunnelSpec;
use crate::tunnel::state::{Observed, TunnelState};

/// The MTU that is assumed where no route to the far end exists yet: Ethernet's.
const UNKNOWN_PATH: u32 = 1500;

/// The route from local to remote end; nothing where there is none.
type Paths = HashMap<(Option<IpAddr>, IpAddr), Option<Route>>;

/// The network namespace that a command works in.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct NetnsArgs {
    /// Network namespace to work in, as `ip netns` names it
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
}

impl NetnsArgs {
    /// Runs a future in the namespace, on this thread.
    pub(super) fn block_on<T>(
        &self,
        future: impl Future<Output = Result<T, Report>>,
    ) -> Result<T, Report> {
        if let Some(name) = &self.netns {
            netns::enter(name)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Report::failed(format!("cannot start: {error}")))?;
        runtime.block_on(future)
    }
}

/// A file that a person named and that cannot be read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Report {
    let report = Report::usage(format!("{}: {error}", path.display()));
    report.with_hint(match error.kind() {
        io::ErrorKind::NotFound => "`ls` tells whether the name is right; - reads standard input",
        io::ErrorKind::PermissionDenied => "run as a user who may read it, or as root",
        io::ErrorKind::InvalidData => "the file must be UTF-8 text",
        _ => "give a file that can be read; - reads standard input",
    })
}

/// Checks that the process may make these tunnels, and that the kernel can.
pub(super) fn check(specs: &[TunnelSpec]) -> Result<(), Report> {
    let mut needs = vec![Need::NetAdmin];
    for spec in specs {
        needs.push(Need::Module(spec.mode.module()));
        if spec.encap != Encap::None {
            needs.push(Need::Module("fou"));
        }
        if spec.encap != Encap::None && spec.mode.outer() == Family::V6 {
            needs.push(Need::Module("fou6"));
        }
    }
    let mut checked = Vec::new();
    needs.retain(|need| {
        let is_new = !checked.contains(need);
        checked.push(*need);
        is_new
    });
    Ok(preflight::check(&needs)?)
}

/// The kernel with the tunnels that were found in it, and the lock for changes.
pub(super) struct Session {
    pub kernel: Kernel,
    pub links: Links,
    pub observed: Observed,
    /// Dry runs change nothing, and wait for nobody.
    _lock: Option<Lock>,
}

impl Session {
    /// Takes the lock and removes leftovers of dead processes unless nothing may change, and dumps the existing tunnels.
    pub(super) fn open(dry_run: bool) -> Result<Self, Report> {
        let lock = (!dry_run)
            .then(|| Lock::take(COMMAND_PATIENCE))
            .transpose()?;
        let kernel = Kernel::open()?;
        let links = kernel.links()?;
        let observed = kernel.observe(&links)?;
        let mut session = Session {
            kernel,
            links,
            observed,
            _lock: lock,
        };
        if !dry_run && session.remove_stale()? {
            session.refresh()?;
        }
        Ok(session)
    }

    /// Dumps the existing tunnels again.
    pub(super) fn refresh(&mut self) -> Result<(), Report> {
        self.links = self.kernel.links()?;
        self.observed = self.kernel.observe(&self.links)?;
        Ok(())
    }

    /// Removes half-made devices and the foreground tunnels of processes that are gone; true when there were any.
    fn remove_stale(&self) -> Result<bool, Report> {
        for (index, name) in &self.links.half_made {
            info!(link = name, "removing a device that was never finished");
            self.kernel.delete_link(*index, name)?;
        }
        let is_stale = |tunnel: &&TunnelState| matches!(tunnel.owner(), Owner::Foreground(run) if !process::is_alive(run));
        let stale: Vec<_> = self.observed.tunnels.iter().filter(is_stale).collect();
        if !stale.is_empty() {
            let ops = plan::delete(&stale, &self.observed)?;
            for tunnel in &stale {
                info!(
                    tunnel = tunnel.link.name,
                    "removing a tunnel whose process is gone"
                );
            }
            self.kernel.execute(&ops)?;
        }
        Ok(!stale.is_empty() || !self.links.half_made.is_empty())
    }

    /// Returns the desired kernel state of these tunnels. The kernel is asked for each path once.
    pub(super) fn states(&self, specs: &[TunnelSpec], owner: &Owner) -> Vec<TunnelState> {
        let by_route = specs
            .iter()
            .filter(|spec| spec.mtu.is_none() || spec.needs_local());
        let ends: HashSet<_> = by_route.map(|spec| (spec.local, spec.remote)).collect();
        let paths = ends.into_iter().map(|(local, remote)| {
            let route = self.route(local, remote);
            ((local, remote), route)
        });
        let paths: Paths = paths.collect();
        let state = |spec: &TunnelSpec| {
            let route = paths.get(&(spec.local, spec.remote)).copied().flatten();
            let mtu = spec.mtu.unwrap_or_else(|| self.mtu(spec, route));
            let mut state = spec.state(mtu, owner.to_string());
            if spec.needs_local() {
                state.link.local = self.local(spec, route);
            }
            state
        };
        specs.iter().map(state).collect()
    }

    /// Returns whether the route to the far end leads through this very tunnel now, so that it says nothing about the path.
    fn leads_through(&self, spec: &TunnelSpec, route: Route) -> bool {
        self.links.indices.get(&spec.name) == Some(&route.device)
    }

    /// The address that outer packets leave from, by the route to the far end.
    fn local(&self, spec: &TunnelSpec, route: Option<Route>) -> Option<IpAddr> {
        let source = match route {
            Some(route) if self.leads_through(spec, route) => self
                .observed
                .tunnel(&spec.name)
                .and_then(|tunnel| tunnel.link.local),
            route => route
                .and_then(|route| route.source)
                .filter(|&ip| ip != spec.remote && !ip.is_loopback()),
        };
        if source.is_none() {
            warn!(
                tunnel = spec.name,
                remote = %spec.remote,
                "no route to the far end tells the local end, without which nothing gets through: give it with --local"
            );
        }
        source
    }

    fn mtu(&self, spec: &TunnelSpec, route: Option<Route>) -> u32 {
        if let Some(dev) = &spec.dev
            && let Some(&mtu) = self
                .links
                .indices
                .get(dev)
                .and_then(|index| self.links.mtus.get(index))
        {
            return spec.mtu_over(mtu);
        }
        match route {
            Some(route) if self.leads_through(spec, route) => self
                .observed
                .tunnel(&spec.name)
                .map_or(spec.mtu_over(UNKNOWN_PATH), |tunnel| tunnel.link.mtu),
            Some(route) => {
                let mtu = self.links.mtus.get(&route.device).copied();
                let mtu = mtu.into_iter().chain(route.mtu).min();
                spec.mtu_over(mtu.unwrap_or(UNKNOWN_PATH))
            }
            None => {
                warn!(
                    tunnel = spec.name,
                    remote = %spec.remote,
                    "no route to the far end: assuming a path of {UNKNOWN_PATH} bytes; --mtu says otherwise"
                );
                spec.mtu_over(UNKNOWN_PATH)
            }
        }
    }

    /// The route between the ends; the kernel knows none from an address that the host does not have yet.
    fn route(&self, local: Option<IpAddr>, remote: IpAddr) -> Option<Route> {
        if local.is_some()
            && let Ok(route) = self.kernel.route_between(local, remote)
        {
            return Some(route);
        }
        self.kernel.route_between(None, remote).ok()
    }

    /// Carries the plan out, or only shows it.
    pub(super) fn carry_out(
        &self,
        ops: &[KernelOp],
        dry_run: bool,
        context: Context,
    ) -> Result<(), Report> {
        if dry_run {
            print_dry_run(ops, context);
            return Ok(());
        }
        if ops.len() > 100 {
            progressln!("{} changes ...", ops.len());
        }
        self.kernel.execute(ops)?;
        if context.json {
            outln!("{}", json!({"changes": texts(ops)}));
        } else if ops.is_empty() {
            outln!("nothing to change");
        } else {
            out!("{}", texts(ops).join("\n") + "\n");
        }
        Ok(())
    }
}

fn texts(ops: &[KernelOp]) -> Vec<String> {
    ops.iter().map(ToString::to_string).collect()
}

fn print_dry_run(ops: &[KernelOp], context: Context) {
    let commands: Vec<String> = ops.iter().flat_map(KernelOp::commands).collect();
    if context.json {
        outln!("{}", json!({"changes": texts(ops), "commands": commands}));
        return;
    }
    if ops.is_empty() {
        outln!("nothing to change");
        return;
    }
    outln!("Would:");
    ops.iter().for_each(|op| outln!("  {op}"));
    outln!("As commands:");
    commands.iter().for_each(|command| outln!("  {command}"));
}
