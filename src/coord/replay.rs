//! Checks that a signed request is fresh: its time is near the coordinator's, and its nonce was not seen before.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::clock::Now;
use crate::proto::api::{MAX_CLOCK_SKEW, REQUEST_NONCE_LEN};
use crate::proto::keys::NodePublic;

/// Time for which a nonce is remembered. A request is accepted from [`MAX_CLOCK_SKEW`] before its own time until as long
/// after it, so a copy of it can be acceptable for twice that.
const REMEMBERED: Duration = Duration::from_secs(2 * MAX_CLOCK_SKEW.as_secs());

type Seen = (NodePublic, [u8; REQUEST_NONCE_LEN]);

/// The reason why a request is not fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFresh {
    /// The signer's clock and ours are too far apart, or the request was held back.
    #[error("the request's time is {} s {} the coordinator's", ahead_ms.unsigned_abs() / 1000, if *ahead_ms > 0 { "ahead of" } else { "behind" })]
    Skew {
        /// The request's time minus ours, milliseconds.
        ahead_ms: i64,
    },
    /// The request was made before this coordinator started, so a predecessor may have seen it.
    #[error("the request was made before the coordinator started")]
    BeforeStart,
    /// The nonce was seen before.
    #[error("the request was seen before")]
    Repeated,
}

/// The nonces of the last two minutes. Grows only by requests of registered nodes, whose rate is limited.
#[derive(Debug)]
pub struct ReplayCache {
    started_unix_ms: u64,
    seen: HashSet<Seen>,
    by_age: VecDeque<(Duration, Seen)>,
}

impl ReplayCache {
    /// An empty memory, of a coordinator that starts now.
    pub fn new(now: Now) -> ReplayCache {
        ReplayCache {
            started_unix_ms: now.unix_ms,
            seen: HashSet::new(),
            by_age: VecDeque::new(),
        }
    }

    /// Returns whether a request of `time_ms` with this nonce is acceptable now. Remembers nothing.
    pub fn check(
        &self,
        node: NodePublic,
        time_ms: u64,
        nonce: [u8; REQUEST_NONCE_LEN],
        now: Now,
    ) -> Result<(), NotFresh> {
        let ahead_ms =
            i64::try_from(i128::from(time_ms) - i128::from(now.unix_ms)).unwrap_or(i64::MAX);
        if u128::from(ahead_ms.unsigned_abs()) > MAX_CLOCK_SKEW.as_millis() {
            return Err(NotFresh::Skew { ahead_ms });
        }
        // Later on such a request is too old anyway; and a wall clock that was set back must not lock everybody out.
        if now.uptime < MAX_CLOCK_SKEW && time_ms < self.started_unix_ms {
            return Err(NotFresh::BeforeStart);
        }
        if self.seen.contains(&(node, nonce)) {
            return Err(NotFresh::Repeated);
        }
        Ok(())
    }

    /// Remembers a request that was accepted.
    pub fn remember(&mut self, node: NodePublic, nonce: [u8; REQUEST_NONCE_LEN], now: Now) {
        if self.seen.insert((node, nonce)) {
            self.by_age.push_back((now.uptime, (node, nonce)));
        }
    }

    /// Forgets the nonces of requests that can no longer be replayed.
    pub fn expire(&mut self, now: Now) {
        while let Some((at, oldest)) = self.by_age.front()
            && now.uptime.saturating_sub(*at) > REMEMBERED
        {
            self.seen.remove(oldest);
            self.by_age.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodePublic = NodePublic::from_bytes([1; 32]);
    const NONCE: [u8; 16] = [2; 16];
    const START: u64 = 1_700_000_000_000;

    fn at(seconds: u64) -> Now {
        Now {
            unix_ms: START + seconds * 1000,
            uptime: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn sixty_seconds_either_way_are_fresh() {
        let cache = ReplayCache::new(at(0));
        let now = at(1000);
        for (offset, fresh) in [
            (0, true),
            (60_000, true),
            (-60_000, true),
            (60_001, false),
            (-60_001, false),
        ] {
            let time = now.unix_ms.checked_add_signed(offset).unwrap();
            let expected = if fresh {
                Ok(())
            } else {
                Err(NotFresh::Skew { ahead_ms: offset })
            };
            assert_eq!(cache.check(NODE, time, NONCE, now), expected, "{offset}");
        }
        assert!(matches!(
            cache.check(NODE, u64::MAX, NONCE, now),
            Err(NotFresh::Skew { ahead_ms: 1.. })
        ));
        assert!(matches!(
            cache.check(NODE, 0, NONCE, now),
            Err(NotFresh::Skew { ahead_ms: ..0 })
        ));
    }

    #[test]
    fn the_message_says_which_clock_is_behind() {
        assert_eq!(
            NotFresh::Skew { ahead_ms: -61_500 }.to_string(),
            "the request's time is 61 s behind the coordinator's"
        );
        assert_eq!(
            NotFresh::Skew { ahead_ms: 90_000 }.to_string(),
            "the request's time is 90 s ahead of the coordinator's"
        );
    }

    #[test]
    fn a_nonce_counts_once_per_node_for_as_long_as_its_request_could_be_accepted() {
        let mut cache = ReplayCache::new(at(0));
        let ahead = at(1060).unix_ms;
        assert_eq!(cache.check(NODE, ahead, NONCE, at(1000)), Ok(()));
        cache.remember(NODE, NONCE, at(1000));
        for later in [1000, 1060, 1120] {
            cache.expire(at(later));
            assert_eq!(
                cache.check(NODE, ahead, NONCE, at(later)),
                Err(NotFresh::Repeated)
            );
        }
        cache.expire(at(1121));
        assert!(matches!(
            cache.check(NODE, ahead, NONCE, at(1121)),
            Err(NotFresh::Skew { .. })
        ));
        assert!(cache.seen.is_empty() && cache.by_age.is_empty());

        cache.remember(NODE, NONCE, at(1200));
        let other = NodePublic::from_bytes([9; 32]);
        assert_eq!(
            cache.check(other, at(1200).unix_ms, NONCE, at(1200)),
            Ok(())
        );
    }

    #[test]
    fn what_a_predecessor_may_have_seen_is_refused_for_a_minute() {
        let cache = ReplayCache::new(at(0));
        assert_eq!(
            cache.check(NODE, START - 1, NONCE, at(5)),
            Err(NotFresh::BeforeStart)
        );
        assert_eq!(cache.check(NODE, START, NONCE, at(5)), Ok(()));
        // The wall clock was set back an hour after the start.
        let set_back = Now {
            unix_ms: START - 3_600_000,
            uptime: Duration::from_secs(61),
        };
        assert_eq!(cache.check(NODE, set_back.unix_ms, NONCE, set_back), Ok(()));
    }
}
