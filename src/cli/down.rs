//! `gretun down`: remove the overlay's tunnels.

use super::local::LocalArgs;
use super::report::Report;
use crate::daemon::local_api::{self, LocalApiError, Request};
use crate::daemon::settings::Settings;
use crate::daemon::teardown;

/// Remove all overlay tunnels, the FOU port, and stop the daemon
///
/// Works with or without a running daemon. The keys and addresses of this node stay in the state directory.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gretun down\n  gretun down --state-dir /var/lib/gretun-lab --socket /run/gretun/lab.sock"
)]
pub struct Args {
    #[command(flatten)]
    local: LocalArgs,
    /// State directory of the daemon whose tunnels are meant, where no daemon runs [default: /var/lib/gretun]
    #[arg(long, env = "GRETUN_STATE_DIR", value_name = "DIR")]
    state_dir: Option<std::path::PathBuf>,
    /// UDP port of that daemon
    #[arg(long, env = "GRETUN_FOU_PORT", value_name = "PORT", default_value_t = crate::daemon::settings::DEFAULT_PORT)]
    fou_port: u16,
}

/// Asks the daemon, or does it in its place.
pub fn run(args: Args) -> Result<(), Report> {
    match local_api::ask::<()>(&args.local.socket, &Request::Down) {
        Ok(()) => Ok(()),
        Err(LocalApiError::NoDaemon { .. }) => {
            let settings = Settings {
                state_dir: args.state_dir,
                ..Settings::default()
            };
            Ok(teardown::run(&settings.state_dir(), args.fou_port)?)
        }
        Err(error) => Err(error.into()),
    }
}
