//! Errors between a command and the daemon.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::error::{Kind, UserError};

/// Errors between a command and the daemon.
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
    /// Something else than a socket is at the path; it is not removed.
    #[error("{} is there, and is no socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
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
        /// The daemon's message.
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
            LocalApiError::Listen { .. } | LocalApiError::NotASocket { .. } => {
                "choose another path with --socket"
            }
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
