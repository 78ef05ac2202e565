//! `gretun up`: the overlay daemon in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;

use super::report::Report;
use crate::daemon;
use crate::daemon::settings::Settings;

/// Join the overlay: find paths to all peers and keep kernel tunnels to them
///
/// Runs in the foreground until SIGTERM or SIGINT. Stopping leaves the tunnels up, and the next start adopts them;
/// `gretun down` removes them. GRE and FOU do not encrypt.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gretun up --coordinator https://gretun.example.org:8443 --auth-key-file /run/keys/gretun
  gretun up --config /etc/gretun.toml
  gretun up --config /etc/gretun.toml --check-config

Exit codes: 0 stopped, 1 failed, 2 usage, 3 permission or kernel feature missing, 10 ended by `gretun down`.")]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    /// TOML file of the same names; flags and environment win over it
    #[arg(long, env = "GRETUN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the settings and exit; asks nothing of this machine: no privilege, no network, no host name
    #[arg(long)]
    check_config: bool,
}

/// Runs the daemon, or only checks its settings.
pub fn run(args: Args) -> Result<ExitCode, Report> {
    let settings = match &args.config {
        Some(path) => args.settings.over(Settings::from_file(path)?),
        None => args.settings,
    };
    if args.check_config {
        settings.check()?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(daemon::run(settings.resolve()?)?.into())
}
