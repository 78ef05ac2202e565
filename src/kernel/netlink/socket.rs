//! A netlink socket for requests. The kernel answers most while it takes them; for all others there is a deadline.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use netlink_packet_core::{
    DecodeError, ErrorBuffer, ErrorMessage, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage,
    NetlinkSerializable, Parseable as _,
};
use rtnetlink::sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::kernel::KernelError;

/// The kernel has this long for each part of an answer. Answers take microseconds; only an answer that was lost takes this long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The kernel makes its answers no larger (`netlink_dump`, net/netlink/af_netlink.c), but for network cards with virtual
/// functions, which it is not asked about.
const MAX_ANSWER: usize = 1 << 16;

/// A dump that was changed under the kernel's hands carries this flag (include/uapi/linux/netlink.h).
const NLM_F_DUMP_INTR: u16 = 0x10;

/// A socket to the kernel alone, which numbers its requests.
#[derive(Debug)]
pub(in crate::kernel) struct KernelSocket {
    pub socket: Socket,
    /// Of the last request.
    pub sequence: u32,
}

/// The kernel's answers to one request.
pub(in crate::kernel) struct Answers<T> {
    pub found: Vec<T>,
    /// Whether the kernel's tables changed meanwhile, so that something may be missing.
    pub is_changed: bool,
}

impl KernelSocket {
    /// Opens one of this protocol (`NETLINK_ROUTE`, ...), in the current network namespace.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        ask_for_words(&socket)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(ANSWER_TIMEOUT))?;
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

    /// Sends a request that asks for a dump or for an acknowledgement, and returns what `read` takes from the messages that
    /// the kernel answers. A message that `read` cannot decode is left out: one link of another owner must not hide all others.
    pub fn ask<M: NetlinkSerializable, T>(
        &mut self,
        operation: &str,
        request: &mut NetlinkMessage<M>,
        read: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Answers<T>, KernelError> {
        let failed = |error: &dyn ToString| KernelError::netlink(operation, error.to_string());
        let bytes = self.encode(request);
        self.socket
            .send(&bytes, 0)
            .map_err(|error| failed(&error))?;
        let mut answers = Answers {
            found: Vec::new(),
            is_changed: false,
        };
        // The answer is read to its end in any case: the kernel takes no other request before.
        let mut answer = Vec::with_capacity(MAX_ANSWER);
        loop {
            self.receive(&mut answer).map_err(|error| failed(&error))?;
            let mut rest = &answer[..];
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest).map_err(|error| failed(&error))?;
                let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if message.sequence_number() != self.sequence {
                    continue;
                }
                answers.is_changed |= message.flags() & NLM_F_DUMP_INTR != 0;
                match message.message_type() {
                    NLMSG_DONE | NLMSG_ERROR => {
                        return match error_of(message.payload()) {
                            Some(error) => Err(KernelError::refused(operation, &error)),
                            None => Ok(answers),
                        };
                    }
                    _ => match read(message.payload()) {
                        Ok(found) => answers.found.extend(found),
                        Err(error) => tracing::debug!(operation, %error, "an answer is left out"),
                    },
                }
            }
        }
    }

    /// Receives one datagram into the buffer.
    pub fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        match self.socket.recv(buffer, 0) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let waited = ANSWER_TIMEOUT.as_secs();
                let reason = format!("the kernel gave no answer within {waited} s");
                Err(io::Error::new(io::ErrorKind::TimedOut, reason))
            }
            Err(error) => Err(error),
        }
    }
}

/// Has the kernel say in its own words what it refuses, right behind the header of the request.
pub(in crate::kernel) fn ask_for_words(socket: &Socket) -> io::Result<()> {
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)
}

/// Reads an error message; its payload begins with a negative errno, or zero where all went well (`struct nlmsgerr`).
pub(in crate::kernel) fn read_error(payload: &[u8]) -> Option<ErrorMessage> {
    ErrorMessage::parse(&ErrorBuffer::new_checked(&payload).ok()?).ok()
}

/// The error that a dump or an acknowledgement ends with.
fn error_of(payload: &[u8]) -> Option<ErrorMessage> {
    read_error(payload).filter(|error| error.code.is_some())
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::link::LinkMessage;
    use rtnetlink::sys::protocols::NETLINK_ROUTE;

    use rustix::net::sockopt::socket_timeout;

    use super::*;

    fn list_links(flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let mut request = NetlinkMessage::from(request);
        request.header.flags = flags;
        request
    }

    #[test]
    fn a_dump_ends_with_an_errno_or_without() {
        assert!(error_of(&[]).is_none());
        assert!(error_of(&0_i32.to_ne_bytes()).is_none());
        let error = error_of(&(-libc::ENOENT).to_ne_bytes()).unwrap();
        let error = KernelError::refused("list routes", &error);
        assert_eq!(error.errno(), Some(libc::ENOENT));
    }

    /// The kernel answers a message without `NLM_F_REQUEST` and `NLM_F_ACK` with nothing at all.
    #[test]
    fn a_request_that_is_never_answered_ends_with_what_was_asked() {
        let mut socket = KernelSocket::open(NETLINK_ROUTE).unwrap();
        let deadline = socket_timeout(socket.socket.as_fd(), Timeout::Recv).unwrap();
        assert_eq!(deadline, Some(ANSWER_TIMEOUT));
        let short = Duration::from_millis(20);
        set_socket_timeout(socket.socket.as_fd(), Timeout::Recv, Some(short)).unwrap();
        let asked = socket.ask("list links", &mut list_links(0), |_| Ok(Some(())));
        let error = asked.err().unwrap().to_string();
        assert!(error.contains("cannot list links"), "{error}");
        assert!(error.contains("no answer within"), "{error}");
    }

    #[test]
    fn an_answer_that_cannot_be_decoded_hides_no_other() {
        let mut socket = KernelSocket::open(NETLINK_ROUTE).unwrap();
        let seen = std::cell::Cell::new(0);
        let read = |_: &[u8]| {
            seen.set(seen.get() + 1);
            Err::<Option<()>, _>(DecodeError::from("a kind of a newer kernel"))
        };
        let request = &mut list_links(NLM_F_REQUEST | NLM_F_DUMP);
        let answers = socket.ask("list links", request, read).unwrap();
        assert!(answers.found.is_empty() && seen.get() > 0);
    }
}
