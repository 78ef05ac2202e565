//! Taking everything of one node out of the kernel: for `gretun down`, with or without a daemon.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;

use thiserror::Error;
use tracing::{debug, info};

use super::DaemonError;
use super::port_mapping;
use super::state_dir::{ExtraPortsFile, StateDir};
use crate::applier::owner_alias::OwnerAlias;
use crate::applier::thread::NoApplier;
use crate::error::{Kind, UserError};
use crate::kernel::host::preflight::{self, Need};
use crate::kernel::tunnel::dump::{Links, ObservedTunnel};
use crate::kernel::tunnel::fou::Family;
use crate::kernel::tunnel::transaction::StepError;
use crate::kernel::{Kernel, KernelError};
use crate::proto::keys::NodePublic;
use crate::tunnel::op::KernelOp;
use crate::tunnel::plan;
use crate::tunnel::sources;
use crate::tunnel::state::TunnelState;

/// Removes every tunnel that the node of this state directory made, then the FOU port unless others use it, and
/// gives the router its port back; blocks.
///
/// # Errors
/// When a daemon still runs on the state directory, or the kernel refuses.
pub fn run(state_dir: &Path, port: u16) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)?;
    runtime.block_on(async {
        preflight::check(&[Need::NetAdmin])?;
        let state = StateDir::open(state_dir)?;
        let own = state.identity()?.node.public();
        let extra = state.extra_ports();
        remove_all(
            NoApplier::promised_by_lock_holder(),
            &Kernel::open()?,
            own,
            port,
            &extra,
        )?;
        if let Some(lease) = state.router_port() {
            port_mapping::give_back(lease).await;
            state.save_router_port(None)?;
        }
        Ok(())
    })
}

/// Removes every tunnel that `own` made, then the FOU port, those that port searches found and those that are noted, unless another
/// link sends from them. All links go with one plan, because the kernel takes milliseconds for each request that removes one; where
/// that fails, each by itself.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_all(
    _nobody_makes_them_again: NoApplier,
    kernel: &Kernel,
    own: NodePublic,
    port: u16,
    extra: &ExtraPortsFile,
) -> Result<(), TeardownError> {
    let mut links = kernel.links_without_routes()?;
    kernel.add_snat(&mut links);
    links.sources = kernel.sources().unwrap_or_default();
    let Found {
        tunnels,
        mut ports,
        ports_of_others,
    } = Found::new(own, &links);
    for tunnel in &tunnels {
        info!(interface = tunnel.link.name, "removing tunnel");
    }
    remove_links(&tunnels, &links, |ops| kernel.execute(ops))?;
    ports.insert(port);
    ports.extend(extra.load().into_iter().map(|(port, _)| port));
    for port in ports {
        if ports_of_others.contains(&port) {
            info!(port, "the FOU port stays: other tunnels use it");
            continue;
        }
        kernel.delete_fou(port, Family::V4)?;
        kernel.delete_fou(port, Family::V6)?;
    }
    Ok(())
}

/// The kernel's tunnels, told apart by who made them.
struct Found<'a> {
    /// The tunnels of the node.
    tunnels: Vec<&'a TunnelState>,
    /// The FOU ports of these.
    ports: BTreeSet<u16>,
    /// The FOU ports of all other tunnels.
    ports_of_others: BTreeSet<u16>,
}

impl<'a> Found<'a> {
    fn new(own: NodePublic, links: &'a Links) -> Self {
        let is_own =
            |it: &&ObservedTunnel| OwnerAlias::of(it).is_some_and(|alias| alias.is_of(own));
        let (ours, others): (Vec<_>, Vec<_>) = links.tunnels.iter().partition(is_own);
        let ports = |tunnels: &[&ObservedTunnel]| {
            let listeners = tunnels.iter().filter_map(|it| it.state.link.listener());
            listeners.map(|listener| listener.port).collect()
        };
        Found {
            ports: ports(&ours),
            ports_of_others: ports(&others),
            tunnels: ours.into_iter().map(|it| &it.state).collect(),
        }
    }
}

/// Removes these tunnels and the sources that a killed daemon left behind, with one plan; where that fails, each tunnel by itself, so
/// that one that the kernel does not give up keeps no other.
fn remove_links<E: Display>(
    removed: &[&TunnelState],
    links: &Links,
    mut execute: impl FnMut(&[KernelOp]) -> Result<(), E>,
) -> Result<(), E> {
    let mut ops = plan::overlay_removal(removed, &links.sources);
    let left = links.sources.keys();
    for name in left.filter(|name| !links.indices.contains_key(*name)) {
        ops.extend(sources::change(name, &links.sources, &BTreeSet::new()));
    }
    let Err(error) = execute(&ops) else {
        return Ok(());
    };
    debug!(%error, "the links cannot be removed together");
    let mut failed = None;
    for tunnel in removed {
        let ops = plan::overlay_removal(&[tunnel], &links.sources);
        failed = execute(&ops).err().or(failed);
    }
    // Only sources that were left behind stay then.
    failed.map_or(Ok(()), Err)
}

/// Why tunnels cannot be removed.
#[derive(Debug, Error)]
pub enum TeardownError {
    /// The kernel cannot be asked, or refuses to close a port.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel refuses to remove links.
    #[error(transparent)]
    Step(#[from] StepError),
}

impl UserError for TeardownError {
    fn kind(&self) -> Kind {
        match self {
            TeardownError::Kernel(error) => error.kind(),
            TeardownError::Step(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            TeardownError::Kernel(error) => error.hint(),
            TeardownError::Step(error) => error.hint(),
        }
    }
}

#[cfg(test)]
#[path = "teardown_tests.rs"]
mod tests;
