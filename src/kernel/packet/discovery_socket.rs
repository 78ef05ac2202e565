//! The data port, shared with the kernel. The kernel's FOU socket owns UDP port P; these sockets send from P and listen on P all the
//! same, so that discovery and data have one NAT mapping.
//!
//! A port search also sends from search ports. The sockets listen on them during the search, and while a tunnel uses one of them.
//!
//! Sending goes through raw sockets with headers of our own making (raw(7), `IPPROTO_RAW`: such a socket receives
//! nothing). The packets pass the host's OUTPUT hooks, so its connection tracking opens the tuple that data uses.
//!
//! Receiving goes through packet sockets whose filter takes only discovery packets: whole UDP datagrams to port P
//! with the disco magic or the STUN cookie in its place. Data packets cost the filter a few instructions and are
//! never copied. These sockets see packets before the host firewall does: nothing that arrives here proves that
//! data gets in. UDP checksums are not looked at, since a packet from a virtual device has an unfinished one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use crate::kernel::packet::{Frame, PacketSocket, TO_THIS_HOST, bpf};
use crate::proto::disco;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;
const TTL: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;

/// The magic cookie of STUN (RFC 8489 section 5).
const STUN_COOKIE: u32 = 0x2112_a442;

/// Size of the receive buffer, larger than any discovery datagram: a jumbo frame's payload.
const BUFFER: usize = 9216;

/// A datagram that arrived at the data port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The address and port of this host to which it was sent.
    pub local: SocketAddr,
    /// The source address and port.
    pub from: SocketAddr,
    /// Index of the device on which it arrived.
    pub device: u32,
    /// UDP payload.
    pub data: Vec<u8>,
}

/// The data port, for discovery.
#[derive(Debug)]
pub struct DiscoverySocket {
    port: u16,
    ipv4: Family,
    /// The IPv6 sockets; missing on hosts without IPv6.
    ipv6: Option<Family>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Family {
    sender: Socket,
    receiver: PacketSocket,
}

impl DiscoverySocket {
    /// Opens the sockets for UDP port `port`; needs CAP_NET_RAW and a tokio runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn open(port: u16) -> io::Result<Self> {
        let sender = |domain| -> io::Result<Socket> {
            let protocol = Protocol::from(libc::IPPROTO_RAW);
            let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
            ignore_learned_mtu(&socket, domain)?;
            Ok(socket)
        };
        let ipv4 = Family {
            sender: sender(Domain::IPV4)?,
            receiver: PacketSocket::open(libc::ETH_P_IP as u16, &filter_ipv4(port, None))?,
        };
        let ipv6 = match sender(Domain::IPV6) {
            Ok(sender) => {
                sender.set_header_included_v6(true)?;
                Some(Family {
                    sender,
                    receiver: PacketSocket::open(
                        libc::ETH_P_IPV6 as u16,
                        &filter_ipv6(port, None),
                    )?,
                })
            }
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        Ok(DiscoverySocket {
            port,
            ipv4,
            ipv6,
            buffer: vec![0; BUFFER],
        })
    }

    /// Waits for a datagram.
    ///
    /// # Errors
    /// The system's.
    pub async fn recv(&mut self) -> io::Result<Received> {
        loop {
            // Lets others have their turn, and deadlines pass, while packets come without end.
            tokio::task::consume_budget().await;
            if let Some(received) = self.try_recv()? {
                return Ok(received);
            }
            self.ready().await?;
        }
    }

    /// Waits until there is something to take.
    ///
    /// # Errors
    /// The system's.
    pub async fn ready(&self) -> io::Result<()> {
        let Some(ipv6) = &self.ipv6 else {
            return self.ipv4.receiver.ready().await;
        };
        tokio::select! {
            ready = self.ipv4.receiver.ready() => ready,
            ready = ipv6.receiver.ready() => ready,
        }
    }

