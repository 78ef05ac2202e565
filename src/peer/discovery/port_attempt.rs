//! An attempt of a port search: the ports that it sends from and to, in order.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand_chacha::rand_core::Rng as _;
use tracing::debug;

use crate::peer::Context;
use crate::peer::constants::{
    ATTEMPT_BATCH, ATTEMPT_MIN_GAP, FAN_OUT_PORTS, MAX_TARGET_PORTS, OFFER_LIFETIME,
    PREDICTED_WINDOW, PRESERVED_TARGETS,
};
use crate::peer::discovery::port_search::{Phase, PortSearch};
use crate::peer::packet_window::Budget;
use crate::proto::disco::PortOffer;

/// An attempt of the search, under way.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) began: Instant,
    pub(super) ticked: Instant,
    /// The first source port and the destination, when it fans out.
    pub(super) fan_out: Option<FanOut>,
    pub(super) fan_out_sent: usize,
    pub(super) targets: Option<TargetPorts>,
    pub(super) targets_sent: usize,
}

/// Pings from [`FAN_OUT_PORTS`] source ports to each target in turn.
#[derive(Debug)]
pub(super) struct FanOut {
    pub(super) first_port: u16,
    pub(super) targets: Vec<SocketAddr>,
}

impl FanOut {
    /// The ports and the destination of the ping with this number, until all are sent.
    fn ping(&self, number: usize) -> Option<(u16, SocketAddr)> {
        let target = self.targets.get(number / FAN_OUT_PORTS)?;
        Some((self.first_port + (number % FAN_OUT_PORTS) as u16, *target))
    }
}

/// The ports to guess, in order, none twice except by a wrong prediction.
#[derive(Debug)]
pub(super) struct TargetPorts {
    ip: IpAddr,
    offer: PortOffer,
    start: u32,
    stride: u32,
}

impl TargetPorts {
    /// Ports that NATs give out: RFC 4787 section 4.2.2 keeps the well-known ones apart.
    const LOWEST: u32 = 1024;
    const COUNT: u32 = 65_536 - TargetPorts::LOWEST;

    pub(super) fn new(offer: PortOffer, random: u64) -> Self {
        // A stride without a factor in common with the count (1024 * 63) visits every port once.
        let mut stride = ((random >> 32) as u32 % TargetPorts::COUNT) | 1;
        while stride.is_multiple_of(3) || stride.is_multiple_of(7) {
            stride += 2;
        }
        TargetPorts {
            ip: offer.seen.ip(),
            offer,
            start: random as u32 % TargetPorts::COUNT,
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
        if number < PRESERVED_TARGETS {
            let apart = FAN_OUT_PORTS / PRESERVED_TARGETS;
            return self.offer.first_port.wrapping_add((number * apart) as u16);
        }
        let number = (number - PRESERVED_TARGETS) as u64;
        let at = u64::from(self.start) + u64::from(self.stride) * number;
        (TargetPorts::LOWEST + (at % u64::from(TargetPorts::COUNT)) as u32) as u16
    }
}

/// The public port that a NAT which allocates ports in order will allocate after so many steps. Past the last port the NAT begins
/// again with the first: 1024, or 1 where the NAT uses the well-known ports too.
pub(super) fn predicted(offer: &PortOffer, steps: i32) -> u16 {
    let seen = i32::from(offer.seen.port());
    let lowest = if seen < TargetPorts::LOWEST as i32 {
        1
    } else {
        TargetPorts::LOWEST as i32
    };
    let port = seen + i32::from(offer.step) * steps;
    (lowest + (port - lowest).rem_euclid(65_536 - lowest)) as u16
}

/// The next step of an attempt.
pub(super) enum NextPacket {
    From(u16, SocketAddr),
    Done,
}

impl Attempt {
    /// Returns how many packets are due since the last tick, at the cap of searches.
    pub(super) fn tick(&mut self, now: Instant) -> usize {
        let elapsed = now - self.ticked;
        let rate = Budget::Search.limit() as u128;
        let due = 1 + (elapsed.as_micros() * rate / 1_000_000) as usize;
        self.ticked = now;
        due.min(ATTEMPT_BATCH)
    }

    pub(super) fn next(&self, data_port: u16) -> NextPacket {
        if let Some((port, to)) = self.next_of_fan_out() {
            return NextPacket::From(port, to);
        }
        match &self.targets {
            Some(targets) if self.targets_sent < MAX_TARGET_PORTS => {
                let port = targets.port(self.targets_sent);
                NextPacket::From(data_port, SocketAddr::new(targets.ip, port))
            }
            _ => NextPacket::Done,
        }
    }

