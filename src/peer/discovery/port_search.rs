//! The search for ports, or birthday search: it joins a host whose NAT gives each destination a public port of its own with a
//! peer whose NAT lets in only answers. Neither can be told where to send, but ports meet by chance.
//!
//! Both tell each other of their NATs through the coordinator ([`PortOffer`]). Who has such a NAT *spreads*: it pings the peer's
//! one public port from many source ports, and so opens as many public ports. Whose peer has such a NAT *guesses*: it
//! pings ports of the peer's public address at random. The first guess that meets an open port gets through. It need not come
//! second: a guess opens the guesser's own NAT for the peer's ping that comes later. The local port that was met becomes
//! part of the path, and nomination and proof go on from there as over any other path.
//!
//! Where a NAT gives ports out in order, the peer guesses the next ones first; two such NATs are joined by spreading alone, as
//! each side sends to the port that the other's spreading will open.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use rand_chacha::rand_core::Rng as _;
use tracing::debug;

use crate::peer::constants::{
    ATTEMPT_BATCH, ATTEMPT_GAP, ATTEMPT_LISTEN, ATTEMPT_MIN_GAP, ATTEMPT_PATIENCE, DOUBT_DELAY,
    FOUND_PATIENCE, GUESSES, OBSERVE_TIMEOUT, OFFER_DELAY, OFFER_LIFETIME, PORT_SEARCH_GAPS,
    PREDICTED_WINDOW, PRESERVED_GUESSES, SPREAD_PORTS,
};
use crate::peer::packet_window::Budget;
use crate::peer::path::switch_reason::SwitchReason;
use crate::peer::timers::Timer;
use crate::peer::verdict::explain::PortSearchOutcome;
use crate::peer::{Context, DropReason, Output, Path, Peer, State};
use crate::proto::TxId;
use crate::proto::disco::{Message, PortOffer};

/// The ports from which a search sends and at which tunnels that it made receive: below the range that Linux gives to
/// sockets without a fixed port (32768 to 60999), above most services.
pub const EXTRA_PORTS: Range<u16> = 20_480..32_768;

/// What STUN tells of the NAT in front of this host, for IPv4.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NatState {
    /// Whether each destination gets a public port of its own; `None` while too few servers answered.
    pub(crate) dependent: Option<bool>,
    /// Whether a server that has not answered yet may still do so.
    pub(crate) is_asked: bool,
    /// Where a server saw the data port.
    pub(crate) seen: Option<SocketAddr>,
    /// What the NAT gives to new flows.
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

/// A peer's searches for ports.
#[derive(Debug, Default)]
pub(crate) struct PortSearch {
    /// The peer's latest offer, and when it came.
    peer_offer: Option<(Instant, PortOffer)>,
    /// This host's latest offer, and when it was sent.
    our_offer: Option<(Instant, PortOffer)>,
    /// The next offer waits for a look at the NAT.
    observing: bool,
    attempt: Option<Attempt>,
    /// When the latest attempt began.
    began: Option<Instant>,
    /// What all its pings carried.
    tx_id: Option<TxId>,
    listen_until: Option<Instant>,
    /// Attempts in a row without success.
    failures: usize,
    not_before: Option<Instant>,
    /// What the last attempt sent in vain.
    in_vain: Option<(usize, SocketAddr)>,
}

/// One run of the search, under way.
#[derive(Debug)]
struct Attempt {
    began: Instant,
    ticked: Instant,
    /// The first source port and the destination, when spreading.
    spread: Option<Spread>,
    spread_sent: usize,
    guesses: Option<Guesses>,
    guesses_sent: usize,
}

/// Pings from [`SPREAD_PORTS`] source ports to each target in turn.
#[derive(Debug)]
struct Spread {
    first_port: u16,
    targets: Vec<SocketAddr>,
}

impl Spread {
    /// The ports and the destination of the ping with this number, until all are sent.
    fn ping(&self, number: usize) -> Option<(u16, SocketAddr)> {
        let target = self.targets.get(number / SPREAD_PORTS)?;
        Some((self.first_port + (number % SPREAD_PORTS) as u16, *target))
    }
}

