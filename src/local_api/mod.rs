//! The local API: other commands reach the daemon through a Unix socket, one JSON line as request, one as answer.

mod client;
mod error;
mod server;
mod view;

use std::time::Duration;

pub use client::ask;
pub use error::LocalApiError;
pub use server::{Query, Server};
pub use view::{
    DaemonNetView, ExplainView, PathView, PathsView, PeerView, PortMappingView, ProtocolView,
    RefusedRouteView, Request, StunView,
};

/// Time for a client to send its request or take its answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
