//! Finds paths: the candidates, the pings and calls that try them, and the port search behind symmetric NATs.

pub(in crate::peer) mod candidates;
pub(in crate::peer) mod path_search;
mod port_attempt;
pub(in crate::peer) mod port_mapping;
mod port_offer;
pub(in crate::peer) mod port_search;

use std::collections::VecDeque;
use std::time::Instant;

use super::constants::{ANSWER_LIFETIME, MAX_PENDING, PING_LIFETIME, RESTART_MIN_GAP};
use candidates::Candidates;
use path_search::{Calls, Pending, Search};
use port_search::PortSearch;

/// The state of finding paths to one peer.
#[derive(Debug)]
pub(in crate::peer) struct Discovery {
    pub(in crate::peer) candidates: Candidates,
    /// Pings that wait for their pongs, oldest first.
    pub(in crate::peer) pending: VecDeque<Pending>,
    pub(in crate::peer) search: Search,
    pub(in crate::peer) calls: Calls,
    pub(in crate::peer) port_search: PortSearch,
}

impl Discovery {
    pub(in crate::peer) fn new(now: Instant) -> Self {
        Discovery {
            candidates: Candidates::default(),
            pending: VecDeque::new(),
            search: Search::new(now),
            calls: Calls::default(),
            port_search: PortSearch::default(),
        }
    }

    /// Forgets what was asked of the peer: it can answer nothing of it any more. The candidates stay.
    pub(in crate::peer) fn forget_requests(&mut self) {
        self.pending.clear();
        self.port_search = PortSearch::default();
    }

    /// Whether a ping was answered since `start`, over any path.
    pub(in crate::peer) fn is_answered_since(&self, start: Instant) -> bool {
        self.candidates.iter().any(|it| it.answered_since(start))
    }

    /// Whether a packet of the peer came since `start`, over any path.
    pub(in crate::peer) fn is_heard_since(&self, start: Instant) -> bool {
        self.candidates.iter().any(|it| it.heard_since(start))
    }

    /// Since when an answer shows that a path works, while one is searched for: since the search began, but not for long. The peer's
    /// NAT may have lost its mapping meanwhile, and whoever gave the answer be gone.
    pub(in crate::peer) fn answers_count_since(&self, now: Instant) -> Instant {
        let lately = now.checked_sub(ANSWER_LIFETIME);
        lately.map_or(self.search.counts_since, |it| {
            it.max(self.search.counts_since)
        })
    }

    /// Remembers a ping until its pong comes.
    fn await_pong(&mut self, pending: Pending) {
        let expired = |it: &Pending| it.sent + PING_LIFETIME <= pending.sent;
        while self.pending.front().is_some_and(expired) || self.pending.len() >= MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(pending);
    }

    /// Starts a burst of pings to every candidate, at `step` of [`super::constants::BURST_GAPS`].
    fn burst(&mut self, now: Instant, step: usize) {
        self.search.burst_at = Some(now);
        self.candidates.burst(now, step);
    }

    /// As [`Discovery::burst`], unless a burst has just begun.
    fn burst_again(&mut self, now: Instant, step: usize) {
        let has_just_begun = |at: Instant| now < at + RESTART_MIN_GAP;
        if !self.search.burst_at.is_some_and(has_just_begun) {
            self.burst(now, step);
        }
    }
}
