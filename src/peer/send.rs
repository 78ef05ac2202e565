//! Sends messages to a peer: sealed, and within the cap on packets a second.

use std::net::{IpAddr, SocketAddr};

use tracing::trace;

use crate::peer::packet_window::Budget;
use crate::peer::{Context, Datagram, Output, Path, Peer};
use crate::proto::disco::{self, Message};

impl Peer {
    /// Seals and sends, within the cap on packets a second. Returns whether there was room.
    pub(super) fn send(
        &mut self,
        cx: &mut Context<'_>,
        budget: Budget,
        (local, port): (Option<IpAddr>, u16),
        to: SocketAddr,
        message: &Message,
    ) -> bool {
        if !self.limiter.take(cx.now, budget) {
            return false;
        }
        // The kernel would send from an address that the host has lost; NATs on the way would take it for another host.
        let local = local.filter(|it| cx.host.locals.contains(it));
        let data = self.seal(cx, message);
        trace!(?local, port, %to, ?message, "sent");
        cx.out.push_back(Output::Send(Datagram {
            local,
            port,
            to,
            data,
        }));
        true
    }

    /// As [`Peer::send`], over a path that a packet came by.
    pub(super) fn send_over(
        &mut self,
        cx: &mut Context<'_>,
        path: Path,
        message: &Message,
    ) -> bool {
        let source = (Some(path.local), path.port);
        self.send(cx, Budget::Other, source, path.remote, message)
    }

    /// As [`Peer::send`], through the tunnel.
    pub(super) fn send_through_tunnel(&mut self, cx: &mut Context<'_>, message: &Message) -> bool {
        if !self.limiter.take(cx.now, Budget::Other) {
            return false;
        }
        let data = self.seal(cx, message);
        let peer = self.node_key;
        trace!(?message, "sent through the tunnel");
        cx.out.push_back(Output::SendThroughTunnel { peer, data });
        true
    }

    pub(super) fn seal(&self, cx: &mut Context<'_>, message: &Message) -> Vec<u8> {
        let nonce = cx.nonce();
        disco::seal(&self.shared, &cx.host.disco_key, nonce, message)
    }
}
