//! Changes of gretun's table, as they happen: somebody else's `nft flush ruleset` takes it away with everything else.

use std::io;

use futures_util::Stream;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::kernel::netlink::watch::{BATCH, stream};
use crate::kernel::{Kernel, KernelError};
use crate::tunnel::nftables::TABLE;

/// `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << (7 - 1);

/// The kernel sends its notifications in pieces of a page (`nft_commit_notify`).
const MAX_NOTIFICATION: usize = 1 << 14;

/// `struct nlmsghdr` and `struct nfgenmsg`, bytes. The first attribute of a message on a table, chain, rule, set or element is the
/// name of its table.
const HEADERS: usize = 16 + 4;
const FIRST_ATTRIBUTE: u16 = 1;
const ATTRIBUTE_HEADER: usize = 4;

impl Kernel {
    /// An item for each change of the table, those of one moment together; gretun's own are among them. Needs a tokio runtime.
    /// Ends when the kernel closes the socket.
    ///
    /// # Errors
    /// When the kernel has no nftables, or refuses.
    pub fn watch_nftables() -> Result<impl Stream<Item = ()> + Send + use<>, KernelError> {
        let failed = |error| KernelError::netlink("watch nftables", error);
        let socket = open().map_err(failed)?;
        stream(socket, take).map_err(failed)
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.set_non_blocking(true)?;
    socket.bind(&SocketAddr::new(0, GROUP))?;
    Ok(socket)
}

/// Takes what is there; `WouldBlock` where nothing of it is about the table.
fn take(socket: &Socket) -> io::Result<()> {
    let mut is_ours = false;
    let mut notification = Vec::with_capacity(MAX_NOTIFICATION);
    for _ in 0..BATCH {
        notification.clear();
        match socket.recv(&mut notification, libc::MSG_TRUNC) {
            Ok(length) => is_ours |= length > MAX_NOTIFICATION || names_table(&notification),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_ours => return Ok(()),
            // Messages were lost, so anything may have changed.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => is_ours = true,
            Err(error) => return Err(error),
        }
    }
    // The rest, which is read next, may be about the table.
    Ok(())
}

/// Whether one of the messages is about gretun's table.
fn names_table(mut messages: &[u8]) -> bool {
    while let Some(&[a, b, c, d]) = messages.get(..4) {
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let message = messages.get(..length).unwrap_or(messages);
        if table_of(message) == Some(TABLE.as_bytes()) {
            return true;
        }
        let next = length.max(HEADERS).checked_next_multiple_of(4);
        messages = next.and_then(|at| messages.get(at..)).unwrap_or_default();
    }
    false
}

fn table_of(message: &[u8]) -> Option<&[u8]> {
    let attributes = message.get(HEADERS..)?;
    let &[a, b, c, d] = attributes.get(..ATTRIBUTE_HEADER)? else {
        return None;
    };
    let (length, kind) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
    let value = attributes.get(ATTRIBUTE_HEADER..usize::from(length))?;
    let name = value.strip_suffix(&[0])?;
    (kind == FIRST_ATTRIBUTE).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(table: &str) -> Vec<u8> {
        let mut bytes = vec![0; HEADERS];
        let length = u16::try_from(ATTRIBUTE_HEADER + table.len() + 1).unwrap();
        bytes.extend(length.to_ne_bytes());
        bytes.extend(FIRST_ATTRIBUTE.to_ne_bytes());
        bytes.extend(table.as_bytes());
        bytes.push(0);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_message_on_the_table_is_found_among_others() {
        assert!(names_table(&message("gretun")));
        assert!(names_table(
            &[message("filter"), message("gretun")].concat()
        ));
        for other in ["filter", "gretun2", "gretu"] {
            assert!(!names_table(&message(other)), "{other}");
        }
        let whole = message("gretun");
        // No truncation panics or goes on for ever.
        for length in 0..whole.len() {
            let _ = names_table(&whole[..length]);
        }
        assert!(!names_table(&[0; 64]));
    }
}
