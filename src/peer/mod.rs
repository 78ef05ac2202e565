//! One peer as a sans-IO state machine: candidates, hole punching, path choice, proof by data, timers.
//!
//! `docs/NAT_TRAVERSAL.md` tells the whole story. In short: both sides *search* (`discovery/path_search.rs`): they ping every candidate and
//! call the peer to do the same. The side with the greater node key is *controlling*: it chooses a path and nominates
//! it (`path/nomination.rs`). Both then set their kernel tunnels to it and *prove* it (`tunnel/tunnel_check.rs`) by probes through the tunnel,
//! and go on doing so once a second.
//!
//! Nothing here reads a clock, opens a socket or draws randomness of its own; [`crate::node`] is the only caller.

mod constants;
mod counters;
mod discovery;
mod output;
mod packet_window;
mod path;
mod replay;
mod timers;
mod tunnel;
mod verdict;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng as _;
use tracing::{debug, trace};

use crate::proto::api::PeerRecord;
use crate::proto::disco::{self, Envelope, Message};
use crate::proto::{DiscoPublic, DiscoShared, NatMapping, NodePublic, TxId};

use discovery::candidates::{AdvertisedBy, Candidate, Candidates};
use discovery::path_search::{Calls, Pending, Search};
use discovery::port_search::PortSearch;
use packet_window::Budget;
pub(crate) use packet_window::PacketWindow;
use path::local_address;
use path::nomination::Nomination;
use replay::ReplayWindow;
use timers::{Timer, Timers};
use tunnel::make_before_break::Overlap;
use tunnel::tunnel_check::Tunnel;

pub(crate) use constants::MAX_STEP;
pub use constants::{MAX_PACKETS_PER_SECOND, MAX_SEARCH_PACKETS_PER_SECOND};
pub use counters::{Counters, DropReason};
pub use discovery::port_mapping::RouterPort;
pub use discovery::port_search::EXTRA_PORTS;
pub(crate) use discovery::port_search::{NatState, PortAllocation};
pub use output::Output;
pub(crate) use path::is_usable;
pub use path::local_address::{LinkKind, LocalAddress};
pub use path::switch_reason::SwitchReason;
pub use path::{FIRST_PATH_MTU, Path, Via};
pub use tunnel::desired::{DesiredTunnel, Inside, Outside};
pub use verdict::explain::{
    Cause, Evidence, Explanation, PortSearchOutcome, Remedy, Side, Tried, TunnelSeen, explain,
};
pub(crate) use verdict::input::HostSnapshot;
pub use verdict::state::{PeerStatus, State, TunnelReport};
pub use verdict::state_reason::StateReason;

/// What a peer needs to know of the host it runs on.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) node_key: NodePublic,
    pub(crate) disco_key: DiscoPublic,
    /// The data port.
    pub(crate) port: u16,
    /// Usable source addresses.
    pub(crate) locals: Vec<IpAddr>,
    /// The same with what is known of each, in the order in which peers are told of them.
    pub(crate) addresses: Vec<LocalAddress>,
    /// Where this node can perhaps be reached.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// What STUN tells of the NAT.
    pub(crate) nat: NatState,
    /// Whether ports may be searched for.
    pub(crate) aggressive: bool,
    /// What the router grants for the data port.
    pub(crate) router_port: RouterPort,
    /// What the verdicts on peers rest on besides.
    pub(crate) snapshot: HostSnapshot,
}

impl Host {
    /// The kind of the path to a candidate: the LAN only once the peer showed that it sees this host's own address.
    pub(crate) fn via(&self, candidate: &Candidate) -> Via {
        let is_own = |ip: IpAddr| self.locals.contains(&ip);
        let is_own_source = candidate.seen_from.is_some_and(is_own);
        candidate.path().map_or(Via::Public, |path| {
            local_address::via(&self.addresses, path, is_own_source)
        })
    }

    /// The kind of a path in use. A path that was just adopted counts as one in the LAN until a pong says otherwise.
    pub(crate) fn via_in_use(&self, path: Path, candidate: Option<&Candidate>) -> Via {
        let seen_from = candidate.and_then(|it| it.seen_from);
        let is_own_source = seen_from.is_none_or(|ip| self.locals.contains(&ip));
        local_address::via(&self.addresses, path, is_own_source)
    }

