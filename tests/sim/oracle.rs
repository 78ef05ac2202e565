//! Judges which pairs can be connected, from RFC 4787 alone and not from gretun's methods.

use crate::nat::{Filtering, Mapping, NatKind, Ports};

/// Returns whether two hosts, each behind its NAT (or none), can be connected directly.
pub fn direct_possible(one: Option<NatKind>, other: Option<NatKind>) -> bool {
    let (one, other) = (Behaviour::of(one), Behaviour::of(other));
    joined_by_first_packet(one, other)
        || joined_by_first_packet(other, one)
        || joined_by_search(one, other)
}

#[derive(Clone, Copy)]
struct Behaviour {
    mapping: Mapping,
    filtering: Filtering,
    sequential: bool,
}

impl Behaviour {
    /// No NAT is one that changes nothing and admits all. A NAT that keeps the port has, for one host, a mapping that
    /// depends on nothing.
    fn of(kind: Option<NatKind>) -> Self {
        match kind {
            None => Behaviour {
                mapping: Mapping::Independent,
                filtering: Filtering::Independent,
                sequential: false,
            },
            Some(kind) => Behaviour {
                mapping: if kind.ports == Ports::Preserve {
                    Mapping::Independent
                } else {
                    kind.mapping
                },
                filtering: kind.filtering,
                sequential: kind.ports == Ports::Sequential,
            },
        }
    }

    /// Several NATs in a row do no worse than one that maps and filters as the strictest of them; whose ports come in order only
    /// one alone can tell.
    fn of_strictest(kinds: &[NatKind]) -> Self {
        let all = kinds.iter().map(|kind| Behaviour::of(Some(*kind)));
        let strictest = all.reduce(|one, other| Behaviour {
            mapping: one.mapping.max(other.mapping),
            filtering: one.filtering.max(other.filtering),
            sequential: false,
        });
        strictest.unwrap_or(Behaviour::of(None))
    }

    fn is_predictable(self) -> bool {
        self.mapping == Mapping::Independent
    }
}

/// Returns whether two hosts, each behind its NATs, are certainly connected: by the first packets, or by a port search.
pub fn joined_through_all(one: &[NatKind], other: &[NatKind]) -> bool {
    let (first, second) = (Behaviour::of_strictest(one), Behaviour::of_strictest(other));
    joined_without_search(one, other) || joined_by_search(first, second)
}

/// Both know the address that STUN saw of the other, and both send there. Is there a packet of `sender` that gets through
/// first, and an answer that gets back?
fn joined_by_first_packet(sender: Behaviour, receiver: Behaviour) -> bool {
    // The receiver's own packets to the sender open the very mapping that STUN saw only if that depends on nothing.
    let first = match receiver.filtering {
        Filtering::Independent => true,
        Filtering::Address => receiver.is_predictable(),
        // It must have sent to the port that the sender's packet really comes from.
        Filtering::AddressPort => receiver.is_predictable() && sender.is_predictable(),
    };
    // The answer goes to where the packet came from; the sender's NAT must admit its source.
    let answer = match sender.filtering {
        Filtering::Independent | Filtering::Address => true,
        Filtering::AddressPort => receiver.is_predictable(),
    };
    first && answer
}

/// One side sends from many ports, the other guesses one. STUN servers at one address see only a mapping by address and port;
/// which side is which is known only where it is that.
fn joined_by_search(one: Behaviour, other: Behaviour) -> bool {
    let seen = |it: Behaviour| it.mapping == Mapping::AddressPort;
    match (seen(one), seen(other)) {
        (true, true) => one.sequential && other.sequential,
        (true, false) => joined_by_guess(one, other),
        (false, true) => joined_by_guess(other, one),
        (false, false) => joined_by_guess(one, other) || joined_by_guess(other, one),
    }
}

