//! The HTTP front end (a reverse proxy, RFC 9110 section 3.7) between the network and tiny_http, which has no deadline, no size
//! limit and no current TLS.
//!
//! A connection is served here, in one cheap task: TLS, deadlines for head, body and answer, size limits, limits per
//! source. Only whole requests, rewritten, go on to tiny_http over a private Unix socket, one a connection; it answers
//! into the front end's memory. So a client that stalls, drips, floods or never reads its answer holds a task and nothing
//! else, and a pending long poll holds no thread.

mod refused;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::clock::Clock;
use super::metrics::Metrics;
use super::request_head::{self, Head, HeadError, MAX_HEAD};
use super::request_permits::RequestPermits;
use super::service::lock;
use super::token_bucket::{Bucket, Rate};
use crate::proto::api::MAX_WAIT;

use refused::{Ended, Refused};

/// Time from accept, or from a request's first byte, to the end of its head. A client behind a bad link needs a second.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Time from the end of the head to the end of the body (16 KiB at most).
const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two requests on a connection. Longer than the pause between a node's requests during a path search.
const IDLE_DEADLINE: Duration = Duration::from_secs(60);
/// Time from the request to its answer: the longest long poll, and room.
const ANSWER_DEADLINE: Duration = MAX_WAIT.saturating_add(Duration::from_secs(10));
/// Time for the client to take the answer.
const WRITE_DEADLINE: Duration = Duration::from_secs(20);
/// Time for the client to close after it was refused. Closing before the client has read would discard the refusal.
const LINGER: Duration = Duration::from_secs(1);
/// Time for running requests when the coordinator stops.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The largest answer, bytes: a list of some ten thousand peers.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// Connections from one source. A node uses three; this is room for forty behind one address.
const CONNECTIONS_PER_SOURCE: usize = 128;

/// Requests (and connections) from one source. Checking a signature takes some 50 µs: 500 a second are a few percent of
/// one core.
const SOURCE_RATE: Rate = Rate {
    per_second: 500.0,
    burst: 2000.0,
};

/// Interval at which quiet sources are forgotten.
const SWEEP: Duration = Duration::from_secs(10);

/// Names the listener of the request to the server behind the front end.
pub const HEADER_LISTENER: &str = "x-gretun-listener";
/// Names the client to the server behind the front end, for the log.
pub const HEADER_CLIENT: &str = "x-gretun-client";

/// Names the request's permit of the [`RequestPermits`] to the server behind the front end.
pub const HEADER_PERMIT: &str = "x-gretun-permit";

/// The listener of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// `--listen`.
    Api,
    /// `--metrics-addr`.
    Metrics,
}

impl Listener {
    /// The value of [`HEADER_LISTENER`].
    pub fn as_str(self) -> &'static str {
        match self {
            Listener::Api => "api",
            Listener::Metrics => "metrics",
        }
    }
}

/// The front end; one for all listeners.
#[derive(Debug)]
pub struct FrontEnd {
    /// tiny_http's socket.
    behind: PathBuf,
    permits: Arc<RequestPermits>,
    max_connections: usize,
    clock: Clock,
    metrics: Metrics,
    sources: Mutex<HashMap<IpAddr, Source>>,
}

#[derive(Debug)]
struct Source {
    connections: usize,
    requests: Bucket,
}

