//! The search for a path: pings to every candidate, calls to the peer, and what follows when nothing comes of it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::peer::constants::{
    CALL_GAPS, CALL_MIN_GAP, IDLE_JITTER, OFFER_DELAY, OFFLINE_STEP, RETRY_GAPS, RETRY_STEP,
    SEARCH_TIMEOUT,
};
use crate::peer::discovery::candidates::AdvertisedBy;
use crate::peer::discovery::port_mapping::is_open;
use crate::peer::packet_window::Budget;
use crate::peer::timers::Timer;
use crate::peer::{Context, DropReason, Output, Path, Peer, Signal, State, StateReason};
use crate::proto::TxId;
use crate::proto::address::{is_private, is_public};
use crate::proto::disco::Message;

/// The search under way, or the last one.
#[derive(Debug)]
pub(crate) struct Search {
    /// When the search began, or the path in use came into doubt; packets that came from a candidate before this count for nothing.
    pub(crate) counts_since: Instant,
    /// When the candidates last got a burst of pings.
    pub(super) burst_at: Option<Instant>,
    /// How often an unreachable peer was tried again.
    retries: usize,
}

impl Search {
    pub(crate) fn new(now: Instant) -> Self {
        Search {
            counts_since: now,
            burst_at: None,
            retries: 0,
        }
    }

    /// Returns the time until an unreachable peer is tried again.
    fn retry_gap(&self) -> Duration {
        RETRY_GAPS[self.retries.min(RETRY_GAPS.len() - 1)]
    }
}

/// The call-me-maybes that this host sent to the peer.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    last: Option<(Instant, Vec<SocketAddr>)>,
    /// Index into [`CALL_GAPS`].
    step: usize,
}

/// A ping that waits for its pong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    tx_id: TxId,
    remote: SocketAddr,
    pub(super) sent: Instant,
}

impl Peer {
    /// Looks for a path with all means, for [`SEARCH_TIMEOUT`].
    pub(crate) fn begin_search(&mut self, cx: &mut Context<'_>, reason: StateReason) {
        self.begin_search_since(cx, cx.now, reason);
    }

    /// The same, when what candidates said since `started` still counts.
    pub(crate) fn begin_search_since(
        &mut self,
        cx: &mut Context<'_>,
        started: Instant,
        reason: StateReason,
    ) {
        self.discovery.search.counts_since = started;
        self.discovery.search.retries = 0;
        self.timers.set(Timer::Search, cx.now + SEARCH_TIMEOUT);
        self.timers.clear(Timer::Retry);
        self.discovery.burst(cx.now, 0);
        self.discovery.calls.step = 0;
        self.call_again(cx);
        self.expect_port_search(cx);
        if self.discovery.candidates.is_empty() {
            self.enter_unconnected(cx, State::Unknown);
        } else {
            self.enter(cx, State::Punching, reason);
        }
    }

    /// The path in use may be lost: everything that a search would need is asked for now, so that the answers are there
    /// when the path turns out to be lost.
    pub(crate) fn prepare_search(&mut self, cx: &mut Context<'_>) {
        self.discovery.burst(cx.now, 0);
        self.ask_stun_and_call(cx);
    }

    /// The peer is offline by what the coordinator says, which may be out of date: it gets a ping now and then.
    pub(crate) fn wait_for_peer(&mut self, cx: &mut Context<'_>) {
        self.enter_unconnected(cx, State::HaveEndpoints);
        self.retry(cx);
    }

    /// [`Timer::Retry`].
    pub(crate) fn retry(&mut self, cx: &mut Context<'_>) {
        let gap = if self.online {
            self.discovery.search.retry_gap()
        } else {
            RETRY_GAPS[RETRY_GAPS.len() - 1]
        };
        self.discovery.search.retries += 1;
        self.timers.set(Timer::Retry, cx.now + gap);
        self.judge_again(cx);
        if !self.is_choosing() {
            self.discovery.search.counts_since = cx.now;
        }
        self.ask_kernel_again(cx);
        if self.online {
            self.discovery.burst(cx.now, RETRY_STEP);
            self.ask_stun_and_call(cx);
            self.offer_port_search_soon(cx);
        } else {
            self.discovery.burst(cx.now, OFFLINE_STEP);
        }
    }

    /// [`Timer::Search`]: no path was proven in time. One that is being tested may still be.
    pub(crate) fn search_ended(&mut self, cx: &mut Context<'_>) {
        // A search for ports gives the verdict itself, at its end.
        if !self.is_choosing() && !self.discovery.port_search.is_attempting() {
            self.conclude(cx);
        }
    }

    /// A path was tried in vain and no other is at hand: the end, unless the search goes on.
    pub(crate) fn conclude_if_ended(&mut self, cx: &mut Context<'_>) {
        if self.timers.get(Timer::Search).is_none() && !self.is_choosing() {
            self.conclude(cx);
        }
    }

