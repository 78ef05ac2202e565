//! Taking everything of one node out of the kernel: for `gretun down`, with or without a daemon.

use std::collections::BTreeSet;
use std::path::Path;

use tracing::info;

use super::DaemonError;
use super::applier::ApplyError;
use super::owner_alias::OwnerAlias;
use super::port_mapping;
use super::state_dir::{ExtraPortsFile, StateDir};
use crate::kernel::Kernel;
use crate::kernel::fou::Family;
use crate::kernel::preflight::{self, Need};
use crate::proto::keys::NodePublic;
use crate::tunnel::plan;

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
        remove_all(&Kernel::open().await?, own, port, &extra).await?;
        if let Some(lease) = state.router_port() {
            port_mapping::give_back(lease).await;
            state.save_router_port(None)?;
        }
        Ok(())
    })
}

/// Removes every tunnel that `own` made, then the FOU port, those that port searches found and those that are noted, unless another
/// link sends from them.
///
/// # Errors
/// When the kernel refuses.
pub async fn remove_all(
    kernel: &Kernel,
    own: NodePublic,
    port: u16,
    extra: &ExtraPortsFile,
) -> Result<(), ApplyError> {
    let (mut ours, mut others) = (BTreeSet::from([port]), BTreeSet::new());
    ours.extend(extra.load().into_iter().map(|(port, _)| port));
    let mut links = kernel.links_without_routes().await?;
    kernel.add_snat(&mut links).await;
    for tunnel in &links.tunnels {
        let link = &tunnel.state.link;
        if OwnerAlias::of(tunnel).is_some_and(|mark| mark.is_of(own)) {
            info!(interface = link.name, "removing tunnel");
            let ops = plan::overlay(Some(&tunnel.state), None, &links.others)?;
            kernel.execute(&ops).await?;
            ours.extend(link.listener().map(|listener| listener.port));
        } else {
            others.extend(link.listener().map(|listener| listener.port));
        }
    }
    for port in ours {
        if others.contains(&port) {
            info!(port, "the FOU port stays: other tunnels use it");
            continue;
        }
        kernel.delete_fou(port, Family::V4).await?;
        kernel.delete_fou(port, Family::V6).await?;
    }
    Ok(())
}