    /// Takes a datagram that is already here.
    ///
    /// # Errors
    /// The system's.
    pub fn try_recv(&mut self) -> io::Result<Option<Received>> {
        for family in std::iter::once(&self.ipv4).chain(&self.ipv6) {
            while let Some(frame) = family.receiver.try_recv(&mut self.buffer)? {
                if let Some(received) = parse(frame, &self.buffer) {
                    return Ok(Some(received));
                }
            }
        }
        Ok(None)
    }

    /// Receives packets to these ports too; `None` ends that.
    ///
    /// # Errors
    /// The system's.
    pub fn listen_on_extra_ports(&self, extra: Option<Range<u16>>) -> io::Result<()> {
        let ipv4 = filter_ipv4(self.port, extra.clone());
        self.ipv4.receiver.set_filter(&ipv4)?;
        match &self.ipv6 {
            Some(family) => family.receiver.set_filter(&filter_ipv6(self.port, extra)),
            None => Ok(()),
        }
    }

    /// Sends a datagram that may not be fragmented, from `local` or from the address that the route prefers, and from any port.
    ///
    /// # Errors
    /// The system's, such as `ENETUNREACH` without a route and `EMSGSIZE` beyond the device's MTU; also when the addresses
    /// are of different families, or of one that this host does not have.
    pub fn send(
        &self,
        local: Option<IpAddr>,
        port: u16,
        to: SocketAddr,
        data: &[u8],
    ) -> io::Result<()> {
        let from = match local {
            Some(local) => local,
            None => route_source(to)?,
        };
        let (family, packet) = match (from, to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(address)) => (
                &self.ipv4,
                packet_ipv4(from, port, address, to.port(), data)?,
            ),
            (IpAddr::V6(from), IpAddr::V6(address)) => {
                let family = self
                    .ipv6
                    .as_ref()
                    .ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
                (family, packet_ipv6(from, port, address, to.port(), data)?)
            }
            _ => return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        };
        // The port is in the packet; for a raw socket it would be a protocol number.
        family
            .sender
            .send_to(&packet, &SockAddr::from(SocketAddr::new(to.ip(), 0)))?;
        Ok(())
    }

    /// Returns the number of datagrams lost because nobody took them in time.
    pub fn overruns(&self) -> u64 {
        self.families()
            .map(|family| family.receiver.overruns())
            .sum()
    }

    fn families(&self) -> impl Iterator<Item = &Family> {
        std::iter::once(&self.ipv4).chain(&self.ipv6)
    }
}

