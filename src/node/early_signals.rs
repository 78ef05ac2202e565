//! Signals of peers that are not in the list yet. The coordinator's list and its signals come over different connections, so
//! the first call-me-maybe of a new peer may overtake its record.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::proto::NodePublic;

/// A signal without a record is dropped after this time.
const MAX_AGE: Duration = Duration::from_secs(1);

/// Signals kept, of all senders together: as many as join at once, little memory whoever sends.
const MAX_SIGNALS: usize = 64;

/// The latest signal of each sender that is not known yet, oldest first.
#[derive(Debug, Default)]
pub(super) struct EarlySignals(VecDeque<(Instant, NodePublic, Vec<u8>)>);

impl EarlySignals {
    /// Keeps an envelope; returns how many were dropped for it.
    pub(super) fn keep(&mut self, now: Instant, from: NodePublic, sealed: &[u8]) -> u64 {
        let before = self.0.len();
        self.0
            .retain(|(at, sender, _)| *sender != from && now - *at < MAX_AGE);
        if self.0.len() == MAX_SIGNALS {
            self.0.pop_front();
        }
        let dropped = before - self.0.len();
        self.0.push_back((now, from, sealed.to_vec()));
        u64::try_from(dropped).unwrap_or(u64::MAX)
    }

    /// Takes the envelope of a peer that is known now, if it is not too old.
    pub(super) fn take(&mut self, now: Instant, from: NodePublic) -> Option<Vec<u8>> {
        let found = self.0.iter().position(|(_, sender, _)| *sender == from)?;
        let (at, _, sealed) = self.0.remove(found)?;
        (now - at < MAX_AGE).then_some(sealed)
    }
}
