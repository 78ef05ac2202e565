//! The port that the router grants: what the node is told of it, what is kept, and what `gretun netcheck` shows.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::event_loop::Daemon;
use super::port_mapping::Handle;
use crate::error::chain;
use crate::node::RouterPort;
use crate::portmap::{Lease, Protocol, Status};

/// What came of asking the router, as `gretun netcheck` shows it. The names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMappingView {
    /// The router that is asked; null without a default route, or with a public address.
    pub gateway: Option<Ipv4Addr>,
    /// The protocol by which it granted a port.
    pub protocol: Option<Protocol>,
    /// Where the data port can be reached.
    pub external: Option<SocketAddr>,
    /// Seconds until the port ends unless it is renewed; null for one without end.
    pub expires_in_s: Option<u64>,
    /// Whether that is itself a private address: another NAT is in front of the router.
    pub behind_another_nat: bool,
    /// What came of each protocol.
    pub protocols: Vec<ProtocolView>,
}

/// What came of one protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolView {
    /// Which.
    pub protocol: Protocol,
    /// In words.
    pub finding: String,
}

impl PortMappingView {
    /// At this time.
    pub fn new(status: &Status, now: Instant) -> Self {
        let lease = status.lease.as_ref();
        let protocols = Protocol::ALL.iter().zip(&status.findings);
        PortMappingView {
            gateway: status.network.map(|it| it.gateway),
            protocol: lease.map(|it| it.protocol),
            external: lease.map(|it| it.external.into()),
            expires_in_s: status
                .expires
                .map(|at| at.saturating_duration_since(now).as_secs()),
            behind_another_nat: lease.is_some_and(Lease::is_behind_another_nat),
            protocols: protocols
                .map(|(protocol, finding)| ProtocolView {
                    protocol: *protocol,
                    finding: finding.to_string(),
                })
                .collect(),
        }
    }
}

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
        if let Err(error) = self.state.save_router_port(self.lease.as_ref()) {
            warn!(error = %chain(&error), "the router's port cannot be kept; `gretun down` without a daemon would not give it back");
        }
    }

    /// What is known of the router; `None` when it is not asked.
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