    /// Whether there is an address to send from at all.
    pub(crate) fn reaches(&self, remote: IpAddr) -> bool {
        self.locals
            .iter()
            .any(|local| local.is_ipv4() == remote.is_ipv4())
    }
}

/// What every step of the machine works with.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) host: &'a Host,
    pub(crate) rng: &'a mut ChaCha20Rng,
    pub(crate) out: &'a mut VecDeque<Output>,
    /// Set to how the peer's tunnel should be from now on.
    pub(crate) tunnel: &'a mut Option<Outside>,
    pub(crate) counters: &'a mut Counters,
    /// Set when this host's own mapping is in doubt: STUN should be asked now.
    pub(crate) ask_stun: &'a mut bool,
    /// Set when disco comes from a public address.
    pub(crate) udp_came_in: &'a mut Option<Instant>,
    /// Set when a port search wants to know what the NAT gives to new flows.
    pub(crate) observe_nat: &'a mut bool,
    /// The cap on packets of port searches, for all peers together.
    pub(crate) search_limiter: &'a mut PacketWindow,
    /// The number of the latest [`Output::SetTunnel`] of this node.
    pub(crate) requests: &'a mut u64,
}

impl Context<'_> {
    fn nonce(&mut self) -> [u8; 24] {
        let mut nonce = [0; 24];
        self.rng.fill_bytes(&mut nonce);
        nonce
    }

    fn tx_id(&mut self) -> TxId {
        let mut tx_id = [0; TxId::LEN];
        self.rng.fill_bytes(&mut tx_id);
        TxId(tx_id)
    }

    /// The number of the next [`Output::SetTunnel`].
    fn request_number(&mut self) -> u64 {
        *self.requests += 1;
        *self.requests
    }

    /// Up to `bound`, evenly spread.
    fn jitter(&mut self, bound: Duration) -> Duration {
        bound.mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX))
    }
}

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

