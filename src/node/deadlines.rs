//! When each peer wants to be woken, in order, so that the next one is known without asking them all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::proto::NodePublic;

/// The deadlines of all peers.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    by_peer: BTreeMap<NodePublic, (Instant, &'static str)>,
    in_order: BTreeSet<(Instant, NodePublic)>,
}

impl Deadlines {
    /// Notes when a peer wants to be woken, and why; with `None`, that it does not.
    pub(super) fn set(&mut self, peer: NodePublic, deadline: Option<(Instant, &'static str)>) {
        let before = match deadline {
            Some(deadline) => self.by_peer.insert(peer, deadline),
            None => self.by_peer.remove(&peer),
        };
        let (before, after) = (before.map(|(at, _)| at), deadline.map(|(at, _)| at));
        if before == after {
            return;
        }
        if let Some(at) = before {
            self.in_order.remove(&(at, peer));
        }
        if let Some(at) = after {
            self.in_order.insert((at, peer));
        }
    }

    /// The earliest, and why.
    pub(super) fn next(&self) -> Option<(Instant, &'static str)> {
        let (_, peer) = self.in_order.first()?;
        self.by_peer.get(peer).copied()
    }

    /// The peers to wake now, the longest due first.
    pub(super) fn due(&self, now: Instant) -> Vec<NodePublic> {
        let due = self.in_order.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, peer)| *peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ALICE: NodePublic = NodePublic::from_bytes([1; 32]);
    const BOB: NodePublic = NodePublic::from_bytes([2; 32]);

    #[test]
    fn the_earliest_comes_first_and_a_later_word_replaces_an_earlier_one() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::default();
        assert_eq!(deadlines.next(), None);
        deadlines.set(ALICE, Some((after(3), "ping")));
        deadlines.set(BOB, Some((after(2), "call")));
        assert_eq!(deadlines.next(), Some((after(2), "call")));
        assert_eq!(deadlines.due(after(3)), [BOB, ALICE]);
        assert_eq!(deadlines.due(after(2)), [BOB]);
        assert!(deadlines.due(now).is_empty());
        deadlines.set(BOB, Some((after(4), "call")));
        assert_eq!(deadlines.next(), Some((after(3), "ping")));
        deadlines.set(ALICE, Some((after(3), "call")));
        assert_eq!(deadlines.next(), Some((after(3), "call")));
        deadlines.set(ALICE, None);
        assert_eq!(deadlines.due(after(9)), [BOB]);
        deadlines.set(BOB, None);
        assert_eq!(deadlines.next(), None);
        assert!(deadlines.due(after(9)).is_empty());
    }
}
