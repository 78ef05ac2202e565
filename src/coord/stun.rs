//! The coordinator's STUN server: tells a node which address its datagram came from. Two ports, so that a node can tell
//! whether its NAT maps by destination, and, by an answer from the port that was not asked, how it filters.

use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::metrics::Metrics;
use super::token_bucket::{Bucket, Rate};
use crate::proto::stun::{CHANGE_REQUEST, StunMessage, binding_success, binding_unknown, decode};

/// Room for what the kernel hands over at once, bytes: several datagrams of one sender may come joined (UDP GRO).
const MAX_RECEIVE: usize = 64 * 1024;

/// Rate at which a port answers through the other one; only `gretun netcheck` asks for that. An answer is hardly longer than
/// its request (32 bytes to 28, in IPv6 44), but it comes from where nobody asked.
const CHANGED_RATE: Rate = Rate {
    per_second: 50.0,
    burst: 200.0,
};

#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    state: UdpSocketState,
}

/// One open port.
#[derive(Debug)]
pub struct StunServer {
    port: Arc<Port>,
    /// Another port of the same address.
    other: Option<Arc<Port>>,
    changed: Bucket,
    start: Instant,
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
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(StunServer {
            port: Arc::new(Port { socket, state }),
            other: None,
            changed: Bucket::new(CHANGED_RATE, Duration::ZERO),
            start: Instant::now(),
            metrics,
        })
    }

    /// Gives each server the next one of its address, to answer from when a request asks for another port.
    pub fn pair_up(servers: &mut [(StunServer, SocketAddr)]) {
        for index in 0..servers.len() {
            let addr = servers[index].1;
            let (before, after) = servers.split_at(index);
            let mut others = after.iter().chain(before);
            let other = others.find(|(_, it)| it.ip() == addr.ip() && it.port() != addr.port());
            let other = other.map(|(it, _)| Arc::clone(&it.port));
            servers[index].0.other = other;
        }
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.port.socket.local_addr()
    }

    /// Answers until it is dropped.
    pub async fn serve(mut self) {
        let mut buffer = vec![0; MAX_RECEIVE];
        loop {
            match self.receive(&mut buffer).await {
                // An empty datagram has no chunk.
                Ok(meta) if meta.len == 0 => self.drop_for("not_stun"),
                Ok(meta) => buffer[..meta.len]
                    .chunks(meta.stride.max(1))
                    .for_each(|datagram| self.answer(datagram, &meta)),
                Err(error) => {
                    // The error that an ICMP message about an earlier answer leaves behind.
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
            let Port { socket, state } = &*self.port;
            state.recv(socket.into(), &mut slices, &mut meta)
        };
        self.port
            .socket
            .async_io(Interest::READABLE, receive)
            .await?;
        let [meta] = meta;
        Ok(meta)
    }

    fn answer(&mut self, datagram: &[u8], meta: &RecvMeta) {
        let mut port = &self.port;
        let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
        let answer = match decode(datagram) {
            Ok(StunMessage::Request { tx_id, unknown, .. }) if !unknown.is_empty() => {
                binding_unknown(tx_id, &unknown)
            }
            Ok(StunMessage::Request {
                tx_id,
                change_port: true,
                ..
            }) => match &self.other {
                Some(other) => {
                    if self
                        .changed
                        .take(CHANGED_RATE, self.start.elapsed())
                        .is_err()
                    {
                        return self.drop_for("rate_limited");
                    }
                    port = other;
                    binding_success(tx_id, from)
                }
                None => binding_unknown(tx_id, &[CHANGE_REQUEST]),
            },
            Ok(StunMessage::Request { tx_id, .. }) => binding_success(tx_id, from),
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
            // Answer from the host's address that was asked, because a NAT admits no other.
            src_ip: meta.dst_ip,
        };
        // A full send buffer loses the answer, as the network might; the client asks again.
        match port.state.try_send((&port.socket).into(), &transmit) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::TxId;
    use crate::proto::stun::binding_request;

    /// A coordinator with several addresses listens on all of them, and the system would send answers from the first.
    #[tokio::test]
    async fn the_answer_comes_from_the_address_that_was_asked() {
        let any = "0.0.0.0:0".parse().unwrap();
        let server = StunServer::bind(any, Metrics::new().unwrap()).unwrap();
        let port = server.local_addr().unwrap().port();
        tokio::spawn(server.serve());
        for address in ["127.0.0.1", "127.0.0.2"] {
            // Unlike a connected socket, this one hears answers from anywhere.
            let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let request = binding_request(TxId([7; 12]));
            client.send_to(&request, (address, port)).await.unwrap();
            let (_, from) = client.recv_from(&mut [0; 100]).await.unwrap();
            assert_eq!(from, SocketAddr::new(address.parse().unwrap(), port));
        }
    }
}
