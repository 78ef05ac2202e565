//! Probes that must leave through one interface.

use std::io;

use socket2::{Domain, Socket, Type};

/// Returns whether sockets can be bound to the interface (`SO_BINDTODEVICE`, which needs no privilege since kernel 5.7).
pub fn check(name: &str) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.bind_device(Some(name.as_bytes()))
}
