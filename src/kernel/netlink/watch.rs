//! Changes of links, addresses and routes, as they happen. Only that something changed is kept, not what: a router that takes
//! a full BGP table has a million of messages for this socket within seconds.

use std::io;

use futures_util::{Stream, StreamExt as _};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use tokio::io::unix::AsyncFd;

use crate::kernel::Kernel;
use crate::kernel::KernelError;

/// Most messages taken between two looks at everything else.
pub(in crate::kernel) const BATCH: usize = 256;

/// `struct nlmsghdr`, bytes: of a message nothing else is read, and the rest is dropped.
const HEADER: usize = 16;

/// The kinds of changes of the host's network since the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetChange {
    /// A link came, went or changed.
    pub links: bool,
    /// An address came or went.
    pub addresses: bool,
    /// A route came or went.
    pub routes: bool,
}

impl NetChange {
    /// Messages were lost, so anything may have changed.
    const EVERYTHING: NetChange = NetChange {
        links: true,
        addresses: true,
        routes: true,
    };

    fn add(&mut self, message: &[u8]) {
        // `nlmsg_type`, behind the length.
        let Some(&[low, high]) = message.get(4..6) else {
            return;
        };
        match u16::from_ne_bytes([low, high]) {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => self.links = true,
            libc::RTM_NEWADDR | libc::RTM_DELADDR => self.addresses = true,
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => self.routes = true,
            _ => {}
        }
    }
}

impl Kernel {
    /// All changes from now on, those of one moment together. Needs a tokio runtime. Ends when the kernel closes the socket.
    ///
    /// # Errors
    /// When no netlink socket can be had.
    pub fn watch() -> Result<impl Stream<Item = NetChange> + Send + use<>, KernelError> {
        let failed = |error| KernelError::netlink("watch the network", error);
        let socket = open().map_err(failed)?;
        stream(socket, take).map_err(failed)
    }
}

/// Returns the stream of whatever `take` reads from the socket. Ends when the kernel closes the socket.
pub(in crate::kernel) fn stream<T: Send + 'static>(
    socket: Socket,
    take: fn(&Socket) -> io::Result<T>,
) -> io::Result<impl Stream<Item = T> + Send + use<T>> {
    // SAFETY: the socket keeps the descriptor that it was made with, and is dropped with the registration.
    let socket = unsafe { AsyncFd::register(socket) }?;
    // Polled again after its end, an unfolded stream panics.
    let changes = futures_util::stream::unfold(socket, move |socket| async move {
        match next(&socket, take).await {
            Ok(change) => Some((change, socket)),
            Err(error) => {
                tracing::error!(%error, "the network cannot be watched any more");
                None
            }
        }
    });
    Ok(changes.fuse())
}

fn open() -> io::Result<Socket> {
    let groups = libc::RTMGRP_LINK
        | libc::RTMGRP_IPV4_IFADDR
        | libc::RTMGRP_IPV6_IFADDR
        | libc::RTMGRP_IPV4_ROUTE
        | libc::RTMGRP_IPV6_ROUTE;
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_non_blocking(true)?;
    socket.bind(&SocketAddr::new(0, groups.cast_unsigned()))?;
    Ok(socket)
}

/// Waits for a change, and takes what else is there.
async fn next<T>(socket: &AsyncFd<Socket>, take: fn(&Socket) -> io::Result<T>) -> io::Result<T> {
    loop {
        let mut ready = socket.readable().await?;
        if let Ok(change) = ready.try_io(|socket| take(socket.get_ref())) {
            return change;
        }
    }
}

/// Takes what is there; `WouldBlock` where there is nothing.
fn take(socket: &Socket) -> io::Result<NetChange> {
    let mut change = NetChange::default();
    let mut message = Vec::with_capacity(HEADER);
    for taken in 0..BATCH {
        message.clear();
        match socket.recv(&mut message, libc::MSG_TRUNC) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken > 0 => break,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                change = NetChange::EVERYTHING;
                continue;
            }
            Err(error) => return Err(error),
        }
        change.add(&message);
    }
    Ok(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..4].copy_from_slice(&u32::try_from(HEADER).unwrap().to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_million_routes_are_one_change() {
        let mut change = NetChange::default();
        for _ in 0..1_000_000 {
            change.add(&message(libc::RTM_NEWROUTE));
        }
        let routes = NetChange {
            routes: true,
            ..NetChange::default()
        };
        assert_eq!(change, routes);
        change.add(&message(libc::RTM_DELLINK));
        change.add(&message(libc::RTM_NEWADDR));
        assert_eq!(change, NetChange::EVERYTHING);
        change.add(&[1, 2, 3]);
    }

    #[test]
    fn a_quiet_network_has_nothing_to_say() {
        let error = take(&open().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