/// A client's connection, bare or in TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl FrontEnd {
    /// Creates a front end for the server that listens on `behind`; each request takes one of `permits`.
    pub fn new(
        behind: PathBuf,
        permits: Arc<RequestPermits>,
        max_connections: usize,
        clock: Clock,
        metrics: Metrics,
    ) -> Arc<FrontEnd> {
        Arc::new(FrontEnd {
            behind,
            permits,
            max_connections,
            clock,
            metrics,
            sources: Mutex::new(HashMap::new()),
        })
    }

    /// Accepts and serves connections until `stop` turns true, then lets running requests end.
    pub async fn serve(
        self: Arc<FrontEnd>,
        accept_on: TcpListener,
        tls: Option<TlsAcceptor>,
        listener: Listener,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = accept_on.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match accepted {
                Ok((stream, from)) => {
                    match Admitted::new(&self, from) {
                        Ok(admitted) => {
                            let connection = Connection {
                                admitted,
                                listener,
                                stop: stop.clone(),
                            };
                            connections.spawn(connection.serve(stream, tls.clone()));
                        }
                        Err(refused) => {
                            self.count(&refused);
                            tracing::debug!(client = %from, "connection refused: {refused}");
                            if tls.is_none() {
                                // The socket is new: its buffer takes the few bytes, or nobody reads them.
                                let _ = stream.try_write(&refused.answer());
                            }
                        }
                    }
                }
                Err(error) => {
                    // Out of file descriptors, mostly: connections that end make room.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(accept_on);
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if timeout(STOP_DEADLINE, all_ended).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
    }

    /// Forgets quiet sources from time to time, for ever.
    pub(super) async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.forget_quiet_sources();
        }
    }

    fn forget_quiet_sources(&self) {
        let uptime = self.clock.now().uptime;
        lock(&self.sources).retain(|_, source| {
            source.connections > 0 || !source.requests.is_full(SOURCE_RATE, uptime)
        });
    }

    fn count(&self, refused: &Refused) {
        self.metrics
            .gate_refusals
            .with_label_values(&[refused.reason()])
            .inc();
    }

    /// Takes one token of a source. A reverse proxy on this host speaks for many: loopback is not limited.
    fn spend(&self, from: IpAddr) -> Result<(), Refused> {
        if from.is_loopback() {
            return Ok(());
        }
        let uptime = self.clock.now().uptime;
        match lock(&self.sources).get_mut(&source_of(from)) {
            Some(source) => source
                .requests
                .take(SOURCE_RATE, uptime)
                .map_err(|_| Refused::TooFast),
            None => Ok(()),
        }
    }
}

/// A connection that counts, for as long as this lives.
struct Admitted {
    front_end: Arc<FrontEnd>,
    from: SocketAddr,
}

impl Admitted {
    fn new(front_end: &Arc<FrontEnd>, from: SocketAddr) -> Result<Admitted, Refused> {
        // A listener of both versions of IP has IPv4 clients in one /64 of IPv6, `::ffff:0:0/96`.
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let uptime = front_end.clock.now().uptime;
        let open = usize::try_from(front_end.metrics.connections.get()).unwrap_or(0);
        let mut sources = lock(&front_end.sources);
        let source = sources
            .entry(source_of(from.ip()))
            .or_insert_with(|| Source {
                connections: 0,
                requests: Bucket::new(SOURCE_RATE, uptime),
            });
        let crowded = !from.ip().is_loopback() && source.connections >= CONNECTIONS_PER_SOURCE;
        if open >= front_end.max_connections || crowded {
            return Err(Refused::TooMany);
        }
        source.connections += 1;
        front_end.metrics.connections.inc();
        drop(sources);
        let admitted = Admitted {
            front_end: front_end.clone(),
            from,
        };
        front_end.spend(from.ip())?;
        Ok(admitted)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.front_end.metrics.connections.dec();
        if let Entry::Occupied(mut source) =
            lock(&self.front_end.sources).entry(source_of(self.from.ip()))
        {
            source.get_mut().connections = source.get().connections.saturating_sub(1);
        }
    }
}

/// Whom limits count for: an IPv4 address, or the /64 that one IPv6 subscriber has at least.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

struct Connection {
    admitted: Admitted,
    listener: Listener,
    stop: watch::Receiver<bool>,
}

