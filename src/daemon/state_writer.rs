//! Writes the state files from a thread of its own: an fsync may take seconds, and the event loop must not wait for it. Only the
//! latest content of a file is written, only if it differs from the content before, and at most once per second.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::warn;

use super::state_dir::{Network, StateDir, StateError, write_whole};
use crate::error::chain;
use crate::node::InterfaceNumbers;
use crate::portmap::Lease;

/// Least time from one pass over the files to the next.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// A file that could not be written is tried again after this time.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The content of a state file.
#[derive(Clone, Debug)]
pub enum Content {
    /// The coordinator's last word.
    Network(Network),
    /// The number in the interface name of each peer.
    InterfaceNumbers(InterfaceNumbers),
    /// The port mapping at the router.
    RouterPort(Option<Lease>),
}

impl Content {
    fn json(&self) -> serde_json::Result<Vec<u8>> {
        match self {
            Content::Network(network) => serde_json::to_vec_pretty(network),
            Content::InterfaceNumbers(numbers) => serde_json::to_vec_pretty(numbers),
            Content::RouterPort(lease) => serde_json::to_vec_pretty(lease),
        }
    }
}

/// The event loop's end of the thread. Dropping it writes what is waiting.
#[derive(Debug)]
pub struct StateWriter {
    waiting: Arc<Waiting>,
    thread: Option<JoinHandle<()>>,
    files: [PathBuf; 3],
}

#[derive(Debug, Default)]
struct Waiting {
    files: Mutex<Files>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Files {
    contents: BTreeMap<PathBuf, Content>,
    stops: bool,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Files> {
        // A panic of the other side leaves contents that are whole.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateWriter {
    /// Starts the thread for the files of `state`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(state: &StateDir) -> std::io::Result<Self> {
        StateWriter::start_with(state, WRITE_INTERVAL, RETRY_INTERVAL)
    }

    fn start_with(state: &StateDir, interval: Duration, retry: Duration) -> std::io::Result<Self> {
        let waiting = Arc::new(Waiting::default());
        let thread = thread::Builder::new()
            .name("state files".to_owned())
            .spawn({
                let waiting = Arc::clone(&waiting);
                move || run(&waiting, interval, retry)
            })?;
        Ok(StateWriter {
            waiting,
            thread: Some(thread),
            files: state.written_files(),
        })
    }

    /// Has `content` written soon, in place of what is waiting for the same file.
    pub fn write(&self, content: Content) {
        let [network, numbers, router_port] = &self.files;
        let path = match content {
            Content::Network(_) => network,
            Content::InterfaceNumbers(_) => numbers,
            Content::RouterPort(_) => router_port,
        };
        self.waiting.lock().contents.insert(path.clone(), content);
        self.waiting.changed.notify_one();
    }
}

impl Drop for StateWriter {
    fn drop(&mut self) {
        self.waiting.lock().stops = true;
        self.waiting.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has written what it could.
            let _ = thread.join();
        }
    }
}

fn run(waiting: &Waiting, interval: Duration, retry: Duration) {
    let mut written: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    let mut failed: BTreeMap<PathBuf, Content> = BTreeMap::new();
    let mut not_before = Instant::now();
    loop {
        let (mut contents, stops) =
            wait(waiting, not_before, (!failed.is_empty()).then_some(retry));
        // Later content replaces it.
        for (path, content) in std::mem::take(&mut failed) {
            contents.entry(path).or_insert(content);
        }
        not_before = Instant::now() + interval;
        for (path, content) in contents {
            if let Err(error) = write(&path, &content, &mut written) {
                warn!(error = %chain(&error), "state file not written; it is tried again");
                failed.insert(path, content);
            }
        }
        if stops {
            return;
        }
    }
}

/// Waits until there is something to write and it is time; after `retry` at the latest. A stop does not wait.
fn wait(
    waiting: &Waiting,
    not_before: Instant,
    retry: Option<Duration>,
) -> (BTreeMap<PathBuf, Content>, bool) {
    let retry_at = retry.map(|it| Instant::now() + it);
    let mut files = waiting.lock();
    loop {
        let now = Instant::now();
        let is_due = !files.contents.is_empty() && not_before <= now;
        if files.stops || is_due || retry_at.is_some_and(|at| at <= now) {
            return (std::mem::take(&mut files.contents), files.stops);
        }
        let begin = (!files.contents.is_empty()).then_some(not_before);
        let until = [begin, retry_at].into_iter().flatten().min();
        files = match until {
            Some(at) => {
                let time = at.saturating_duration_since(now);
                let woken = waiting.changed.wait_timeout(files, time);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                let woken = waiting.changed.wait(files);
                woken.unwrap_or_else(PoisonError::into_inner)
            }
        };
    }
}

/// Writes a file, unless it holds this content already.
fn write(
    path: &PathBuf,
    content: &Content,
    written: &mut BTreeMap<PathBuf, Vec<u8>>,
) -> Result<(), StateError> {
    let text = content.json().map_err(|error| StateError::Write {
        path: path.clone(),
        source: error.into(),
    })?;
    if written.get(path) != Some(&text) {
        write_whole(path, &text)?;
        written.insert(path.clone(), text);
    }
    Ok(())
}

#[cfg(test)]
#[path = "state_writer_tests.rs"]
mod tests;
