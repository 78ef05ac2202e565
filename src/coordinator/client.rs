//! The coordinator's client: keeps this node registered, its endpoints published and two long polls open (peers and
//! signals), and delivers signals. Runs as one task; the loss of the coordinator is an event, never an error: data goes
//! on without it, and the client comes back by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use reqwest::{Client, StatusCode};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use super::http::{ClientError, POLL_WAIT, Requester, http_client};
use super::url::CoordinatorUrl;
use crate::error::chain;
use crate::proto::api::{
    self, EndpointsRequest, PeerList, RegisterRequest, RegisterResponse, SignalList, SignalRequest,
};
use crate::proto::keys::{DiscoPublic, NodePublic, NodeSecret};

/// First pause after a failure; doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);

/// Longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// A long poll that brought no news is followed by the next one no sooner than this after it began.
const POLL_FLOOR: Duration = Duration::from_millis(200);

/// Polls in a row that were not held, after which the log says so.
const POLLS_NOT_HELD: u32 = 25;

/// Polls in a row that brought news at once, after which they have the same floor: while many peers join, news come one after the
/// other; without end only from a coordinator that wants to keep its nodes busy.
const POLLS_WITH_NEWS: u32 = 50;

/// A signal that could not be sent for this long is out of date: the peer machine sends a new one.
const SIGNAL_MAX_AGE: Duration = Duration::from_secs(10);

/// Connections opened beside the one that registers: the two long polls take them at once, and the first signal has the
/// other for itself. Each would cost a round trip in the middle of joining.
const SPARE_CONNECTIONS: usize = 2;

/// Signals on their way at the same time.
const SIGNALS_IN_FLIGHT: usize = 8;

/// An event that the client reports to the daemon.
#[derive(Debug)]
pub enum Event {
    /// The coordinator knows us; the whole state of the network.
    Registered(RegisterResponse),
    /// The list of peers changed.
    Peers(PeerList),
    /// A peer sent us a sealed envelope.
    Signal {
        /// Who, by the coordinator's word; the envelope's seal decides.
        from: NodePublic,
        /// The disco envelope.
        sealed: Vec<u8>,
    },
    /// The coordinator handed over a signal that is not base64.
    BadSignal,
    /// The coordinator cannot be reached or refuses us; attempts go on.
    Lost,
}

/// The registration of this node.
#[derive(Debug)]
pub struct Registration {
    /// The coordinator's URL.
    pub url: CoordinatorUrl,
    /// Signs every request.
    pub node: Arc<NodeSecret>,
    /// Told to peers, so that they can seal to us.
    pub disco: DiscoPublic,
    /// The name that we ask for.
    pub name: String,
    /// The networks that we offer to carry packets to.
    pub routes: Vec<IpNet>,
    /// The file of the auth key, read when the coordinator asks for one.
    pub auth_key_file: Option<PathBuf>,
}

/// The daemon's side of the client.
#[derive(Debug)]
pub struct Handle {
    published: watch::Sender<EndpointsRequest>,
    signals: mpsc::Sender<Outgoing>,
    reconnect: watch::Sender<u64>,
}

#[derive(Debug)]
struct Outgoing {
    queued: Instant,
    request: SignalRequest,
}

impl Handle {
    /// Publishes where we can be reached; the latest value is what the coordinator gets.
    pub fn publish(&self, latest: EndpointsRequest) {
        self.published.send_if_modified(|current| {
            let changed = *current != latest;
            *current = latest;
            changed
        });
    }

    /// Sends a sealed envelope to a peer. When the queue is full it is dropped: signals repeat.
    pub fn signal(&self, to: NodePublic, sealed: &[u8]) {
        let request = SignalRequest::new(to, sealed);
        let outgoing = Outgoing {
            queued: Instant::now(),
            request,
        };
        if self.signals.try_send(outgoing).is_err() {
            debug!(%to, "signal dropped: the queue to the coordinator is full");
        }
    }

    /// Opens new connections: the old ones belong to addresses that we may no longer have.
    pub fn reconnect(&self) {
        self.reconnect.send_modify(|count| *count += 1);
    }
}

/// Starts the client on the current runtime.
///
/// # Errors
/// When no TLS client can be set up, such as on a host without any trusted certificate.
pub fn start(
    registration: Registration,
    events: mpsc::Sender<Event>,
) -> Result<Handle, ClientError> {
    let (published_tx, published) = watch::channel(EndpointsRequest::default());
    let (signals_tx, signals) = mpsc::channel(256);
    let (reconnect_tx, reconnect) = watch::channel(0);
    let client = Coordinator {
        http: http_client(&registration.url)?,
        registration,
        events,
        published,
        reconnect,
        send_auth_key: false,
    };
    tokio::spawn(client.run(signals));
    Ok(Handle {
        published: published_tx,
        signals: signals_tx,
        reconnect: reconnect_tx,
    })
}

