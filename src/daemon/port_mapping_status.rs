//! The port that the router grants: what the node is told of it, what is kept, and what is shown.

use std::time::Instant;

use super::event_loop::Daemon;
use super::port_mapping::Handle;
use super::state_writer::Content;
use crate::local_api::PortMappingView;
use crate::node::RouterPort;
use crate::portmap::Status;

impl Daemon {
    /// The router grants a port, or another, or none any more.
    pub(super) fn handle_router_port(&mut self, status: &Status) {
        let granted = status.lease.as_ref().map(|it| it.external);
        let port = granted.map_or(RouterPort::None, RouterPort::Granted);
        self.node.handle_router_port(Instant::now(), port);
        // One that is lost is kept: the router is asked for the same again.
        if status.lease.is_none() || status.lease == self.lease {
            return;
        }
        self.lease.clone_from(&status.lease);
        self.writer.write(Content::RouterPort(self.lease.clone()));
    }

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
