//! The search for ports, or birthday search: it joins a host whose NAT gives each destination a public port of its own with a
//! peer whose NAT lets in only answers. Neither can be told where to send, but ports meet by chance.
//!
//! Both tell each other of their NATs through the coordinator ([`PortOffer`]). Who has such a NAT *fans out*: it pings the peer's
//! one public port from many source ports, and so opens as many public ports. Whose peer has such a NAT *guesses*: it
//! pings ports of the peer's public address at random. The first guess that meets an open port gets through. It need not come
//! second: a guess opens the guesser's own NAT for the peer's ping that comes later. The local port that was met becomes
//! part of the path, and nomination and proof go on from there as over any other path.
//!
//! Where a NAT gives ports out in order, the peer guesses the next ones first; two such NATs are joined by fanning out alone, as
//! each side sends to the port that the other's fan-out will open.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use tracing::debug;

use crate::peer::constants::{
    ATTEMPT_BURST, ATTEMPT_GAP, ATTEMPT_LISTEN, ATTEMPT_MEAN_GAP, ATTEMPT_MIN_GAP,
    ATTEMPT_PATIENCE, FOUND_PATIENCE, OFFER_DELAY, PORT_SEARCH_GAPS,
};
use crate::peer::discovery::candidates::Candidate;
use crate::peer::discovery::port_attempt::{Attempt, Beginning, NextPacket};
use crate::peer::discovery::port_offer::{OfferInput, OfferStep};
use crate::peer::packet_window::Budget;
use crate::peer::path::switch_reason::SwitchReason;
use crate::peer::timers::Timer;
use crate::peer::{Context, Datagram, DropReason, Output, Path, Peer, Signal, State};
use crate::proto::TxId;
use crate::proto::disco::{Message, PortOffer};

/// The ports from which a search sends and at which tunnels that it made receive: below the range that Linux gives to
/// sockets without a fixed port (32768 to 60999), above most services.
pub const EXTRA_PORTS: Range<u16> = 20_480..32_768;

/// The NAT in front of this host as STUN sees it, for IPv4.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NatState {
    /// Whether each destination gets a public port of its own; `None` while too few servers answered.
    pub(crate) dependent: Option<bool>,
    /// Whether a server that has not answered yet may still do so.
    pub(crate) is_asked: bool,
    /// Where a server saw the data port.
    pub(crate) seen: Option<SocketAddr>,
    /// Whether it saw it at the host's own address and port: then no NAT is in front of this host.
    pub(crate) is_own: bool,
    /// The latest sample of how the NAT allocates ports to new flows.
    pub(crate) fresh: Option<PortAllocation>,
}

/// Two new flows of this host, as a server saw them just now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortAllocation {
    pub(crate) at: Instant,
    /// The second of them.
    pub(crate) seen: SocketAddr,
    /// From the first port to the second, if that looks like the next in order; else 0.
    pub(crate) step: i16,
}

/// The step of a port search that is under way.
#[derive(Debug, Default)]
pub(super) enum Phase {
    /// None is under way.
    #[default]
    Idle,
    /// The next offer waits for a sample of how the NAT allocates ports.
    Sampling,
    /// Pings are being sent, or their answers are awaited.
    Attempting(Attempt),
}

/// How a port search ended without a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortSearchOutcome {
    /// This host has offered it, and the peer has never told of its own NAT.
    PeerTakesNoPart,
    /// Its packets met no open port.
    InVain {
        /// Number of packets.
        sent: usize,
        /// The peer's public address.
        to: IpAddr,
    },
}

/// A peer's port searches.
#[derive(Debug, Default)]
pub(crate) struct PortSearch {
    /// The peer's latest offer, and when it came.
    pub(super) peer_offer: Option<(Instant, PortOffer)>,
    /// This host's latest offer, and when it was sent.
    pub(super) our_offer: Option<(Instant, PortOffer)>,
    pub(super) phase: Phase,
    /// When the latest attempt began.
    pub(super) began: Option<Instant>,
    /// The transaction id of all pings of the latest attempt.
    pub(super) tx_id: Option<TxId>,
    listen_until: Option<Instant>,
    /// Attempts in a row without success.
    failures: usize,
    pub(super) not_before: Option<Instant>,
    /// How far the attempts so far use up what may follow each other quickly: the time at which none counts any more.
    used_until: Option<Instant>,
    /// The packets that the latest attempt sent without finding an open port, and where to.
    in_vain: Option<(usize, SocketAddr)>,
}

