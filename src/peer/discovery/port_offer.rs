//! The offers of a port search: both sides tell each other of their NATs, through the coordinator.

use std::time::Instant;

use rand_chacha::rand_core::Rng as _;
use tracing::debug;

use crate::peer::constants::{
    ATTEMPT_MIN_GAP, DOUBT_DELAY, OBSERVE_TIMEOUT, OFFER_DELAY, OFFER_LIFETIME, SPREAD_PORTS,
};
use crate::peer::discovery::port_search::{EXTRA_PORTS, Phase};
use crate::peer::timers::Timer;
use crate::peer::{Context, DropReason, Output, Peer, State};
use crate::proto::disco::{Message, PortOffer};

impl Peer {
    /// Offers a search, if one is of use: the side whose NAT is the difficult one begins.
    pub(super) fn offer_port_search(&mut self, cx: &mut Context<'_>) {
        let too_early = |at: Instant| cx.now < at;
        let state = &self.discovery.port_search;
        if !cx.host.aggressive
            || !self.online
            || self.state.is_proven()
            || self.state == State::Unknown
            || state.is_attempting()
            || state.is_sampling()
            || state.not_before.is_some_and(too_early)
            || self
                .discovery
                .is_answered_since(self.discovery.search.started)
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
            let at = self.discovery.search.started + DOUBT_DELAY;
            self.timers.set(Timer::PortSearch, at);
        }
    }

    /// Whether the ordinary path search had time enough, so that the mapping may be another than STUN told.
    fn is_search_overdue(&self, cx: &Context<'_>) -> bool {
        self.state != State::Punching || cx.now >= self.discovery.search.started + DOUBT_DELAY
    }

    /// Tells the peer of the NAT as it is now; one that gives out ports in order is looked at first.
    fn observe_and_tell(&mut self, cx: &mut Context<'_>) {
        let fresh = cx.host.nat.fresh;
        if cx.host.nat.dependent != Some(false)
            && fresh.is_none_or(|it| cx.now >= it.at + OBSERVE_TIMEOUT)
        {
            self.discovery.port_search.phase = Phase::Sampling;
            self.discovery.port_search.listen(cx.now);
            *cx.observe_nat = true;
            self.timers.set(Timer::PortSearch, cx.now + OBSERVE_TIMEOUT);
        } else {
            self.tell_nat(cx);
        }
    }

    /// STUN said what this host's NAT gives to new flows.
    pub(crate) fn handle_observed(&mut self, cx: &mut Context<'_>) {
        if self.discovery.port_search.end_sampling() {
            self.tell_nat(cx);
        }
    }

    pub(super) fn tell_nat(&mut self, cx: &mut Context<'_>) {
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
                Some(false) => !nat.is_own && self.is_search_overdue(cx),
                None => true,
            },
            step: fresh.map_or(0, |it| it.step),
            first_port: EXTRA_PORTS.start + (cx.rng.next_u32() % ports) as u16,
            seen,
        };
        debug!(?offer, "port search offered");
        self.discovery.port_search.our_offer = Some((cx.now, offer));
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
        if !ip.is_ipv4()
            || !self
                .discovery
                .candidates
                .iter()
                .any(|it| it.remote.ip() == ip)
        {
            return Err(DropReason::WrongSource);
        }
        if self.discovery.port_search.is_attempting() {
            return Ok(());
        }
        self.discovery.port_search.peer_offer = Some((cx.now, offer));
        let our_offer = self.discovery.port_search.our_offer;
        if our_offer.is_some_and(|(at, _)| cx.now < at + OFFER_LIFETIME) {
            self.begin_attempt(cx);
        } else if !self.discovery.port_search.is_sampling() {
            self.observe_and_tell(cx);
        }
        Ok(())
    }

    /// The offer may have been lost, or the peer may not be there yet: it costs little to repeat.
    pub(super) fn wait_for_offer(&mut self, cx: &mut Context<'_>) {
        if self.state == State::Punching {
            self.timers.set(Timer::PortSearch, cx.now + ATTEMPT_MIN_GAP);
        }
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
}
