//! What is asked of one peer: `gretun explain` and `gretun ping`.

use std::time::Instant;

use super::event_loop::Daemon;
use crate::local_api::{ExplainView, PathsView};
use crate::node::{Evidence, Explanation, PeerStatus};

impl Daemon {
    /// The verdict on a peer, named by its name, tunnel address or node key; `None` when there is no such peer.
    pub(super) fn explain(&self, peer: &str) -> Option<ExplainView> {
        let (evidence, explanation) = self.judge(peer)?;
        Some(ExplainView::new(&evidence, explanation))
    }

    /// Every path to a peer, as [`Daemon::explain`] finds it.
    pub(super) fn paths(&self, peer: &str) -> Option<PathsView> {
        let (evidence, _) = self.judge(peer)?;
        Some(PathsView::new(evidence))
    }

    /// The same before one more ping goes over every path and through the tunnel.
    pub(super) fn ping(&mut self, peer: &str) -> Option<PathsView> {
        let before = self.paths(peer)?;
        let key = self.find(peer)?.node_key;
        self.node.ping_paths(Instant::now(), key);
        Some(before)
    }

    fn judge(&self, peer: &str) -> Option<(Evidence, Explanation)> {
        let key = self.find(peer)?.node_key;
        self.node.explain(Instant::now(), key, self.coordinator_up)
    }

    fn find(&self, peer: &str) -> Option<PeerStatus> {
        let mut peers = self.node.status().into_iter();
        peers.find(|it| {
            it.name == peer
                || it.node_key.to_string() == peer
                || it.tunnel_ips.iter().any(|ip| ip.to_string() == peer)
        })
    }
}
