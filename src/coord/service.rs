//! The coordinator's service: the pure [`Core`], the store behind it, and the pending long polls.
//!
//! Two locks. `state` guards the core and the pending requests, for microseconds. `commit_lock` orders durable changes: plan,
//! commit (the disk), apply. So a slow disk delays registrations and nothing else. Nodes and keys in the core are also in the
//! store; their endpoints follow within a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::api_error::ApiError;
use super::clock::{Clock, Now};
use super::long_polls::Polls;
use super::metrics::Metrics;
use super::rules::{Change, Core};
use super::store::{Store, StoreError};
use crate::error::UserError as _;
use crate::proto::api::{
    EndpointsRequest, PeerList, RegisterRequest, RegisterResponse, Signal, SignalRequest,
    SignedHeaders,
};
use crate::proto::keys::NodePublic;

/// The news that a long poll waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// A list of peers of another generation.
    Peers {
        /// The generation that the node has.
        since: Option<u64>,
    },
    /// A signal.
    Signals,
}

/// The answer to a long poll.
#[derive(Clone, Debug)]
pub enum News {
    /// Everybody else.
    Peers(PeerList),
    /// The signals that waited for the node.
    Signals(Vec<Signal>),
}

/// Pending requests with the news to answer them with.
pub type Answers<R> = Vec<(R, News)>;

/// The coordinator, shared by all threads. `R` is a request that can be pending.
#[derive(Debug)]
pub struct Service<R> {
    /// Both clocks.
    pub clock: Clock,
    /// The counters.
    pub metrics: Metrics,
    stun_ports: Vec<u16>,
    store: Store,
    store_failed: AtomicBool,
    commit_lock: Mutex<()>,
    state: Mutex<State<R>>,
}

#[derive(Debug)]
struct State<R> {
    core: Core,
    peers: Polls<R>,
    signals: Polls<R>,
    /// No request waits any more.
    stopping: bool,
}

impl<R> Service<R> {
    /// Puts a loaded core to work.
    pub fn new(
        core: Core,
        store: Store,
        stun_ports: Vec<u16>,
        clock: Clock,
        metrics: Metrics,
    ) -> Service<R> {
        Service {
            clock,
            metrics,
            stun_ports,
            store,
            store_failed: AtomicBool::new(false),
            commit_lock: Mutex::new(()),
            state: Mutex::new(State {
                core,
                peers: Polls::default(),
                signals: Polls::default(),
                stopping: false,
            }),
        }
    }

    /// Returns whether the last commit succeeded.
    pub fn is_healthy(&self) -> bool {
        !self.store_failed.load(Ordering::Relaxed)
    }

    /// See [`Core::check_fresh`].
    pub fn check_fresh(&self, headers: &SignedHeaders, now: Now) -> Result<(), ApiError> {
        self.state().core.check_fresh(headers, now)
    }

    /// See [`Core::admit`]. The answers are for those who see the node come online.
    pub fn admit(&self, headers: &SignedHeaders, now: Now) -> Result<Answers<R>, ApiError> {
        let mut state = self.state();
        let came_online = state.core.admit(headers, now)?;
        Ok(state.peers_news(came_online))
    }

