//! Why a peer is joined or not.

use std::time::Instant;

use super::{Evidence, Explanation, Node};
use crate::peer::{HostSnapshot, Peer, explain};
use crate::proto::NodePublic;

impl Node {
    /// The verdict on a peer, with what it rests on; `None` for a peer that is not known. Whether the coordinator can be
    /// reached is not known here.
    pub fn explain(
        &self,
        now: Instant,
        peer: NodePublic,
        coordinator_up: bool,
    ) -> Option<(Evidence, Explanation)> {
        let (stun_asked, stun_answered) = self.stun.count(&self.host.locals);
        let around = HostSnapshot {
            coordinator_up,
            nat: self.nat_mapping(),
            public: self.stun.mapped(),
            stun_asked,
            stun_answered,
            udp_came_in: self.peers.values().any(|it| it.is_heard_from_afar(now)),
        };
        let peer: &Peer = self.peers.get(&peer)?;
        let evidence = peer.gather(now, &self.host, around);
        let explanation = explain(&evidence);
        Some((evidence, explanation))
    }

    /// Sends one ping over every path to a peer, and one through its tunnel; [`Node::explain`] counts the answers.
    pub fn ping_paths(&mut self, now: Instant, peer: NodePublic) {
        self.with_peer(now, peer, |peer, cx| peer.ping_paths(cx));
    }
}
