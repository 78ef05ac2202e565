//! The state directory: the node's keys, the last known peers and the link indices. One daemon at a time owns it. Every
//! file is written whole (temporary file, sync, rename), so that a crash leaves the old or the new content, never half.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use thiserror::Error;
use tracing::warn;

use crate::error::{Kind, UserError};
use crate::kernel::tunnel::fou::Family;
use crate::node::InterfaceNumbers;
use crate::portmap::Lease;
use crate::proto::api::PeerRecord;
use crate::proto::keys::{DiscoSecret, NodeSecret};

const NODE_KEY: &str = "node.key";
const DISCO_KEY: &str = "disco.key";
const NETWORK: &str = "network.json";
const LINKS: &str = "links.json";
const EXTRA_PORTS: &str = "extra-ports.json";
const ROUTER_PORT: &str = "router-port.json";
const LOCK: &str = "lock";

/// An open, locked state directory.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Held for its lock, which ends with the process however it ends.
    _lock: File,
}

/// The identity of this node.
#[derive(Debug)]
pub struct Identity {
    /// Ed25519: who we are to the coordinator.
    pub node: NodeSecret,
    /// Curve25519: who we are to peers.
    pub disco: DiscoSecret,
}

/// The coordinator's last answer: enough to run without the coordinator.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Network {
    /// Our own tunnel addresses.
    pub tunnel_ips: Vec<std::net::IpAddr>,
    /// The pools that all tunnel addresses come from.
    #[serde(default)]
    pub networks: Vec<IpNet>,
    /// The STUN ports at the coordinator's host.
    pub stun_ports: Vec<u16>,
    /// All peers.
    pub peers: Vec<PeerRecord>,
}

impl StateDir {
    /// Opens the directory, making it (mode 0700) where it does not exist, and takes its lock.
    ///
    /// # Errors
    /// When it cannot be made, or another daemon holds it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let at = |source| StateError::Open {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(at)?;
        let lock = File::create(path.join(LOCK)).map_err(at)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => StateError::Locked {
                path: path.to_owned(),
            },
            fs::TryLockError::Error(source) => at(source),
        })?;
        Ok(StateDir {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Our keys, made now if this is the first start.
    ///
    /// # Errors
    /// When a key file exists and does not hold a key, or a new one cannot be written.
    pub fn identity(&self) -> Result<Identity, StateError> {
        Ok(Identity {
            node: NodeSecret::from_bytes(self.key(NODE_KEY)?),
            disco: DiscoSecret::from_bytes(self.key(DISCO_KEY)?),
        })
    }

    /// Returns the coordinator's last answer; empty if it was lost, because the coordinator will send it again.
    pub fn network(&self) -> Network {
        self.cached(NETWORK)
    }

    /// The interface numbers given out so far.
    pub fn interface_numbers(&self) -> InterfaceNumbers {
        self.cached(LINKS)
    }

    /// The note of extra FOU ports.
    pub fn extra_ports(&self) -> ExtraPortsFile {
        ExtraPortsFile(self.path.join(EXTRA_PORTS))
    }

    /// The port that the router granted last.
    pub fn router_port(&self) -> Option<Lease> {
        self.cached(ROUTER_PORT)
    }

    /// Keeps the port that the router granted, so that it can be renewed after a restart, and given back without a daemon.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_router_port(&self, lease: Option<&Lease>) -> Result<(), StateError> {
        self.save_json(ROUTER_PORT, &lease)
    }

    /// The files that the daemon writes while it runs: the network, the interface numbers and the router's port.
    pub(super) fn written_files(&self) -> [PathBuf; 3] {
        [NETWORK, LINKS, ROUTER_PORT].map(|name| self.path.join(name))
    }

    fn key(&self, name: &str) -> Result<[u8; 32], StateError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(text) => {
                let mut key = [0; 32];
                data_encoding::HEXLOWER
                    .decode(text.trim_ascii())
                    .ok()
                    .filter(|bytes| bytes.len() == key.len())
                    .map(|bytes| {
                        key.copy_from_slice(&bytes);
                        key
                    })
                    .ok_or(StateError::Key { path })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = [0; 32];
                getrandom::fill(&mut key).map_err(|_| StateError::Randomness)?;
                let text = data_encoding::HEXLOWER.encode(&key);
                write_whole(&path, format!("{text}\n").as_bytes())?;
                Ok(key)
            }
            Err(source) => Err(StateError::Open { path, source }),
        }
    }

    fn cached<T: DeserializeOwned + Default>(&self, name: &str) -> T {
        load_json(&self.path.join(name))
    }

    fn save_json(&self, name: &str, value: &impl Serialize) -> Result<(), StateError> {
        save_json(&self.path.join(name), value)
    }
}

