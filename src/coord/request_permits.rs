//! Bounds how many requests are between the gate and the workers. tiny_http starts a thread for each connection that
//! finds no idle one, without a limit, and dies when the system refuses one; a request leaves its thread as soon as a
//! worker takes it, so a few places are enough for any number of requests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::service::lock;

/// Requests in between at a time. Each takes some 100 µs.
const PLACES: usize = 16;

/// The places between gate and workers.
#[derive(Debug)]
pub struct RequestPermits {
    places: Arc<Semaphore>,
    inside: Mutex<HashMap<u64, OwnedSemaphorePermit>>,
    next: AtomicU64,
}

impl RequestPermits {
    /// With all places free.
    pub fn new() -> Arc<RequestPermits> {
        Arc::new(RequestPermits {
            places: Arc::new(Semaphore::new(PLACES)),
            inside: Mutex::new(HashMap::new()),
            next: AtomicU64::new(0),
        })
    }

    /// Waits for a place. It is free again once [`RequestPermits::passed`] is called with the ticket's number, or the ticket
    /// is dropped.
    pub async fn enter(self: &Arc<RequestPermits>) -> Permit {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // Only a closed semaphore gives none, and nothing closes this one.
        if let Ok(place) = self.places.clone().acquire_owned().await {
            lock(&self.inside).insert(number, place);
        }
        Permit {
            number,
            permits: self.clone(),
        }
    }

    /// A worker has the request.
    pub fn passed(&self, number: u64) {
        lock(&self.inside).remove(&number);
    }
}

/// Goes with a request.
#[derive(Debug)]
pub struct Permit {
    /// Names it.
    pub number: u64,
    permits: Arc<RequestPermits>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.passed(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn places_are_free_again_when_passed_or_dropped() {
        let permits = RequestPermits::new();
        let mut tickets = Vec::new();
        for _ in 0..PLACES {
            tickets.push(permits.enter().await);
        }
        let full = timeout(Duration::from_secs(1), permits.enter()).await;
        assert!(full.is_err());
        permits.passed(tickets[3].number);
        let _one = permits.enter().await;
        tickets.truncate(PLACES - 1);
        let _another = permits.enter().await;
        drop(tickets);
        assert_eq!(permits.places.available_permits(), PLACES - 2);
    }
}