/// The ports to guess, in order, none twice except by a wrong prediction.
#[derive(Debug)]
struct Guesses {
    ip: IpAddr,
    offer: PortOffer,
    start: u32,
    stride: u32,
}

impl Guesses {
    /// Ports that NATs give out: RFC 4787 section 4.2.2 keeps the well-known ones apart.
    const LOWEST: u32 = 1024;
    const COUNT: u32 = 65_536 - Guesses::LOWEST;

    fn new(offer: PortOffer, random: u64) -> Self {
        // A stride without a factor in common with the count (1024 * 63) visits every port once.
        let mut stride = ((random >> 32) as u32 % Guesses::COUNT) | 1;
        while stride.is_multiple_of(3) || stride.is_multiple_of(7) {
            stride += 2;
        }
        Guesses {
            ip: offer.seen.ip(),
            offer,
            start: random as u32 % Guesses::COUNT,
            stride,
        }
    }

    /// The guess of this number: the window of predicted ports from its middle outwards, some of the source ports, in case
    /// the NAT keeps them, then all ports in a random order.
    fn port(&self, mut number: usize) -> u16 {
        if self.offer.step != 0 {
            if number < PREDICTED_WINDOW {
                let from_middle = number.div_ceil(2) as i32;
                let sign = if number.is_multiple_of(2) { 1 } else { -1 };
                let steps = (PREDICTED_WINDOW / 2) as i32 + sign * from_middle;
                return predicted(&self.offer, steps);
            }
            number -= PREDICTED_WINDOW;
        }
        if number < PRESERVED_GUESSES {
            let apart = SPREAD_PORTS / PRESERVED_GUESSES;
            return self.offer.first_port.wrapping_add((number * apart) as u16);
        }
        let number = (number - PRESERVED_GUESSES) as u64;
        let at = u64::from(self.start) + u64::from(self.stride) * number;
        (Guesses::LOWEST + (at % u64::from(Guesses::COUNT)) as u32) as u16
    }
}

/// The public port that a NAT which allocates ports in order will allocate after so many steps. Past the last port the NAT begins
/// again with the first: 1024, or 1 where the NAT uses the well-known ports too.
fn predicted(offer: &PortOffer, steps: i32) -> u16 {
    let seen = i32::from(offer.seen.port());
    let lowest = if seen < Guesses::LOWEST as i32 {
        1
    } else {
        Guesses::LOWEST as i32
    };
    let port = seen + i32::from(offer.step) * steps;
    (lowest + (port - lowest).rem_euclid(65_536 - lowest)) as u16
}

/// What a search does next.
enum NextPacket {
    From(u16, SocketAddr),
    Done,
}

impl Attempt {
    fn next(&self, data_port: u16) -> NextPacket {
        if let Some((port, to)) = self.next_of_spread() {
            return NextPacket::From(port, to);
        }
        match &self.guesses {
            Some(guesses) if self.guesses_sent < GUESSES => {
                let port = guesses.port(self.guesses_sent);
                NextPacket::From(data_port, SocketAddr::new(guesses.ip, port))
            }
            _ => NextPacket::Done,
        }
    }

    fn next_of_spread(&self) -> Option<(u16, SocketAddr)> {
        self.spread.as_ref()?.ping(self.spread_sent)
    }

    fn has_sent_from(&self, port: u16) -> bool {
        let ports = self.spread_sent.min(SPREAD_PORTS) as u16;
        let sent = |it: &Spread| (it.first_port..it.first_port + ports).contains(&port);
        self.spread.as_ref().is_some_and(sent)
    }

    fn sent(&mut self) {
        if self.next_of_spread().is_some() {
            self.spread_sent += 1;
        } else {
            self.guesses_sent += 1;
        }
    }
}

/// What this side does in an attempt, from what both sides know of their NATs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct AttemptPlan {
    spreads: bool,
    guesses: bool,
}

