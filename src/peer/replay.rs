//! Envelopes seen before.
//!
//! Nonces are random, so a bounded memory is all there can be. An envelope older than that does no harm either: a pong, a
//! nomination's answer and a data pong must match a request in flight, a nomination must carry a higher number, a ping
//! is answered within the rate cap, and a call only adds candidates to be pinged.

use std::collections::VecDeque;

use super::constants::REPLAY_NONCES;

type Nonce = [u8; 24];

/// The latest nonces of one peer, of each its first 64 bits: of so few random ones, two are alike once in 10^16 envelopes. Searching
/// them all takes a fraction of the time that opening an envelope takes.
#[derive(Debug, Default)]
pub(crate) struct ReplayWindow {
    seen: VecDeque<u64>,
}

fn begin(nonce: &Nonce) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *nonce;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl ReplayWindow {
    pub(crate) fn contains(&self, nonce: &Nonce) -> bool {
        self.seen.contains(&begin(nonce))
    }

    /// Remembers the nonce of an envelope that opened.
    pub(crate) fn insert(&mut self, nonce: Nonce) {
        if self.seen.len() == REPLAY_NONCES {
            self.seen.pop_front();
        }
        self.seen.push_back(begin(&nonce));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(number: usize) -> Nonce {
        let mut nonce = [0; 24];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        nonce
    }

    #[test]
    fn the_latest_nonces_are_known_and_no_others_are_kept() {
        let mut window = ReplayWindow::default();
        for number in 0..10_000 {
            window.insert(nonce(number));
        }
        assert_eq!(window.seen.len(), REPLAY_NONCES);
        let first = 10_000 - REPLAY_NONCES;
        assert!((first..10_000).all(|it| window.contains(&nonce(it))));
        assert!(!window.contains(&nonce(first - 1)));
    }
}
