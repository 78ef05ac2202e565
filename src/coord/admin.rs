//! Administration: creates, lists and revokes auth keys, lists and removes peers. The operations work on the running coordinator,
//! through a Unix socket that only its user and root can open, or on the store itself while no coordinator runs.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::clock::unix_ms;
use super::enrol::{ENTROPY_LEN, KeyPolicy, KeyRecord, KeyState};
use super::registry::NodeRecord;
use super::rules::{Change, Snapshot};
use super::store::{Store, StoreError};
use crate::error::{Kind, UserError};
use crate::proto::keys::NodePublic;

/// The socket's name in the state directory.
pub const SOCKET_NAME: &str = "admin.sock";

/// One request line, bytes; the longest has a key's tags.
const MAX_REQUEST: u64 = 16 * 1024;
/// The other side is a program on this host: slower is stuck.
const IO_TIMEOUT: Duration = Duration::from_secs(10);
/// After a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// While a coordinator starts or stops, the store is locked and the socket not there.
const CHANGEOVER: Duration = Duration::from_secs(5);

/// A request; one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Make an auth key.
    CreateKey {
        /// The policy of the key.
        policy: KeyPolicy,
    },
    /// List the auth keys.
    ListKeys,
    /// Revoke an auth key.
    RevokeKey {
        /// Its id, or the key itself.
        id: String,
    },
    /// List the peers.
    ListPeers,
    /// Remove a peer.
    RemovePeer {
        /// Its name or node key.
        peer: String,
    },
}

/// The answer to a request; one line of JSON, in a `Result` with [`AdminError`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A key was made.
    KeyCreated {
        /// To be handed to the peer; it cannot be shown again.
        key: String,
        /// The key as listings show it.
        listed: KeyView,
    },
    /// The keys.
    Keys(Vec<KeyView>),
    /// A key was revoked.
    KeyRevoked {
        /// Its id.
        id: String,
    },
    /// The peers.
    Peers(Vec<PeerView>),
    /// A peer was removed.
    PeerRemoved {
        /// Its name.
        name: String,
    },
}

/// A key in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// Names it.
    pub id: String,
    /// Whether it still admits anybody.
    pub state: KeyState,
    /// The policy of the key.
    #[serde(flatten)]
    pub policy: KeyPolicy,
    /// Time of creation, Unix milliseconds.
    pub created_ms: u64,
    /// Number of nodes that the key admitted.
    pub uses: u64,
}

/// A peer in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub node_key: NodePublic,
    /// Its addresses inside the network.
    pub tunnel_ips: Vec<IpAddr>,
    /// Whether it was heard of lately; unknown while no coordinator runs.
    pub online: Option<bool>,
    /// Removed when it stays away.
    pub ephemeral: bool,
    /// The labels of its key.
    pub tags: Vec<String>,
    /// The id of the key that admitted it.
    pub enrolled_with: Option<String>,
    /// Its gretun version.
    pub version: String,
    /// Time of enrolment, Unix milliseconds.
    pub created_ms: u64,
}

impl KeyView {
    fn new(record: &KeyRecord, now_unix_ms: u64) -> KeyView {
        KeyView {
            id: record.id.clone(),
            state: record.state(now_unix_ms),
            policy: record.policy.clone(),
            created_ms: record.created_ms,
            uses: record.uses,
        }
    }
}

impl PeerView {
    /// Builds the view of a record for listings.
    pub fn new(record: &NodeRecord, online: Option<bool>) -> PeerView {
        PeerView {
            name: record.name.to_string(),
            node_key: record.node_key,
            tunnel_ips: record.tunnel_ips.clone(),
            online,
            ephemeral: record.ephemeral,
            tags: record.tags.clone(),
            enrolled_with: record.enrolled_with.clone(),
            version: record.version.clone(),
            created_ms: record.created_ms,
        }
    }
}

/// The reason why an operation was not done. It crosses the socket, so it holds text only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum AdminError {
    /// No such key.
    #[error("there is no auth key `{id}`")]
    NoSuchKey {
        /// The text as it was given.
        id: String,
    },
    /// No such peer.
    #[error("there is no peer `{peer}`")]
    NoSuchPeer {
        /// The text as it was given.
        peer: String,
    },
    /// The store refuses.
    #[error("{message}")]
    Store {
        /// The error, its cause included.
        message: String,
        /// Its way out.
        hint: Option<String>,
    },
    /// The system gives no randomness.
    #[error("no random bytes from the system: {reason}")]
    NoEntropy {
        /// Its words.
        reason: String,
    },
    /// The two sides do not understand each other.
    #[error("the running coordinator does not understand: {reason}")]
    Protocol {
        /// The fault.
        reason: String,
    },
    /// The socket fails.
    #[error("cannot reach the running coordinator on {path}: {reason}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
}

impl UserError for AdminError {
    fn kind(&self) -> Kind {
        match self {
            AdminError::Socket { .. } => Kind::Environment,
            _ => Kind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            AdminError::NoSuchKey { .. } => Some("see `gretun-coord keys list`".to_owned()),
            AdminError::NoSuchPeer { .. } => Some("see `gretun-coord peers list`".to_owned()),
            AdminError::Store { hint, .. } => hint.clone(),
            AdminError::Protocol { .. } => Some("is it another version? restart it".to_owned()),
            AdminError::Socket { .. } => {
                Some("run as root or as the coordinator's user".to_owned())
            }
            AdminError::NoEntropy { .. } => None,
        }
    }
}

