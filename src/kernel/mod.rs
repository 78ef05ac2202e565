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

use std::sync::{Arc, Mutex};

use changing::Changer;
use listing::Lister;
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use socket::KernelSocket;

/// The kernel's networking in the current network namespace. Nothing here is asynchronous: every request returns within its
/// deadline (`socket.rs`), and whoever must not wait asks from a thread of their own, with sockets of their own.
#[derive(Clone, Debug)]
pub struct Kernel {
    list: Arc<Lister>,
    change: Arc<Changer>,
    generic: Arc<Mutex<KernelSocket>>,
}

impl Kernel {
    /// Opens the netlink sockets.
    ///
    /// # Errors
    /// When no netlink socket can be had.
    pub fn open() -> Result<Self, KernelError> {
        let failed = |error| KernelError::netlink("open a netlink socket", error);
        let generic = KernelSocket::open(NETLINK_GENERIC).map_err(failed)?;
        Ok(Kernel {
            list: Arc::new(Lister::open().map_err(failed)?),
            change: Arc::new(Changer::open().map_err(failed)?),
            generic: Arc::new(Mutex::new(generic)),
        })
    }
}
