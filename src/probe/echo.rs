//! ICMP echo: one request, one reply, on a socket of its own, so that probes in flight never see each other's replies.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::icmp::{self, Echo};
use crate::tunnel::mode::Family;

/// Larger than any reply to our requests, with the largest IPv4 header.
const BUFFER: usize = 512;

/// A socket that is connected to one host.
pub struct EchoSocket {
    /// Not UDP: tokio's type only sends and receives, which is the same for every kind of datagram socket.
    socket: UdpSocket,
    family: Family,
    is_raw: bool,
}

impl EchoSocket {
    /// Opens an unprivileged ICMP socket (`net.ipv4.ping_group_range` says who may, for IPv6 as well), else a raw one,
    /// which needs CAP_NET_RAW.
    pub fn open(target: SocketAddr, interface: Option<&str>) -> io::Result<Self> {
        let (family, domain, protocol) = match target.ip() {
            IpAddr::V4(_) => (Family::V4, Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Family::V6, Domain::IPV6, Protocol::ICMPV6),
        };
        let (socket, is_raw) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
            Ok(socket) => (socket, false),
            Err(_) => (Socket::new(domain, Type::RAW, Some(protocol))?, true),
        };
        socket.set_nonblocking(true)?;
        if let Some(name) = interface {
            socket.bind_device(Some(name.as_bytes()))?;
        }
        socket.connect(&target.into())?;
        Ok(EchoSocket {
            socket: UdpSocket::from_std(socket.into())?,
            family,
            is_raw,
        })
    }

    /// Sends a request and waits for its reply; gives the round trip. ICMP errors about it come as the system's errors.
    pub async fn exchange(&self, sequence: u16) -> io::Result<Duration> {
        let mut random = [0; 2 + icmp::TOKEN];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let [high, low, token @ ..] = random;
        let echo = Echo {
            family: self.family,
            id: u16::from_be_bytes([high, low]),
            sequence,
            token,
        };
        let began = Instant::now();
        self.socket.send(&echo.request()).await?;
        let mut buffer = [0; BUFFER];
        loop {
            let length = self.socket.recv(&mut buffer).await?;
            let packet = &buffer[..length];
            let message = if self.is_raw && self.family == Family::V4 {
                icmp::message_in_ipv4(packet)
            } else {
                Some(packet)
            };
            if message.is_some_and(|message| echo.is_answered_by(message, self.is_raw)) {
                return Ok(began.elapsed());
            }
        }
    }
}
