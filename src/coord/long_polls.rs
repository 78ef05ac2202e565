//! Long polls (RFC 6202 section 2): requests that wait for news. A pending request costs a map entry and a socket, no thread.
//! Generic over the request, so that the rules are tested without HTTP.

use std::collections::HashMap;
use std::time::Duration;

use super::clock::Now;
use crate::proto::keys::NodePublic;

/// A pending request and the end of its wait.
#[derive(Debug)]
struct Pending<R> {
    request: R,
    until: Duration,
}

/// The requests of one kind that wait, at most one a node.
#[derive(Debug)]
pub struct Polls<R> {
    pending: HashMap<NodePublic, Pending<R>>,
}

impl<R> Default for Polls<R> {
    fn default() -> Polls<R> {
        Polls {
            pending: HashMap::new(),
        }
    }
}

impl<R> Polls<R> {
    /// Keeps the request of `node` pending for `wait`. Returns the request that it replaces, to be answered at once: a node that asks
    /// again has given up on the first connection, and news must not go there.
    pub fn hold(&mut self, node: NodePublic, request: R, wait: Duration, now: Now) -> Option<R> {
        let until = now.uptime + wait;
        self.pending
            .insert(node, Pending { request, until })
            .map(|replaced| replaced.request)
    }

    /// Takes the pending request of `node`.
    pub fn take(&mut self, node: &NodePublic) -> Option<R> {
        self.pending.remove(node).map(|it| it.request)
    }

    /// All of them.
    pub fn take_all(&mut self) -> Vec<(NodePublic, R)> {
        self.pending
            .drain()
            .map(|(node, it)| (node, it.request))
            .collect()
    }

    /// Takes the requests whose wait is over.
    pub fn take_due(&mut self, now: Now) -> Vec<(NodePublic, R)> {
        self.pending
            .extract_if(|_, it| it.until <= now.uptime)
            .map(|(node, it)| (node, it.request))
            .collect()
    }

    /// Returns the number of pending requests.
    pub fn count(&self) -> usize {
        self.pending.len()
    }
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

    #[test]
    fn a_second_request_replaces_the_first() {
        let mut polls = Polls::default();
        assert_eq!(
            polls.hold(ALICE, "first", Duration::from_secs(30), at(0)),
            None
        );
        assert_eq!(
            polls.hold(ALICE, "second", Duration::from_secs(30), at(1)),
            Some("first")
        );
        assert_eq!(polls.take(&ALICE), Some("second"));
        assert_eq!(polls.take(&ALICE), None);
    }

    #[test]
    fn requests_come_back_when_their_wait_is_over() {
        let mut polls = Polls::default();
        polls.hold(ALICE, "alice", Duration::from_secs(5), at(0));
        polls.hold(BOB, "bob", Duration::from_secs(30), at(0));
        assert!(polls.take_due(at(4)).is_empty());
        assert_eq!(polls.take_due(at(5)), [(ALICE, "alice")]);
        assert_eq!(polls.count(), 1);
        assert_eq!(polls.take_all(), [(BOB, "bob")]);
    }
}