impl AttemptPlan {
    fn of(ours: &PortOffer, theirs: &PortOffer) -> Self {
        let in_order = ours.step != 0 && theirs.step != 0;
        match (ours.dependent, theirs.dependent) {
            // Each side can foretell the other's ports. Without order chance would have to strike twice, which is not tried.
            (true, true) => AttemptPlan {
                spreads: in_order,
                guesses: false,
            },
            (true, false) => AttemptPlan {
                spreads: true,
                guesses: theirs.maybe_dependent && in_order,
            },
            (false, true) => AttemptPlan {
                spreads: ours.maybe_dependent && in_order,
                guesses: true,
            },
            // Either side may be the one with the difficult NAT, so both do both.
            (false, false) => {
                let in_doubt = ours.maybe_dependent || theirs.maybe_dependent;
                AttemptPlan {
                    spreads: in_doubt,
                    guesses: in_doubt,
                }
            }
        }
    }
}

impl PortSearch {
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
}

impl Peer {
    /// A search for a path begins: the ordinary means get their time first.
    pub(crate) fn expect_port_search(&mut self, cx: &mut Context<'_>) {
        // Not each time when guesses that get in, and lead nowhere, look like news.
        let state = &mut self.port_search;
        let soon = |at: Instant| cx.now < at + PORT_SEARCH_GAPS[0];
        if !state.began.is_some_and(soon) {
            state.renew();
        }
        if self.port_search.attempt.is_none() && cx.host.aggressive {
            let at = cx.now + OFFER_DELAY;
            self.timers.set(Timer::PortSearch, at);
        }
    }

    /// Whether a search is under way, so that no verdict is due yet.
    pub(crate) fn is_searching_ports(&self) -> bool {
        self.port_search.attempt.is_some()
    }

    /// Whether packets to extra ports are for this peer.
    pub(crate) fn needs_extra_ports(&self, now: Instant, data_port: u16) -> bool {
        let tunnel = self.tunnel.as_ref();
        tunnel.is_some_and(|it| it.path.port != data_port)
            || self.port_search.listen_until.is_some_and(|it| now < it)
    }

    /// [`Timer::PortSearch`].
    pub(crate) fn port_search_due(&mut self, cx: &mut Context<'_>) {
        if self.port_search.attempt.is_some() {
            self.send_due_search_pings(cx);
        } else if std::mem::take(&mut self.port_search.observing) {
            self.tell_nat(cx);
        } else {
            self.offer_port_search(cx);
        }
    }

    /// Offers a search, if one is of use: the side whose NAT is the difficult one begins.
    fn offer_port_search(&mut self, cx: &mut Context<'_>) {
        let too_early = |at: Instant| cx.now < at;
        let state = &self.port_search;
        if !cx.host.aggressive
            || !self.online
            || self.state.is_proven()
            || self.state == State::Unknown
            || state.attempt.is_some()
            || state.observing
            || state.not_before.is_some_and(too_early)
            || self.has_answer_since(self.search.started)
        {
            return;
        }
        let nat = cx.host.nat;
        if nat.dependent == Some(true) {
            self.observe_and_tell(cx);
        } else if nat.dependent.is_none() && (nat.seen.is_none() || nat.is_asked) {
            // No STUN server has answered yet, or too few: those that are left decide whether a search is of use at all.
            if self.state == State::Punching {
                self.timers.set(Timer::PortSearch, cx.now + OFFER_DELAY);
            }
        } else if self.is_search_overdue(cx) {
            // STUN cannot see every mapping that depends on the destination, and one server alone sees none.
            self.observe_and_tell(cx);
        } else {
            let at = self.search.started + DOUBT_DELAY;
            self.timers.set(Timer::PortSearch, at);
        }
    }

    /// Whether the ordinary path search had time enough, so that the mapping may be another than STUN told.
    fn is_search_overdue(&self, cx: &Context<'_>) -> bool {
        self.state != State::Punching || cx.now >= self.search.started + DOUBT_DELAY
    }