    fn next_of_fan_out(&self) -> Option<(u16, SocketAddr)> {
        self.fan_out.as_ref()?.ping(self.fan_out_sent)
    }

    pub(super) fn has_sent_from(&self, port: u16) -> bool {
        let ports = self.fan_out_sent.min(FAN_OUT_PORTS) as u16;
        let sent = |it: &FanOut| (it.first_port..it.first_port + ports).contains(&port);
        self.fan_out.as_ref().is_some_and(sent)
    }

    pub(super) fn sent(&mut self) {
        if self.next_of_fan_out().is_some() {
            self.fan_out_sent += 1;
        } else {
            self.targets_sent += 1;
        }
    }
}

/// The part of this side in an attempt, which follows from both offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AttemptPlan {
    pub(super) fans_out: bool,
    pub(super) guesses: bool,
}

impl AttemptPlan {
    pub(super) fn of(ours: &PortOffer, theirs: &PortOffer) -> Self {
        let in_order = ours.step != 0 && theirs.step != 0;
        match (ours.dependent, theirs.dependent) {
            // Each side can foretell the other's ports. Without order chance would have to strike twice, which is not tried.
            (true, true) => AttemptPlan {
                fans_out: in_order,
                guesses: false,
            },
            (true, false) => AttemptPlan {
                fans_out: true,
                guesses: theirs.maybe_dependent && in_order,
            },
            (false, true) => AttemptPlan {
                fans_out: ours.maybe_dependent && in_order,
                guesses: true,
            },
            // Either side may be the one with the difficult NAT, so both do both.
            (false, false) => {
                let is_ambiguous = ours.maybe_dependent || theirs.maybe_dependent;
                AttemptPlan {
                    fans_out: is_ambiguous,
                    guesses: is_ambiguous,
                }
            }
        }
    }
}

impl PortSearch {
    /// Begins an attempt once both sides have told of their NATs. `public` holds the public addresses and ports of the peer's data port.
    pub(super) fn begin(&mut self, cx: &mut Context<'_>, public: &[SocketAddr]) -> Beginning {
        let recent = |it: &(Instant, PortOffer)| cx.now < it.0 + OFFER_LIFETIME;
        let (Some((_, ours)), Some((_, theirs))) = (
            self.our_offer.filter(recent),
            self.peer_offer.filter(recent),
        ) else {
            return Beginning::OfferMissing;
        };
        let just_began = self.began.is_some_and(|at| cx.now < at + ATTEMPT_MIN_GAP);
        let plan = AttemptPlan::of(&ours, &theirs);
        let is_hopeless = plan == AttemptPlan::default();
        if is_hopeless || just_began || !self.has_budget(cx.now) {
            self.back_off(cx.now);
            return Beginning::Refused {
                tells_more: is_hopeless && ours.dependent,
            };
        }
        let random = cx.rng.next_u64();
        let attempt = Attempt {
            began: cx.now,
            ticked: cx.now,
            fan_out: plan.fans_out.then_some(FanOut {
                first_port: ours.first_port,
                targets: fan_out_targets(&theirs, public),
            }),
            fan_out_sent: 0,
            targets: plan.guesses.then(|| TargetPorts::new(theirs, random)),
            targets_sent: 0,
        };
        debug!(?attempt, "port search begins");
        self.phase = Phase::Attempting(attempt);
        self.began = Some(cx.now);
        self.use_budget(cx.now);
        self.tx_id = Some(cx.tx_id());
        self.listen(cx.now);
        Beginning::Began
    }
}

/// The outcome of [`PortSearch::begin`].
pub(super) enum Beginning {
    /// Pings are due now.
    Began,
    /// A side has not told of its NAT lately: its offer may have been lost, or the peer may not be there yet.
    OfferMissing,
    /// No attempt for now.
    Refused {
        /// Whether the two NATs cannot be joined, and this host's is the difficult one: the verdict on the pair knows more now.
        tells_more: bool,
    },
}

/// Where to fan out to: the port that the peer's NAT will allocate for the middle of the peer's own fan-out, if it allocates ports in
/// order; and the public port of the peer's data port, unless the peer's mapping is known to depend on the destination.
fn fan_out_targets(theirs: &PortOffer, public: &[SocketAddr]) -> Vec<SocketAddr> {
    let ip = theirs.seen.ip();
    if theirs.step == 0 {
        return vec![theirs.seen];
    }
    let middle = (FAN_OUT_PORTS / 2) as i32;
    let mut targets = vec![SocketAddr::new(ip, predicted(theirs, middle))];
    if !theirs.dependent {
        let data_port = public.iter().find(|it| it.ip() == ip);
        targets.extend(data_port);
    }
    targets
}

#[cfg(test)]
#[path = "port_attempt_tests.rs"]
mod tests;