    /// Registers a node. Waits for the disk.
    pub fn register(
        &self,
        headers: &SignedHeaders,
        request: RegisterRequest,
        now: Now,
    ) -> Result<(RegisterResponse, Answers<R>), ApiError> {
        let node = headers.node;
        let _commit = lock(&self.commit_lock);
        let (changes, is_new, stored) = {
            let state = self.state();
            // A second copy of the request may have arrived before the nonce of the first was remembered.
            state.core.check_unseen(headers, now)?;
            let changes = state.core.plan_registration(node, request, now)?;
            let stored = matches!(&changes[..], [only] if state.core.is_stored(only));
            (changes, state.core.registry().get(&node).is_none(), stored)
        };
        if !stored {
            self.commit(&changes).map_err(|_| ApiError::Store)?;
        }
        let mut state = self.state();
        let peers_changed = state.core.apply(changes, now);
        state.core.remember(headers, now);
        let record = state
            .core
            .registry()
            .get(&node)
            .ok_or(ApiError::NotRegistered)?;
        if is_new {
            tracing::info!(
                %node, name = %record.name, addresses = ?record.tunnel_ips, key = record.enrolled_with, "peer enrolled"
            );
        }
        let response = RegisterResponse {
            name: record.name.to_string(),
            tunnel_ips: record.tunnel_ips.clone(),
            networks: state
                .core
                .registry()
                .pools()
                .iter()
                .map(|pool| pool.network())
                .collect(),
            stun_ports: self.stun_ports.clone(),
            peers: state.core.registry().peers_of(&node),
        };
        let answers = state.peers_news(peers_changed);
        Ok((response, answers))
    }

    /// Replaces a node's endpoints and the kind of its NAT.
    pub fn set_endpoints(
        &self,
        node: &NodePublic,
        wanted: EndpointsRequest,
    ) -> Result<Answers<R>, ApiError> {
        let mut state = self.state();
        let changed = state.core.set_endpoints(node, wanted)?;
        Ok(state.peers_news(changed))
    }

    /// Queues a signal, or hands it to the request that waits for it.
    pub fn signal(
        &self,
        from: NodePublic,
        request: SignalRequest,
        now: Now,
    ) -> Result<Answers<R>, ApiError> {
        let to = request.to;
        let mut state = self.state();
        let pushed_out = state.core.push_signal(from, request, now)?;
        self.count_signals("queued", 1);
        self.count_signals("dropped_full", pushed_out);
        let Some(waiting) = state.signals.take(&to) else {
            return Ok(Vec::new());
        };
        let signals = state.core.take_signals(&to, now);
        self.count_signals("delivered", signals.len());
        Ok(vec![(waiting, News::Signals(signals))])
    }

    /// Answers a long poll if there is news or nothing to wait for; else keeps it pending. Also answers the request that it
    /// replaces, if any.
    pub fn poll(
        &self,
        node: NodePublic,
        request: R,
        poll: Poll,
        wait: Duration,
        now: Now,
    ) -> Answers<R> {
        let mut state = self.state();
        let (news, fresh) = self.news(&mut state, &node, poll, now);
        let at_once = fresh || wait.is_zero() || state.stopping;
        let polls = match poll {
            Poll::Peers { .. } => &mut state.peers,
            Poll::Signals => &mut state.signals,
        };
        if at_once {
            // An older request of this node is on a connection that it gave up; it must not take the next news.
            let older = polls.take(&node).map(|older| (older, news.clone_empty()));
            return older.into_iter().chain([(request, news)]).collect();
        }
        let empty = news.clone_empty();
        let replaced = polls.hold(node, request, wait, now);
        replaced
            .into_iter()
            .map(|older| (older, empty.clone()))
            .collect()
    }

    /// Runs [`Core::tick`]; answers the long polls whose wait is over or that have news. Call a few times per second.
    pub fn tick(&self, now: Now) -> Answers<R> {
        let mut answers = Vec::new();
        let lapsed = {
            let mut state = self.state();
            let ticked = state.core.tick(now);
            self.count_signals("dropped_old", ticked.signals_dropped);
            answers.append(&mut state.peers_news(ticked.peers_changed));
            for (node, request) in state.peers.take_due(now) {
                answers.push((request, News::Peers(state.core.registry().peers_of(&node))));
            }
            for (_, request) in state.signals.take_due(now) {
                answers.push((request, News::Signals(Vec::new())));
            }
            ticked.lapsed
        };
        if !lapsed.is_empty() {
            tracing::info!(
                count = lapsed.len(),
                "ephemeral peers stayed away and are removed"
            );
            // A change that cannot be stored now is tried again at the next tick.
            answers.append(&mut self.change(lapsed).unwrap_or_default());
        }
        answers
    }

