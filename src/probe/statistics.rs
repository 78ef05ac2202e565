//! Statistics of a series of probes. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The results of a series of probes. Round trips are exact here; [`millis`] rounds them for people and scripts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Number of probes that are over, answered or not.
    pub sent: u32,
    /// Number of these that were answered.
    pub answered: u32,
    least: Duration,
    most: Duration,
    total: Duration,
}

impl Statistics {
    /// Adds a probe: its round trip, or nothing if it was not answered.
    pub fn add(&mut self, round_trip: Option<Duration>) {
        self.sent += 1;
        let Some(round_trip) = round_trip else { return };
        self.least = if self.answered == 0 {
            round_trip
        } else {
            self.least.min(round_trip)
        };
        self.most = self.most.max(round_trip);
        self.total += round_trip;
        self.answered += 1;
    }

    /// Share of probes that were not answered, 0 to 100; 0 when none was sent.
    pub fn loss_percent(&self) -> f64 {
        if self.sent == 0 {
            return 0.0;
        }
        f64::from(self.sent - self.answered) * 100.0 / f64::from(self.sent)
    }

    /// Least, mean and greatest round trip of the answered probes.
    pub fn round_trips(&self) -> Option<[Duration; 3]> {
        let mean = self.total.checked_div(self.answered)?;
        Some([self.least, mean, self.most])
    }

    /// Returns whether enough probes were answered. Where none was sent, they were not.
    pub fn meets(&self, threshold: Percent) -> bool {
        let wanted = u64::from(threshold.0) * u64::from(self.sent);
        self.sent > 0 && u64::from(self.answered) * 100 >= wanted
    }

    /// Judges the path on which these probes were sent.
    pub fn condition(&self) -> Condition {
        match self.answered {
            0 => Condition::Down,
            answered if answered < self.sent => Condition::Lossy,
            _ => Condition::Up,
        }
    }
}

/// A duration in milliseconds with one decimal.
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

/// The quality of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Every probe was answered.
    Up,
    /// Some were.
    Lossy,
    /// None was.
    Down,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Condition::Up => "up",
            Condition::Lossy => "lossy",
            Condition::Down => "down",
        })
    }
}

/// A share of at least one percent and at most all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(u8);

impl Percent {
    /// All of them.
    pub const ALL: Percent = Percent(100);

    /// The number.
    pub fn value(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromStr for Percent {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.strip_suffix('%').unwrap_or(text);
        match number.parse() {
            Ok(value @ 1..=100) => Ok(Percent(value)),
            _ => Err("not a whole number of percent, 1 to 100"),
        }
    }
}

#[cfg(test)]
#[path = "statistics_tests.rs"]
mod tests;
