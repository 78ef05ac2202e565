//! Network namespaces as `ip netns` names them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::error::{Kind, UserError};

/// The directory of `ip netns`.
const DIRECTORY: &str = "/run/netns";

/// Moves the calling thread into a namespace: a name of `ip netns`, or a path such as `/proc/PID/ns/net`.
///
/// # Errors
/// When no namespace has this name, or the process may not enter it.
pub fn enter(name: &str) -> Result<(), NetnsError> {
    let path = if name.contains('/') {
        PathBuf::from(name)
    } else {
        Path::new(DIRECTORY).join(name)
    };
    let failed = |source| NetnsError {
        name: name.to_owned(),
        source,
    };
    let namespace = File::open(path).map_err(failed)?;
    // SAFETY: the descriptor is open, and the call only changes the calling thread's namespace.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
        Ok(())
    } else {
        Err(failed(io::Error::last_os_error()))
    }
}

/// A namespace that cannot be entered.
#[derive(Debug, Error)]
#[error("cannot enter network namespace {name}: {source}")]
pub struct NetnsError {
    /// Its name.
    pub name: String,
    /// The system's error.
    pub source: io::Error,
}

impl UserError for NetnsError {
    fn kind(&self) -> Kind {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied => Kind::Environment,
            _ => Kind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self.kind() {
            Kind::Environment => "run as root: entering a namespace needs CAP_SYS_ADMIN".to_owned(),
            _ => "`ip netns list` shows the names".to_owned(),
        })
    }
}