    fn has_answer_since(&self, start: Instant) -> bool {
        self.candidates.iter().any(|it| it.answered_since(start))
    }

    /// Tells the peer of the NAT as it is now; one that gives out ports in order is looked at first.
    fn observe_and_tell(&mut self, cx: &mut Context<'_>) {
        let fresh = cx.host.nat.fresh;
        if cx.host.nat.dependent != Some(false)
            && fresh.is_none_or(|it| cx.now >= it.at + OBSERVE_TIMEOUT)
        {
            self.port_search.observing = true;
            self.listen(cx);
            *cx.observe_nat = true;
            self.timers.set(Timer::PortSearch, cx.now + OBSERVE_TIMEOUT);
        } else {
            self.tell_nat(cx);
        }
    }

    /// STUN said what this host's NAT gives to new flows.
    pub(crate) fn handle_observed(&mut self, cx: &mut Context<'_>) {
        if std::mem::take(&mut self.port_search.observing) {
            self.tell_nat(cx);
        }
    }

    fn tell_nat(&mut self, cx: &mut Context<'_>) {
        let nat = cx.host.nat;
        // Of a NAT whose mapping is not known the data port's own mapping says more than that of a new flow, unless the NAT
        // allocates ports in order.
        let fresh = nat
            .fresh
            .filter(|it| cx.now < it.at + OFFER_LIFETIME)
            .filter(|it| match nat.dependent {
                Some(dependent) => dependent,
                None => it.step != 0,
            });
        let Some(seen) = fresh.map(|it| it.seen).or(nat.seen) else {
            return;
        };
        let ports = u32::from(EXTRA_PORTS.end - EXTRA_PORTS.start) - SPREAD_PORTS as u32;
        let offer = PortOffer {
            dependent: nat.dependent == Some(true),
            maybe_dependent: match nat.dependent {
                Some(true) => false,
                Some(false) => self.is_search_overdue(cx),
                None => true,
            },
            step: fresh.map_or(0, |it| it.step),
            first_port: EXTRA_PORTS.start + (cx.rng.next_u32() % ports) as u16,
            seen,
        };
        debug!(peer = %self.name, ?offer, "port search offered");
        self.port_search.our_offer = Some((cx.now, offer));
        let message = Message::PortSearch(offer);
        let (to, sealed) = (self.node_key, self.seal(cx, &message));
        cx.out.push_back(Output::Signal { to, sealed });
        self.begin_attempt(cx);
    }

    /// The peer tells of its NAT, and asks for a search or agrees to one.
    pub(crate) fn handle_port_search(
        &mut self,
        cx: &mut Context<'_>,
        offer: PortOffer,
    ) -> Result<(), DropReason> {
        if !cx.host.aggressive || self.state.is_proven() {
            return Ok(());
        }
        let ip = offer.seen.ip();
        // Only where the peer says to be anyway: nobody else gets our guesses.
        if !ip.is_ipv4() || !self.candidates.iter().any(|it| it.remote.ip() == ip) {
            return Err(DropReason::WrongSource);
        }
        if self.is_searching_ports() {
            return Ok(());
        }
        self.port_search.peer_offer = Some((cx.now, offer));
        let our_offer = self.port_search.our_offer;
        if our_offer.is_some_and(|(at, _)| cx.now < at + OFFER_LIFETIME) {
            self.begin_attempt(cx);
        } else if !self.port_search.observing {
            self.observe_and_tell(cx);
        }
        Ok(())
    }

