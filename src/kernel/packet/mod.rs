//! Packet sockets (`AF_PACKET`, `SOCK_DGRAM`): frames without their link header, from and to chosen devices. See packet(7).

pub mod discovery_socket;
pub mod probe_socket;

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Classic BPF instruction codes (linux/filter.h), as far as our filters use them.
pub(in crate::kernel) mod bpf {
    /// A <- 32 bits at an absolute offset.
    pub const LOAD_WORD: u16 = 0x20;
    /// A <- 16 bits at an absolute offset.
    pub const LOAD_HALF: u16 = 0x28;
    /// A <- 8 bits at an absolute offset.
    pub const LOAD_BYTE: u16 = 0x30;
    /// A <- 32 bits at X + offset.
    pub const LOAD_WORD_X: u16 = 0x40;
    /// A <- 16 bits at X + offset.
    pub const LOAD_HALF_X: u16 = 0x48;
    /// A <- 8 bits at X + offset.
    pub const LOAD_BYTE_X: u16 = 0x50;
    /// X <- 4 * (low nibble of the byte at an absolute offset): the length of an IPv4 header.
    pub const LOAD_X_IHL: u16 = 0xb1;
    /// X <- constant.
    pub const LOAD_X: u16 = 0x01;
    /// Skip by whether A equals the constant.
    pub const JUMP_EQ: u16 = 0x15;
    /// Skip by whether A is at least the constant.
    pub const JUMP_AT_LEAST: u16 = 0x35;
    /// Skip by whether A and the constant have a bit in common.
    pub const JUMP_SET: u16 = 0x45;
    /// End with so many bytes of the packet; 0 drops it.
    pub const RETURN: u16 = 0x06;
    /// Offset of the kernel's ancillary data (`SKF_AD_OFF`); the packet type (`SKF_AD_PKTTYPE`) is at 4.
    pub const PACKET_TYPE: u32 = 0xffff_f000 + 4;
}

/// The packet type of frames that are addressed to this host (`PACKET_HOST`).
pub(in crate::kernel) const TO_THIS_HOST: u32 = libc::PACKET_HOST as u32;

/// A packet socket for one EtherType on all devices.
#[derive(Debug)]
pub(in crate::kernel) struct PacketSocket {
    socket: AsyncFd<Socket>,
    ether_type: u16,
    overruns: AtomicU64,
}

/// A received frame.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Frame {
    /// Number of bytes of the buffer that the frame fills.
    pub length: usize,
    /// Index of the device on which it arrived.
    pub device: u32,
}

impl PacketSocket {
    /// Opens the socket. The filter is in place before the first frame can arrive: the socket begins with EtherType 0,
    /// which receives nothing.
    pub fn open(ether_type: u16, filter: &[SockFilter]) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::PACKET,
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::from(0)),
        )?;
        socket.attach_filter(filter)?;
        let address = link_address(ether_type, 0);
        // SAFETY: the pointer and the length describe a live sockaddr_ll.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the socket moves into the AsyncFd, which hands out no way to close or replace it.
        let socket = unsafe { AsyncFd::register(socket)? };
        Ok(PacketSocket {
            socket,
            ether_type,
            overruns: AtomicU64::new(0),
        })
    }

    /// Replaces the filter. Frames that wait already passed the old filter.
    pub fn set_filter(&self, filter: &[SockFilter]) -> io::Result<()> {
        self.socket.get_ref().attach_filter(filter)
    }

    /// Waits until there is a frame to take.
    pub async fn ready(&self) -> io::Result<()> {
        let is_there = |socket: &Socket| peek(socket.as_raw_fd());
        self.socket.async_io(Interest::READABLE, is_there).await
    }

    /// Takes a frame that is already here; cuts off the bytes that do not fit into the buffer.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<Option<Frame>> {
        match receive(self.socket.as_raw_fd(), buffer) {
            Ok(frame) => Ok(Some(frame)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a frame through a device. When its queue is full the frame is lost, as on any link.
    pub fn send(&self, device: u32, data: &[u8]) -> io::Result<()> {
        let address = DestinationAddress {
            link: link_address(self.ether_type, device),
            rest: [0; 24],
        };
        // SAFETY: both pointers and lengths describe live buffers for the time of the call.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                data.as_ptr().cast(),
                data.len(),
                0,
                (&raw const address).cast(),
                size_of::<DestinationAddress>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Returns the number of frames lost since the socket was opened, because nobody took them in time.
    pub fn overruns(&self) -> u64 {
        // SAFETY: tpacket_stats is plain integers, for which zero is a value.
        let mut statistics: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the pointers describe a live tpacket_stats and its length.
        let got = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        // The kernel's counter starts again at each reading.
        let new = if got == 0 {
            u64::from(statistics.tp_drops)
        } else {
            0
        };
        self.overruns.fetch_add(new, Ordering::Relaxed) + new
    }
}

/// A link address with room for the longest hardware address (MAX_ADDR_LEN in linux/netdevice.h, 32 bytes). `sockaddr_ll` has
/// room for 8, and packet_snd() refuses what is shorter than the device's own, with EINVAL: that of ip6gre has 16.
#[repr(C)]
struct DestinationAddress {
    link: libc::sockaddr_ll,
    rest: [u8; 24],
}

fn link_address(ether_type: u16, device: u32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ether_type.to_be(),
        sll_ifindex: device.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

/// Fails where there is no frame; leaves one that is there.
fn peek(fd: RawFd) -> io::Result<()> {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: a buffer of no bytes is never written to.
    let there = unsafe { libc::recv(fd, std::ptr::null_mut(), 0, flags) };
    if there < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<Frame> {
    let mut address = link_address(0, 0);
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointers and lengths describe live buffers for the time of the call.
    let received = unsafe {
        libc::recvfrom(
            fd,
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            (&raw mut address).cast(),
            &raw mut length,
        )
    };
    // A negative count is an error and nothing else is.
    let length = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    Ok(Frame {
        length,
        device: address.sll_ifindex.cast_unsigned(),
    })
}
