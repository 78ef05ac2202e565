//! The state directory: where it is, and the Unix sockets in it.

use std::fs::{DirBuilder, Permissions, set_permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::error::{Kind, UserError};

/// The longest path of a Unix socket, bytes (`sun_path` with its closing zero).
const MAX_SOCKET_PATH: usize = 107;

/// Connections that wait to be accepted: more than the front end admits, so that connecting never has to wait.
const BACKLOG: i32 = 2048;

/// The reason why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// No flag, no root, no service manager, no home directory.
    #[error("there is no default place for the state directory")]
    NoDefault,
    /// It cannot be made.
    #[error("cannot create the state directory {path}")]
    Create {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A Unix socket's path would be too long.
    #[error("{path} is too long a path for a Unix socket, by {excess} bytes")]
    TooLong {
        /// The socket.
        path: PathBuf,
        /// Bytes beyond the limit.
        excess: usize,
    },
    /// A Unix socket cannot be made.
    #[error("cannot listen on {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

impl UserError for StateDirError {
    fn kind(&self) -> Kind {
        match self {
            StateDirError::NoDefault | StateDirError::TooLong { .. } => Kind::Usage,
            StateDirError::Create { source, .. } | StateDirError::Socket { source, .. } => {
                if source.kind() == io::ErrorKind::PermissionDenied {
                    Kind::Environment
                } else {
                    Kind::Failed
                }
            }
        }
    }

    fn hint(&self) -> Option<String> {
        Some("choose a directory of your own with --state-dir".to_owned())
    }
}

/// The place to use when none is given: `/var/lib/gretun-coord` for root, what systemd's `StateDirectory=` says, or
/// the user's own state directory.
pub fn default_path() -> Result<PathBuf, StateDirError> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(given) = std::env::var("STATE_DIRECTORY")
        .ok()
        .filter(|it| !it.is_empty())
    {
        // systemd joins several with colons.
        return Ok(PathBuf::from(given.split(':').next().unwrap_or(&given)));
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/gretun-coord"));
    }
    variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("gretun-coord"))
        .ok_or(StateDirError::NoDefault)
}

/// Makes the directory, for its owner only, where there is none.
pub fn create(path: &Path) -> Result<(), StateDirError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StateDirError::Create {
            path: path.to_owned(),
            source,
        })
}

/// Listens on a Unix socket in the directory, for its owner only. A socket that is there already is a leftover: the
/// caller holds the store's lock.
pub fn listen(path: &Path) -> Result<UnixListener, StateDirError> {
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return Err(StateDirError::TooLong {
            path: path.to_owned(),
            excess: length - MAX_SOCKET_PATH,
        });
    }
    bind(path).map_err(|source| StateDirError::Socket {
        path: path.to_owned(),
        source,
    })
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Nobody can connect before `listen`.
    set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever can connect to it is the coordinator's administrator.
    #[test]
    fn a_socket_is_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        for _ in 0..2 {
            let _socket = listen(&path).unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{mode:o}");
        }
    }
}
