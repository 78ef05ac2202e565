//! The hard caps on packets: to one peer, and of the port searches for all peers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::constants::{
    MAX_PACKETS_PER_SECOND, MAX_PINGS_PER_SECOND, MAX_SEARCH_PACKETS_PER_SECOND,
    MAX_SEARCH_PONGS_PER_SECOND,
};

const WINDOW: Duration = Duration::from_secs(1);

/// The purpose of a packet: pings leave room for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    /// A ping that can wait.
    Ping,
    /// The answer to a ping while ports are searched for.
    PongInSearch,
    /// Anything else.
    Other,
    /// A port search, which has a limiter of its own.
    Search,
}

impl Budget {
    pub(crate) fn limit(self) -> usize {
        match self {
            Budget::Ping => MAX_PINGS_PER_SECOND,
            Budget::PongInSearch => MAX_SEARCH_PONGS_PER_SECOND,
            Budget::Other => MAX_PACKETS_PER_SECOND,
            Budget::Search => MAX_SEARCH_PACKETS_PER_SECOND,
        }
    }
}

/// When the packets of the last second were sent: exact, so that no second holds more than the cap.
#[derive(Debug, Default)]
pub(crate) struct PacketWindow {
    sent: VecDeque<Instant>,
}

impl PacketWindow {
    /// Takes room for one packet now, if there is any.
    pub(crate) fn take(&mut self, now: Instant, budget: Budget) -> bool {
        while self.sent.front().is_some_and(|at| *at + WINDOW <= now) {
            self.sent.pop_front();
        }
        let room = self.sent.len() < budget.limit();
        if room {
            self.sent.push_back(now);
        }
        room
    }

    /// When there will be room, after [`PacketWindow::take`] found none.
    pub(crate) fn room_at(&self, now: Instant, budget: Budget) -> Instant {
        let excess = (self.sent.len() + 1).saturating_sub(budget.limit());
        excess
            .checked_sub(1)
            .and_then(|index| self.sent.get(index))
            .map_or(now, |at| *at + WINDOW)
    }
}

#[cfg(test)]
#[path = "packet_window_tests.rs"]
mod tests;
