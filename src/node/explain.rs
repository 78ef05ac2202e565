//! Why a peer is connected or not.

use std::time::Instant;

use super::{Evidence, Explanation, Node};
use crate::peer::HostSnapshot;
use crate::proto::NodePublic;

impl Node {
    /// Whether the coordinator can be reached: false until the driver says otherwise.
    pub fn handle_coordinator(&mut self, is_up: bool) {
        self.host.snapshot.coordinator_up = is_up;
    }

    /// The verdict on a peer, with what it rests on; `None` for a peer that is not known.
    pub fn explain(&self, now: Instant, peer: NodePublic) -> Option<(Evidence, Explanation)> {
        let peer = self.peers.get(&peer)?;
        Some(peer.explain(now, &self.host))
    }

    /// Sends one ping over every path to a peer, and one through its tunnel; [`Node::explain`] counts the answers.
    pub fn ping_paths(&mut self, now: Instant, peer: NodePublic) {
        self.with_peer(now, peer, |peer, cx| peer.ping_paths(cx));
    }

    /// Brings what STUN tells up to date, for the verdicts on peers.
    pub(super) fn update_snapshot(&mut self) {
        let (stun_asked, stun_answered) = self.stun.count(&self.host.locals);
        self.host.snapshot = HostSnapshot {
            nat: self.nat_mapping(),
            public: self.stun.mapped(),
            stun_asked,
            stun_answered,
            ..self.host.snapshot
        };
    }
}
