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

use super::limiter::Budget;
use super::timers::Timer;
use super::tuning::{
    DOUBT_DELAY, FOUND_PATIENCE, GUESSES, HUNT_BATCH, HUNT_GAP, HUNT_LISTEN, HUNT_MIN_GAP,
    HUNT_PATIENCE, OBSERVE_TIMEOUT, OFFER_DELAY, OFFER_LIFETIME, PORT_SEARCH_GAPS,
    PREDICTED_WINDOW, PRESERVED_GUESSES, SPREAD_PORTS,
};
use super::{Context, DropReason, Output, Path, Peer, State};
use crate::proto::TxId;
use crate::proto::disco::{Message, PortOffer};

/// The ports from which a search sends and at which tunnels that it made receive: below the range that Linux gives to
/// sockets without a fixed port (32768 to 60999), above most services.
pub const EXTRA_PORTS: Range<u16> = 20_480..32_768;

/// What STUN tells of the NAT in front of this host, for IPv4.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Nat {
    /// Whether each destination gets a public port of its own; `None` while too few servers answered.
    pub(crate) dependent: Option<bool>,
    /// Where a server saw the data port.
    pub(crate) seen: Option<SocketAddr>,
    /// What the NAT gives to new flows.
    pub(crate) fresh: Option<Fresh>,
}

/// Two new flows of this host, as a server saw them just now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fresh {
    pub(crate) at: Instant,
    /// The second of them.
    pub(crate) seen: SocketAddr,
    /// From the first port to the second, if that looks like the next in order; else 0.
    pub(crate) step: i16,
}

/// A peer's searches for ports.
#[derive(Debug, Default)]
pub(crate) struct PortSearch {
    theirs: Option<(Instant, PortOffer)>,
    told: Option<(Instant, PortOffer)>,
    /// The next offer waits for a look at the NAT.
    observing: bool,
    hunt: Option<Hunt>,
    /// When the latest hunt began.
    began: Option<Instant>,
    /// What all its pings carried.
    tx_id: Option<TxId>,
    listen_until: Option<Instant>,
    /// Hunts in a row without success.
    failures: usize,
    not_before: Option<Instant>,
    /// What the last hunt sent in vain.
    in_vain: Option<(usize, SocketAddr)>,
}

/// One search under way.
#[derive(Debug)]
struct Hunt {
    began: Instant,
    ticked: Instant,
    /// The first source port and the destination, when spreading.
    spread: Option<(u16, SocketAddr)>,
    spread_sent: usize,
    guesses: Option<Guesses>,
    guesses_sent: usize,
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

/// The public port that a NAT which gives them out in order will give after so many steps.
fn predicted(offer: &PortOffer, steps: i32) -> u16 {
    let port = i32::from(offer.seen.port()) + i32::from(offer.step) * steps;
    port as u16
}

/// What a search does next.
enum Shot {
    From(u16, SocketAddr),
    Done,
}

impl Hunt {
    fn next(&self, data_port: u16) -> Shot {
        if let Some((first, to)) = self.spread.filter(|_| self.spread_sent < SPREAD_PORTS) {
            return Shot::From(first + self.spread_sent as u16, to);
        }
        match &self.guesses {
            Some(guesses) if self.guesses_sent < GUESSES => {
                let port = guesses.port(self.guesses_sent);
                Shot::From(data_port, SocketAddr::new(guesses.ip, port))
            }
            _ => Shot::Done,
        }
    }

    fn has_sent_from(&self, port: u16) -> bool {
        let sent = |(first, _)| (first..first + self.spread_sent as u16).contains(&port);
        self.spread.is_some_and(sent)
    }

