//! Whether a router lost its mappings, told by the seconds that it counts since it last did.

use std::time::{Duration, Instant};

/// An epoch that the router reported, and the time of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    at: Instant,
    seconds: u32,
}

impl Epoch {
    /// Creates the epoch of an answer that arrived at `at` and reported `seconds`.
    pub fn new(at: Instant, seconds: u32) -> Self {
        Epoch { at, seconds }
    }

    /// Returns whether a later answer can be of a router that lost nothing in between: RFC 6887 section 8.5. RFC 6886 section 3.6
    /// asks for less (a clock that may be slower by an eighth), so this serves both.
    pub fn is_consistent_with(self, later: Epoch) -> bool {
        let (before, after) = (u64::from(self.seconds), u64::from(later.seconds));
        // An answer may be overtaken by the one before.
        if after + 1 < before {
            return false;
        }
        let waited = later.at.saturating_duration_since(self.at);
        let counted = Duration::from_secs(after.saturating_sub(before));
        let slack = Duration::from_secs(2);
        let sixteenth_less = |it: Duration| it - it / 16;
        waited + slack >= sixteenth_less(counted) && counted + slack >= sixteenth_less(waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes_on(before: u32, after: u32, seconds: u64) -> bool {
        let start = Instant::now();
        let later = Epoch::new(start + Duration::from_secs(seconds), after);
        Epoch::new(start, before).is_consistent_with(later)
    }

    #[test]
    fn a_router_that_counts_on_has_lost_nothing() {
        assert!(goes_on(100, 160, 60));
        assert!(goes_on(100, 100, 0));
        // Rounding, an answer that was slow, one that was overtaken.
        assert!(goes_on(100, 161, 60) && goes_on(100, 102, 0) && goes_on(100, 99, 0));
        // A clock that is off by six in a hundred.
        assert!(goes_on(1000, 4400, 3600) && goes_on(1000, 4800, 3600));
    }

    #[test]
    fn one_that_counts_from_the_start_has_lost_all() {
        assert!(!goes_on(100, 0, 60) && !goes_on(100, 98, 1));
        // It was off for longer than it had run before.
        assert!(!goes_on(100, 130, 600));
        // It jumped ahead.
        assert!(!goes_on(100, 4000, 60));
    }
}