    /// Begins once both sides have told of their NATs.
    fn begin_attempt(&mut self, cx: &mut Context<'_>) {
        let recent = |it: &(Instant, PortOffer)| cx.now < it.0 + OFFER_LIFETIME;
        let state = &mut self.port_search;
        let (Some((_, ours)), Some((_, theirs))) = (
            state.our_offer.filter(recent),
            state.peer_offer.filter(recent),
        ) else {
            return self.wait_for_offer(cx);
        };
        let just_began = state.began.is_some_and(|at| cx.now < at + ATTEMPT_MIN_GAP);
        let plan = AttemptPlan::of(&ours, &theirs);
        let is_hopeless = plan == AttemptPlan::default();
        if is_hopeless || just_began {
            let knows_more = is_hopeless && ours.dependent;
            self.back_off(cx.now);
            if knows_more && self.state == State::Unreachable {
                // The verdict knows more now.
                self.conclude(cx);
            }
            return;
        }
        let random = cx.rng.next_u64();
        let targets = self.spread_targets(&theirs);
        let attempt = Attempt {
            began: cx.now,
            ticked: cx.now,
            spread: plan.spreads.then_some(Spread {
                first_port: ours.first_port,
                targets,
            }),
            spread_sent: 0,
            guesses: plan.guesses.then(|| Guesses::new(theirs, random)),
            guesses_sent: 0,
        };
        debug!(peer = %self.name, ?attempt, "port search begins");
        cx.counters.port_searches += 1;
        self.port_search.attempt = Some(attempt);
        // What it was to find out is known, and the timer is the search's now.
        self.port_search.observing = false;
        self.port_search.began = Some(cx.now);
        self.port_search.tx_id = Some(cx.tx_id());
        self.listen(cx);
        self.timers.set(Timer::PortSearch, cx.now);
    }

    /// Where to spread to: the port that the peer's NAT will allocate for the middle of the peer's own spread, if it allocates ports in
    /// order; and the public port of the peer's data port, unless the peer's mapping is known to depend on the destination.
    fn spread_targets(&self, theirs: &PortOffer) -> Vec<SocketAddr> {
        let ip = theirs.seen.ip();
        if theirs.step == 0 {
            return vec![theirs.seen];
        }
        let middle = (SPREAD_PORTS / 2) as i32;
        let mut targets = vec![SocketAddr::new(ip, predicted(theirs, middle))];
        if !theirs.dependent {
            let data_port = self.public.iter().find(|it| it.ip() == ip);
            targets.extend(data_port);
        }
        targets
    }

    /// The offer may have been lost, or the peer may not be there yet: it costs little to repeat.
    fn wait_for_offer(&mut self, cx: &mut Context<'_>) {
        if self.state == State::Punching {
            self.timers.set(Timer::PortSearch, cx.now + ATTEMPT_MIN_GAP);
        }
    }

    /// The peer calls, so that an offer finds it now, or is tried again: what answers by itself needs no search.
    pub(crate) fn offer_port_search_soon(&mut self, cx: &mut Context<'_>) {
        let at = cx.now + OFFER_DELAY;
        let sooner = self.timers.get(Timer::PortSearch).is_none_or(|it| at < it);
        if cx.host.aggressive && !self.is_searching_ports() && !self.port_search.observing && sooner
        {
            self.timers.set(Timer::PortSearch, at);
        }
    }

    fn listen(&mut self, cx: &Context<'_>) {
        self.port_search.listen_until = Some(cx.now + ATTEMPT_LISTEN);
    }