    fn sent(&mut self) {
        if self.spread.is_some() && self.spread_sent < SPREAD_PORTS {
            self.spread_sent += 1;
        } else {
            self.guesses_sent += 1;
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
        if self.port_search.hunt.is_none() && cx.host.aggressive {
            let at = cx.now + OFFER_DELAY;
            self.timers.set(Timer::PortSearch, at);
        }
    }

    /// Whether a search is under way, so that no verdict is due yet.
    pub(crate) fn is_hunting(&self) -> bool {
        self.port_search.hunt.is_some()
    }

    /// Whether packets to extra ports are for this peer.
    pub(crate) fn needs_extra_ports(&self, now: Instant, data_port: u16) -> bool {
        let tunnel = self.tunnel.as_ref();
        tunnel.is_some_and(|it| it.path.port != data_port)
            || self.port_search.listen_until.is_some_and(|it| now < it)
    }

    /// [`Timer::PortSearch`].
    pub(crate) fn port_search_due(&mut self, cx: &mut Context<'_>) {
        if self.port_search.hunt.is_some() {
            self.hunt(cx);
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
            || matches!(self.state, State::Direct | State::Unknown)
            || state.hunt.is_some()
            || state.observing
            || state.not_before.is_some_and(too_early)
            || self.has_answer_since(self.search.started)
        {
            return;
        }
        match cx.host.nat.dependent {
            Some(true) => self.observe_and_tell(cx),
            // Perhaps all the same; but what most pairs need gets more time.
            Some(false) if self.may_doubt(cx) => self.tell_nat(cx),
            Some(false) if self.state == State::Punching => {
                let at = self.search.started + DOUBT_DELAY;
                self.timers.set(Timer::PortSearch, at);
            }
            Some(false) => {}
            // STUN has not said yet.
            None if self.state == State::Punching => {
                self.timers.set(Timer::PortSearch, cx.now + OFFER_DELAY);
            }
            None => {}
        }
    }

    /// Whether the ordinary means had time enough.
    fn may_doubt(&self, cx: &Context<'_>) -> bool {
        self.state != State::Punching || cx.now >= self.search.started + DOUBT_DELAY
    }

    fn has_answer_since(&self, start: Instant) -> bool {
        self.candidates.iter().any(|it| it.answered_since(start))
    }

    /// Tells the peer of the NAT as it is now; one that gives out ports in order is looked at first.
    fn observe_and_tell(&mut self, cx: &mut Context<'_>) {
        let fresh = cx.host.nat.fresh;
        if cx.host.nat.dependent == Some(true)
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
        let fresh = nat
            .fresh
            .filter(|it| nat.dependent == Some(true) && cx.now < it.at + OFFER_LIFETIME);
        let Some(seen) = fresh.map(|it| it.seen).or(nat.seen) else {
            return;
        };
        let ports = u32::from(EXTRA_PORTS.end - EXTRA_PORTS.start) - SPREAD_PORTS as u32;
        let offer = PortOffer {
            dependent: nat.dependent == Some(true),
            doubtful: nat.dependent == Some(false) && self.may_doubt(cx),
            step: fresh.map_or(0, |it| it.step),
            first_port: EXTRA_PORTS.start + (cx.rng.next_u32() % ports) as u16,
            seen,
        };
        debug!(peer = %self.name, ?offer, "port search offered");
        self.port_search.told = Some((cx.now, offer));
        let message = Message::PortSearch(offer);
        let (to, sealed) = (self.node_key, self.seal(cx, &message));
        cx.out.push_back(Output::Signal { to, sealed });
        self.begin_hunt(cx);
    }

    /// The peer tells of its NAT, and asks for a search or agrees to one.
    pub(crate) fn handle_port_search(
        &mut self,
        cx: &mut Context<'_>,
        offer: PortOffer,
    ) -> Result<(), DropReason> {
        if !cx.host.aggressive || self.state == State::Direct {
            return Ok(());
        }
        let ip = offer.seen.ip();
        // Only where the peer says to be anyway: nobody else gets our guesses.
        if !ip.is_ipv4() || !self.candidates.iter().any(|it| it.remote.ip() == ip) {
            return Err(DropReason::WrongSource);
        }
        if self.is_hunting() {
            return Ok(());
        }
        self.port_search.theirs = Some((cx.now, offer));
        let told = self.port_search.told;
        if told.is_some_and(|(at, _)| cx.now < at + OFFER_LIFETIME) {
            self.begin_hunt(cx);
        } else if !self.port_search.observing {
            self.observe_and_tell(cx);
        }
        Ok(())
    }

    /// Begins once both sides have told of their NATs.
    fn begin_hunt(&mut self, cx: &mut Context<'_>) {
        let recent = |it: &(Instant, PortOffer)| cx.now < it.0 + OFFER_LIFETIME;
        let state = &mut self.port_search;
        let (Some((_, ours)), Some((_, theirs))) =
            (state.told.filter(recent), state.theirs.filter(recent))
        else {
            return self.wait_for_offer(cx);
        };
        let just_began = state.began.is_some_and(|at| cx.now < at + HUNT_MIN_GAP);
        let both = ours.dependent && theirs.dependent;
        let neither = !(ours.dependent || theirs.dependent);
        let doubtful = neither && (ours.doubtful || theirs.doubtful);
        // Two such NATs without order cannot be foretold, and chance would have to strike twice.
        let hopeless = both && (ours.step == 0 || theirs.step == 0);
        if (neither && !doubtful) || hopeless || just_began {
            self.back_off(cx.now);
            if hopeless && self.state == State::Unreachable {
                // The verdict knows more now.
                self.conclude(cx);
            }
            return;
        }
        let middle = (SPREAD_PORTS / 2) as i32;
        let target = match theirs.step {
            0 => theirs.seen.port(),
            _ => predicted(&theirs, middle),
        };
        let target = SocketAddr::new(theirs.seen.ip(), target);
        let random = cx.rng.next_u64();
        let hunt = Hunt {
            began: cx.now,
            ticked: cx.now,
            spread: (ours.dependent || doubtful).then_some((ours.first_port, target)),
            spread_sent: 0,
            guesses: ((theirs.dependent && !both) || doubtful)
                .then(|| Guesses::new(theirs, random)),
            guesses_sent: 0,
        };
        debug!(peer = %self.name, ?hunt, "port search begins");
        cx.counters.port_searches += 1;
        self.port_search.hunt = Some(hunt);
        // What it was to find out is known, and the timer is the search's now.
        self.port_search.observing = false;
        self.port_search.began = Some(cx.now);
        self.port_search.tx_id = Some(cx.tx_id());
        self.listen(cx);
        self.timers.set(Timer::PortSearch, cx.now);
    }

    /// The offer may have been lost, or the peer may not be there yet: it costs little to repeat.
    fn wait_for_offer(&mut self, cx: &mut Context<'_>) {
        if self.state == State::Punching {
            self.timers.set(Timer::PortSearch, cx.now + HUNT_MIN_GAP);
        }
    }

    /// The peer calls, so that an offer finds it now, or is tried again: what answers by itself needs no search.
    pub(crate) fn offer_port_search_soon(&mut self, cx: &mut Context<'_>) {
        let at = cx.now + OFFER_DELAY;
        let sooner = self.timers.get(Timer::PortSearch).is_none_or(|it| at < it);
        if cx.host.aggressive && !self.is_hunting() && !self.port_search.observing && sooner {
            self.timers.set(Timer::PortSearch, at);
        }
    }

    fn listen(&mut self, cx: &Context<'_>) {
        self.port_search.listen_until = Some(cx.now + HUNT_LISTEN);
    }

    /// Sends what is due of the search, within the node's cap.
    fn hunt(&mut self, cx: &mut Context<'_>) {
        let Some(mut hunt) = self.port_search.hunt.take() else {
            return;
        };
        if self.state == State::Direct || self.has_answer_since(hunt.began) {
            return self.found(cx);
        }
        self.listen(cx);
        let elapsed = cx.now - hunt.ticked;
        let rate = Budget::Search.limit() as u128;
        let due = 1 + (elapsed.as_micros() * rate / 1_000_000) as usize;
        hunt.ticked = cx.now;
        let mut next = cx.now + HUNT_GAP;
        for _ in 0..due.min(HUNT_BATCH) {
            match hunt.next(cx.host.port) {
                Shot::From(port, to) => {
                    if !cx.search_limiter.take(cx.now, Budget::Search) {
                        next = cx.search_limiter.room_at(cx.now, Budget::Search) + HUNT_GAP;
                        break;
                    }
                    self.shoot(cx, port, to);
                    hunt.sent();
                }
                Shot::Done => {
                    next = hunt.began + HUNT_PATIENCE;
                    if cx.now >= next {
                        return self.hunted_in_vain(cx, &hunt);
                    }
                    break;
                }
            }
        }
        self.timers.set(
            Timer::PortSearch,
            next.max(cx.now + Duration::from_millis(1)),
        );
        self.port_search.hunt = Some(hunt);
    }

    fn shoot(&mut self, cx: &mut Context<'_>, port: u16, to: SocketAddr) {
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
    pub(crate) fn is_of_hunt(&self, tx_id: TxId) -> bool {
        self.port_search.tx_id == Some(tx_id)
    }

    /// A guess, or a ping of the spread, was answered.
    pub(crate) fn handle_pong_of_hunt(
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
        if self.state == State::Direct || used == Some(path) {
            return;
        }
        let hunt = self.port_search.hunt.as_ref();
        if !hunt.is_some_and(|it| it.has_sent_from(path.port)) {
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
            self.nominate(cx, path, false);
        }
    }

    /// The search met something: the rest is up to nomination and proof.
    fn found(&mut self, cx: &mut Context<'_>) {
        self.port_search.hunt = None;
        self.port_search.observing = false;
        self.timers.clear(Timer::PortSearch);
        if self.state == State::Punching && self.timers.get(Timer::Search).is_none() {
            self.timers.set(Timer::Search, cx.now + FOUND_PATIENCE);
        }
        self.listen(cx);
        self.back_off(cx.now);
    }

    fn hunted_in_vain(&mut self, cx: &mut Context<'_>, hunt: &Hunt) {
        let theirs = self.port_search.theirs.map(|(_, offer)| offer.seen);
        let sent = hunt.spread_sent + hunt.guesses_sent;
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

    /// Packets that the latest search sent without finding an open port.
    pub(crate) fn guesses_in_vain(&self) -> Option<usize> {
        self.port_search.in_vain.map(|(sent, _)| sent)
    }

    /// What ports have to do with it that no path was found; for the verdict.
    pub(crate) fn port_evidence(&self, cx: &Context<'_>) -> Option<String> {
        let ours = cx.host.nat.dependent == Some(true);
        let theirs = self.port_search.theirs.is_some_and(|(_, it)| it.dependent);
        let whose = match (ours, theirs) {
            (true, true) => {
                "both are behind symmetric NATs, which give every destination another port"
            }
            (true, false) => {
                "this host is behind a symmetric NAT, which gives every destination another port"
            }
            (false, true) => {
                "the peer is behind a symmetric NAT, which gives every destination another port"
            }
            // Not known to be.
            (false, false) => {
                let (sent, seen) = self.port_search.in_vain?;
                let ip = seen.ip();
                return Some(format!(
                    "{sent} packets to ports of {ip} met none that is open"
                ));
            }
        };
        let search = match self.port_search.in_vain {
            _ if !cx.host.aggressive => "--aggressive-punch is off".to_owned(),
            _ if ours && theirs && self.port_search.in_vain.is_none() => {
                return Some(format!("{whose} that cannot be foretold"));
            }
            Some((sent, seen)) => format!(
                "{sent} packets to ports of {} met none that is open",
                seen.ip()
            ),
            None if self.port_search.theirs.is_none() => {
                "the peer takes no part in a search for ports".to_owned()
            }
            None => return Some(whose.to_owned()),
        };
        Some(format!("{whose}, and {search}"))
    }
}

#[cfg(test)]
#[path = "port_search_tests.rs"]
mod tests;
