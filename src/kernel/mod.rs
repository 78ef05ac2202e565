//! Everything that talks to the Linux kernel: rtnetlink, FOU generic netlink, packet sockets, capabilities, modules.

mod error;
pub mod host;
mod netlink;
pub mod packet;
pub mod tunnel;

pub use error::KernelError;
pub use host::address::{LinkKind, LocalAddress, Route, RouteTo};
pub use host::interfaces::Interface;
pub use netlink::watch::NetChange;

use std::sync::{Arc, Mutex};

use netlink::dump::DumpSocket;
use netlink::request::RequestSocket;
use netlink::socket::KernelSocket;
use rtnetlink::sys::protocols::NETLINK_GENERIC;

/// The kernel's networking in the current network namespace. Nothing here is asynchronous: every request returns within its
/// deadline (`netlink/socket.rs`), and whoever must not wait asks from a thread of their own, with sockets of their own.
#[derive(Clone, Debug)]
pub struct Kernel {
    list: Arc<DumpSocket>,
    change: Arc<RequestSocket>,
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
            list: Arc::new(DumpSocket::open().map_err(failed)?),
            change: Arc::new(RequestSocket::open().map_err(failed)?),
            generic: Arc::new(Mutex::new(generic)),
        })
    }
}