fn joined_by_guess(spreading: Behaviour, guessing: Behaviour) -> bool {
    // The open ports were opened towards the guess's source, if that is the one that STUN saw.
    let guess = guessing.is_predictable() || spreading.filtering != Filtering::AddressPort;
    // The answer comes from the port that was guessed, unless the guess came from elsewhere than was sent to.
    let answer = guessing.is_predictable()
        || spreading.mapping != Mapping::AddressPort
        || guessing.filtering != Filtering::AddressPort;
    !spreading.is_predictable() && guess && answer
}

/// The mapping of a host's NAT as its STUN servers show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Two ports of one address: whether the mapping depends on the destination's port.
    FromTwoPorts,
    /// One address and port: nothing.
    FromOneServer,
}

/// As [`direct_possible`], for hosts that do not know their own mapping and so search in both roles.
pub fn joined_by_any_search(one: Option<NatKind>, other: Option<NatKind>) -> bool {
    let (one, other) = (Behaviour::of(one), Behaviour::of(other));
    joined_by_first_packet(one, other)
        || joined_by_first_packet(other, one)
        || joined_by_guess(one, other)
        || joined_by_guess(other, one)
        || (one.sequential && other.sequential)
}

/// Ports are searched for, the guesses get in, and the answers leave from other ports than were guessed: one of those may be
/// guessed too, or not.
pub fn depends_on_luck(seen: Seen, one: Option<NatKind>, other: Option<NatKind>) -> bool {
    let sides = [Behaviour::of(one), Behaviour::of(other)];
    let both = sides.iter().all(|it| it.mapping == Mapping::AddressPort);
    let admits = |it: &Behaviour| !it.is_predictable() && it.filtering != Filtering::AddressPort;
    let (possible, is_searched) = match seen {
        Seen::FromTwoPorts => (direct_possible(one, other), !both),
        Seen::FromOneServer => (joined_by_any_search(one, other), true),
    };
    !possible && is_searched && sides.iter().any(admits)
}

/// Two NATs that map by address have one port each for all ports of the other, and STUN servers at one address take both for easy: both
/// sides guess, and each may find the other's port. That happens once in some thousand searches; data crosses then.
pub fn may_meet_by_chance(one: Option<NatKind>, other: Option<NatKind>) -> bool {
    [one, other]
        .iter()
        .all(|kind| Behaviour::of(*kind).mapping == Mapping::Address)
}

/// Returns whether two hosts, each behind its NATs (the innermost first), are connected by the first packets, without a port search.
pub fn joined_without_search(one: &[NatKind], other: &[NatKind]) -> bool {
    let (one, other) = (Chain::of(one), Chain::of(other));
    joined_through(&one, &other) || joined_through(&other, &one)
}

/// All NATs in front of a host; without any, nothing is changed and all is admitted.
struct Chain {
    /// For each NAT its filtering, and whether what is sent to anyone leaves it by one mapping: it and all NATs before it
    /// map independently. A NAT that keeps the port does so, for one host.
    nats: Vec<(Filtering, bool)>,
}

impl Chain {
    fn of(kinds: &[NatKind]) -> Self {
        let mut predictable = true;
        let nats = kinds.iter().map(|kind| {
            predictable &= Behaviour::of(Some(*kind)).is_predictable();
            (kind.filtering, predictable)
        });
        Chain {
            nats: nats.collect(),
        }
    }

    fn is_predictable(&self) -> bool {
        self.nats.iter().all(|(_, predictable)| *predictable)
    }
}

/// As [`joined_by_first_packet`], where each NAT on the way must agree.
fn joined_through(sender: &Chain, receiver: &Chain) -> bool {
    let first = receiver
        .nats
        .iter()
        .all(|(filtering, predictable)| match filtering {
            Filtering::Independent => true,
            Filtering::Address => *predictable,
            Filtering::AddressPort => *predictable && sender.is_predictable(),
        });
    let answer = sender.nats.iter().all(|(filtering, _)| match filtering {
        Filtering::Independent | Filtering::Address => true,
        Filtering::AddressPort => receiver.is_predictable(),
    });
    first && answer
}
