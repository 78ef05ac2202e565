//! A netlink socket for requests that the kernel answers while it takes them, so that there is nothing to wait for.

use std::io;

use netlink_packet_core::{
    ErrorBuffer, ErrorMessage, NetlinkMessage, NetlinkSerializable, Parseable as _,
};
use rtnetlink::sys::{Socket, SocketAddr};

/// A socket to the kernel alone, which numbers its requests.
#[derive(Debug)]
pub(super) struct KernelSocket {
    pub socket: Socket,
    /// Of the last request.
    pub sequence: u32,
}

impl KernelSocket {
    /// Opens one of this protocol (`NETLINK_ROUTE`, ...), in the current network namespace.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        ask_for_words(&socket)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(KernelSocket {
            socket,
            sequence: 0,
        })
    }

    /// The request as it is sent, with the next number; its length is such that another one can follow.
    pub fn encode<T: NetlinkSerializable>(&mut self, request: &mut NetlinkMessage<T>) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len().next_multiple_of(4)];
        request.serialize(&mut bytes);
        bytes
    }
}

/// Has the kernel say in its own words what it refuses, right behind the header of the request.
pub(super) fn ask_for_words(socket: &Socket) -> io::Result<()> {
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)
}

/// What an error message says; its payload begins with a negative errno, or zero where all went well (`struct nlmsgerr`).
pub(super) fn read_error(payload: &[u8]) -> Option<ErrorMessage> {
    ErrorMessage::parse(&ErrorBuffer::new_checked(&payload).ok()?).ok()
}
