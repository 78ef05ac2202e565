//! A peer as a sans-IO state machine: candidates, hole punching, path choice, proof by data, timers.
//!
//! `docs/NAT_TRAVERSAL.md` tells the whole story. In short: both sides *search* (`discovery/path_search.rs`): they ping every candidate and
//! call the peer to do the same. The side with the greater node key is *controlling*: it chooses a path and nominates
//! it (`nomination.rs`). Both then set their kernel tunnels to it and *prove* it (`tunnel/tunnel_check.rs`) by probes through the tunnel,
//! and go on doing so once a second.
//!
//! Nothing here reads a clock, opens a socket or draws randomness of its own; [`crate::node`] is the only caller.

mod constants;
mod context;
mod counters;
mod discovery;
mod nomination;
mod output;
mod packet_window;
mod path;
mod replay;
mod send;
mod timers;
mod tunnel;
mod verdict;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::{debug, trace};

use crate::proto::api::PeerRecord;
use crate::proto::disco::{self, Envelope, Message};
use crate::proto::{DiscoPublic, DiscoShared, NodePublic};

use discovery::Discovery;
use discovery::candidates::AdvertisedBy;
use nomination::Choice;
pub(crate) use packet_window::PacketWindow;
use replay::ReplayWindow;
use timers::{Timer, Timers};
use tunnel::check_state::{CheckState, Tunnel};
use tunnel::make_before_break::Overlap;
use verdict::peer_nat::PeerNat;

pub(crate) use constants::MAX_STEP;
pub use constants::{MAX_PACKETS_PER_SECOND, MAX_SEARCH_PACKETS_PER_SECOND};
#[cfg(test)]
pub(crate) use constants::{MAX_PROBES, REPLAY_NONCES};
pub(crate) use context::{Context, Host, StepOutcome};
pub use counters::{Counters, DropReason};
pub use discovery::port_mapping::RouterPort;
pub use discovery::port_search::{EXTRA_PORTS, PortSearchOutcome};
pub(crate) use discovery::port_search::{NatState, PortAllocation};
pub use output::{Datagram, Output, Signal, StateChange, VerdictChange};
pub use path::local_address::{LinkKind, LocalAddress};
pub use path::switch_reason::SwitchReason;
pub use path::{FIRST_PATH_MTU, Path, Via};
pub use tunnel::desired::{DesiredTunnel, Inside, Outside};
pub use verdict::explain::{
    Cause, Evidence, Explanation, Remedy, Side, Tried, TunnelSeen, explain,
};
pub(crate) use verdict::input::HostSnapshot;
pub use verdict::state::{PeerStatus, State, TunnelReport};
pub use verdict::state_reason::StateReason;

/// How an envelope came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// To the data port.
    Udp(Path),
    /// Handed over by the coordinator.
    Coordinator,
    /// Through the peer's tunnel.
    Tunnel,
}

/// A peer. Its rooms hold the state: [`Discovery`] finds paths, [`Choice`] agrees on one, [`Tunnel`] is checked by data probes.
#[derive(Debug)]
pub(crate) struct Peer {
    name: String,
    node_key: NodePublic,
    disco_key: DiscoPublic,
    tunnel_ips: Vec<IpAddr>,
    online: bool,
    /// Whether this side chooses the path (ICE's word, RFC 8445 section 6.1.1).
    controlling: bool,
    shared: DiscoShared,
    state: State,
    /// For a pair that is not connected, the verdict that was logged last.
    reason: StateReason,
    since: Instant,
    timers: Timers,
    limiter: PacketWindow,
    replay: ReplayWindow,
    discovery: Discovery,
    choice: Choice,
    overlap: Overlap,
    tunnel: Option<Tunnel>,
    /// When data of the peer last came out of the tunnel.
    data_heard: Option<Instant>,
    /// When the driver last came so late that it must have been stalled.
    stalled: Option<Instant>,
    nat: PeerNat,
}