impl Connection {
    async fn serve(mut self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let head_by = Instant::now() + HEAD_DEADLINE;
        // Answers are written whole: waiting for more to send would only cost time.
        let _ = stream.set_nodelay(true);
        let mut stream: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some(acceptor) => match timeout_at(head_by, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => Box::new(stream),
                Ok(Err(error)) => {
                    tracing::debug!(client = %self.admitted.from, "TLS handshake failed: {error}");
                    return;
                }
                Err(_) => return self.admitted.front_end.count(&Refused::TooSlow),
            },
        };
        match self.requests(&mut *stream, head_by).await {
            Ok(()) => {
                let _ = stream.shutdown().await;
            }
            Err(Ended::Refused(refused)) => {
                self.admitted.front_end.count(&refused);
                tracing::debug!(client = %self.admitted.from, "request refused: {refused}");
                self.refuse(&mut *stream, &refused).await;
            }
            Err(ended) => {
                tracing::trace!(client = %self.admitted.from, "connection ended: {ended}")
            }
        }
    }

    /// Serves requests until the client or the coordinator ends it.
    async fn requests(
        &mut self,
        stream: &mut dyn Stream,
        mut head_by: Instant,
    ) -> Result<(), Ended> {
        let mut buffer = Vec::new();
        loop {
            let Some((head, length)) = self.read_head(stream, &mut buffer, head_by).await? else {
                return Ok(());
            };
            self.admitted.front_end.spend(self.admitted.from.ip())?;
            if head.expects_continue && buffer.len() < length + head.content_length {
                write(stream, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            read_body(stream, &mut buffer, length + head.content_length).await?;
            let answer = self
                .ask(&head, &buffer[length..length + head.content_length])
                .await?;
            write(stream, &answer).await?;
            if !head.keep_alive || *self.stop.borrow() {
                return Ok(());
            }
            buffer.drain(..length + head.content_length);
            head_by = Instant::now()
                + if buffer.is_empty() {
                    IDLE_DEADLINE
                } else {
                    HEAD_DEADLINE
                };
        }
    }

    /// The next head and its length in `buffer`; `None` when the client closed instead, or the coordinator stops.
    async fn read_head(
        &mut self,
        stream: &mut dyn Stream,
        buffer: &mut Vec<u8>,
        mut head_by: Instant,
    ) -> Result<Option<(Head, usize)>, Ended> {
        let mut searched = 0;
        loop {
            if request_head::is_hopeless(buffer) {
                return Err(HeadError::Malformed.into());
            }
            if let Some(length) = request_head::find_end(buffer, searched) {
                if length > MAX_HEAD {
                    return Err(HeadError::TooLarge.into());
                }
                return Ok(Some((request_head::parse(&buffer[..length])?, length)));
            }
            if buffer.len() >= MAX_HEAD {
                return Err(HeadError::TooLarge.into());
            }
            searched = buffer.len();
            let was_idle = buffer.is_empty();
            let read = tokio::select! {
                read = timeout_at(head_by, stream.read_buf(buffer)) => read,
                _ = self.stop.wait_for(|stop| *stop), if was_idle => return Ok(None),
            };
            match read {
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(_)) if was_idle => head_by = head_by.min(Instant::now() + HEAD_DEADLINE),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
                // A quiet connection is closed quietly.
                Err(_) if was_idle => return Ok(None),
                Err(_) => return Err(Refused::TooSlow.into()),
            }
        }
    }

    /// Passes one request on and brings the answer.
    async fn ask(&self, head: &Head, body: &[u8]) -> Result<Vec<u8>, Ended> {
        let front_end = &self.admitted.front_end;
        let exchanged = async {
            let permit = front_end.permits.enter().await;
            let (client, number) = (self.admitted.from.to_string(), permit.number.to_string());
            let more = [
                (HEADER_LISTENER, self.listener.as_str()),
                (HEADER_CLIENT, client.as_str()),
                (HEADER_PERMIT, number.as_str()),
            ];
            let mut request = head.rewritten(&more).into_bytes();
            request.extend_from_slice(body);
            exchange(&front_end.behind, &request).await
        };
        match timeout(ANSWER_DEADLINE, exchanged).await {
            Ok(Ok(answer)) if !answer.is_empty() => Ok(answer),
            Ok(Ok(_)) | Err(_) => Err(Refused::NoAnswer.into()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the API cannot be reached behind the front end");
                Err(Refused::NoAnswer.into())
            }
        }
    }

    async fn refuse(&self, stream: &mut dyn Stream, refused: &Refused) {
        if write(stream, &refused.answer()).await.is_err() || stream.shutdown().await.is_err() {
            return;
        }
        let mut rest = [0; 4096];
        let drain = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
        let _ = timeout(LINGER, drain).await;
    }
}

/// Returns whether the server behind the front end answers.
pub async fn is_alive(behind: &Path) -> bool {
    let request = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n";
    exchange(behind, request)
        .await
        .is_ok_and(|answer| !answer.is_empty())
}

async fn exchange(behind: &Path, request: &[u8]) -> io::Result<Vec<u8>> {
    let stream = UnixStream::connect(behind).await?;
    let (read, mut write) = stream.into_split();
    write.write_all(request).await?;
    let mut answer = Vec::new();
    read.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

async fn read_body(
    stream: &mut dyn Stream,
    buffer: &mut Vec<u8>,
    until: usize,
) -> Result<(), Ended> {
    let body_by = Instant::now() + BODY_DEADLINE;
    while buffer.len() < until {
        match timeout_at(body_by, stream.read_buf(buffer)).await {
            Ok(Ok(0)) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(Refused::TooSlow.into()),
        }
    }
    Ok(())
}

async fn write(stream: &mut dyn Stream, bytes: &[u8]) -> Result<(), Ended> {
    let written = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    match timeout(WRITE_DEADLINE, written).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Ended::NotTaken),
    }
}

#[cfg(test)]
#[path = "http_front_end_tests.rs"]
mod tests;
