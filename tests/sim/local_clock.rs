//! The clock of one host: it may run fast or slow, and stands still while the host is suspended (as CLOCK_MONOTONIC does).

use std::time::{Duration, Instant};

/// A host's clock, which follows the world's.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalClock {
    /// Parts per million by which the clock is slower than the world's.
    pub slow_ppm: u32,
    /// The start of both clocks, once somebody has read this clock.
    begin: Option<Instant>,
    /// Time that it stood still.
    missed: Duration,
    stopped: Option<Instant>,
    resumed: Option<Instant>,
}

impl LocalClock {
    pub fn begin(&mut self, now: Instant, slow_ppm: u32) {
        self.begin = Some(now);
        self.slow_ppm = slow_ppm;
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    pub fn stop(&mut self, now: Instant) {
        self.stopped.get_or_insert(now);
    }

    pub fn go(&mut self, now: Instant) {
        if let Some(stopped) = self.stopped.take() {
            self.missed += now - stopped;
            self.resumed = Some(now);
        }
    }

    /// Returns whether the host has been awake for so long.
    pub fn is_awake_for(&self, time: Duration, now: Instant) -> bool {
        !self.is_stopped() && self.resumed.is_none_or(|resumed| now >= resumed + time)
    }

    /// Returns the clock's time at this point of the world's time.
    pub fn at(&self, now: Instant) -> Instant {
        let now = self.stopped.unwrap_or(now);
        let lost = self.begin.map_or(Duration::ZERO, |begin| {
            // Exact to the nanosecond, and of the time that it went: a clock may run slow, never backwards.
            let went = (now - begin).saturating_sub(self.missed).as_nanos() as u64;
            Duration::from_nanos(went * u64::from(self.slow_ppm) / 1_000_000)
        });
        now - self.missed - lost
    }

    /// Returns the world's time at which the clock will show this; never while the clock stands still.
    pub fn when(&self, local: Instant) -> Option<Instant> {
        if self.is_stopped() {
            return None;
        }
        let mut guess = local + self.missed;
        // Each step makes up for what the clock loses in the step before; a microsecond at least, to come to an end.
        while self.at(guess) < local {
            guess += (local - self.at(guess)).max(Duration::from_micros(1));
        }
        Some(guess)
    }
}