impl Peer {
    /// A peer that was not known before. [`Peer::update`] with the same record sets it going.
    pub(crate) fn new(now: Instant, host: &Host, record: &PeerRecord, shared: DiscoShared) -> Self {
        Peer {
            name: record.name.clone(),
            node_key: record.node_key,
            disco_key: record.disco_key,
            tunnel_ips: record.tunnel_ips.clone(),
            online: false,
            controlling: host.node_key > record.node_key,
            shared,
            state: State::Unknown,
            reason: StateReason::NewEndpoints,
            since: now,
            timers: Timers::default(),
            limiter: PacketWindow::default(),
            replay: ReplayWindow::default(),
            discovery: Discovery::new(now),
            choice: Choice::default(),
            overlap: Overlap::default(),
            tunnel: None,
            data_heard: None,
            stalled: None,
            nat: PeerNat::default(),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn disco_key(&self) -> DiscoPublic {
        self.disco_key
    }

    /// The peer's disco key changed, as when its state was lost: nothing of before can be opened, and the tunnel has
    /// another GRE key. The kernel keeps the old tunnel until a new path is nominated.
    pub(crate) fn rekey(&mut self, cx: &mut Context<'_>, key: DiscoPublic, shared: DiscoShared) {
        self.disco_key = key;
        self.shared = shared;
        self.replay = ReplayWindow::default();
        self.discovery.forget_requests();
        self.choice = Choice::default();
        self.overlap = Overlap::default();
        self.tunnel = None;
        self.timers = Timers::default();
        self.begin_search(cx, StateReason::NewDiscoKey);
    }

    /// The coordinator's record of the peer, new or again.
    pub(crate) fn update(&mut self, cx: &mut Context<'_>, record: &PeerRecord) {
        self.name.clone_from(&record.name);
        self.tunnel_ips.clone_from(&record.tunnel_ips);
        let came_online = record.online && !self.online;
        self.online = record.online;
        self.nat = PeerNat::of(record);
        let own = &cx.host.endpoints;
        let endpoints = record.endpoints.iter().map(|it| it.addr);
        let added = self.discovery.candidates.set_advertised(
            cx.now,
            AdvertisedBy::Record,
            endpoints.filter(|it| !own.contains(it)),
        );
        if came_online || added {
            self.discovery.port_search.renew();
        }
        match self.state {
            State::Unknown | State::HaveEndpoints if came_online => {
                self.begin_search(cx, StateReason::PeerOnline);
            }
            State::Unknown if added && self.online => {
                self.begin_search(cx, StateReason::NewEndpoints);
            }
            State::Unknown if added => self.wait_for_peer(cx),
            State::Unreachable if came_online || added => {
                self.begin_search(cx, StateReason::PeerChanged);
            }
            State::Unreachable if !self.online => self.conclude(cx),
            _ => {}
        }
        self.send_due_pings(cx);
    }

    /// This host's addresses or endpoints changed.
    pub(crate) fn handle_host_change(&mut self, cx: &mut Context<'_>, locals_changed: bool) {
        self.discovery.port_search.renew();
        if locals_changed {
            self.discovery.candidates.keep_locals(&cx.host.locals);
            if let Some(gone) = self.abandon_lost_local(cx) {
                self.begin_search(cx, StateReason::LocalAddressLost(gone));
            } else if self.state.is_connected() {
                // The new address may lead to the peer's LAN, and the old path may not lead anywhere any more.
                self.discovery.candidates.burst(cx.now, 0);
                self.send_data_probe(cx);
            } else {
                self.take_back_local(cx);
            }
        }
        match self.state {
            State::Unreachable => {
                self.begin_search(cx, StateReason::HostChanged);
            }
            State::Unknown | State::HaveEndpoints => {}
            State::Punching | State::Direct => self.send_call_me_maybe(cx),
        }
        self.send_due_pings(cx);
    }

    /// This host has routes that it lacked.
    pub(crate) fn handle_route_change(&mut self, cx: &mut Context<'_>) {
        match self.state {
            State::Punching | State::Unreachable => {
                self.begin_search(cx, StateReason::RouteChanged);
            }
            State::Unknown | State::HaveEndpoints | State::Direct => {}
        }
        self.send_due_pings(cx);
    }

    /// An envelope that names this peer as its sender.
    pub(crate) fn handle_envelope(
        &mut self,
        cx: &mut Context<'_>,
        channel: Channel,
        envelope: &Envelope<'_>,
    ) {
        if let Err(reason) = self.open_and_handle(cx, channel, envelope) {
            trace!(%reason, ?channel, "dropped");
            cx.counters.count_drop(reason);
        }
        self.send_due_pings(cx);
    }

    fn open_and_handle(
        &mut self,
        cx: &mut Context<'_>,
        channel: Channel,
        envelope: &Envelope<'_>,
    ) -> Result<(), DropReason> {
        if self.replay.contains(&envelope.nonce) {
            return Err(DropReason::Replay);
        }
        let message = match envelope.open(&self.shared) {
            Ok(message) => message,
            Err(disco::DecodeError::NotForUs) => return Err(DropReason::NotForUs),
            Err(_) => return Err(DropReason::Malformed),
        };
        self.replay.insert(envelope.nonce);
        trace!(?channel, ?message, "received");
        if let Err(reason) = self.judge(channel, &message) {
            // Answered though refused: a controlling side that started anew learns the number in force.
            if let (
                DropReason::StaleNomination,
                Channel::Udp(path),
                Message::Nominate { seq, tx_id },
            ) = (reason, channel, &message)
                && *seq < self.choice.seq
            {
                self.answer_nomination(cx, path, *tx_id);
            }
            return Err(reason);
        }
        if let Channel::Udp(path) = channel {
            self.heard_from(cx, path);
        }
        match (channel, message) {
            (Channel::Udp(path), Message::Ping { tx_id, .. }) => self.handle_ping(cx, path, tx_id),
            (Channel::Udp(path), Message::Pong { tx_id, src }) => {
                self.handle_pong(cx, path, tx_id, src)
            }
            (Channel::Udp(path), Message::Nominate { seq, tx_id }) => {
                self.handle_nominate(cx, path, seq, tx_id)
            }
            (Channel::Udp(_), Message::Nominated { seq, tx_id }) => {
                self.handle_nominated(cx, seq, tx_id)
            }
            (Channel::Udp(_) | Channel::Coordinator, Message::CallMeMaybe { endpoints }) => {
                self.handle_call(cx, endpoints);
                Ok(())
            }
            (Channel::Coordinator, Message::PortSearch(offer)) => {
                self.handle_port_search(cx, offer)
            }
            (Channel::Tunnel, Message::DataPing { tx_id }) => self.handle_data_ping(cx, tx_id),
            (Channel::Tunnel, Message::DataPong { tx_id }) => self.handle_data_pong(cx, tx_id),
            _ => Err(DropReason::WrongChannel),
        }
    }

    /// Whether a message that could be opened is to be believed. Nothing has changed yet, and nothing does when it is refused: whoever
    /// replays or invents messages teaches this host no address.
    fn judge(&self, channel: Channel, message: &Message) -> Result<(), DropReason> {
        let accepted_if = |accepted: bool, reason| if accepted { Ok(()) } else { Err(reason) };
        match (channel, message) {
            (_, Message::Ping { node_key, .. }) if *node_key != self.node_key => {
                Err(DropReason::WrongIdentity)
            }
            (Channel::Udp(path), Message::Pong { tx_id, .. }) => self.judge_pong(path, *tx_id),
            (Channel::Udp(path), Message::Nominate { seq, .. }) => {
                self.judge_nomination(path, *seq)
            }
            (Channel::Udp(_), Message::Nominated { tx_id, .. }) => accepted_if(
                self.choice.nomination.is_some_and(|it| it.tx_id == *tx_id),
                DropReason::Unsolicited,
            ),
            (Channel::Udp(_), Message::Ping { .. } | Message::CallMeMaybe { .. })
            | (Channel::Coordinator, Message::CallMeMaybe { .. } | Message::PortSearch(_))
            | (Channel::Tunnel, Message::DataPing { .. } | Message::DataPong { .. }) => Ok(()),
            _ => Err(DropReason::WrongChannel),
        }
    }

    /// Sends a ping to every candidate, and a data probe through the tunnel, now.
    pub(crate) fn ping_paths(&mut self, cx: &mut Context<'_>) {
        self.discovery.candidates.ping_now(cx.now);
        self.send_data_probe(cx);
        self.send_due_pings(cx);
    }

    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        self.let_sockets_be_drained(cx.now);
        while let Some(timer) = self.timers.take_due(cx.now) {
            match timer {
                Timer::Search => self.search_ended(cx),
                Timer::Retry => self.retry(cx),
                Timer::Call => self.call_again(cx),
                Timer::Nomination => self.repeat_nomination(cx),
                Timer::Probe => self.probe_due(cx),
                Timer::TunnelCheck => self.tunnel_check_due(cx),
                Timer::PortSearch => self.port_search_due(cx),
                Timer::Mtu => self.mtu_due(cx),
                Timer::Overlap => self.end_overlap(cx),
            }
        }
        self.send_due_pings(cx);
    }

    /// When [`Peer::handle_timeout`] has something to do, and what.
    pub(crate) fn poll_timeout(&self, host: &Host) -> Option<(Instant, &'static str)> {
        let ping = self
            .discovery
            .candidates
            .next_ping(|remote| host.reaches(remote));
        let ping = ping.map(|at| (at, "ping"));
        ping.into_iter()
            .chain(self.timers.next())
            .min_by_key(|(at, _)| *at)
    }

    /// Returns the kind of the path that the tunnel uses.
    pub(crate) fn via(&self, host: &Host, path: Path) -> Via {
        let candidate = self.discovery.candidates.get(path.remote);
        host.via_in_use(path, candidate)
    }

    /// The path that data crossed lately.
    pub(crate) fn proven_path(&self) -> Option<Path> {
        let tunnel = self.tunnel.as_ref()?;
        matches!(tunnel.check, CheckState::Proven { .. }).then_some(tunnel.path)
    }

    /// The round trip of data, else of disco over the tunnel's path.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        let tunnel = self.tunnel.as_ref()?;
        let disco = || {
            self.discovery
                .candidates
                .get(tunnel.path.remote)?
                .round_trip
                .get()
        };
        tunnel.round_trip.get().or_else(disco)
    }

