//! `gretun down`: remove the overlay's tunnels.

use std::path::PathBuf;

use super::out::progressln;
use super::report::Report;
use crate::daemon::settings::{DEFAULT_PORT, Settings};
use crate::daemon::teardown;
use crate::local_api::{self, LocalApiError, Request};

/// Remove all overlay tunnels, the FOU port, and stop the daemon
///
/// Works with or without a running daemon. The keys and addresses of this node stay in the state directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gretun down
  gretun down --config /etc/gretun/peer.toml
  gretun down --state-dir /var/lib/gretun-lab --socket /run/gretun/lab.sock --fou-port 7778")]
pub struct Args {
    /// TOML file of the daemon (`gretun up --config`), for its socket, state directory and port; flags and environment
    /// win over it
    #[arg(long, env = "GRETUN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Unix socket of the daemon [default: /run/gretun/gretun.sock]
    #[arg(long, env = "GRETUN_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// State directory of the daemon whose tunnels are meant, where no daemon runs [default: /var/lib/gretun]
    #[arg(long, env = "GRETUN_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// UDP port of that daemon [default: 7777]
    #[arg(long, env = "GRETUN_FOU_PORT", value_name = "PORT")]
    fou_port: Option<u16>,
}

/// Asks the daemon, or does it in its place.
pub fn run(args: Args) -> Result<(), Report> {
    let flags = Settings {
        socket: args.socket,
        state_dir: args.state_dir,
        fou_port: args.fou_port,
        ..Settings::default()
    };
    let settings = match &args.config {
        Some(path) => flags.over(Settings::from_file(path)?),
        None => flags,
    };
    progressln!("removing the tunnels ...");
    match local_api::ask::<()>(&settings.socket(), &Request::Down) {
        Ok(()) => Ok(()),
        Err(LocalApiError::NoDaemon { .. }) => Ok(teardown::run(
            &settings.state_dir(),
            settings.fou_port.unwrap_or(DEFAULT_PORT),
        )?),
        Err(error) => Err(error.into()),
    }
}
