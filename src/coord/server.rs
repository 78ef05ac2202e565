//! Puts the coordinator together and runs it until it is told to stop.
//!
//! Threads: one tokio runtime thread for everything that faces the network (the front end, the STUN server), a few workers
//! that take requests from tiny_http, one that makes registrations durable, one that answers administration, one that calls
//! the tick.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tiny_http::{Request, Server};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::admin::{self, SOCKET_NAME};
use super::clock::Clock;
use super::config::{Settings, TlsFiles};
use super::http::{self, Worker, answer_all};
use super::http_front_end::{self, FrontEnd, Listener};
use super::metrics::Metrics;
use super::request_permits::RequestPermits;
use super::rules::Core;
use super::server_error::{ServerError, internal, system};
use super::service::Service;
use super::state_dir;
use super::store::Store;
use super::stun::StunServer;

type HttpService = Service<Request>;

/// Threads that take requests. None ever waits for the network or the disk.
const WORKERS: usize = 4;

/// Interval of the tick: the longest time by which a long poll without news ends late.
const TICK: Duration = Duration::from_millis(250);
/// Ticks between two stores of changed endpoints.
const TICKS_PER_SAVE: u32 = 4;

/// The most client connections, unless the system allows fewer files.
const MAX_CONNECTIONS: usize = 4096;
/// Files per connection: the client's, both ends of the one behind the front end, and tiny_http's copy of its own.
const FILES_PER_CONNECTION: usize = 4;
/// Files for everything else.
const OTHER_FILES: usize = 64;

/// tiny_http's socket in the state directory.
const HTTP_SOCKET_NAME: &str = "http.sock";

/// Runs the coordinator until SIGTERM or SIGINT.
pub fn run(settings: &Settings, state_dir: &Path) -> Result<(), ServerError> {
    let clock = Clock::start();
    let metrics = Metrics::new().map_err(|error| internal("metrics", &error))?;
    state_dir::create(state_dir)?;
    // Holds the lock on the state directory from here on.
    let store = Store::open(state_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| system("an event loop", source))?;
    let ports = runtime.block_on(Ports::open(settings, &metrics))?;
    let service = Arc::new(load(
        settings,
        store,
        ports.stun_ports(),
        clock,
        metrics.clone(),
    )?);
    let permits = RequestPermits::new();
    let behind = Behind::start(&service, &permits, state_dir)?;
    let front_end = FrontEnd::new(
        behind.http_socket.clone(),
        permits,
        max_connections(),
        clock,
        metrics,
    );
    ports.log();
    log_how_to_enrol(&service, &ports, settings.open, state_dir);
    let ended = runtime.block_on(face_network(&service, &front_end, ports, &behind));
    behind.stop(&service);
    ended
}

/// Everything that listens to the network, opened before the service counts as started.
struct Ports {
    api: Vec<(TcpListener, SocketAddr)>,
    metrics: Option<(TcpListener, SocketAddr)>,
    stun: Vec<(StunServer, SocketAddr)>,
    tls: Option<TlsAcceptor>,
}

impl Ports {
    async fn open(settings: &Settings, metrics: &Metrics) -> Result<Ports, ServerError> {
        let tls = settings.tls.as_ref().map(tls_acceptor).transpose()?;
        let mut api = Vec::new();
        for addr in &settings.listen {
            api.push(listen("API", *addr).await?);
        }
        let metrics_listener = match settings.metrics {
            Some(addr) => Some(listen("metrics", addr).await?),
            None => None,
        };
        let mut stun = Vec::new();
        for (addr, optional) in settings.stun.addresses() {
            let bound = StunServer::bind(addr, metrics.clone());
            match bound.and_then(|server| server.local_addr().map(|local| (server, local))) {
                Ok(server) => stun.push(server),
                Err(error) if optional => tracing::warn!(%addr, %error, "no STUN server on IPv6"),
                Err(source) => {
                    let what = "STUN";
                    return Err(ServerError::Listen { what, addr, source });
                }
            }
        }
        StunServer::pair_up(&mut stun);
        Ok(Ports {
            api,
            metrics: metrics_listener,
            stun,
            tls,
        })
    }

