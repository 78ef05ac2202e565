//! The two times that the coordinator's rules need, read once per event and passed into the pure core.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Wall clock, Unix milliseconds: for times that people and nodes exchange (a request's time, a key's expiry). May jump.
    pub unix_ms: u64,
    /// Since the coordinator started: for durations (who is online, how old a signal is). Never jumps.
    pub uptime: Duration,
}

/// Reads both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// Creates a clock whose uptime starts now.
    pub fn start() -> Clock {
        Clock {
            started: Instant::now(),
        }
    }

    /// This moment.
    pub fn now(&self) -> Now {
        Now {
            unix_ms: unix_ms(),
            uptime: self.started.elapsed(),
        }
    }
}

/// The wall clock, Unix milliseconds; 0 before 1970.
pub fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
