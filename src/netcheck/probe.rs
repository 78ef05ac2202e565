//! One UDP port of our own to ask from. With CAP_NET_RAW a packet socket listens, which sees what the NAT lets through
//! before the host's firewall does its work, as the daemon's data port does.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::kernel::packet::discovery_socket::DiscoverySocket;
use crate::proto::TxId;
use crate::proto::stun::{self, StunMessage};

/// When each request is sent: lost ones are repeated, RFC 8489 section 6.2.1 with shorter gaps, since a person waits.
const SENDS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_millis(750),
];

/// Time to wait for answers, from the first request.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The port.
pub(super) struct Probe {
    /// Keeps the port ours, and sends where there is no raw socket.
    socket: UdpSocket,
    raw: Option<DiscoverySocket>,
}

/// One thing to ask.
pub(super) struct Question {
    pub(super) to: SocketAddr,
    pub(super) data: Vec<u8>,
}

impl Probe {
    /// A port that the system chooses, for the family of `local`.
    pub(super) async fn open(local: IpAddr) -> io::Result<Probe> {
        let socket = UdpSocket::bind((local, 0)).await?;
        let raw = DiscoverySocket::open(socket.local_addr()?.port()).ok();
        Ok(Probe { socket, raw })
    }

    /// Returns whether the socket receives packets ahead of the host's firewall.
    pub(super) fn is_before_firewall(&self) -> bool {
        self.raw.is_some()
    }

    /// Sends requests and passes every received packet to `done`, until `done` returns true or the time is over.
    pub(super) async fn ask(
        &mut self,
        questions: &[Question],
        mut done: impl FnMut(SocketAddr, &StunMessage) -> bool,
    ) {
        let begin = Instant::now();
        let mut buffer = vec![0; 2048];
        for (index, send_at) in SENDS.iter().enumerate() {
            for Question { to, data } in questions {
                // A request that cannot be sent gets no answer, and only answers count.
                let _ = self.socket.send_to(data, to).await;
            }
            let next = SENDS.get(index + 1).copied().unwrap_or(PATIENCE);
            debug_assert!(*send_at < next);
            while let Ok(Ok((from, message))) =
                timeout_at(begin + next, self.receive(&mut buffer)).await
            {
                if let Some(message) = message
                    && done(from, &message)
                {
                    return;
                }
            }
        }
    }

    async fn receive(
        &mut self,
        buffer: &mut [u8],
    ) -> io::Result<(SocketAddr, Option<StunMessage>)> {
        match &mut self.raw {
            Some(raw) => {
                let received = raw.recv().await?;
                Ok((received.from, stun::decode(&received.data).ok()))
            }
            None => {
                let (length, from) = self.socket.recv_from(buffer).await?;
                Ok((from, stun::decode(&buffer[..length]).ok()))
            }
        }
    }
}

/// A fresh transaction id.
pub(super) fn tx_id() -> io::Result<TxId> {
    let mut tx_id = TxId([0; TxId::LEN]);
    getrandom::fill(&mut tx_id.0).map_err(io::Error::other)?;
    Ok(tx_id)
}