    fn stun_ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.stun.iter().map(|(_, addr)| addr.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    fn log(&self) {
        let tls = self.tls.is_some();
        for (_, addr) in &self.api {
            tracing::info!(%addr, tls, "listening for peers");
        }
        for (_, addr) in &self.stun {
            tracing::info!(%addr, "listening for STUN");
        }
        if let Some((_, addr)) = &self.metrics {
            tracing::info!(%addr, "serving metrics");
        }
    }
}

async fn listen(
    what: &'static str,
    addr: SocketAddr,
) -> Result<(TcpListener, SocketAddr), ServerError> {
    let open = async {
        let listener = TcpListener::bind(addr).await?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    open.await
        .map_err(|source| ServerError::Listen { what, addr, source })
}

fn tls_acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ServerError> {
    let tls_error = |path: &Path, reason: String| ServerError::Tls {
        path: path.to_owned(),
        reason,
    };
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| tls_error(&files.cert, error.to_string()))?;
    if chain.is_empty() {
        return Err(tls_error(
            &files.cert,
            "there is no certificate in it".to_owned(),
        ));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| tls_error(&files.key, error.to_string()))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| internal("TLS", &error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| tls_error(&files.key, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn load(
    settings: &Settings,
    store: Store,
    stun_ports: Vec<u16>,
    clock: Clock,
    metrics: Metrics,
) -> Result<HttpService, ServerError> {
    let stored = store.load()?;
    let (core, moved) = Core::load(settings.pools.clone(), settings.open, stored, clock.now())
        .map_err(ServerError::Pools)?;
    if !moved.is_empty() {
        tracing::warn!(
            peers = moved.len(),
            "the pools changed: peers outside of them get new addresses"
        );
        store.commit(&moved)?;
    }
    if settings.open {
        tracing::warn!(
            "OPEN: anybody who can reach this coordinator can join the network. For labs only; \
             without --open peers need a key from `gretun-coord keys create`"
        );
    }
    Ok(Service::new(core, store, stun_ports, clock, metrics))
}

/// The threads behind the front end.
struct Behind {
    http: Arc<Server>,
    http_socket: PathBuf,
    admin_socket: PathBuf,
    /// Turns true when a worker ends.
    failed: watch::Receiver<bool>,
    workers: Vec<thread::JoinHandle<()>>,
    registrar: thread::JoinHandle<()>,
    /// Time passes for as long as this is there.
    time: mpsc::Sender<()>,
    time_thread: thread::JoinHandle<()>,
}

impl Behind {
    fn start(
        service: &Arc<HttpService>,
        permits: &Arc<RequestPermits>,
        state_dir: &Path,
    ) -> Result<Behind, ServerError> {
        // The directory is ours: the store is locked.
        let http_socket = state_dir.join(HTTP_SOCKET_NAME);
        let admin_socket = state_dir.join(SOCKET_NAME);
        let admin = state_dir::listen(&admin_socket)?;
        let http = Server::from_listener(state_dir::listen(&http_socket)?, None)
            .map_err(|error| internal("the HTTP server", &*error))?;
        let http = Arc::new(http);
        let (fail, failed) = watch::channel(false);
        let fail = Arc::new(fail);
        let (worker, registrations) = Worker::new(service.clone(), permits.clone());
        let mut workers = Vec::new();
        for _ in 0..WORKERS {
            let (worker, http, fail) = (worker.clone(), http.clone(), fail.clone());
            workers.push(spawn("worker", move || {
                worker.work(&http);
                fail.send_replace(true);
            })?);
        }
        let for_registrar = service.clone();
        // Ends with the last worker.
        drop(worker);
        let registrar = spawn("registrar", move || {
            http::register_all(&for_registrar, &registrations)
        })?;
        let for_admin = service.clone();
        spawn("admin", move || admin::serve(&admin, &*for_admin))?;
        let (time, stopped) = mpsc::channel();
        let for_time = service.clone();
        let time_thread = spawn("time", move || let_time_pass(&for_time, &stopped))?;
        Ok(Behind {
            http,
            http_socket,
            admin_socket,
            failed,
            workers,
            registrar,
            time,
            time_thread,
        })
    }

    fn stop(self, service: &HttpService) {
        for _ in &self.workers {
            self.http.unblock();
        }
        drop(self.time);
        for thread in self
            .workers
            .into_iter()
            .chain([self.registrar, self.time_thread])
        {
            if thread.join().is_err() {
                tracing::error!("a thread had panicked");
            }
        }
        service.save_endpoints();
        // tiny_http removes its own socket. The next start removes what is left over.
        drop(self.http);
        let _ = std::fs::remove_file(self.admin_socket);
    }
}

fn spawn(
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, ServerError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|source| system("a thread", source))
}

fn let_time_pass(service: &HttpService, stopped: &mpsc::Receiver<()>) {
    let mut ticks = 0_u32;
    while stopped.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
        ticks = ticks.wrapping_add(1);
        answer_all(service, service.tick(service.clock.now()));
        if ticks.is_multiple_of(TICKS_PER_SAVE) {
            service.save_endpoints();
        }
    }
}

/// Serves until a signal or a failure, then lets running requests end.
async fn face_network(
    service: &Arc<HttpService>,
    front_end: &Arc<FrontEnd>,
    ports: Ports,
    behind: &Behind,
) -> Result<(), ServerError> {
    let signals_error = |source| system("signal handlers", source);
    let mut terminate = signal(SignalKind::terminate()).map_err(signals_error)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals_error)?;
    let (stop, stopped) = watch::channel(false);
    let mut listeners = JoinSet::new();
    for (listener, _) in ports.api {
        listeners.spawn(front_end.clone().serve(
            listener,
            ports.tls.clone(),
            Listener::Api,
            stopped.clone(),
        ));
    }
    if let Some((listener, _)) = ports.metrics {
        listeners.spawn(front_end.clone().serve(
            listener,
            None,
            Listener::Metrics,
            stopped.clone(),
        ));
    }
    // Aborted when it is dropped.
    let mut background = JoinSet::new();
    for (server, _) in ports.stun {
        background.spawn(server.serve());
    }
    background.spawn(front_end.clone().sweep());
    if let Some(period) = sd_notify::watchdog_enabled() {
        background.spawn(feed_watchdog(behind.http_socket.clone(), period / 3));
    }
    notify(NotifyState::Ready);
    let mut failed = behind.failed.clone();
    let ended = tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
        _ = failed.wait_for(|failed| *failed) => Err(ServerError::Internal {
            what: "the HTTP server",
            reason: "it takes no more requests".to_owned(),
        }),
    };
    notify(NotifyState::Stopping);
    if let Ok(signal) = ended {
        tracing::info!(signal, "stopping");
    }
    stop.send_replace(true);
    answer_all(service, service.stop_waiting());
    while listeners.join_next().await.is_some() {}
    ended.map(drop)
}

