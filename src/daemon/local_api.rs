//! The local API: other commands reach the daemon through a Unix socket, one JSON line as request, one as answer.

use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use super::port_mapping_status::PortMappingView;
use crate::error::{Kind, UserError};
use crate::proto::NatMapping;
use crate::proto::keys::NodePublic;

/// Who may talk to the daemon: its owner and its group.
const SOCKET_MODE: u32 = 0o660;

/// The longest request line, in bytes.
const REQUEST_MAX: u64 = 4096;

/// How long a client may take to send its request or take its answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// All peers, as a list of [`PeerView`].
    Peers,
    /// Our public endpoints as STUN servers see them, as a list of [`StunView`].
    Stun,
    /// Why the peer of this name, tunnel address or node key is joined or not:
    /// [`ExplainView`](super::path_views::ExplainView), or null when there is no such peer.
    Explain(String),
    /// Every path to that peer: [`PathsView`](super::path_views::PathsView), or null.
    Paths(String),
    /// The same, after which one more ping goes over every path and through the tunnel.
    Ping(String),
    /// What the daemon knows of the network around its own port: [`DaemonNetView`].
    Net,
    /// The text of a Prometheus scrape.
    Metrics,
    /// Remove all tunnels and stop; the answer is null.
    Down,
}

/// One peer as `gretun peers` shows it. The names are stable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// The peer's name.
    pub name: String,
    /// Its node key.
    pub node_key: NodePublic,
    /// Its addresses inside the tunnel.
    pub tunnel_ips: Vec<IpAddr>,
    /// `unknown`, `have_endpoints`, `punching`, `direct` or `unreachable`.
    pub state: String,
    /// Why it is in this state.
    pub reason: String,
    /// `lan` or `direct`, where there is a path.
    pub via: Option<String>,
    /// Where its packets go.
    pub endpoint: Option<SocketAddr>,
    /// The tunnel interface.
    pub interface: Option<String>,
    /// Round trip of the last probe through the tunnel, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// MTU of the tunnel interface, in bytes.
    pub mtu: Option<u32>,
    /// Bytes received through the tunnel interface.
    pub rx_bytes: u64,
    /// Bytes sent through the tunnel interface.
    pub tx_bytes: u64,
    /// Since when it is in this state, RFC 3339.
    pub since: String,
}

/// One public endpoint as `gretun stun` shows it. The names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StunView {
    /// The STUN server that was asked.
    pub server: SocketAddr,
    /// The address and port that it saw.
    pub endpoint: SocketAddr,
}

/// What the daemon knows of the network around its port. The names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonNetView {
    /// The data port.
    pub port: u16,
    /// How the NAT maps it.
    pub mapping: NatMapping,
    /// The STUN servers that are asked.
    pub servers: Vec<SocketAddr>,
    /// The coordinator's URL.
    pub coordinator: String,
    /// Where the keys are.
    pub state_dir: PathBuf,
    /// The router's port; null when it is not asked (`--port-mapping=false`).
    #[serde(default)]
    pub port_mapping: Option<PortMappingView>,
}

/// A request with the place for its answer.
#[derive(Debug)]
pub struct Query {
    /// What was asked.
    pub request: Request,
    /// Where the answer goes; dropping it tells the client that the daemon is stopping.
    pub answer: oneshot::Sender<serde_json::Value>,
}

/// The listening socket; its file goes away with it.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
}

impl Server {
    /// Listens on `path` and passes queries on. A file left by a daemon that was killed is replaced; a socket on which
    /// a daemon still answers is not.
    ///
    /// # Errors
    /// When the socket cannot be made, or another daemon answers on it.
    pub fn start(path: &Path, queries: mpsc::Sender<Query>) -> Result<Self, LocalApiError> {
        let at = |source| LocalApiError::Listen {
            path: path.to_owned(),
            source,
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(at)?;
        }
        if BlockingStream::connect(path).is_ok() {
            return Err(LocalApiError::Taken {
                path: path.to_owned(),
            });
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(at)?;
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(at)?;
        tokio::spawn(accept(listener, queries));
        Ok(Server {
            path: path.to_owned(),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing can be done about a socket file that somebody else removed already.
        let _ = fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, queries: mpsc::Sender<Query>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let queries = queries.clone();
                tokio::spawn(async move {
                    match tokio::time::timeout(CLIENT_TIMEOUT, serve(stream, queries)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!(%error, "local API client dropped"),
                        Err(_) => debug!("local API client dropped: too slow"),
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: it passes.
                debug!(%error, "local API cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, queries: mpsc::Sender<Query>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(REQUEST_MAX))
        .read_line(&mut line)
        .await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            let asked = queries.send(Query { request, answer }).await.is_ok();
            match answered.await {
                Ok(value) if asked => Ok(value),
                _ => Err("the daemon is stopping".to_owned()),
            }
        }
        Err(error) => Err(format!("bad request: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    write.write_all(&text).await
}

/// Asks the daemon on `path`; blocks.
///
/// # Errors
/// When no daemon answers, or it answers with an error.
pub fn ask<T: DeserializeOwned>(path: &Path, request: &Request) -> Result<T, LocalApiError> {
    let at = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => LocalApiError::NoDaemon {
            path: path.to_owned(),
        },
        _ => LocalApiError::Connect {
            path: path.to_owned(),
            source,
        },
    };
    let mut stream = BlockingStream::connect(path).map_err(at)?;
    stream.set_read_timeout(Some(CLIENT_TIMEOUT)).map_err(at)?;
    let mut line = serde_json::to_string(request).map_err(|error| at(error.into()))?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(at)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(at)?;
    let answer: Result<T, String> =
        serde_json::from_str(&answer).map_err(|error| LocalApiError::Answer {
            reason: error.to_string(),
        })?;
    answer.map_err(|reason| LocalApiError::Answer { reason })
}

/// What can go wrong between a command and the daemon.
#[derive(Debug, Error)]
pub enum LocalApiError {
    /// The socket cannot be made.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another daemon answers on the socket.
    #[error("another gretun daemon listens on {}", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Nobody listens.
    #[error("no gretun daemon answers on {}", path.display())]
    NoDaemon {
        /// The socket.
        path: PathBuf,
    },
    /// Connecting or talking failed.
    #[error("cannot talk to the daemon on {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The daemon answered with an error, or with something that is no answer.
    #[error("the daemon answered: {reason}")]
    Answer {
        /// What it said.
        reason: String,
    },
}

impl UserError for LocalApiError {
    fn kind(&self) -> Kind {
        match self {
            LocalApiError::Listen { source, .. } | LocalApiError::Connect { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Kind::Environment
            }
            _ => Kind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            LocalApiError::Listen { .. } => "choose another path with --socket",
            LocalApiError::Taken { .. } => {
                "give each daemon on a host its own --state-dir, --socket, --fou-port and --iface"
            }
            LocalApiError::NoDaemon { .. } => {
                "start it with `gretun up`, or name its socket with --socket"
            }
            LocalApiError::Connect { .. } => {
                "run the command as root or as a member of the socket's group"
            }
            LocalApiError::Answer { .. } => {
                "check that the daemon and this command are of the same version"
            }
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
#[path = "local_api_tests.rs"]
mod tests;