impl PortSearch {
    /// Whether an attempt is under way.
    pub(super) fn is_attempting(&self) -> bool {
        matches!(self.phase, Phase::Attempting(_))
    }

    pub(super) fn is_sampling(&self) -> bool {
        matches!(self.phase, Phase::Sampling)
    }

    /// Ends sampling, and returns whether it was under way.
    pub(super) fn end_sampling(&mut self) -> bool {
        let was_sampling = self.is_sampling();
        if was_sampling {
            self.phase = Phase::Idle;
        }
        was_sampling
    }

    /// Whether the attempt under way has sent from this port.
    fn has_sent_from(&self, port: u16) -> bool {
        matches!(&self.phase, Phase::Attempting(attempt) if attempt.has_sent_from(port))
    }

    /// Whether one more attempt keeps within [`ATTEMPT_BURST`] and [`ATTEMPT_MEAN_GAP`].
    pub(super) fn has_budget(&self, now: Instant) -> bool {
        let full = now + ATTEMPT_MEAN_GAP * (ATTEMPT_BURST - 1);
        self.used_until.is_none_or(|until| until <= full)
    }

    /// Takes an attempt out of the budget.
    pub(super) fn use_budget(&mut self, now: Instant) {
        let from = self.used_until.map_or(now, |until| until.max(now));
        self.used_until = Some(from + ATTEMPT_MEAN_GAP);
    }

    /// Holds the next search down after one that led nowhere, longer with each in a row.
    pub(super) fn back_off(&mut self, now: Instant) {
        let gap = PORT_SEARCH_GAPS[self.failures.min(PORT_SEARCH_GAPS.len() - 1)];
        self.failures += 1;
        self.not_before = Some(now + gap);
    }

    /// Has packets to the search ports received for some time.
    pub(super) fn listen(&mut self, now: Instant) {
        self.listen_until = Some(now + ATTEMPT_LISTEN);
    }

    /// Whether packets to the search ports are received.
    fn is_listening(&self, now: Instant) -> bool {
        self.listen_until.is_some_and(|it| now < it)
    }

    /// Whether a pong with this id answers a ping of the search.
    pub(super) fn awaits(&self, tx_id: TxId) -> bool {
        self.tx_id == Some(tx_id)
    }

    /// How the latest search ended without a path.
    pub(in crate::peer) fn outcome(&self) -> Option<PortSearchOutcome> {
        match self.in_vain {
            Some((sent, seen)) => Some(PortSearchOutcome::InVain {
                sent,
                to: seen.ip(),
            }),
            None if self.our_offer.is_some() && self.peer_offer.is_none() => {
                Some(PortSearchOutcome::PeerTakesNoPart)
            }
            None => None,
        }
    }

    /// A path was proven: the next search may begin at once.
    pub(crate) fn succeeded(&mut self) {
        self.renew();
        self.began = None;
    }

    /// The peer or this host is elsewhere now: what failed before may work.
    pub(crate) fn renew(&mut self) {
        self.failures = 0;
        self.not_before = None;
        self.in_vain = None;
    }

    /// A packet of the peer came in: the rest is up to nomination and proof. The attempt was no waste.
    fn found(&mut self, now: Instant) {
        self.used_until = self.used_until.map(|until| until - ATTEMPT_MEAN_GAP);
        self.phase = Phase::Idle;
        self.listen(now);
        self.back_off(now);
    }

    /// The attempt found no open port.
    fn failed(&mut self, now: Instant, attempt: &Attempt) {
        let sent = attempt.fan_out_sent + attempt.targets_sent;
        debug!(sent, "port search without success");
        self.in_vain = self.peer_offer.map(|(_, offer)| (sent, offer.seen));
        self.back_off(now);
    }
}

impl Peer {
    /// A search for a path begins: the ordinary means get their time first.
    pub(crate) fn expect_port_search(&mut self, cx: &mut Context<'_>) {
        // Not each time when guesses that get in, and lead nowhere, look like news.
        let state = &mut self.discovery.port_search;
        let soon = |at: Instant| cx.now < at + PORT_SEARCH_GAPS[0];
        if !state.began.is_some_and(soon) {
            state.renew();
        }
        if !self.discovery.port_search.is_attempting() && cx.host.aggressive {
            let at = cx.now + OFFER_DELAY;
            self.timers.set(Timer::PortSearch, at);
        }
    }

