//! The sockets and HTTP requests of [`crate::portmap`]: one task that asks the router, and what the daemon hears of it.
//!
//! The data port is the kernel's, so requests leave from ports of their own and name it. Answers of PCP and NAT-PMP, and of a UPnP
//! gateway that was asked itself, are answers to any firewall; those to the multicast search are let in by few.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, trace};

use super::sleep_until;
use crate::http_client;
use crate::kernel::Kernel;
use crate::portmap::{HttpRequest, Lease, Network, Output, PortMapper, Status, pcp, upnp};

/// The longest datagram that is read: SSDP's have some hundred bytes, PCP's at most 1100.
const DATAGRAM_MAX: usize = 2048;

/// How far the multicast search goes (UPnP Device Architecture 1.1 section 1.3.2).
const SEARCH_TTL: u32 = 2;

/// A router in the LAN that takes longer for an answer is not going to give one.
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long `gretun down` waits for the router to take its port back.
const RETURN_TIMEOUT: Duration = Duration::from_millis(1500);

/// Commands that wait for the task.
const QUEUE: usize = 16;

enum Command {
    Network(Option<Network>),
    Recheck,
    GiveBack(oneshot::Sender<()>),
}

/// The daemon's end.
#[derive(Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
}

impl Handle {
    /// The state of the router and of its port.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Waits until that changed.
    pub async fn changed(&mut self) -> Status {
        if self.status.changed().await.is_err() {
            // The task is gone: nothing changes any more.
            std::future::pending::<()>().await;
        }
        self.status.borrow_and_update().clone()
    }

    /// The network may have changed.
    pub fn look_at(&self, network: Option<Network>) {
        self.tell(Command::Network(network));
    }

    /// A path was lost.
    pub fn recheck(&self) {
        self.tell(Command::Recheck);
    }

    /// Gives the port back, if there is one, and waits for it as long as that is worth it.
    pub async fn give_back(&self) {
        let (done, returned) = oneshot::channel();
        self.tell(Command::GiveBack(done));
        if tokio::time::timeout(RETURN_TIMEOUT, returned)
            .await
            .is_err()
        {
            debug!("the router has not taken its port back; it does when its time is over");
        }
    }

    fn tell(&self, command: Command) {
        // A queue that is full has something of the kind in it.
        if self.commands.try_send(command).is_err() {
            debug!("port mapping is busy");
        }
    }
}

/// Starts the task. `before` is the lease of the last run.
pub fn start(port: u16, before: Option<Lease>, seed: [u8; 32]) -> Handle {
    let (commands, received) = mpsc::channel(QUEUE);
    let (told, status) = watch::channel(Status::default());
    let asker = Asker::new(PortMapper::new(port, before, seed));
    tokio::spawn(asker.run(received, told));
    Handle { commands, status }
}

/// Gives a lease back without the daemon that got it.
pub async fn give_back(lease: Lease) {
    let mut seed = [0; 32];
    // The seed only spreads repetitions; the lease brings its own nonce.
    let _ = getrandom::fill(&mut seed);
    let mut asker = Asker::new(PortMapper::returning(Instant::now(), lease.clone(), seed));
    asker.network = Some(lease.network);
    let returned = async {
        asker.send_all().await;
        while !asker.mapper.is_idle() {
            asker.step(std::future::pending::<()>()).await;
            asker.send_all().await;
        }
    };
    if tokio::time::timeout(RETURN_TIMEOUT, returned)
        .await
        .is_err()
    {
        debug!("the router has not taken its port back; it does when its time is over");
    }
}

/// The router of this host, by the kernel's word.
pub fn network(kernel: &Kernel) -> Option<Network> {
    match kernel.gateway() {
        Ok(Some((gateway, own))) => Network::behind(gateway, own),
        Ok(None) => None,
        Err(error) => {
            debug!(%error, "no route to the internet, so no router to ask");
            None
        }
    }
}

type Answer = (u64, Result<(u16, String), String>);

/// The mapper with what it needs to talk.
struct Asker {
    mapper: PortMapper,
    network: Option<Network>,
    sockets: Option<Sockets>,
    requests: JoinSet<Answer>,
    /// Who waits for the port to be given back.
    waits: Option<oneshot::Sender<()>>,
}

impl Asker {
    fn new(mapper: PortMapper) -> Self {
        Asker {
            mapper,
            network: None,
            sockets: None,
            requests: JoinSet::new(),
            waits: None,
        }
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>, told: watch::Sender<Status>) {
        loop {
            self.send_all().await;
            let status = self.mapper.status();
            told.send_if_modified(|known| {
                let changed = *known != status;
                *known = status;
                changed
            });
            if self.mapper.is_idle()
                && let Some(waits) = self.waits.take()
            {
                // Whoever has stopped waiting needs no answer.
                let _ = waits.send(());
            }
            let Some(command) = self.step(commands.recv()).await else {
                continue;
            };
            let now = Instant::now();
            match command {
                Some(Command::Network(network)) => {
                    if network != self.network {
                        self.network = network;
                        self.sockets = None;
                    }
                    self.mapper.handle_network(now, network);
                }
                Some(Command::Recheck) => self.mapper.handle_path_loss(now),
                Some(Command::GiveBack(waits)) => {
                    self.mapper.give_back(now);
                    self.waits = Some(waits);
                }
                // The daemon is gone.
                None => return,
            }
        }
    }

