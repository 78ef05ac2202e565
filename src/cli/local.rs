//! The arguments by which a command finds the daemon.

use std::path::PathBuf;

use crate::daemon::settings::DEFAULT_SOCKET;

/// The arguments that name the daemon.
#[derive(Clone, Debug, clap::Args)]
pub struct LocalArgs {
    /// Unix socket of the daemon
    #[arg(long, env = "GRETUN_SOCKET", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}
