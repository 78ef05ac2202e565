//! The port that the router grants: as it is shown, and when that changes.

use std::time::Instant;

use super::event_loop::Daemon;
use super::port_mapping::Handle;
use crate::local_api::PortMappingView;
use crate::portmap::Status;

impl Daemon {
    /// The state of the router; `None` when it is not asked.
    pub(super) fn router_port_view(&self) -> Option<PortMappingView> {
        let handle = self.port_mapping.as_ref()?;
        Some(PortMappingView::new(&handle.status(), Instant::now()))
    }

    pub(super) fn has_router_port(&self) -> bool {
        let handle = self.port_mapping.as_ref();
        handle.is_some_and(|it| it.status().lease.is_some())
    }
}

/// Waits until what is known of the router changed; for ever when it is not asked.
pub(super) async fn changed(port_mapping: &mut Option<Handle>) -> Status {
    match port_mapping {
        Some(handle) => handle.changed().await,
        None => std::future::pending().await,
    }
}