    /// Whether packets to extra ports are for this peer.
    pub(crate) fn needs_extra_ports(&self, now: Instant, data_port: u16) -> bool {
        let tunnel = self.tunnel.as_ref();
        tunnel.is_some_and(|it| it.path.port != data_port)
            || self.discovery.port_search.is_listening(now)
    }

    /// [`Timer::PortSearch`].
    pub(crate) fn port_search_due(&mut self, cx: &mut Context<'_>) {
        if self.discovery.port_search.is_attempting() {
            self.send_due_search_pings(cx);
        } else if self.discovery.port_search.end_sampling() {
            self.tell_nat(cx);
        } else {
            self.offer_port_search(cx);
        }
    }

    /// Offers a search, if one is of use. What answers by itself needs none.
    fn offer_port_search(&mut self, cx: &mut Context<'_>) {
        let started = self.discovery.search.counts_since;
        if !cx.host.aggressive
            || !self.online
            || self.state.is_connected()
            || self.state == State::Unknown
            || !self.discovery.port_search.may_offer(cx.now)
            || self.discovery.is_answered_since(started)
        {
            return;
        }
        let input = self.offer_input(cx);
        let step = self.discovery.port_search.offer(&input);
        self.follow_offer(cx, step);
    }

    fn offer_input(&self, cx: &Context<'_>) -> OfferInput {
        OfferInput {
            now: cx.now,
            nat: cx.host.nat,
            search_started: self.discovery.search.counts_since,
            is_punching: self.state == State::Punching,
        }
    }

    fn follow_offer(&mut self, cx: &mut Context<'_>, step: OfferStep) {
        match step {
            OfferStep::Nothing => {}
            OfferStep::Wait(at) => self.timers.set(Timer::PortSearch, at),
            OfferStep::Sample(until) => {
                cx.outcome.samples_nat = true;
                self.timers.set(Timer::PortSearch, until);
            }
            OfferStep::Tell => self.tell_nat(cx),
            OfferStep::Begin => self.begin_attempt(cx),
        }
    }

    /// STUN said what this host's NAT gives to new flows.
    pub(crate) fn handle_observed(&mut self, cx: &mut Context<'_>) {
        if self.discovery.port_search.end_sampling() {
            self.tell_nat(cx);
        }
    }

    fn tell_nat(&mut self, cx: &mut Context<'_>) {
        let input = self.offer_input(cx);
        let offer = self.discovery.port_search.draw_up_offer(&input, cx.rng);
        if let Some(offer) = offer {
            let message = Message::PortSearch(offer);
            let (to, sealed) = (self.node_key, self.seal(cx, &message));
            cx.out.push_back(Output::Signal(Signal { to, sealed }));
            self.begin_attempt(cx);
        }
    }

    /// The peer tells of its NAT, and asks for a search or agrees to one.
    pub(crate) fn handle_port_search(
        &mut self,
        cx: &mut Context<'_>,
        offer: PortOffer,
    ) -> Result<(), DropReason> {
        if !cx.host.aggressive || self.state.is_connected() {
            return Ok(());
        }
        let ip = offer.seen.ip();
        let is_candidate = |it: &Candidate| it.remote.ip() == ip;
        // Only where the peer says to be anyway, and no network of a third party: nobody else gets our guesses.
        if !cx.host.may_be_guessed_at(ip) || !self.discovery.candidates.iter().any(is_candidate) {
            return Err(DropReason::WrongSource);
        }
        let input = self.offer_input(cx);
        let step = self.discovery.port_search.take_offer(&input, offer);
        self.follow_offer(cx, step);
        Ok(())
    }

    /// The peer calls, so that an offer finds it now, or is tried again: what answers by itself needs no search.
    pub(crate) fn offer_port_search_soon(&mut self, cx: &mut Context<'_>) {
        let at = cx.now + OFFER_DELAY;
        let sooner = self.timers.get(Timer::PortSearch).is_none_or(|it| at < it);
        if cx.host.aggressive
            && !self.discovery.port_search.is_attempting()
            && !self.discovery.port_search.is_sampling()
            && sooner
        {
            self.timers.set(Timer::PortSearch, at);
        }
    }

