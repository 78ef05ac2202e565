//! The offers of a port search: both sides tell each other of their NATs, through the coordinator. [`PortSearch`] decides, and
//! returns the [`OfferStep`] that the peer carries out.

use std::time::Instant;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng as _;
use tracing::debug;

use crate::peer::constants::{
    AMBIGUOUS_MAPPING_DELAY, FAN_OUT_PORTS, OBSERVE_TIMEOUT, OFFER_DELAY, OFFER_LIFETIME,
};
use crate::peer::discovery::port_search::{EXTRA_PORTS, NatState, Phase, PortSearch};
use crate::proto::disco::PortOffer;

/// The next step towards an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfferStep {
    /// A search is of no use, or not now.
    Nothing,
    /// Decide again then.
    Wait(Instant),
    /// Have the NAT sampled, and tell the peer of it then at the latest.
    Sample(Instant),
    /// Tell the peer of the NAT as it is known now.
    Tell,
    /// Both sides have told of their NATs.
    Begin,
}

/// The knowledge that an offer rests on.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfferInput {
    pub(super) now: Instant,
    /// The NAT in front of this host.
    pub(super) nat: NatState,
    /// When the ordinary path search began.
    pub(super) search_started: Instant,
    /// Whether the ordinary path search is under way.
    pub(super) is_punching: bool,
}

impl OfferInput {
    /// Whether the ordinary path search had time enough, so that the mapping may be another than STUN told.
    fn is_search_overdue(&self) -> bool {
        !self.is_punching || self.now >= self.search_started + AMBIGUOUS_MAPPING_DELAY
    }
}

impl PortSearch {
    /// Whether no search is under way, and none has failed a short time ago.
    pub(super) fn may_offer(&self, now: Instant) -> bool {
        let too_early = |at: Instant| now < at;
        !self.is_attempting() && !self.is_sampling() && !self.not_before.is_some_and(too_early)
    }

    /// Offers a search, if one is of use: the side whose NAT is the difficult one begins.
    pub(super) fn offer(&mut self, input: &OfferInput) -> OfferStep {
        let nat = &input.nat;
        if nat.dependent == Some(true) {
            self.sample_or_tell(input)
        } else if nat.dependent.is_none() && (nat.seen.is_none() || nat.is_asked) {
            // No STUN server has answered yet, or too few: those that are left decide whether a search is of use at all.
            match input.is_punching {
                true => OfferStep::Wait(input.now + OFFER_DELAY),
                false => OfferStep::Nothing,
            }
        } else if input.is_search_overdue() {
            // STUN cannot see every mapping that depends on the destination, and one server alone sees none.
            self.sample_or_tell(input)
        } else {
            OfferStep::Wait(input.search_started + AMBIGUOUS_MAPPING_DELAY)
        }
    }

    /// Has a NAT sampled that gives out ports in order, unless that has just been done.
    fn sample_or_tell(&mut self, input: &OfferInput) -> OfferStep {
        let (now, nat) = (input.now, &input.nat);
        let is_old = nat.fresh.is_none_or(|it| now >= it.at + OBSERVE_TIMEOUT);
        if nat.dependent == Some(false) || !is_old {
            return OfferStep::Tell;
        }
        self.phase = Phase::Sampling;
        self.listen(now);
        OfferStep::Sample(now + OBSERVE_TIMEOUT)
    }

    /// Returns the offer of this host, if a STUN server has answered.
    pub(super) fn draw_up_offer(
        &mut self,
        input: &OfferInput,
        rng: &mut ChaCha20Rng,
    ) -> Option<PortOffer> {
        let (now, nat) = (input.now, &input.nat);
        // Of a NAT whose mapping is not known the data port's own mapping says more than that of a new flow, unless the NAT
        // allocates ports in order.
        let fresh = nat
            .fresh
            .filter(|it| now < it.at + OFFER_LIFETIME)
            .filter(|it| match nat.dependent {
                Some(dependent) => dependent,
                None => it.step != 0,
            });
        let seen = fresh.map(|it| it.seen).or(nat.seen)?;
        let ports = u32::from(EXTRA_PORTS.end - EXTRA_PORTS.start) - FAN_OUT_PORTS as u32;
        let offer = PortOffer {
            dependent: nat.dependent == Some(true),
            maybe_dependent: match nat.dependent {
                Some(true) => false,
                Some(false) => !nat.is_own && input.is_search_overdue(),
                None => true,
            },
            step: fresh.map_or(0, |it| it.step),
            first_port: EXTRA_PORTS.start + (rng.next_u32() % ports) as u16,
            seen,
        };
        debug!(?offer, "port search offered");
        self.our_offer = Some((now, offer));
        Some(offer)
    }

    /// The peer tells of its NAT, and asks for a search or agrees to one.
    pub(super) fn take_offer(&mut self, input: &OfferInput, offer: PortOffer) -> OfferStep {
        if self.is_attempting() {
            return OfferStep::Nothing;
        }
        self.peer_offer = Some((input.now, offer));
        let is_recent = |(at, _): (Instant, _)| input.now < at + OFFER_LIFETIME;
        if self.our_offer.is_some_and(is_recent) {
            OfferStep::Begin
        } else if self.is_sampling() {
            OfferStep::Nothing
        } else {
            self.sample_or_tell(input)
        }
    }
}