    /// Gives the verdict and goes on trying, slowly.
    pub(crate) fn conclude(&mut self, cx: &mut Context<'_>) {
        let heard = self
            .discovery
            .is_heard_since(self.discovery.search.counts_since);
        let state = if self.discovery.candidates.is_empty() {
            State::Unknown
        } else if self.online || heard {
            State::Unreachable
        } else {
            State::HaveEndpoints
        };
        self.enter_unconnected(cx, state);
        if self.timers.get(Timer::Retry).is_none() {
            let gap = self.discovery.search.retry_gap();
            self.timers.set(Timer::Retry, cx.now + gap);
        }
    }

    /// Tells the peer where this node can be reached, so that it pings these places now and opens its NAT for them.
    /// A proven path carries that too, and needs no coordinator.
    pub(crate) fn send_call_me_maybe(&mut self, cx: &mut Context<'_>) {
        let endpoints = &cx.host.endpoints;
        let last = self.discovery.calls.last.as_ref();
        let just_sent =
            last.is_some_and(|(at, sent)| cx.now < *at + CALL_MIN_GAP && sent == endpoints);
        if endpoints.is_empty() || just_sent {
            return;
        }
        self.discovery.calls.last = Some((cx.now, endpoints.clone()));
        let message = Message::CallMeMaybe {
            endpoints: endpoints.clone(),
        };
        cx.counters.calls_sent += 1;
        match self.proven_path() {
            Some(path) => {
                self.send_over(cx, path, &message);
            }
            None => {
                let (to, sealed) = (self.node_key, self.seal(cx, &message));
                cx.out.push_back(Output::Signal(Signal { to, sealed }));
            }
        }
    }

    /// Calls the peer, and has STUN say whether what the call tells still holds; if not, another call follows.
    fn ask_stun_and_call(&mut self, cx: &mut Context<'_>) {
        cx.outcome.asks_stun = true;
        self.send_call_me_maybe(cx);
    }

    /// [`Timer::Call`], and the start of a search: a call, and the time of the next.
    pub(crate) fn call_again(&mut self, cx: &mut Context<'_>) {
        self.ask_stun_and_call(cx);
        if let Some(gap) = CALL_GAPS.get(self.discovery.calls.step) {
            self.timers.set(Timer::Call, cx.now + *gap);
            self.discovery.calls.step += 1;
        }
    }

    /// The peer calls: it is looking for a path, or has something new to offer.
    pub(crate) fn handle_call(&mut self, cx: &mut Context<'_>, endpoints: Vec<SocketAddr>) {
        cx.counters.calls_received += 1;
        cx.outcome.asks_stun = true;
        let own = &cx.host.endpoints;
        let endpoints = endpoints.into_iter().filter(|it| !own.contains(it));
        let added =
            self.discovery
                .candidates
                .set_advertised(cx.now, AdvertisedBy::CallMeMaybe, endpoints);
        if added {
            self.discovery.port_search.renew();
        }
        match self.state {
            state if state.is_connected() => self.recheck_path(cx),
            State::Punching => {
                if added {
                    self.timers.set(Timer::Search, cx.now + SEARCH_TIMEOUT);
                }
                self.discovery.burst_again(cx.now, 0);
            }
            State::Unreachable if !added => self.discovery.burst_again(cx.now, RETRY_STEP),
            _ => {
                self.begin_search(cx, StateReason::CallMeMaybe);
            }
        }
        self.offer_port_search_soon(cx);
        let last = self.discovery.calls.last.as_ref();
        if last.is_none_or(|(_, sent)| *sent != cx.host.endpoints) {
            self.send_call_me_maybe(cx);
        }
    }

    /// A packet of the peer came over `path`.
    pub(crate) fn heard_from(&mut self, cx: &mut Context<'_>, path: Path) {
        // While the pair is connected its own candidate is pinged rarely; a missing answer is then no reason to learn another port.
        let start = if self.state.is_connected() {
            self.discovery.search.counts_since
        } else {
            self.discovery.answers_count_since(cx.now)
        };
        let added = self.discovery.candidates.heard(cx.now, path, start);
        if !is_private(path.remote.ip()) {
            cx.outcome.udp_came_in = true;
        }
        self.hasten_loss(cx.now);
        if path.port != cx.host.port {
            self.heard_at_extra_port(cx, path);
        }
        self.revalidate(cx);
        match self.state {
            State::Unknown | State::HaveEndpoints => {
                self.begin_search(cx, StateReason::PacketReceived(path.remote));
            }
            State::Unreachable if added => {
                self.begin_search(cx, StateReason::PacketReceived(path.remote));
            }
            _ => {}
        }
    }

    pub(crate) fn handle_ping(
        &mut self,
        cx: &mut Context<'_>,
        path: Path,
        tx_id: TxId,
    ) -> Result<(), DropReason> {
        cx.counters.pings_received += 1;
        let pong = Message::Pong {
            tx_id,
            src: path.remote,
        };
        // The pings of the peer's port search may come by the hundred. Their answers leave room for the nomination of what is found.
        let budget = if self.discovery.port_search.is_attempting() {
            Budget::PongInSearch
        } else {
            Budget::Other
        };
        let source = (Some(path.local), path.port);
        let sent = self.send(cx, budget, source, path.remote, &pong);
        cx.counters.pongs_sent += u64::from(sent);
        self.choose(cx);
        if sent {
            Ok(())
        } else {
            Err(DropReason::RateLimited)
        }
    }

