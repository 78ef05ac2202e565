//! Changes of links, addresses and routes. The kernel carries a request out while it takes it: many go with one call, and their
//! answers are there when it returns (`netlink_rcv_skb`, net/netlink/af_netlink.c).

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_packet_core::{ErrorMessage, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use crate::kernel::KernelError;
use crate::kernel::netlink::socket::{KernelSocket, read_error};

/// So many requests go with one call: their answers fit into the socket's buffer several times over.
const TOGETHER: usize = 64;
/// Longest answer, bytes: an error with the kernel's words.
const ANSWER: usize = 1 << 13;

/// A change, and its flags.
pub(in crate::kernel) type Request = (RouteNetlinkMessage, u16);
/// How a change went.
pub(in crate::kernel) type Outcome = Result<(), KernelError>;

/// A netlink socket for changes only.
#[derive(Debug)]
pub(in crate::kernel) struct RequestSocket(Mutex<KernelSocket>);

/// How a request was answered.
enum Answer {
    Done,
    Refused(ErrorMessage),
    Lost(String),
}

impl RequestSocket {
    /// Opens the socket, in the current network namespace.
    pub fn open() -> io::Result<Self> {
        Ok(RequestSocket(Mutex::new(KernelSocket::open(
            NETLINK_ROUTE,
        )?)))
    }

    /// Asks for changes and says how each went; `operation` gives the words for one that failed. What could not be made a request
    /// is answered with its own error. The kernel goes on after one that it refuses.
    pub fn change(
        &self,
        requests: Vec<Result<Request, KernelError>>,
        operation: impl Fn(usize) -> String,
    ) -> Vec<Outcome> {
        let mut socket = self.socket();
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(requests.len());
        let mut waiting = Vec::new();
        for (place, request) in requests.into_iter().enumerate() {
            outcomes.push(request.map(|request| waiting.push((place, request))));
        }
        let mut waiting = waiting.into_iter();
        loop {
            let (places, together): (Vec<_>, Vec<_>) = waiting.by_ref().take(TOGETHER).unzip();
            if places.is_empty() {
                return outcomes;
            }
            for (place, answer) in places.into_iter().zip(socket.change(together)) {
                outcomes[place] = match answer {
                    Answer::Done => Ok(()),
                    Answer::Refused(error) => Err(KernelError::refused(operation(place), &error)),
                    Answer::Lost(reason) => Err(KernelError::netlink(operation(place), reason)),
                };
            }
        }
    }

    /// The index of the link of this name, or of this alternative name; `ENODEV` where there is none. Unlike a listing it does not
    /// grow with the number of links.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        let socket = self.socket();
        let index = rustix::net::netdevice::name_to_index(socket.socket.as_fd(), name);
        Ok(index?)
    }

    fn socket(&self) -> MutexGuard<'_, KernelSocket> {
        // Answers of a round that panicked carry numbers that are not used again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KernelSocket {
    fn change(&mut self, requests: Vec<Request>) -> Vec<Answer> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        let count = requests.len();
        for (message, flags) in requests {
            let mut request = NetlinkMessage::from(message);
            request.header.flags = flags;
            bytes.extend(self.encode(&mut request));
        }
        let mut answers: Vec<Option<Answer>> = (0..count).map(|_| None).collect();
        let reason = match self.socket.send(&bytes, 0) {
            Ok(_) => self.outcomes(first, &mut answers),
            Err(error) => error.to_string(),
        };
        let lost = |answer: Option<Answer>| answer.unwrap_or_else(|| Answer::Lost(reason.clone()));
        answers.into_iter().map(lost).collect()
    }

    /// Receives the answers to as many requests, of which the first has this number; gives the reason where not all came.
    fn outcomes(&self, first: u32, answers: &mut [Option<Answer>]) -> String {
        let mut missing = answers.len();
        let mut bytes = Vec::with_capacity(ANSWER);
        while missing > 0 {
            bytes.clear();
            match self.socket.recv(&mut bytes, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return "the kernel gave no answer".to_owned();
                }
                Err(error) => return error.to_string(),
            }
            let Some((sequence, answer)) = read_answer(&bytes) else {
                continue;
            };
            let place = usize::try_from(sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
            // What a round before left unread is of no use to anyone.
            if let Some(unanswered @ None) = answers.get_mut(place) {
                *unanswered = Some(answer);
                missing -= 1;
            }
        }
        String::new()
    }
}

/// The number of the request that was answered, and how. Every answer comes by itself, as an error message whose code is zero where
/// all went well.
fn read_answer(bytes: &[u8]) -> Option<(u32, Answer)> {
    let message = NetlinkBuffer::new_checked(bytes).ok()?;
    if message.message_type() != NLMSG_ERROR {
        return None;
    }
    let error = read_error(message.payload())?;
    let answer = match error.code {
        None => Answer::Done,
        Some(_) => Answer::Refused(error),
    };
    Some((message.sequence_number(), answer))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    fn remove(index: u32) -> Result<Request, KernelError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        Ok((
            RouteNetlinkMessage::DelLink(message),
            NLM_F_REQUEST | NLM_F_ACK,
        ))
    }

    /// Whoever may ask, the kernel refuses: there is no such device, or no right to remove it.
    #[test]
    fn each_request_has_its_own_answer_in_its_place() {
        let socket = RequestSocket::open().unwrap();
        for count in [1, TOGETHER, 2 * TOGETHER + 1] {
            let mut requests: Vec<_> = (0..count).map(|_| remove(0x7fff_fff0)).collect();
            requests[count / 2] = Err(KernelError::no_device("think", "of it"));
            let outcomes = socket.change(requests, |place| format!("remove number {place}"));
            assert_eq!(outcomes.len(), count);
            for (place, outcome) in outcomes.into_iter().enumerate() {
                let error = outcome.unwrap_err();
                let words = error.to_string();
                if place == count / 2 {
                    assert!(words.contains("cannot think"), "{words}");
                } else {
                    assert!(words.contains(&format!("number {place}:")), "{words}");
                    let errno = error.errno();
                    assert!(matches!(errno, Some(libc::ENODEV | libc::EPERM)), "{words}");
                }
            }
        }
    }

    #[test]
    fn a_link_is_found_by_its_name() {
        let socket = RequestSocket::open().unwrap();
        assert_eq!(socket.index("lo").unwrap(), 1);
        for missing in ["nothing-here", "a-name-that-is-much-too-long", ""] {
            let error = socket.index(missing).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{missing}");
        }
    }

    #[test]
    fn what_is_no_answer_is_not_read_as_one() {
        assert!(read_answer(&[]).is_none());
        let mut bytes = vec![0; 36];
        bytes[..4].copy_from_slice(&36_u32.to_ne_bytes());
        assert!(read_answer(&bytes).is_none());
        bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        bytes[8..12].copy_from_slice(&7_u32.to_ne_bytes());
        assert!(matches!(read_answer(&bytes), Some((7, Answer::Done))));
        bytes[16..20].copy_from_slice(&(-libc::EEXIST).to_ne_bytes());
        let Some((7, Answer::Refused(error))) = read_answer(&bytes) else {
            panic!("not refused");
        };
        assert_eq!(error.to_io().raw_os_error(), Some(libc::EEXIST));
        for length in 0..bytes.len() {
            assert!(read_answer(&bytes[..length]).is_none(), "{length}");
        }
    }
}
