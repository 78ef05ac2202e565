//! Envelopes seen before.
//!
//! Nonces are random, so a bounded memory is all there can be. An envelope older than that does no harm either: a pong, a
//! nomination's answer and a data pong must match a request in flight, a nomination must carry a higher number, a ping
//! is answered within the rate cap, and a call only adds candidates to be pinged.

use std::collections::VecDeque;

use super::constants::REPLAY_NONCES;

type Nonce = [u8; 24];

/// The latest nonces of one peer. A linear search: 6 KB per packet, a few packets a second.
#[derive(Debug, Default)]
pub(crate) struct ReplayWindow {
    seen: VecDeque<Nonce>,
}

impl ReplayWindow {
    pub(crate) fn contains(&self, nonce: &Nonce) -> bool {
        self.seen.contains(nonce)
    }

    /// Remembers the nonce of an envelope that opened.
    pub(crate) fn insert(&mut self, nonce: Nonce) {
        if self.seen.len() == REPLAY_NONCES {
            self.seen.pop_front();
        }
        self.seen.push_back(nonce);
    }
}
