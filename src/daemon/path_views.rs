//! What `gretun explain` and `gretun ping` show of one peer, as the local API carries it. The names are stable.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::event_loop::Daemon;
use crate::node::{Evidence, Explanation, PeerStatus};

/// Why a peer is joined or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainView {
    /// The peer's name.
    pub peer: String,
    /// `unknown`, `have_endpoints`, `punching`, `direct` or `unreachable`.
    pub state: String,
    /// The verdict for scripts, such as `direct`, `symmetric-both` or `data-dropped-here`.
    pub cause: String,
    /// The verdict in a sentence.
    pub verdict: String,
    /// What was seen.
    pub evidence: Vec<String>,
    /// What would change it, the easiest first; one is enough. Empty for a pair that is joined.
    pub remedies: Vec<String>,
}

/// Every path to a peer with the pings that were sent over it so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathsView {
    /// The peer's name.
    pub peer: String,
    /// As in [`ExplainView`].
    pub state: String,
    /// Where the peer can perhaps be reached.
    pub paths: Vec<PathView>,
    /// The kernel tunnel, once a path was chosen.
    pub tunnel: Option<PathView>,
}

/// One path, or the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathView {
    /// The peer's end.
    pub endpoint: SocketAddr,
    /// Pings sent so far: disco's, or data through the tunnel.
    pub pings: u32,
    /// Those that were answered.
    pub pongs: u32,
    /// The latest round trip, in milliseconds.
    pub rtt_ms: Option<f64>,
}

impl ExplainView {
    fn new(evidence: &Evidence, explanation: Explanation) -> Self {
        let remedies = explanation.remedies.iter();
        ExplainView {
            peer: evidence.peer.clone(),
            state: evidence.state.to_string(),
            cause: explanation.cause.to_string(),
            verdict: explanation.verdict,
            evidence: explanation.evidence,
            remedies: remedies.map(|it| it.text(evidence)).collect(),
        }
    }
}

impl PathsView {
    fn new(evidence: Evidence) -> Self {
        let millis = |rtt: Duration| rtt.as_secs_f64() * 1e3;
        let tried = evidence.tried.iter().filter(|it| it.has_family);
        PathsView {
            state: evidence.state.to_string(),
            paths: tried
                .map(|it| PathView {
                    endpoint: it.remote,
                    pings: it.pings,
                    pongs: it.pongs,
                    rtt_ms: it.latest.map(millis),
                })
                .collect(),
            tunnel: evidence.tunnel.map(|it| PathView {
                endpoint: it.path.remote,
                pings: it.pings,
                pongs: it.pongs,
                rtt_ms: it.latest.map(millis),
            }),
            peer: evidence.peer,
        }
    }
}

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