/// Tells systemd that the coordinator is alive, for as long as it answers the way that it answers peers. An answer may
/// take `every` too, so `every` is less than half of what systemd waits.
async fn feed_watchdog(http_socket: PathBuf, every: Duration) {
    loop {
        match tokio::time::timeout(every, http_front_end::is_alive(&http_socket)).await {
            Ok(true) => notify(NotifyState::Watchdog),
            Ok(false) | Err(_) => {
                tracing::warn!("the API does not answer; systemd's watchdog is not fed")
            }
        }
        tokio::time::sleep(every).await;
    }
}

/// Does nothing without systemd.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

fn log_how_to_enrol(service: &HttpService, ports: &Ports, open: bool, state_dir: &Path) {
    let has_peers = service.read(|core| core.registry().count().1 > 0);
    if has_peers {
        return;
    }
    let scheme = if ports.tls.is_some() { "https" } else { "http" };
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let hostname = hostname.as_deref().map_or("THIS-HOST", str::trim);
    let port = ports.api.first().map_or(0, |(_, addr)| addr.port());
    let join = format!("gretun up --coordinator {scheme}://{hostname}:{port}");
    if open {
        tracing::info!("no peer is enrolled yet; on a peer: {join}");
        return;
    }
    let is_default = state_dir::default_path().is_ok_and(|default| default == state_dir);
    let option = if is_default {
        String::new()
    } else {
        format!(" --state-dir {}", state_dir.display())
    };
    tracing::info!(
        "no peer is enrolled yet; make a key with: gretun-coord keys create{option} > peer.key; \
         then on the peer: {join} --auth-key-file peer.key"
    );
}

/// As many as the system allows files for, which it is first asked to.
fn max_connections() -> usize {
    let wanted = (MAX_CONNECTIONS * FILES_PER_CONNECTION + OTHER_FILES) as u64;
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(u64::MAX).min(wanted);
    let current = limit.current.unwrap_or(u64::MAX);
    let raised = Rlimit {
        current: Some(allowed),
        maximum: limit.maximum,
    };
    let files = if current >= allowed || setrlimit(Resource::Nofile, raised).is_ok() {
        allowed
    } else {
        current
    };
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let connections = files.saturating_sub(OTHER_FILES) / FILES_PER_CONNECTION;
    if connections < MAX_CONNECTIONS {
        tracing::warn!(
            connections,
            "few open files are allowed (LimitNOFILE=); so many connections are taken"
        );
    }
    connections.min(MAX_CONNECTIONS)
}
