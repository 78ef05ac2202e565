//! Counters for the metrics. Input that is of no use is dropped with a reason, never an error.

use std::collections::BTreeMap;
use std::fmt;

use crate::peer::path::switch_reason::SwitchReason;
use crate::peer::verdict::state::State;
use crate::peer::verdict::state_reason::StateReason;

/// Why a datagram, frame or signal was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Neither disco nor STUN, or truncated, or a message that this version does not know.
    Malformed,
    /// To an address that this host does not have, or has no more: a router that has not noticed yet still sends there.
    NotLocal,
    /// It came to the data port through a tunnel: a path to a peer must not lead through one.
    ThroughTunnel,
    /// A data probe from a device that is no tunnel of this node.
    NoTunnel,
    /// From a disco key that no peer has.
    UnknownSender,
    /// The sealed box does not open: forged, damaged, or sealed to another key.
    NotForUs,
    /// This very envelope was seen before.
    Replay,
    /// A ping whose node key is not its sender's.
    WrongIdentity,
    /// A message on a channel it does not belong to, such as a data ping outside the tunnel.
    WrongChannel,
    /// An answer to nothing that was asked lately.
    Unsolicited,
    /// A pong from another address than the one that was pinged.
    WrongSource,
    /// A nomination older than the one in force.
    StaleNomination,
    /// A nomination from the side that does not choose.
    WrongRole,
    /// An answer that was due but would have exceeded the packets a second that a peer may cost.
    RateLimited,
}

impl DropReason {
    /// The value of the metrics' `reason` label; stable.
    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::Malformed => "malformed",
            DropReason::NotLocal => "not_local",
            DropReason::ThroughTunnel => "through_tunnel",
            DropReason::NoTunnel => "no_tunnel",
            DropReason::UnknownSender => "unknown_sender",
            DropReason::NotForUs => "not_for_us",
            DropReason::Replay => "replay",
            DropReason::WrongIdentity => "wrong_identity",
            DropReason::WrongChannel => "wrong_channel",
            DropReason::Unsolicited => "unsolicited",
            DropReason::WrongSource => "wrong_source",
            DropReason::StaleNomination => "stale_nomination",
            DropReason::WrongRole => "wrong_role",
            DropReason::RateLimited => "rate_limited",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Totals since the node was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Disco pings sent.
    pub pings_sent: u64,
    /// Disco pings received and authenticated.
    pub pings_received: u64,
    /// Pongs sent.
    pub pongs_sent: u64,
    /// Pongs received that answer a ping of this node.
    pub pongs_received: u64,
    /// Call-me-maybe messages sent, through the coordinator and over paths.
    pub calls_sent: u64,
    /// Call-me-maybe messages received.
    pub calls_received: u64,
    /// Nominations sent, repetitions included.
    pub nominations_sent: u64,
    /// Nominations received that are not stale.
    pub nominations_received: u64,
    /// Data pings sent into tunnels.
    pub data_pings_sent: u64,
    /// Data pongs received through tunnels that answer a data ping of this node.
    pub data_pongs_received: u64,
    /// STUN requests sent.
    pub stun_requests_sent: u64,
    /// STUN answers received that match a request.
    pub stun_answers_received: u64,
    /// Port searches begun.
    pub port_searches: u64,
    /// Pings sent by port searches, which are not among `pings_sent`.
    pub port_search_pings_sent: u64,
    /// Switches of a tunnel from one path to another, by reason.
    pub path_switches: BTreeMap<SwitchReason, u64>,
    /// Changes of a peer's state, by the state that it came into and by the name of the reason.
    pub state_changes: BTreeMap<(State, &'static str), u64>,
    /// Input that was dropped, by reason.
    pub drops: BTreeMap<DropReason, u64>,
}

impl Counters {
    pub(crate) fn count_state_change(&mut self, to: State, reason: &StateReason) {
        *self.state_changes.entry((to, reason.as_str())).or_default() += 1;
    }

    /// Counts one dropped input.
    pub(crate) fn count_drop(&mut self, reason: DropReason) {
        *self.drops.entry(reason).or_default() += 1;
    }

    /// Counts several dropped inputs.
    pub(crate) fn count_drops(&mut self, reason: DropReason, count: u64) {
        if count > 0 {
            *self.drops.entry(reason).or_default() += count;
        }
    }

    /// How much was dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(&reason).copied().unwrap_or(0)
    }
}
