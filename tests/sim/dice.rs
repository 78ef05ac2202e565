//! Random choices from a seeded generator.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

/// Draws a number from `low` up to, not including, `high`.
pub fn between(rng: &mut ChaCha8Rng, low: u64, high: u64) -> u64 {
    low + rng.next_u64() % (high - low)
}

/// True once in `1 / share` times.
pub fn chance(rng: &mut ChaCha8Rng, share: f64) -> bool {
    share > 0.0 && f64::from(rng.next_u32()) < share * f64::from(u32::MAX)
}

/// One of several.
pub fn pick<T: Clone>(rng: &mut ChaCha8Rng, from: &[T]) -> T {
    from[between(rng, 0, from.len() as u64) as usize].clone()
}

/// Draws a duration from zero up to `bound`.
pub fn duration(rng: &mut ChaCha8Rng, bound: Duration) -> Duration {
    bound.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX))
}