    /// Sends what is due of the search, within the node's cap.
    fn send_due_search_pings(&mut self, cx: &mut Context<'_>) {
        let Some(mut attempt) = self.port_search.attempt.take() else {
            return;
        };
        if self.state.is_proven() || self.has_answer_since(attempt.began) {
            return self.found(cx);
        }
        self.listen(cx);
        let elapsed = cx.now - attempt.ticked;
        let rate = Budget::Search.limit() as u128;
        let due = 1 + (elapsed.as_micros() * rate / 1_000_000) as usize;
        attempt.ticked = cx.now;
        let mut next = cx.now + ATTEMPT_GAP;
        for _ in 0..due.min(ATTEMPT_BATCH) {
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
        self.port_search.attempt = Some(attempt);
    }

    fn send_search_ping(&mut self, cx: &mut Context<'_>, port: u16, to: SocketAddr) {
        let Some(tx_id) = self.port_search.tx_id else {
            return;
        };
        let ping = Message::Ping {
            tx_id,
            node_key: cx.host.node_key,
            padding: 0,
        };
        let data = self.seal(cx, &ping);
        cx.counters.port_search_pings_sent += 1;
        cx.out.push_back(Output::Send {
            local: None,
            port,
            to,
            data,
        });
    }

    /// Whether an answer is to a ping of the search.
    pub(crate) fn is_of_port_search(&self, tx_id: TxId) -> bool {
        self.port_search.tx_id == Some(tx_id)
    }

    /// A guess, or a ping of the spread, was answered.
    pub(crate) fn handle_port_search_pong(
        &mut self,
        cx: &mut Context<'_>,
        path: Path,
    ) -> Result<(), DropReason> {
        cx.counters.pongs_received += 1;
        self.found(cx);
        if let Some(candidate) = self.candidates.get_mut(path.remote) {
            candidate.answered = Some(cx.now);
            candidate.unblock();
        }
        self.choose(cx);
        Ok(())
    }

    /// A packet of the peer came to an extra port: if the search under way sent from there, then one of the peer's guesses was
    /// right. What comes to a port of an earlier search is sent to a mapping of then, and answers may leave by another.
    pub(crate) fn heard_at_extra_port(&mut self, cx: &mut Context<'_>, path: Path) {
        let used = self.tunnel.as_ref().map(|it| it.path);
        if self.state.is_proven() || used == Some(path) {
            return;
        }
        let attempt = self.port_search.attempt.as_ref();
        if !attempt.is_some_and(|it| it.has_sent_from(path.port)) {
            return;
        }
        self.found(cx);
        debug!(peer = %self.name, %path, "port found");
        if let Some(candidate) = self.candidates.get_mut(path.remote) {
            candidate.local = Some(path.source());
            candidate.unblock();
            candidate.burst(cx.now, 0);
        }
        // Whatever was being tried does not lead anywhere: the peer had to guess.
        if self.controlling {
            self.nominate(cx, path, false, SwitchReason::PortSearch);
        }
    }

    /// The search met something: the rest is up to nomination and proof.
    fn found(&mut self, cx: &mut Context<'_>) {
        self.port_search.attempt = None;
        self.port_search.observing = false;
        self.timers.clear(Timer::PortSearch);
        if self.state == State::Punching && self.timers.get(Timer::Search).is_none() {
            self.timers.set(Timer::Search, cx.now + FOUND_PATIENCE);
        }
        self.listen(cx);
        self.back_off(cx.now);
    }

    fn attempt_failed(&mut self, cx: &mut Context<'_>, attempt: &Attempt) {
        let theirs = self.port_search.peer_offer.map(|(_, offer)| offer.seen);
        let sent = attempt.spread_sent + attempt.guesses_sent;
        debug!(peer = %self.name, sent, "port search without success");
        self.port_search.in_vain = theirs.map(|seen| (sent, seen));
        self.back_off(cx.now);
        if self.state == State::Unreachable {
            self.conclude(cx);
        } else {
            self.conclude_if_ended(cx);
        }
    }

    fn back_off(&mut self, now: Instant) {
        let state = &mut self.port_search;
        let gap = PORT_SEARCH_GAPS[state.failures.min(PORT_SEARCH_GAPS.len() - 1)];
        state.failures += 1;
        state.not_before = Some(now + gap);
    }

    /// How the latest port search ended without a path.
    pub(crate) fn port_search_outcome(&self) -> Option<PortSearchOutcome> {
        let state = &self.port_search;
        match state.in_vain {
            Some((sent, seen)) => Some(PortSearchOutcome::InVain {
                sent,
                to: seen.ip(),
            }),
            None if state.our_offer.is_some() && state.peer_offer.is_none() => {
                Some(PortSearchOutcome::PeerTakesNoPart)
            }
            None => None,
        }
    }
}

#[cfg(test)]
#[path = "port_search_tests.rs"]
mod tests;