    fn begin_attempt(&mut self, cx: &mut Context<'_>) {
        match self.discovery.port_search.begin(cx, &self.nat.public) {
            Beginning::Began => {
                cx.counters.port_searches += 1;
                self.timers.set(Timer::PortSearch, cx.now);
            }
            // It costs little to repeat the offer.
            Beginning::OfferMissing if self.state == State::Punching => {
                self.timers.set(Timer::PortSearch, cx.now + ATTEMPT_MIN_GAP);
            }
            Beginning::Refused { tells_more: true } if self.state == State::Unreachable => {
                self.conclude(cx);
            }
            Beginning::OfferMissing | Beginning::Refused { .. } => {}
        }
    }

    /// Sends what is due of the search, within the node's cap.
    fn send_due_search_pings(&mut self, cx: &mut Context<'_>) {
        let Phase::Attempting(mut attempt) = std::mem::take(&mut self.discovery.port_search.phase)
        else {
            return;
        };
        if self.state.is_connected() || self.discovery.is_answered_since(attempt.began) {
            return self.found(cx);
        }
        self.discovery.port_search.listen(cx.now);
        let mut next = cx.now + ATTEMPT_GAP;
        for _ in 0..attempt.tick(cx.now) {
            match attempt.next(cx.host.port) {
                NextPacket::From(port, to) => {
                    if !cx.search_limiter.take(cx.now, Budget::Search) {
                        next = cx.search_limiter.room_at(cx.now, Budget::Search) + ATTEMPT_GAP;
                        break;
                    }
                    self.send_search_ping(cx, port, to);
                    attempt.sent();
                }
                NextPacket::Done => {
                    next = attempt.began + ATTEMPT_PATIENCE;
                    if cx.now >= next {
                        return self.attempt_failed(cx, &attempt);
                    }
                    break;
                }
            }
        }
        self.timers.set(
            Timer::PortSearch,
            next.max(cx.now + Duration::from_millis(1)),
        );
        self.discovery.port_search.phase = Phase::Attempting(attempt);
    }

    fn send_search_ping(&mut self, cx: &mut Context<'_>, port: u16, to: SocketAddr) {
        let Some(tx_id) = self.discovery.port_search.tx_id else {
            return;
        };
        let ping = Message::Ping {
            tx_id,
            node_key: cx.host.node_key,
            padding: 0,
        };
        let data = self.seal(cx, &ping);
        cx.counters.port_search_pings_sent += 1;
        cx.out.push_back(Output::Send(Datagram {
            local: None,
            port,
            to,
            data,
        }));
    }

    /// A guess, or a ping of the fan-out, was answered.
    pub(crate) fn handle_port_search_pong(
        &mut self,
        cx: &mut Context<'_>,
        path: Path,
    ) -> Result<(), DropReason> {
        cx.counters.pongs_received += 1;
        self.found(cx);
        if let Some(candidate) = self.discovery.candidates.get_mut(path.remote) {
            candidate.answered = Some(cx.now);
            candidate.end_hold_down();
        }
        self.choose(cx);
        Ok(())
    }

    /// A packet of the peer came to an extra port: if the search under way sent from there, then one of the peer's guesses was
    /// right. What comes to a port of an earlier search is sent to a mapping of then, and answers may leave by another.
    pub(crate) fn heard_at_extra_port(&mut self, cx: &mut Context<'_>, path: Path) {
        let used = self.tunnel.as_ref().map(|it| it.path);
        if self.state.is_connected() || used == Some(path) {
            return;
        }
        if !self.discovery.port_search.has_sent_from(path.port) {
            return;
        }
        self.found(cx);
        debug!(%path, "port found");
        if let Some(candidate) = self.discovery.candidates.get_mut(path.remote) {
            candidate.local = Some(path.source());
            candidate.end_hold_down();
            candidate.burst(cx.now, 0);
        }
        // Whatever was being tried does not lead anywhere: the peer had to guess.
        if self.controlling {
            self.nominate(cx, path, false, SwitchReason::PortSearch);
        }
    }

    /// The search met something: the rest is up to nomination and proof.
    fn found(&mut self, cx: &mut Context<'_>) {
        self.discovery.port_search.found(cx.now);
        self.timers.clear(Timer::PortSearch);
        if self.state == State::Punching && self.timers.get(Timer::Search).is_none() {
            self.timers.set(Timer::Search, cx.now + FOUND_PATIENCE);
        }
    }

    fn attempt_failed(&mut self, cx: &mut Context<'_>, attempt: &Attempt) {
        self.discovery.port_search.failed(cx.now, attempt);
        if self.state == State::Unreachable {
            self.conclude(cx);
        } else {
            self.conclude_if_ended(cx);
        }
    }
}
