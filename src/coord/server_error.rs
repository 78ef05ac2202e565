//! The reasons why the coordinator cannot start, or had to stop, with their hints.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::api_error::ApiError;
use super::state_dir::StateDirError;
use super::store::StoreError;
use crate::error::{Kind, UserError};

/// The reason why the coordinator cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored peers do not fit the pools.
    #[error("the registered peers do not fit the address pools: {0}")]
    Pools(ApiError),
    /// A port.
    #[error("cannot listen on {addr} ({what})")]
    Listen {
        /// `API`, `STUN` or `metrics`.
        what: &'static str,
        /// Where.
        addr: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// The certificate or its key.
    #[error("cannot use {path} for TLS: {reason}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// The system refuses threads, signals or the like.
    #[error("the system refuses {what}")]
    System {
        /// The resource that was asked for.
        what: &'static str,
        /// Its words.
        source: io::Error,
    },
    /// A library failed where it cannot.
    #[error("{what} failed: {reason}")]
    Internal {
        /// The part that failed.
        what: &'static str,
        /// Its words.
        reason: String,
    },
}

impl UserError for ServerError {
    fn kind(&self) -> Kind {
        match self {
            ServerError::StateDir(error) => error.kind(),
            ServerError::Store(error) => error.kind(),
            ServerError::Listen { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Kind::Environment
            }
            _ => Kind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ServerError::StateDir(error) => error.hint(),
            ServerError::Store(error) => error.hint(),
            ServerError::Pools(_) => {
                Some("start with a larger --pool, or with the one that was used before".to_owned())
            }
            ServerError::Listen { what, addr, source } => listen_hint(what, *addr, source),
            ServerError::Tls { .. } => Some(
                "--cert takes the certificate chain, --key its private key, both PEM".to_owned(),
            ),
            ServerError::System { .. } | ServerError::Internal { .. } => None,
        }
    }
}

fn listen_hint(what: &str, addr: SocketAddr, source: &io::Error) -> Option<String> {
    let flag = match what {
        "STUN" => "--stun-listen",
        "metrics" => "--metrics-addr",
        _ => "--listen",
    };
    let table = if what == "STUN" { "-lunp" } else { "-ltnp" };
    let port = addr.port();
    match source.kind() {
        io::ErrorKind::AddrInUse => Some(format!(
            "see who has the port with `ss {table} 'sport = :{port}'`, or choose another with {flag}"
        )),
        io::ErrorKind::PermissionDenied => Some(format!(
            "ports below 1024 need CAP_NET_BIND_SERVICE; choose another with {flag}"
        )),
        io::ErrorKind::AddrNotAvailable => Some(format!(
            "this host has no address {}; see `ip address`",
            addr.ip()
        )),
        _ => None,
    }
}

/// A library failed where it cannot.
pub fn internal(what: &'static str, error: &(impl std::error::Error + ?Sized)) -> ServerError {
    ServerError::Internal {
        what,
        reason: error.to_string(),
    }
}

/// The system refuses `what`.
pub fn system(what: &'static str, source: io::Error) -> ServerError {
    ServerError::System { what, source }
}