/// Lets packets leave whole up to the device's MTU, regardless of the path MTU that the kernel has cached (ip(7),
/// `IP_PMTUDISC_PROBE`), because they probe the path MTU.
fn ignore_learned_mtu(socket: &Socket, domain: Domain) -> io::Result<()> {
    let (level, option, value) = if domain == Domain::IPV4 {
        (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
        )
    } else {
        (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_PROBE,
        )
    };
    // SAFETY: the pointer and the length describe a live integer.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Returns the address that the kernel would send from, to which it binds a connected UDP socket. Sends nothing.
fn route_source(to: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

fn packet_ipv4(
    from: Ipv4Addr,
    from_port: u16,
    to: Ipv4Addr,
    to_port: u16,
    data: &[u8],
) -> io::Result<Vec<u8>> {
    let udp_length = length(UDP_HEADER + data.len())?;
    let total = length(IPV4_HEADER + UDP_HEADER + data.len())?;
    let mut packet = Vec::with_capacity(total.into());
    packet.extend([0x45, 0]);
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(DONT_FRAGMENT.to_be_bytes());
    // The kernel fills in the header checksum.
    packet.extend([TTL, UDP, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let pseudo = sum_words(&from.octets()) + sum_words(&to.octets());
    push_udp(&mut packet, pseudo, from_port, to_port, udp_length, data);
    Ok(packet)
}

fn packet_ipv6(
    from: Ipv6Addr,
    from_port: u16,
    to: Ipv6Addr,
    to_port: u16,
    data: &[u8],
) -> io::Result<Vec<u8>> {
    let udp_length = length(UDP_HEADER + data.len())?;
    let mut packet = Vec::with_capacity(IPV6_HEADER + usize::from(udp_length));
    packet.extend([0x60, 0, 0, 0]);
    packet.extend(udp_length.to_be_bytes());
    packet.extend([UDP, TTL]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let pseudo = sum_words(&from.octets()) + sum_words(&to.octets());
    push_udp(&mut packet, pseudo, from_port, to_port, udp_length, data);
    Ok(packet)
}

/// Appends the UDP header with its checksum (RFC 768), and the payload. `addresses` is the sum of both.
fn push_udp(
    packet: &mut Vec<u8>,
    addresses: u32,
    from_port: u16,
    to_port: u16,
    udp_length: u16,
    data: &[u8],
) {
    let words = [from_port, to_port, udp_length]
        .map(u32::from)
        .iter()
        .sum::<u32>();
    let mut sum = addresses + u32::from(UDP) + u32::from(udp_length) + words + sum_words(data);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = match !(sum as u16) {
        // Zero would say that there is no checksum.
        0 => 0xffff,
        checksum => checksum,
    };
    packet.extend(from_port.to_be_bytes());
    packet.extend(to_port.to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    packet.extend(checksum.to_be_bytes());
    packet.extend(data);
}

/// The sum of 16-bit words; the last byte of an odd number is the high one of its word.
fn sum_words(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from))
        .sum()
}

fn length(bytes: usize) -> io::Result<u16> {
    u16::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE))
}

/// Takes an IP packet apart; the filter has seen to it that it is UDP and whole, the lengths are checked here.
fn parse(frame: Frame, buffer: &[u8]) -> Option<Received> {
    let packet = &buffer[..frame.length];
    let (from, local, udp): (IpAddr, IpAddr, &[u8]) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 0xf) * 4;
            let address =
                |at: usize| Some(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into());
            (
                address(12)?,
                address(16)?,
                packet.get(header.max(IPV4_HEADER)..)?,
            )
        }
        6 => {
            let address =
                |at: usize| Some(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into());
            (address(8)?, address(24)?, packet.get(IPV6_HEADER..)?)
        }
        _ => return None,
    };
    let word = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
    // The frame may be longer than the datagram: Ethernet pads short ones.
    let data = udp.get(UDP_HEADER..usize::from(word(4)?))?;
    Some(Received {
        local: SocketAddr::new(local, word(2)?),
        from: SocketAddr::new(from, word(0)?),
        device: frame.device,
        data: data.to_vec(),
    })
}

/// UDP over IPv4 to `port` or one of `extra`, not a fragment, with our magic behind the UDP header wherever the IP header ends.
fn filter_ipv4(port: u16, extra: Option<Range<u16>>) -> Vec<SockFilter> {
    const PROTOCOL: u32 = 9;
    const FRAGMENT: u32 = 6;
    /// More-fragments flag and offset (RFC 791): both zero in a whole datagram.
    const FRAGMENT_MASK: u32 = 0x3fff;
    let mut filter = vec![
        Step::Load(bpf::LOAD_BYTE, PROTOCOL),
        Step::Need(UDP.into()),
        Step::Load(bpf::LOAD_HALF, FRAGMENT),
        Step::Refuse(FRAGMENT_MASK),
        Step::Load(bpf::LOAD_X_IHL, 0),
    ];
    filter.extend(filter_udp(port, extra));
    assemble(&filter)
}

/// The filter for IPv6. It refuses datagrams behind extension headers, fragments among them, because no peer sends such.
fn filter_ipv6(port: u16, extra: Option<Range<u16>>) -> Vec<SockFilter> {
    const NEXT_HEADER: u32 = 6;
    let mut filter = vec![
        Step::Load(bpf::LOAD_BYTE, NEXT_HEADER),
        Step::Need(UDP.into()),
        Step::Load(bpf::LOAD_X, IPV6_HEADER as u32),
    ];
    filter.extend(filter_udp(port, extra));
    assemble(&filter)
}