/// One peer.
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
    candidates: Candidates,
    pending: VecDeque<Pending>,
    search: Search,
    calls: Calls,
    /// The latest nomination's number: sent by this side when controlling, else in force here.
    seq: u32,
    nomination: Option<Nomination>,
    overlap: Overlap,
    port_search: PortSearch,
    tunnel: Option<Tunnel>,
    /// How long probes over the tunnel may go unanswered.
    loss_timeout: Duration,
    /// When data of the peer last came out of the tunnel.
    data_heard: Option<Instant>,
    /// When the driver last came so late that it must have been stalled.
    stalled: Option<Instant>,
    /// How the peer's NAT maps, as it says.
    nat_mapping: NatMapping,
    /// Where STUN servers saw the peer, as it says.
    public: Vec<SocketAddr>,
    /// What the peer's router granted to it, as it says.
    mapped: Option<SocketAddrV4>,
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
            candidates: Candidates::default(),
            pending: VecDeque::new(),
            search: Search::new(now),
            calls: Calls::default(),
            seq: 0,
            nomination: None,
            overlap: Overlap::default(),
            port_search: PortSearch::default(),
            tunnel: None,
            loss_timeout: constants::LOSS_TIMEOUT,
            data_heard: None,
            stalled: None,
            nat_mapping: NatMapping::Unknown,
            public: Vec::new(),
            mapped: None,
        }
    }

    /// Whether data crossed the tunnel and has not failed to since.
    pub(crate) fn is_verified(&self) -> bool {
        self.state == State::Direct
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
        self.pending.clear();
        self.seq = 0;
        self.nomination = None;
        self.overlap = Overlap::default();
        self.port_search = PortSearch::default();
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
        self.learn_nat(record);
        let own = &cx.host.endpoints;
        let endpoints = record.endpoints.iter().map(|it| it.addr);
        let added = self.candidates.set_advertised(
            cx.now,
            AdvertisedBy::Record,
            endpoints.filter(|it| !own.contains(it)),
        );
        if came_online || added {
            self.port_search.renew();
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
        self.port_search.renew();
        if locals_changed {
            self.candidates.keep_locals(&cx.host.locals);
            if let Some(gone) = self.abandon_lost_local(cx) {
                self.begin_search(cx, StateReason::LocalAddressLost(gone));
            } else if self.state.is_proven() {
                // The new address may lead to the peer's LAN, and the old path may not lead anywhere any more.
                self.candidates.burst(cx.now, 0);
                self.send_data_probe(cx);
            } else {
                self.take_back_local(cx);
            }
        }
        match self.state {
            State::Punching | State::Direct => self.send_call_me_maybe(cx),
            State::Unreachable => {
                self.begin_search(cx, StateReason::HostChanged);
            }
            State::Unknown | State::HaveEndpoints => {}
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
            trace!(peer = %self.name, %reason, ?channel, "dropped");
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
        trace!(peer = %self.name, ?channel, ?message, "received");
        if let Err(reason) = self.judge(channel, &message) {
            if let (
                DropReason::StaleNomination,
                Channel::Udp(path),
                Message::Nominate { seq, tx_id },
            ) = (reason, channel, &message)
                && *seq < self.seq
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
            (Channel::Tunnel, Message::DataPing { tx_id, .. }) => self.handle_data_ping(cx, tx_id),
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
                self.nomination.is_some_and(|it| it.tx_id == *tx_id),
                DropReason::Unsolicited,
            ),
            (Channel::Udp(_), Message::Ping { .. } | Message::CallMeMaybe { .. })
            | (Channel::Coordinator, Message::CallMeMaybe { .. } | Message::PortSearch(_))
            | (Channel::Tunnel, Message::DataPing { .. } | Message::DataPong { .. }) => Ok(()),
            _ => Err(DropReason::WrongChannel),
        }
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
                Timer::TunnelCheck => self.proof_due(cx),
                Timer::PortSearch => self.port_search_due(cx),
                Timer::Mtu => self.mtu_due(cx),
                Timer::Overlap => self.end_overlap(cx),
            }
        }
        self.send_due_pings(cx);
    }

    /// When [`Peer::handle_timeout`] has something to do, and what.
    pub(crate) fn poll_timeout(&self, host: &Host) -> Option<(Instant, &'static str)> {
        let ping = self.candidates.next_ping(|remote| host.reaches(remote));
        let ping = ping.map(|at| (at, "ping"));
        ping.into_iter()
            .chain(self.timers.next())
            .min_by_key(|(at, _)| *at)
    }

    /// What kind of path the tunnel uses, to the people who read `gretun peers`.
    pub(crate) fn via(&self, host: &Host, path: Path) -> Via {
        let candidate = self.candidates.get(path.remote);
        host.via_in_use(path, candidate)
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
                .filter(|_| self.state.is_proven())
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
            cx.out.push_back(Output::VerdictChange {
                peer: self.node_key,
                name: self.name.clone(),
                state: self.state,
                reason: reason.clone(),
            });
            self.reason = reason;
        }
    }

    /// Comes into a state, or stays in it for another reason.
    fn enter(&mut self, cx: &mut Context<'_>, to: State, reason: StateReason) {
        let from = self.state;
        if from != to {
            debug!(peer = %self.name, %from, %to, %reason, "state");
            cx.counters.count_state_change(to, &reason);
            cx.out.push_back(Output::StateChange {
                peer: self.node_key,
                name: self.name.clone(),
                from,
                to,
                after: cx.now - self.since,
                reason: reason.clone(),
            });
            self.state = to;
            self.since = cx.now;
        }
        self.reason = reason;
    }

    /// Seals and sends, within the cap on packets a second. Returns whether there was room.
    fn send(
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
        trace!(peer = %self.name, ?local, port, %to, ?message, "sent");
        cx.out.push_back(Output::Send {
            local,
            port,
            to,
            data,
        });
        true
    }

    /// As [`Peer::send`], over a path that a packet came by.
    fn send_over(&mut self, cx: &mut Context<'_>, path: Path, message: &Message) -> bool {
        let source = (Some(path.local), path.port);
        self.send(cx, Budget::Other, source, path.remote, message)
    }

    /// As [`Peer::send`], through the tunnel.
    fn send_through_tunnel(&mut self, cx: &mut Context<'_>, message: &Message) -> bool {
        if !self.limiter.take(cx.now, Budget::Other) {
            return false;
        }
        let data = self.seal(cx, message);
        let peer = self.node_key;
        trace!(peer = %self.name, ?message, "sent through the tunnel");
        cx.out.push_back(Output::SendThroughTunnel { peer, data });
        true
    }

    fn seal(&self, cx: &mut Context<'_>, message: &Message) -> Vec<u8> {
        let nonce = cx.nonce();
        disco::seal(&self.shared, &cx.host.disco_key, nonce, message)
    }
}