    /// Waits for one thing, and hands it to the mapper. Returns what came of `command`, if that was it.
    async fn step<C>(&mut self, command: impl Future<Output = C>) -> Option<C> {
        let deadline = self.mapper.poll_timeout();
        tokio::select! {
            command = command => return Some(command),
            received = receive(self.sockets.as_ref()) => self.handle(received),
            Some(done) = self.requests.join_next() => {
                if let Ok((id, answer)) = done {
                    self.mapper.handle_http(Instant::now(), id, answer);
                }
            }
            () = sleep_until(deadline) => self.mapper.handle_timeout(Instant::now()),
        }
        None
    }

    fn handle(&mut self, received: Received) {
        let now = Instant::now();
        match received {
            Received::FromRouter(Ok(data)) => self.mapper.handle_router(now, &data),
            Received::FromRouter(Err(error)) => self.router_failed(now, &error),
            Received::ToSearch(Ok((from, data))) => {
                self.mapper.handle_search_answer(now, from, &data);
            }
            Received::ToSearch(Err(error)) => trace!(%error, "no answer to a UPnP search"),
        }
    }

    fn router_failed(&mut self, now: Instant, error: &io::Error) {
        trace!(%error, "nothing from the router");
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.mapper.handle_nobody_there(now);
        }
    }

    async fn send_all(&mut self) {
        while let Some(output) = self.mapper.poll_output() {
            let Some(network) = self.network else {
                continue;
            };
            match output {
                Output::Http(request) => {
                    self.requests.spawn(ask(request, network.own));
                }
                Output::ToRouter(data) => {
                    if let Err(error) = self.send_to_router(network, &data).await {
                        self.router_failed(Instant::now(), &error);
                    }
                }
                Output::Search(data) => {
                    let gateway = SocketAddr::new(network.gateway.into(), upnp::SSDP.port());
                    for to in [gateway, upnp::SSDP] {
                        if let Ok(sockets) = self.sockets(network).await
                            && let Err(error) = sockets.search.send_to(&data, to).await
                        {
                            trace!(%to, %error, "UPnP search not sent");
                        }
                    }
                }
            }
        }
    }

    async fn send_to_router(&mut self, network: Network, data: &[u8]) -> io::Result<()> {
        let sockets = self.sockets(network).await?;
        match sockets.router.send(data).await {
            // What the kernel reports is the fate of the datagram before; this one has not left.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                sockets.router.send(data).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    async fn sockets(&mut self, network: Network) -> io::Result<&Sockets> {
        let sockets = match self.sockets.take() {
            Some(sockets) => sockets,
            None => Sockets::open(network).await?,
        };
        Ok(self.sockets.insert(sockets))
    }
}

/// Sockets of one network.
struct Sockets {
    /// Connected: only the router's answers come in, and its ICMP errors.
    router: UdpSocket,
    search: UdpSocket,
}

enum Received {
    FromRouter(io::Result<Vec<u8>>),
    ToSearch(io::Result<(SocketAddr, Vec<u8>)>),
}

impl Sockets {
    async fn open(network: Network) -> io::Result<Self> {
        let router = UdpSocket::bind((network.own, 0)).await?;
        router.connect((network.gateway, pcp::PORT)).await?;
        let search = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), None)?;
        search.set_multicast_if_v4(&network.own)?;
        search.set_multicast_ttl_v4(SEARCH_TTL)?;
        search.bind(&SocketAddr::new(network.own.into(), 0).into())?;
        Ok(Sockets {
            router,
            search: UdpSocket::from_std(search.into())?,
        })
    }
}

async fn receive(sockets: Option<&Sockets>) -> Received {
    let Some(Sockets { router, search }) = sockets else {
        return std::future::pending().await;
    };
    let (mut from_router, mut to_search) = ([0; DATAGRAM_MAX], [0; DATAGRAM_MAX]);
    tokio::select! {
        length = router.recv(&mut from_router) => {
            Received::FromRouter(length.map(|length| from_router[..length].to_vec()))
        }
        received = search.recv_from(&mut to_search) => Received::ToSearch(
            received.map(|(length, from)| (from, to_search[..length].to_vec())),
        ),
    }
}

/// Sends one HTTP request; the answer's status and body.
async fn ask(request: HttpRequest, own: Ipv4Addr) -> Answer {
    let id = request.id;
    let answer = exchange(request, own).await;
    (id, answer.map_err(|error| error.to_string()))
}

async fn exchange(request: HttpRequest, own: Ipv4Addr) -> Result<(u16, String), HttpError> {
    // From the address that the port is asked for: routers grant ports to the asker only. Neither a proxy nor another host is
    // asked in the router's place.
    let builder = reqwest::Client::builder()
        .local_address(Some(own.into()))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(HTTP_TIMEOUT);
    let client = http_client::with_tls(builder, false)?.build()?;
    let call = match request.action {
        None => client.get(request.url),
        Some((action, body)) => client
            .post(request.url)
            .header("SOAPAction", action)
            .header("Content-Type", "text/xml; charset=\"utf-8\"")
            .body(body),
    };
    let response = call.send().await?;
    let status = response.status();
    let body = http_client::read_body(response, upnp::MAX_BODY).await?;
    let body = body.ok_or(HttpError::TooLong)?;
    Ok((status.as_u16(), String::from_utf8_lossy(&body).into_owned()))
}

#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error("the router does not answer by HTTP: {0}")]
    Http(#[from] reqwest::Error),
    #[error("no HTTP client: {0}")]
    Client(#[from] rustls::Error),
    #[error("the router's answer is too long")]
    TooLong,
}

#[cfg(test)]
#[path = "port_mapping_tests.rs"]
mod tests;