struct Coordinator {
    http: Client,
    registration: Registration,
    events: mpsc::Sender<Event>,
    published: watch::Receiver<EndpointsRequest>,
    reconnect: watch::Receiver<u64>,
    /// The auth key travels only when the coordinator has asked for it.
    send_auth_key: bool,
}

impl Coordinator {
    async fn run(mut self, mut signals: mpsc::Receiver<Outgoing>) {
        let mut failures = 0;
        let mut reconnect = self.reconnect.clone();
        loop {
            reconnect.mark_unchanged();
            let ended = tokio::select! {
                ended = self.session(&mut signals, &mut failures) => ended,
                _ = reconnect.changed() => Ok(()),
            };
            match ended {
                Ok(()) => debug!("new connections to the coordinator"),
                Err(ClientError::Closed) => return,
                Err(ClientError::Refused { status, body }) if self.wants_auth_key(status) => {
                    debug!(error = %body.error, "the coordinator asks for an auth key");
                    self.send_auth_key = true;
                    continue;
                }
                Err(error) => {
                    self.report(&error);
                    if self.events.send(Event::Lost).await.is_err() {
                        return;
                    }
                    let pause = backoff(failures);
                    failures = failures.saturating_add(1);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        _ = reconnect.changed() => {}
                    }
                }
            }
            // The certificates that are trusted are read from files.
            let url = self.registration.url.clone();
            match tokio::task::spawn_blocking(move || http_client(&url)).await {
                Ok(Ok(client)) => self.http = client,
                Ok(Err(error)) => self.report(&error),
                Err(error) => warn!(%error, "no new connections to the coordinator"),
            }
        }
    }

    /// Returns whether an auth key may overcome this refusal: there is one, and it has not been tried.
    fn wants_auth_key(&self, status: StatusCode) -> bool {
        status == StatusCode::FORBIDDEN
            && !self.send_auth_key
            && self.registration.auth_key_file.is_some()
    }

    fn report(&self, error: &ClientError) {
        let url = self.registration.url.base();
        match error {
            ClientError::Refused { status, body } => error!(
                url,
                status = status.as_u16(),
                error = %body.error,
                hint = body.hint.as_deref().unwrap_or_default(),
                "the coordinator refuses us"
            ),
            _ => {
                warn!(url, error = %chain(error), "the coordinator cannot be reached; tunnels go on without it")
            }
        }
    }

    /// Registers, then polls and sends until something fails.
    async fn session(
        &mut self,
        signals: &mut mpsc::Receiver<Outgoing>,
        failures: &mut u32,
    ) -> Result<(), ClientError> {
        let mut published = self.published.clone();
        let current = published.borrow_and_update().clone();
        for _ in 0..SPARE_CONNECTIONS {
            tokio::spawn(self.requester().warm_up());
        }
        let registered = self.register(current).await?;
        let since = registered.peers.generation;
        info!(
            url = self.registration.url.base(),
            name = registered.name,
            tunnel_ips = ?registered.tunnel_ips,
            peers = registered.peers.peers.len(),
            "registered with the coordinator"
        );
        *failures = 0;
        self.send_auth_key = false;
        self.emit(Event::Registered(registered)).await?;
        let this = &*self;
        tokio::select! {
            ended = this.poll_peers(since) => ended,
            ended = this.poll_signals() => ended,
            ended = this.publish_changes(&mut published) => ended,
            ended = this.deliver(signals) => ended,
        }
    }

    async fn register(&self, current: EndpointsRequest) -> Result<RegisterResponse, ClientError> {
        let auth_key = match &self.registration.auth_key_file {
            Some(path) if self.send_auth_key => {
                let text =
                    std::fs::read_to_string(path).map_err(|source| ClientError::AuthKey {
                        path: path.clone(),
                        source,
                    })?;
                // An empty file stands for a key that is no longer kept here, since it was needed only once.
                Some(text.trim().to_owned()).filter(|key| !key.is_empty())
            }
            _ => None,
        };
        let request = RegisterRequest {
            name: self.registration.name.clone(),
            disco_key: self.registration.disco,
            endpoints: current.endpoints,
            nat_mapping: current.nat_mapping,
            routes: self.registration.routes.clone(),
            auth_key,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.requester().post(api::PATH_REGISTER, &request).await
    }

    async fn poll_peers(&self, mut since: u64) -> Result<(), ClientError> {
        let requester = self.requester();
        let mut pace = PollPace::default();
        loop {
            let begun = Instant::now();
            let path = format!(
                "{}?since={since}&wait={}",
                api::PATH_PEERS,
                POLL_WAIT.as_secs()
            );
            let list: PeerList = requester.poll(&path).await?;
            let is_news = list.generation != since;
            if is_news {
                since = list.generation;
                self.emit(Event::Peers(list)).await?;
            }
            pace.wait(begun, is_news).await;
        }
    }

    async fn poll_signals(&self) -> Result<(), ClientError> {
        let requester = self.requester();
        let path = format!("{}?wait={}", api::PATH_SIGNAL, POLL_WAIT.as_secs());
        let mut pace = PollPace::default();
        loop {
            let begun = Instant::now();
            let list: SignalList = requester.poll(&path).await?;
            let is_news = !list.signals.is_empty();
            for signal in list.signals {
                let from = signal.from;
                match signal.envelope() {
                    Some(sealed) => self.emit(Event::Signal { from, sealed }).await?,
                    None => self.emit(Event::BadSignal).await?,
                }
            }
            pace.wait(begun, is_news).await;
        }
    }

    async fn publish_changes(
        &self,
        published: &mut watch::Receiver<EndpointsRequest>,
    ) -> Result<(), ClientError> {
        let requester = self.requester();
        loop {
            published.changed().await.map_err(|_| ClientError::Closed)?;
            let request = published.borrow_and_update().clone();
            let _: serde_json::Value = requester.post(api::PATH_ENDPOINTS, &request).await?;
        }
    }

    async fn deliver(&self, signals: &mut mpsc::Receiver<Outgoing>) -> Result<(), ClientError> {
        let mut in_flight = JoinSet::new();
        loop {
            if in_flight.len() >= SIGNALS_IN_FLIGHT {
                in_flight.join_next().await;
            }
            let outgoing = signals.recv().await.ok_or(ClientError::Closed)?;
            if outgoing.queued.elapsed() > SIGNAL_MAX_AGE {
                continue;
            }
            let requester = self.requester();
            in_flight.spawn(async move {
                let sent: Result<serde_json::Value, _> = requester.post(api::PATH_SIGNAL, &outgoing.request).await;
                if let Err(error) = sent {
                    debug!(to = %outgoing.request.to, error = %chain(&error), "signal not delivered");
                }
            });
            while in_flight.try_join_next().is_some() {}
        }
    }

    async fn emit(&self, event: Event) -> Result<(), ClientError> {
        self.events
            .send(event)
            .await
            .map_err(|_| ClientError::Closed)
    }

    fn requester(&self) -> Requester {
        Requester::new(
            self.http.clone(),
            &self.registration.url,
            Arc::clone(&self.registration.node),
        )
    }
}