/// The common end: X is where the UDP header begins.
fn filter_udp(port: u16, extra: Option<Range<u16>>) -> Vec<Step> {
    const DESTINATION: u32 = 2;
    const PAYLOAD: u32 = UDP_HEADER as u32;
    let [a, b, c, d, e, f] = disco::MAGIC;
    let mut steps = vec![Step::Load(bpf::LOAD_HALF_X, DESTINATION)];
    match extra {
        None => steps.push(Step::Need(port.into())),
        Some(extra) => steps.extend([
            Step::SkipIf(port.into(), 2),
            Step::NeedAtLeast(extra.start.into()),
            Step::NeedLess(extra.end.into()),
        ]),
    }
    steps.extend([
        Step::Load(bpf::LOAD_WORD_X, PAYLOAD),
        // Disco: the other two bytes decide; else on to STUN.
        Step::SkipUnless(u32::from_be_bytes([a, b, c, d]), 2),
        Step::Load(bpf::LOAD_HALF_X, PAYLOAD + 4),
        Step::AcceptIf(u16::from_be_bytes([e, f]).into()),
        Step::Load(bpf::LOAD_BYTE_X, PAYLOAD),
        // The two most significant bits of STUN are zero (RFC 8489 section 5).
        Step::Refuse(0xc0),
        Step::Load(bpf::LOAD_WORD_X, PAYLOAD + 4),
        Step::AcceptIf(STUN_COOKIE),
    ]);
    steps
}

/// A step of a filter, before its jump distances are known.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Load with this instruction from this place.
    Load(u16, u32),
    /// Drop unless A equals this.
    Need(u32),
    /// Drop if A and this have a bit in common.
    Refuse(u32),
    /// Drop if A is less than this.
    NeedAtLeast(u32),
    /// Drop unless A is less than this.
    NeedLess(u32),
    /// Skip so many steps if A equals this.
    SkipIf(u32, u8),
    /// Skip so many steps unless A equals this.
    SkipUnless(u32, u8),
    /// Accept if A equals this, else go on.
    AcceptIf(u32),
}

/// Puts the packet type before the steps, and acceptance and refusal behind them.
fn assemble(steps: &[Step]) -> Vec<SockFilter> {
    let mut all = vec![
        Step::Load(bpf::LOAD_WORD, bpf::PACKET_TYPE),
        Step::Need(TO_THIS_HOST),
    ];
    all.extend(steps);
    // Behind the last step comes "drop", then "accept". A filter has far fewer steps than a jump can skip.
    let to_drop = |at: usize| (all.len() - at - 1) as u8;
    let mut filter: Vec<SockFilter> = all
        .iter()
        .enumerate()
        .map(|(at, step)| match *step {
            Step::Load(code, place) => SockFilter::new(code, 0, 0, place),
            Step::Need(value) => SockFilter::new(bpf::JUMP_EQ, 0, to_drop(at), value),
            Step::Refuse(bits) => SockFilter::new(bpf::JUMP_SET, to_drop(at), 0, bits),
            Step::NeedAtLeast(value) => SockFilter::new(bpf::JUMP_AT_LEAST, 0, to_drop(at), value),
            Step::NeedLess(value) => SockFilter::new(bpf::JUMP_AT_LEAST, to_drop(at), 0, value),
            Step::SkipIf(value, steps) => SockFilter::new(bpf::JUMP_EQ, steps, 0, value),
            Step::SkipUnless(value, steps) => SockFilter::new(bpf::JUMP_EQ, 0, steps, value),
            Step::AcceptIf(value) => SockFilter::new(bpf::JUMP_EQ, to_drop(at) + 1, 0, value),
        })
        .collect();
    filter.push(SockFilter::new(bpf::RETURN, 0, 0, 0));
    filter.push(SockFilter::new(bpf::RETURN, 0, 0, u32::MAX));
    filter
}

#[cfg(test)]
#[path = "discovery_socket_tests.rs"]
mod tests;
