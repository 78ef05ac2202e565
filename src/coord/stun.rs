//! The coordinator's STUN server: tells a node which address its datagram came from. Two ports, so that a node can tell
//! whether its NAT maps by destination.

use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::metrics::Metrics;
use crate::proto::stun::{StunMessage, binding_success, binding_unknown, decode};

/// Room for what the kernel hands over at once, bytes: several datagrams of one sender may come joined (UDP GRO).
const MAX_RECEIVE: usize = 64 * 1024;

/// One open port.
#[derive(Debug)]
pub struct StunServer {
    socket: UdpSocket,
    state: UdpSocketState,
    metrics: Metrics,
}

impl StunServer {
    /// Opens the port. Must be called inside a tokio runtime.
    pub fn bind(addr: SocketAddr, metrics: Metrics) -> io::Result<StunServer> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            // IPv4 has its own socket, and so its own addresses in answers.
            socket.set_only_v6(addr.ip() == Ipv6Addr::UNSPECIFIED)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        let state = UdpSocketState::new((&socket).into())?;
        Ok(StunServer {
            socket: UdpSocket::from_std(socket.into())?,
            state,
            metrics,
        })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Answers until it is dropped.
    pub async fn serve(self) {
        let mut buffer = vec![0; MAX_RECEIVE];
        loop {
            match self.receive(&mut buffer).await {
                // An empty datagram has no chunk.
                Ok(meta) if meta.len == 0 => self.drop_for("not_stun"),
                Ok(meta) => buffer[..meta.len]
                    .chunks(meta.stride.max(1))
                    .for_each(|datagram| self.answer(datagram, &meta)),
                Err(error) => {
                    // What an ICMP message about an earlier answer leaves behind.
                    self.drop_for("socket_error");
                    tracing::debug!(%error, "STUN receive failed");
                }
            }
        }
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<RecvMeta> {
        let mut meta = [RecvMeta::default()];
        let receive = || {
            let mut slices = [IoSliceMut::new(&mut *buffer)];
            self.state
                .recv((&self.socket).into(), &mut slices, &mut meta)
        };
        self.socket.async_io(Interest::READABLE, receive).await?;
        let [meta] = meta;
        Ok(meta)
    }

    fn answer(&self, datagram: &[u8], meta: &RecvMeta) {
        let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
        let answer = match decode(datagram) {
            Ok(StunMessage::Request { tx_id, unknown }) if unknown.is_empty() => {
                binding_success(tx_id, from)
            }
            Ok(StunMessage::Request { tx_id, unknown }) => binding_unknown(tx_id, &unknown),
            Ok(StunMessage::Success { .. } | StunMessage::Error { .. }) => {
                return self.drop_for("not_request");
            }
            Err(error) => return self.drop_for(error.reason()),
        };
        let transmit = Transmit {
            destination: meta.addr,
            ecn: None,
            contents: &answer,
            segment_size: None,
            // From the address that was asked, whichever of the host's it was: a NAT lets no other in.
            src_ip: meta.dst_ip,
        };
        // A full send buffer loses the answer, as the network might; the client asks again.
        match self.state.try_send((&self.socket).into(), &transmit) {
            Ok(()) => self.metrics.stun_answers.inc(),
            Err(error) => {
                self.drop_for("send_error");
                tracing::debug!(%error, client = %from, "STUN answer not sent");
            }
        }
    }

    fn drop_for(&self, reason: &str) {
        self.metrics.stun_drops.with_label_values(&[reason]).inc();
    }
}
