//! Gathers the observations about a peer for [`crate::peer::verdict::explain`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::peer::constants::{IDLE_GAP, IDLE_JITTER, SEARCH_TIMEOUT};
use crate::peer::verdict::explain::{Evidence, Explanation, Tried, TunnelSeen, explain};
use crate::peer::{Host, Peer, State, StateReason};
use crate::proto::NatMapping;

/// The time that counts as "lately": every candidate is pinged at least once in it.
const LATELY: Duration = IDLE_GAP
    .saturating_add(IDLE_JITTER)
    .saturating_add(SEARCH_TIMEOUT);

/// This host's knowledge of the network around it, for every verdict on a peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostSnapshot {
    /// Whether the coordinator can be reached.
    pub(crate) coordinator_up: bool,
    pub(crate) nat: NatMapping,
    pub(crate) public: Vec<SocketAddr>,
    pub(crate) stun_asked: usize,
    pub(crate) stun_answered: usize,
    /// When disco last came from a public address, of any peer.
    pub(crate) udp_came_in: Option<Instant>,
}

impl Peer {
    /// The verdict on this peer, with what it rests on: the only one, for `gretun explain`, `gretun peers` and the log.
    pub(crate) fn explain(&self, now: Instant, host: &Host) -> (Evidence, Explanation) {
        let evidence = self.gather(now, host);
        let explanation = explain(&evidence);
        (evidence, explanation)
    }

    /// Why the peer is in its state, as of now.
    pub(in crate::peer) fn state_reason(&self, now: Instant, host: &Host) -> StateReason {
        match self.state {
            State::Punching | State::Direct => self.reason.clone(),
            State::Unknown | State::HaveEndpoints | State::Unreachable => {
                let (_, Explanation { cause, verdict, .. }) = self.explain(now, host);
                StateReason::NotConnected { cause, verdict }
            }
        }
    }

    fn gather(&self, now: Instant, host: &Host) -> Evidence {
        let around = &host.snapshot;
        let lately = now.checked_sub(LATELY).unwrap_or(now);
        // Packets that came before the path was lost say nothing of now.
        let lost = self.since.checked_sub(SEARCH_TIMEOUT).unwrap_or(self.since);
        let since = lately.max(lost);
        let tried = self.discovery.candidates.iter().map(|it| Tried {
            remote: it.remote,
            has_family: host.reaches(it.remote.ip()),
            pings: it.pings,
            pongs: it.pongs,
            answered: it.answered_since(since),
            heard: it.heard_since(since),
            round_trip: it.round_trip.get(),
            latest: it.round_trip.latest(),
        });
        let tunnel = self.tunnel.as_ref().map(|it| TunnelSeen {
            path: it.path,
            via: self.via(host, it.path),
            error: it.error().cloned(),
            pings: it.pings,
            pongs: it.pongs,
            data_came_in: self.data_heard.is_some_and(|at| at >= since),
            round_trip: it.round_trip.get(),
            latest: it.round_trip.latest(),
        });
        Evidence {
            peer: self.name.clone(),
            port: host.port,
            state: self.state,
            searching_because: (self.state == State::Punching).then(|| self.reason.to_string()),
            coordinator_up: around.coordinator_up,
            online: self.online,
            own_nat: around.nat,
            own_public: around.public.clone(),
            stun_asked: around.stun_asked,
            stun_answered: around.stun_answered,
            udp_came_in: around.udp_came_in.is_some_and(|at| at >= lately),
            peer_nat: self.nat.mapping,
            peer_public: self.nat.public.clone(),
            router_port: host.router_port,
            peer_mapped: self.nat.mapped,
            aggressive: host.aggressive,
            port_search: self.discovery.port_search.outcome(),
            tried: tried.collect(),
            tunnel,
        }
    }
}