    /// Stores endpoints that changed since they were stored. To be called about every second.
    pub fn save_endpoints(&self) {
        let _commit = lock(&self.commit_lock);
        let unsaved = self.state().core.take_unsaved();
        if !unsaved.is_empty() {
            // The error is logged and counted. The endpoints are stored with their next change.
            let _ = self.commit(&unsaved);
        }
    }

    /// Ends all long polls, now and from now on. Returns the pending requests with their answers.
    pub fn stop_waiting(&self) -> Answers<R> {
        let mut state = self.state();
        state.stopping = true;
        let mut answers = state.peers_news(true);
        let signals = state.signals.take_all();
        answers.extend(
            signals
                .into_iter()
                .map(|(_, request)| (request, News::Signals(Vec::new()))),
        );
        answers
    }

    /// Reads the core.
    pub fn read<T>(&self, read: impl FnOnce(&Core) -> T) -> T {
        read(&self.state().core)
    }

    /// Stores changes, then applies them.
    pub fn change(&self, changes: Vec<Change>) -> Result<Answers<R>, StoreError> {
        let _commit = lock(&self.commit_lock);
        self.commit(&changes)?;
        let mut state = self.state();
        let peers_changed = state.core.apply(changes, self.clock.now());
        Ok(state.peers_news(peers_changed))
    }

    /// Renders the metrics for Prometheus.
    pub fn render_metrics(&self) -> Vec<u8> {
        {
            let state = self.state();
            let (online, all) = state.core.registry().count();
            let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            self.metrics
                .peers
                .with_label_values(&["true"])
                .set(gauge(online));
            self.metrics
                .peers
                .with_label_values(&["false"])
                .set(gauge(all - online));
            self.metrics
                .pending
                .with_label_values(&["peers"])
                .set(gauge(state.peers.count()));
            self.metrics
                .pending
                .with_label_values(&["signal"])
                .set(gauge(state.signals.count()));
        }
        self.metrics.render()
    }

    fn news(&self, state: &mut State<R>, node: &NodePublic, poll: Poll, now: Now) -> (News, bool) {
        match poll {
            Poll::Peers { since } => {
                let peers = state.core.registry().peers_of(node);
                let fresh = since != Some(peers.generation);
                (News::Peers(peers), fresh)
            }
            Poll::Signals => {
                let signals = state.core.take_signals(node, now);
                self.count_signals("delivered", signals.len());
                let fresh = !signals.is_empty();
                (News::Signals(signals), fresh)
            }
        }
    }

    fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let started = Instant::now();
        let result = self.store.commit(changes);
        self.metrics
            .commit_seconds
            .observe(started.elapsed().as_secs_f64());
        self.store_failed.store(result.is_err(), Ordering::Relaxed);
        if let Err(error) = &result {
            self.metrics.commit_errors.inc();
            tracing::error!(%error, hint = error.hint(), "a change could not be stored and is not made");
        }
        result
    }

    fn count_signals(&self, outcome: &str, count: usize) {
        if count > 0 {
            self.metrics
                .signals
                .with_label_values(&[outcome])
                .inc_by(count as u64);
        }
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        lock(&self.state)
    }
}

impl<R> State<R> {
    /// The answers to everybody who waits for a change of peers, when there is one.
    fn peers_news(&mut self, changed: bool) -> Answers<R> {
        if !changed {
            return Vec::new();
        }
        let registry = self.core.registry();
        self.peers
            .take_all()
            .into_iter()
            .map(|(node, request)| (request, News::Peers(registry.peers_of(&node))))
            .collect()
    }
}

impl News {
    /// Returns the answer for a replaced request: the same list of peers, but no signals, because signals are handed out once.
    fn clone_empty(&self) -> News {
        match self {
            News::Peers(peers) => News::Peers(peers.clone()),
            News::Signals(_) => News::Signals(Vec::new()),
        }
    }
}

/// Locks; a thread that panicked while it held the lock left nothing half-done that matters more than going on.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