/// The file of the FOU ports that the daemon opens beside the data port, with their families.
#[derive(Clone, Debug)]
pub struct ExtraPortsFile(PathBuf);

impl ExtraPortsFile {
    /// The ports noted; none where the note was lost.
    pub fn load(&self) -> BTreeSet<(u16, Family)> {
        let [v4, v6]: [Vec<u16>; 2] = load_json(&self.0);
        let v4 = v4.into_iter().map(|port| (port, Family::V4));
        let v6 = v6.into_iter().map(|port| (port, Family::V6));
        v4.chain(v6).collect()
    }

    /// Notes these ports and no others.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, ports: &BTreeSet<(u16, Family)>) -> Result<(), StateError> {
        let of = |family| {
            let ports = ports.iter().filter(move |(_, it)| *it == family);
            ports.map(|(port, _)| *port).collect::<Vec<u16>>()
        };
        save_json(&self.0, &[of(Family::V4), of(Family::V6)])
    }
}

/// Reads a file whose loss costs nothing lasting: what cannot be read is put aside, and said.
fn load_json<T: DeserializeOwned + Default>(path: &Path) -> T {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(path = %path.display(), %error, "state file cannot be read; going on without it");
            }
            return T::default();
        }
    };
    serde_json::from_slice(&content).unwrap_or_else(|error| {
        let aside = path.with_extension("corrupt");
        warn!(path = %path.display(), aside = %aside.display(), %error, "state file is corrupt; put aside");
        if let Err(error) = fs::rename(path, &aside) {
            warn!(path = %path.display(), %error, "corrupt state file cannot be put aside");
        }
        T::default()
    })
}

fn save_json(path: &Path, value: &impl Serialize) -> Result<(), StateError> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| StateError::Write {
        path: path.to_owned(),
        source: error.into(),
    })?;
    write_whole(path, &text)
}

/// Replaces a file as a whole, with mode 0600.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let at = |source| StateError::Write {
        path: path.to_owned(),
        source,
    };
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = NamedTempFile::new_in(directory).map_err(at)?;
    file.as_file()
        .set_permissions(Permissions::from_mode(0o600))
        .map_err(at)?;
    file.write_all(content).map_err(at)?;
    file.as_file().sync_all().map_err(at)?;
    file.persist(path).map_err(|error| at(error.error))?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(at)
}

/// A fault of the state directory.
#[derive(Debug, Error)]
pub enum StateError {
    /// The directory or a file in it cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another daemon runs on the same directory.
    #[error("another gretun daemon uses {}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A key file holds something else than a key.
    #[error("{} does not hold a key (64 hexadecimal digits)", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes for a new key")]
    Randomness,
}

impl UserError for StateError {
    fn kind(&self) -> Kind {
        match self {
            StateError::Open { source, .. } | StateError::Write { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Kind::Environment
            }
            _ => Kind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            StateError::Open { .. } | StateError::Write { .. } => {
                "check the directory's owner and free space, or choose another with --state-dir"
                    .to_owned()
            }
            StateError::Locked { .. } => {
                "give each daemon on a host its own --state-dir, --socket, --fou-port and --iface"
                    .to_owned()
            }
            StateError::Key { path } => format!(
                "restore it from a backup, or remove {} to become a new node (which must be enrolled again)",
                path.display()
            ),
            StateError::Randomness => {
                "check that getrandom(2) is not denied by a sandbox".to_owned()
            }
        })
    }
}

#[cfg(test)]
#[path = "state_dir_tests.rs"]
mod tests;