    pub(crate) fn status(&self, now: Instant, host: &Host) -> PeerStatus {
        let path = self.tunnel.as_ref().map(|tunnel| tunnel.path);
        PeerStatus {
            name: self.name.clone(),
            node_key: self.node_key,
            disco_key: self.disco_key,
            tunnel_ips: self.tunnel_ips.clone(),
            online: self.online,
            state: self.state,
            reason: self.state_reason(now, host),
            since: self.since,
            path,
            via: path
                .filter(|_| self.state.is_connected())
                .map(|path| self.via(host, path)),
            rtt: self.round_trip(),
        }
    }

    /// Comes into a state in which no path is searched for, by the verdict on the pair.
    fn enter_unconnected(&mut self, cx: &mut Context<'_>, to: State) {
        if self.state == to {
            return self.judge_again(cx);
        }
        // The verdict rests on the state and on what was seen since its begin.
        let before = (self.state, self.since);
        (self.state, self.since) = (to, cx.now);
        let reason = self.state_reason(cx.now, cx.host);
        (self.state, self.since) = before;
        self.enter(cx, to, reason);
    }

    /// Has the log follow the verdict on a pair that stays unconnected.
    fn judge_again(&mut self, cx: &mut Context<'_>) {
        let reason = self.state_reason(cx.now, cx.host);
        if reason != self.reason {
            debug!(state = %self.state, %reason, "verdict");
            cx.out.push_back(Output::VerdictChange(VerdictChange {
                peer: self.node_key,
                name: self.name.clone(),
                state: self.state,
                reason: reason.clone(),
            }));
            self.reason = reason;
        }
    }

    /// Comes into a state, or stays in it for another reason.
    fn enter(&mut self, cx: &mut Context<'_>, to: State, reason: StateReason) {
        let from = self.state;
        if from != to {
            debug!(%from, %to, %reason, "state");
            cx.counters.count_state_change(to, &reason);
            cx.out.push_back(Output::StateChange(StateChange {
                peer: self.node_key,
                name: self.name.clone(),
                from,
                to,
                after: cx.now - self.since,
                reason: reason.clone(),
            }));
            self.state = to;
            self.since = cx.now;
        }
        self.reason = reason;
    }
}
