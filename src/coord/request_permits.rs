//! Bounds the number of requests between the front end and the workers, as a semaphore. tiny_http starts a thread for each
//! connection that finds no idle thread, without a limit, and dies when the system refuses one. A request leaves its thread as
//! soon as a worker takes it, so a few permits are enough for any number of requests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::service::lock;

/// Most requests between front end and workers. Each takes some 100 µs.
const PERMITS: usize = 16;

/// The permits for requests between front end and workers.
#[derive(Debug)]
pub struct RequestPermits {
    free: Arc<Semaphore>,
    inside: Mutex<HashMap<u64, OwnedSemaphorePermit>>,
    next: AtomicU64,
}

impl RequestPermits {
    /// Creates the permits, all free.
    pub fn new() -> Arc<RequestPermits> {
        Arc::new(RequestPermits {
            free: Arc::new(Semaphore::new(PERMITS)),
            inside: Mutex::new(HashMap::new()),
            next: AtomicU64::new(0),
        })
    }

    /// Waits for a permit. The permit is free again after [`RequestPermits::release`] with its number, or when it is dropped.
    pub async fn enter(self: &Arc<RequestPermits>) -> Permit {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // Only a closed semaphore gives none, and nothing closes this one.
        if let Ok(permit) = self.free.clone().acquire_owned().await {
            lock(&self.inside).insert(number, permit);
        }
        Permit {
            number,
            permits: self.clone(),
        }
    }

    /// Frees a permit: a worker has the request.
    pub fn release(&self, number: u64) {
        lock(&self.inside).remove(&number);
    }
}

/// The permit of one request.
#[derive(Debug)]
pub struct Permit {
    /// The permit's number, which goes with the request.
    pub number: u64,
    permits: Arc<RequestPermits>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.release(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn permits_are_free_again_when_released_or_dropped() {
        let permits = RequestPermits::new();
        let mut taken = Vec::new();
        for _ in 0..PERMITS {
            taken.push(permits.enter().await);
        }
        let full = timeout(Duration::from_secs(1), permits.enter()).await;
        assert!(full.is_err());
        permits.release(taken[3].number);
        let _one = permits.enter().await;
        taken.truncate(PERMITS - 1);
        let _another = permits.enter().await;
        drop(taken);
        assert_eq!(permits.free.available_permits(), PERMITS - 2);
    }
}
