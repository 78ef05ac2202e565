//! Everything that talks to the Linux kernel: rtnetlink, FOU generic netlink, packet sockets, capabilities, modules.

mod address;
mod apply;
mod changing;
mod error;
pub mod execute;
pub mod fou;
mod interfaces;
mod link_codec;
mod listing;
pub mod lock;
pub mod netns;
mod nft;
pub mod observe;
mod packet;
pub mod preflight;
pub mod probe_socket;
pub mod process;
pub mod raw_port;
mod redirect;
mod remove;
mod socket;
mod watch;

pub use address::{LinkKind, LocalAddress, Route, RouteTo};
pub use error::KernelError;
pub use interfaces::Interface;
pub use watch::NetChange;

use std::sync::Arc;

use changing::Changer;
use listing::Lister;
use rtnetlink::sys::AsyncSocket as _;
use socket::ask_for_words;
use tokio::sync::Mutex;

/// The kernel's networking in the current network namespace.
#[derive(Clone, Debug)]
pub struct Kernel {
    route: rtnetlink::Handle,
    list: Arc<Lister>,
    change: Arc<Changer>,
    generic: genetlink::GenetlinkHandle,
    /// Held while the kernel lists FOU ports: it refuses a second list on the same socket (`EBUSY`).
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
        ask_for_words(connection.socket_mut().socket_ref()).map_err(failed)?;
        tokio::spawn(connection);
        let list = Arc::new(Lister::open().map_err(failed)?);
        let change = Arc::new(Changer::open().map_err(failed)?);
        let (mut connection, generic, _) = genetlink::new_connection().map_err(failed)?;
        ask_for_words(connection.socket_mut().socket_ref()).map_err(failed)?;
        tokio::spawn(connection);
        Ok(Kernel {
            route,
            list,
            change,
            generic,
            listing: Arc::default(),
        })
    }
}
