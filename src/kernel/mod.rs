//! Everything that talks to the Linux kernel: rtnetlink, FOU generic netlink, packet sockets, capabilities, modules.

mod address;
mod apply;
mod error;
pub mod execute;
pub mod fou;
mod interfaces;
mod link_codec;
pub mod lock;
pub mod netns;
mod nft;
pub mod observe;
mod packet;
pub mod preflight;
pub mod probe_socket;
pub mod process;
pub mod raw_port;
mod remove;
mod watch;

pub use address::{LocalAddress, RouteTo};
pub use error::KernelError;
pub use interfaces::Interface;
pub use watch::NetChange;

use std::sync::Arc;

use rtnetlink::sys::AsyncSocket as _;
use tokio::sync::Mutex;

/// The kernel's networking in the current network namespace.
#[derive(Clone, Debug)]
pub struct Kernel {
    route: rtnetlink::Handle,
    /// A socket for which the kernel picks the routes to list itself: most are its own, of no interest here.
    route_list: rtnetlink::Handle,
    generic: genetlink::GenetlinkHandle,
    /// Held while the kernel lists something: it refuses a second list on the same socket (`EBUSY`).
    listing: Arc<Mutex<()>>,
}

impl Kernel {
    /// Opens the netlink sockets; needs a tokio runtime, in which the connections run as tasks.
    ///
    /// # Errors
    /// When no netlink socket can be had.
    pub async fn open() -> Result<Self, KernelError> {
        let failed = |error| KernelError::netlink("open a netlink socket", error);
        let (mut connection, route, _) = rtnetlink::new_connection().map_err(failed)?;
        let socket = connection.socket_mut().socket_ref();
        socket.set_ext_ack(true).map_err(failed)?;
        socket.set_cap_ack(true).map_err(failed)?;
        tokio::spawn(connection);
        let (mut connection, route_list, _) = rtnetlink::new_connection().map_err(failed)?;
        let socket = connection.socket_mut().socket_ref();
        if let Err(error) = socket.set_netlink_get_strict_chk(true) {
            // Linux before 4.20: it lists all routes, which are picked from here as well.
            tracing::debug!(%error, "the kernel lists all routes");
        }
        tokio::spawn(connection);
        let (connection, generic, _) = genetlink::new_connection().map_err(failed)?;
        tokio::spawn(connection);
        Ok(Kernel {
            route,
            route_list,
            generic,
            listing: Arc::default(),
        })
    }
}
