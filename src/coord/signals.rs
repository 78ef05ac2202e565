//! Sealed envelopes that wait for their recipients. The coordinator cannot read them and keeps few, for a short time:
//! a signal says "send to me now", which is worth nothing later.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::clock::Now;
use crate::proto::api::Signal;
use crate::proto::keys::NodePublic;

/// The most signals that wait for one recipient; a newer one pushes the oldest out.
pub const MAX_WAITING: usize = 64;

/// The oldest signal that is still delivered: NAT mappings that it speaks of last about this long unused.
pub const MAX_AGE: Duration = Duration::from_secs(30);

/// All recipients' queues.
#[derive(Debug, Default)]
pub struct SignalQueues {
    waiting: HashMap<NodePublic, VecDeque<(Duration, Signal)>>,
}

impl SignalQueues {
    /// Queues a signal; says how many older ones it pushed out.
    pub fn push(&mut self, to: NodePublic, signal: Signal, now: Now) -> usize {
        let queue = self.waiting.entry(to).or_default();
        queue.push_back((now.uptime, signal));
        let excess = queue.len().saturating_sub(MAX_WAITING);
        queue.drain(..excess);
        excess
    }

    /// Hands out the signals that wait for `node` and are not too old, oldest first.
    pub fn take(&mut self, node: &NodePublic, now: Now) -> Vec<Signal> {
        let queue = self.waiting.remove(node).unwrap_or_default();
        queue
            .into_iter()
            .filter(|(at, _)| !is_old(*at, now))
            .map(|(_, signal)| signal)
            .collect()
    }

    /// Drops the signals that are too old; returns their number.
    pub fn expire(&mut self, now: Now) -> usize {
        let mut dropped = 0;
        self.waiting.retain(|_, queue| {
            let before = queue.len();
            queue.retain(|(at, _)| !is_old(*at, now));
            dropped += before - queue.len();
            !queue.is_empty()
        });
        dropped
    }

    /// Drops the signals that wait for a node that is gone.
    pub fn forget(&mut self, node: &NodePublic) {
        self.waiting.remove(node);
    }
}

fn is_old(at: Duration, now: Now) -> bool {
    now.uptime.saturating_sub(at) > MAX_AGE
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: NodePublic = NodePublic::from_bytes([1; 32]);
    const BOB: NodePublic = NodePublic::from_bytes([2; 32]);

    fn at(seconds: u64) -> Now {
        Now {
            unix_ms: 0,
            uptime: Duration::from_secs(seconds),
        }
    }

    fn signal(text: impl ToString) -> Signal {
        Signal {
            from: BOB,
            sealed: text.to_string(),
        }
    }

    fn texts(signals: Vec<Signal>) -> Vec<String> {
        signals.into_iter().map(|it| it.sealed).collect()
    }

    #[test]
    fn signals_come_out_once_in_order_for_their_recipient_only() {
        let mut queues = SignalQueues::default();
        queues.push(ALICE, signal("1"), at(0));
        queues.push(ALICE, signal("2"), at(1));
        assert!(queues.take(&BOB, at(1)).is_empty());
        assert_eq!(texts(queues.take(&ALICE, at(1))), ["1", "2"]);
        assert!(queues.take(&ALICE, at(1)).is_empty());
    }

    #[test]
    fn the_sixty_fifth_pushes_the_first_out() {
        let mut queues = SignalQueues::default();
        for i in 0..MAX_WAITING {
            assert_eq!(queues.push(ALICE, signal(i), at(0)), 0);
        }
        assert_eq!(queues.push(ALICE, signal(MAX_WAITING), at(0)), 1);
        let expected: Vec<String> = (1..=MAX_WAITING).map(|i| i.to_string()).collect();
        assert_eq!(texts(queues.take(&ALICE, at(0))), expected);
    }

    #[test]
    fn thirty_seconds_are_the_end() {
        let mut queues = SignalQueues::default();
        queues.push(ALICE, signal("old"), at(0));
        queues.push(ALICE, signal("new"), at(1));
        assert_eq!(queues.expire(at(30)), 0);
        assert_eq!(texts(queues.take(&ALICE, at(31))), ["new"]);
        queues.push(ALICE, signal("old"), at(31));
        assert_eq!(queues.expire(at(62)), 1);
        assert!(queues.waiting.is_empty());
    }
}
