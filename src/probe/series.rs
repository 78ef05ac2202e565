//! A series of probes: sent at even intervals, whether or not the earlier ones have been answered.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep_until};

use super::prober::{Miss, Prober};
use super::statistics::Statistics;

/// Probes on their way at the same time: each has a socket.
const IN_FLIGHT: usize = 64;

/// Number and interval of the probes.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// Number of probes.
    pub count: u32,
    /// Time from the start of one probe to the start of the next.
    pub interval: Duration,
}

/// Sends a series and waits for all of it. `seen` is told of each result, in the order of their coming.
pub async fn run(
    prober: &Prober,
    series: Series,
    mut seen: impl FnMut(u32, &Result<Duration, Miss>),
) -> Statistics {
    let began = Instant::now();
    let probe = |number: u32| async move {
        sleep_until(began + series.interval * (number - 1)).await;
        (number, prober.once(number).await)
    };
    let mut results = stream::iter((1..=series.count).map(probe)).buffer_unordered(IN_FLIGHT);
    let mut statistics = Statistics::default();
    while let Some((number, result)) = results.next().await {
        seen(number, &result);
        statistics.add(result.ok());
    }
    statistics
}