/// Keeps a coordinator or proxy that does not hold long polls from being asked without end.
#[derive(Debug, Default)]
struct PollPace {
    /// Polls in a row that brought no news and were not held.
    not_held: u32,
    /// Polls in a row that brought news at once.
    with_news: u32,
}

impl PollPace {
    /// Waits until the next poll may begin, after one that began at `begun`.
    async fn wait(&mut self, begun: Instant, is_news: bool) {
        let took = begun.elapsed();
        if took >= POLL_FLOOR {
            *self = PollPace::default();
            return;
        }
        if is_news {
            self.not_held = 0;
            self.with_news += 1;
            if self.with_news <= POLLS_WITH_NEWS {
                return;
            }
        } else {
            self.not_held += 1;
            if self.not_held == POLLS_NOT_HELD {
                warn!(
                    "the coordinator does not hold long polls: another host may use a copy of this state directory, and so \
                     this node's key, or a proxy answers in the coordinator's place"
                );
            }
        }
        tokio::time::sleep(POLL_FLOOR - took).await;
    }
}

/// The pause after this many failures in a row, between half and all of the doubled base, so that the peers of a
/// restarted coordinator do not come back in step.
fn backoff(failures: u32) -> Duration {
    let full = BACKOFF_FIRST
        .saturating_mul(1 << failures.min(10))
        .min(BACKOFF_MAX);
    let mut byte = [0];
    // Without randomness the pause is only less spread.
    let _ = getrandom::fill(&mut byte);
    full / 2 + full.mul_f64(f64::from(byte[0]) / 510.0)
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
