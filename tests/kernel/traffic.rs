//! Traffic between two hosts from one thread: echo requests that may not be fragmented, and a TCP transfer. No program is
//! started, which under emulation takes longer than the traffic itself.

use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use gretun::tunnel::mode::Family;
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::Host;

/// Bytes that a TCP transfer carries in each direction.
const TRANSFER: usize = 128 << 10;
/// Longest time for an answer on an emulated machine under load.
const PATIENCE: Duration = Duration::from_secs(20);
/// After this an echo request is sent again: the far end may still be resolving our address.
const AGAIN: Duration = Duration::from_secs(1);
/// ICMP and ICMPv6 echo header.
const ECHO_HEADER: usize = 8;

/// A target that can be pinged.
#[derive(Debug)]
pub struct Echo {
    socket: Socket,
    family: Family,
    sequence: u16,
}

impl Echo {
    /// Will ping `to` from a host; no packet is ever fragmented.
    pub fn new(from: &Host, to: IpAddr) -> Self {
        from.enter();
        let (domain, protocol, discover) = match to {
            IpAddr::V4(_) => (
                Domain::IPV4,
                Protocol::ICMPV4,
                (
                    libc::IPPROTO_IP,
                    libc::IP_MTU_DISCOVER,
                    libc::IP_PMTUDISC_DO,
                ),
            ),
            IpAddr::V6(_) => (
                Domain::IPV6,
                Protocol::ICMPV6,
                (
                    libc::IPPROTO_IPV6,
                    libc::IPV6_MTU_DISCOVER,
                    libc::IPV6_PMTUDISC_DO,
                ),
            ),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
        set(&socket, discover);
        if to.is_ipv6() {
            set(&socket, (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1));
        }
        socket.set_read_timeout(Some(AGAIN)).unwrap();
        socket.connect(&SocketAddr::new(to, 0).into()).unwrap();
        Echo {
            socket,
            family: Family::of(to),
            sequence: 0,
        }
    }

    /// Sends a packet of this size, IP header included, until it is answered; the answer is as large.
    ///
    /// # Errors
    /// When the packet does not fit (`EMSGSIZE`), or there is no answer.
    pub fn ping(&mut self, size: usize) -> io::Result<()> {
        self.ping_every(AGAIN, size)
    }

    /// Sends one packet of this size, which must be answered.
    ///
    /// # Errors
    /// As [`Echo::ping`].
    pub fn ping_once(&mut self, size: usize) -> io::Result<()> {
        self.ping_every(PATIENCE, size)
    }

    fn ping_every(&mut self, gap: Duration, size: usize) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        self.sequence = self.sequence.wrapping_add(1);
        let request = self.request(size);
        while Instant::now() < deadline {
            self.socket.send(&request)?;
            let again = Instant::now() + gap;
            while Instant::now() < again {
                if self.is_answered(&request) {
                    return Ok(());
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn ip_header(&self) -> usize {
        match self.family {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }

    fn request(&self, size: usize) -> Vec<u8> {
        const ECHO_REQUEST: [u8; 2] = [8, 128];
        let mut packet = data(size - self.ip_header());
        let kind = ECHO_REQUEST[usize::from(self.family == Family::V6)];
        let [high, low] = self.sequence.to_be_bytes();
        packet[..ECHO_HEADER].copy_from_slice(&[kind, 0, 0, 0, 0x47, 0x52, high, low]);
        if self.family == Family::V4 {
            let sum = checksum(&packet).to_be_bytes();
            packet[2..4].copy_from_slice(&sum);
        }
        packet
    }

    /// Takes the next packet; whether it answers this request with the same data.
    fn is_answered(&self, request: &[u8]) -> bool {
        const ECHO_REPLY: [u8; 2] = [0, 129];
        let mut buffer = vec![MaybeUninit::uninit(); 1 << 16];
        let Ok(length) = self.socket.recv(&mut buffer) else {
            return false;
        };
        // SAFETY: the kernel has filled so many bytes.
        let packet: Vec<u8> = buffer[..length]
            .iter()
            .map(|byte| unsafe { byte.assume_init() })
            .collect();
        // Raw IPv4 sockets are given the IP header too.
        let header = match self.family {
            Family::V4 => self.ip_header(),
            Family::V6 => 0,
        };
        let Some(answer) = packet.get(header..) else {
            return false;
        };
        answer.len() == request.len()
            && answer[0] == ECHO_REPLY[usize::from(self.family == Family::V6)]
            && answer[4..] == request[4..]
    }
}

/// A socket option with a number as its value: level, name, value.
fn set(socket: &Socket, (level, name, value): (i32, i32, i32)) {
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap();
    // SAFETY: the descriptor is open, and the pointer is to a value of the length given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let words = packet
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Bytes of which no two parts are alike, so that lost and swapped ones are noticed.
fn data(length: usize) -> Vec<u8> {
    let mut state: u32 = 1;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Carries data over TCP from one host to the other and back, and checks it.
pub fn tcp(from: &Host, to: &Host, address: IpAddr) -> io::Result<()> {
    to.enter();
    let listener = TcpListener::bind((address, 0))?;
    from.enter();
    let client = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
    let (server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    let sent = data(TRANSFER);
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let mut came = vec![0; TRANSFER];
            (&server).read_exact(&mut came)?;
            (&server).write_all(&came)?;
            Ok::<_, io::Error>(came)
        });
        (&client).write_all(&sent)?;
        let mut back = vec![0; TRANSFER];
        (&client).read_exact(&mut back)?;
        let there = echo.join().expect("the far end's thread")?;
        if there == sent && back == sent {
            Ok(())
        } else {
            Err(io::Error::other("the data was damaged on the way"))
        }
    })
}