impl From<&StoreError> for AdminError {
    fn from(error: &StoreError) -> AdminError {
        let cause = std::error::Error::source(error);
        AdminError::Store {
            message: cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")),
            hint: error.hint(),
        }
    }
}

/// The target of the operations: a running coordinator, or its store.
pub trait Ledger {
    /// All auth keys.
    fn keys(&self) -> Result<Vec<KeyRecord>, AdminError>;
    /// All peers.
    fn peers(&self) -> Result<Vec<PeerView>, AdminError>;
    /// Makes a change that lasts.
    fn change(&self, change: Change) -> Result<(), AdminError>;
}

impl Ledger for Store {
    fn keys(&self) -> Result<Vec<KeyRecord>, AdminError> {
        load(self).map(|stored| stored.keys)
    }

    fn peers(&self) -> Result<Vec<PeerView>, AdminError> {
        load(self).map(|stored| {
            stored
                .nodes
                .iter()
                .map(|record| PeerView::new(record, None))
                .collect()
        })
    }

    fn change(&self, change: Change) -> Result<(), AdminError> {
        self.commit(&[change])
            .map_err(|error| AdminError::from(&error))
    }
}

fn load(store: &Store) -> Result<Snapshot, AdminError> {
    store.load().map_err(|error| AdminError::from(&error))
}

/// Carries out a request.
pub fn execute(request: Request, ledger: &impl Ledger) -> Result<Answer, AdminError> {
    match request {
        Request::CreateKey { policy } => {
            let mut entropy = [0; ENTROPY_LEN];
            getrandom::fill(&mut entropy).map_err(|error| AdminError::NoEntropy {
                reason: error.to_string(),
            })?;
            let now = unix_ms();
            let (key, record) = KeyRecord::create(&entropy, policy, now);
            let listed = KeyView::new(&record, now);
            ledger.change(Change::PutKey(record))?;
            tracing::info!(id = listed.id, "auth key made");
            Ok(Answer::KeyCreated { key, listed })
        }
        Request::ListKeys => {
            let now = unix_ms();
            let mut keys: Vec<_> = ledger
                .keys()?
                .iter()
                .map(|record| KeyView::new(record, now))
                .collect();
            keys.sort_by_key(|key| key.created_ms);
            Ok(Answer::Keys(keys))
        }
        Request::RevokeKey { id } => {
            // Never show a text that may be a whole key.
            let id = KeyRecord::id_of(&id).to_owned();
            if !ledger.keys()?.iter().any(|record| record.id == id) {
                return Err(AdminError::NoSuchKey { id });
            }
            ledger.change(Change::RemoveKey(id.clone()))?;
            tracing::info!(id, "auth key revoked");
            Ok(Answer::KeyRevoked { id })
        }
        Request::ListPeers => {
            let mut peers = ledger.peers()?;
            peers.sort_by(|one, other| one.name.cmp(&other.name));
            Ok(Answer::Peers(peers))
        }
        Request::RemovePeer { peer } => {
            let found = ledger
                .peers()?
                .into_iter()
                .find(|it| it.name == peer || it.node_key.to_string() == peer)
                .ok_or(AdminError::NoSuchPeer { peer })?;
            ledger.change(Change::RemoveNode(found.node_key))?;
            tracing::info!(name = found.name, node = %found.node_key, "peer removed");
            Ok(Answer::PeerRemoved { name: found.name })
        }
    }
}

/// Serves the socket, one client after the other, for ever: to be run on its own thread.
pub fn serve(listener: &UnixListener, ledger: &impl Ledger) {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                if let Err(error) = serve_one(&stream, ledger) {
                    tracing::debug!(%error, "an administration request failed");
                }
            }
            Err(error) => {
                // Out of file descriptors, mostly: some will be free again.
                tracing::warn!(%error, "cannot accept an administration request");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn serve_one(stream: &UnixStream, ledger: &impl Ledger) -> io::Result<()> {
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_REQUEST)).read_line(&mut line)?;
    let result = serde_json::from_str(&line)
        .map_err(|error| AdminError::Protocol {
            reason: error.to_string(),
        })
        .and_then(|request| execute(request, ledger));
    write_line(stream, &result)
}

/// Has `request` done by the coordinator that runs on `state_dir`, or on the store there when none runs.
pub fn call(state_dir: &Path, request: &Request) -> Result<Answer, AdminError> {
    let path = state_dir.join(SOCKET_NAME);
    let give_up = Instant::now() + CHANGEOVER;
    loop {
        match UnixStream::connect(&path) {
            Ok(stream) => {
                return ask(&stream, request)
                    .unwrap_or_else(|error| Err(socket_error(&path, &error)));
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) => {}
            Err(error) => return Err(socket_error(&path, &error)),
        }
        match Store::open(state_dir) {
            Ok(store) => return execute(request.clone(), &store),
            Err(StoreError::InUse { .. }) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => return Err(AdminError::from(&error)),
        }
    }
}

fn ask(stream: &UnixStream, request: &Request) -> io::Result<Result<Answer, AdminError>> {
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    write_line(stream, request)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let result = serde_json::from_str(&line);
    Ok(result.unwrap_or_else(|error| {
        Err(AdminError::Protocol {
            reason: error.to_string(),
        })
    }))
}

fn write_line(mut stream: &UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn socket_error(path: &Path, error: &io::Error) -> AdminError {
    AdminError::Socket {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
