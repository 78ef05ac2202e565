//! One change of static tunnels at a time in a network namespace. The lock is an abstract Unix socket: such names belong
//! to the network namespace, and the kernel takes them back from a process that dies.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use thiserror::Error;

use crate::error::UserError;

const NAME: &str = "gretun-static-tunnels";

/// How long another process may take; far more than a change of thousands of tunnels does.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(20);

/// The right to change static tunnels, until dropped.
#[derive(Debug)]
pub struct Lock {
    _socket: UnixDatagram,
}

impl Lock {
    /// Waits for the right.
    ///
    /// # Errors
    /// When another process keeps it for a minute, or the system has no sockets.
    pub async fn take() -> Result<Self, LockError> {
        let address = SocketAddr::from_abstract_name(NAME).map_err(LockError::System)?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match UnixDatagram::bind_addr(&address) {
                Ok(socket) => return Ok(Lock { _socket: socket }),
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    return Err(LockError::System(error));
                }
                Err(_) if tokio::time::Instant::now() >= deadline => return Err(LockError::Busy),
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }
}

/// No lock.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another gretun has been changing tunnels for a minute")]
    Busy,
    /// The system refuses the socket.
    #[error("cannot take the lock: {0}")]
    System(io::Error),
}

impl UserError for LockError {
    fn hint(&self) -> Option<String> {
        match self {
            LockError::Busy => Some(format!("`ss -xp | grep {NAME}` shows which")),
            LockError::System(_) => None,
        }
    }
}