    /// Refuses what answers no ping that waits. The tunnel receives by address and key, whatever the port: a pong from another port of
    /// the same address still shows a path, one from another address does not.
    pub(crate) fn judge_pong(&self, path: Path, tx_id: TxId) -> Result<(), DropReason> {
        if self.discovery.port_search.awaits(tx_id) || self.is_mtu_pong(path, tx_id) {
            return Ok(());
        }
        let pending = self.discovery.pending.iter().find(|it| it.tx_id == tx_id);
        let pending = pending.ok_or(DropReason::Unsolicited)?;
        if path.remote.ip() != pending.remote.ip() {
            return Err(DropReason::WrongSource);
        }
        Ok(())
    }

    /// A ping was answered; `seen_from` is where the peer saw it come from.
    pub(crate) fn handle_pong(
        &mut self,
        cx: &mut Context<'_>,
        path: Path,
        tx_id: TxId,
        seen_from: SocketAddr,
    ) -> Result<(), DropReason> {
        if self.discovery.port_search.awaits(tx_id) {
            return self.handle_port_search_pong(cx, path);
        }
        if self.is_mtu_pong(path, tx_id) {
            self.handle_mtu_pong(cx, tx_id);
            cx.counters.pongs_received += 1;
            return Ok(());
        }
        let index = self
            .discovery
            .pending
            .iter()
            .position(|it| it.tx_id == tx_id);
        let pending = index.and_then(|index| self.discovery.pending.remove(index));
        let pending = pending.ok_or(DropReason::Unsolicited)?;
        cx.counters.pongs_received += 1;
        let jitter = cx.jitter(IDLE_JITTER);
        if let Some(candidate) = self.discovery.candidates.get_mut(pending.remote) {
            candidate.came_to(cx.now, path.source());
            candidate.replies_from_same_port = path.remote == pending.remote;
            candidate.seen_from = Some(seen_from.ip());
            candidate.pong(cx.now, cx.now - pending.sent, jitter);
        }
        self.choose(cx);
        self.consider_upgrade(cx, pending.remote);
        Ok(())
    }

    /// Sends the pings that are due, as far as the cap allows: the last step of every handler.
    pub(crate) fn send_due_pings(&mut self, cx: &mut Context<'_>) {
        // Nobody listens to a search port after its search, so that a ping from there would be answered in vain.
        if !self.needs_extra_ports(cx.now, cx.host.port) {
            self.discovery.candidates.forget_extra_ports(cx.host.port);
        }
        loop {
            let due = self
                .discovery
                .candidates
                .due(cx.now, |ip| cx.host.reaches(ip));
            let port = cx.host.port;
            let due = due.map(|it| (it.remote, it.source(cx.now, port)));
            let Some((remote, source)) = due else {
                return;
            };
            if let Some(until) = self.first_ping_not_before(cx, remote) {
                if let Some(candidate) = self.discovery.candidates.get_mut(remote) {
                    candidate.postpone(until);
                }
                continue;
            }
            let tx_id = cx.tx_id();
            let ping = Message::Ping {
                tx_id,
                node_key: cx.host.node_key,
                padding: 0,
            };
            let sent = self.send(cx, Budget::Ping, source, remote, &ping);
            let room_at = self.limiter.room_at(cx.now, Budget::Ping);
            let jitter = cx.jitter(IDLE_JITTER);
            if let Some(candidate) = self.discovery.candidates.get_mut(remote) {
                if sent {
                    candidate.pinged(cx.now, jitter);
                } else {
                    candidate.postpone(room_at);
                }
            }
            if sent {
                cx.counters.pings_sent += 1;
                self.discovery.await_pong(Pending {
                    tx_id,
                    remote,
                    sent: cx.now,
                });
            }
        }
    }

    /// Until when the first ping to a public address waits, where this host's router grants a port. The peer's ping comes in by that
    /// port if it comes first. A ping of this host opens a mapping of its own, by another port, between the same two ends;
    /// then some NATs (pf's) have no place for the peer's, and drop it.
    fn first_ping_not_before(&self, cx: &Context<'_>, remote: SocketAddr) -> Option<Instant> {
        let granted = cx.host.router_port.granted();
        let clashes = is_open(granted) && cx.host.nat.seen != granted.map(SocketAddr::V4);
        let IpAddr::V4(ip) = remote.ip() else {
            return None;
        };
        let heard = self.discovery.candidates.get(remote)?.heard;
        let until = self.discovery.search.counts_since + OFFER_DELAY;
        let waits = clashes && is_public(ip) && heard.is_none() && cx.now < until;
        waits.then_some(until)
    }
}
