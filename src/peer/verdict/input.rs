//! What a peer knows, gathered for [`crate::peer::verdict::explain`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::peer::constants::{IDLE_GAP, IDLE_JITTER, SEARCH_TIMEOUT};
use crate::peer::discovery::port_mapping::is_open;
use crate::peer::verdict::explain::{Evidence, Explanation, Tried, TunnelSeen, explain};
use crate::peer::{Context, Host, Peer, State, StateReason};
use crate::proto::NatMapping;
use crate::proto::api::{EndpointKind, PeerRecord};

/// What happened within this is "lately": every candidate is pinged at least once in it.
const LATELY: Duration = IDLE_GAP
    .saturating_add(IDLE_JITTER)
    .saturating_add(SEARCH_TIMEOUT);

/// What this host knows of the network around it, for every verdict on a peer.
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
    /// What the record says of the peer's NAT.
    pub(crate) fn learn_nat(&mut self, record: &PeerRecord) {
        self.nat_mapping = record.nat_mapping;
        let of_kind = |kind| record.endpoints.iter().filter(move |it| it.kind == kind);
        self.mapped = of_kind(EndpointKind::Mapped).find_map(|it| match it.addr {
            SocketAddr::V4(addr) => Some(addr),
            SocketAddr::V6(_) => None,
        });
        // Where STUN sees the very port that the router granted, it is published once.
        let open = self.mapped.filter(|it| is_open(Some(*it)));
        let reflexive = of_kind(EndpointKind::Reflexive).map(|it| it.addr);
        self.public = reflexive.chain(open.map(SocketAddr::V4)).collect();
    }

    /// One ping to every candidate, and one through the tunnel, now.
    pub(crate) fn ping_paths(&mut self, cx: &mut Context<'_>) {
        self.candidates.ping_now(cx.now);
        self.send_data_probe(cx);
        self.send_due_pings(cx);
    }

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
        // What was heard over a path before it was lost says nothing of now.
        let lost = self.since.checked_sub(SEARCH_TIMEOUT).unwrap_or(self.since);
        let since = lately.max(lost);
        let tried = self.candidates.iter().map(|it| Tried {
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
            peer_nat: self.nat_mapping,
            peer_public: self.public.clone(),
            router_port: host.router_port,
            peer_mapped: self.mapped,
            aggressive: host.aggressive,
            port_search: self.port_search_outcome(),
            tried: tried.collect(),
            tunnel,
        }
    }
}
