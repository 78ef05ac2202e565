//! Token buckets: how often something may happen, with room for a burst.

use std::time::Duration;

/// A rate, with room for a burst.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Events per second in the long run.
    pub per_second: f64,
    /// Events that may come at once after a quiet time.
    pub burst: f64,
}

/// One bucket. A new one is full.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: f64,
    filled: Duration,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, uptime: Duration) -> Bucket {
        Bucket {
            tokens: rate.burst,
            filled: uptime,
        }
    }

    /// Takes one token; when there is none, says how long until there is.
    pub fn take(&mut self, rate: Rate, uptime: Duration) -> Result<(), Duration> {
        self.fill(rate, uptime);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64(
                (1.0 - self.tokens) / rate.per_second,
            ))
        }
    }

    /// Returns whether nothing was taken for so long that forgetting the bucket changes nothing.
    pub fn is_full(&mut self, rate: Rate, uptime: Duration) -> bool {
        self.fill(rate, uptime);
        self.tokens >= rate.burst
    }

    fn fill(&mut self, rate: Rate, uptime: Duration) {
        let elapsed = uptime.saturating_sub(self.filled);
        self.filled = uptime;
        self.tokens = (self.tokens + elapsed.as_secs_f64() * rate.per_second).min(rate.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_second: 2.0,
        burst: 3.0,
    };

    #[test]
    fn a_burst_then_the_steady_rate() {
        let mut bucket = Bucket::new(RATE, Duration::ZERO);
        for _ in 0..3 {
            assert_eq!(bucket.take(RATE, Duration::ZERO), Ok(()));
        }
        assert_eq!(
            bucket.take(RATE, Duration::ZERO),
            Err(Duration::from_millis(500))
        );
        assert_eq!(bucket.take(RATE, Duration::from_millis(500)), Ok(()));
        assert!(bucket.take(RATE, Duration::from_millis(600)).is_err());
    }

    #[test]
    fn a_long_quiet_time_gives_no_more_than_the_burst() {
        let mut bucket = Bucket::new(RATE, Duration::ZERO);
        assert!(bucket.take(RATE, Duration::ZERO).is_ok());
        assert!(!bucket.is_full(RATE, Duration::ZERO));
        assert!(bucket.is_full(RATE, Duration::from_secs(3600)));
        for _ in 0..3 {
            assert!(bucket.take(RATE, Duration::from_secs(3600)).is_ok());
        }
        assert!(bucket.take(RATE, Duration::from_secs(3600)).is_err());
    }
}
