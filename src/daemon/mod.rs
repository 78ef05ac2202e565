//! The overlay daemon: the event loop that joins [`crate::node`] to sockets, the kernel, the coordinator and people.
//!
//! [`run`] opens everything in an order in which a failure leaves nothing behind, then hands over to the event loop.
//! Stopping leaves the kernel's tunnels and the FOU port as they are; the next start adopts them.

pub mod conductor;
mod event_loop;
mod metrics;
mod metrics_server;
mod offloaded;
pub mod port_mapping;
mod port_mapping_status;
mod queries;
pub mod settings;
mod startup;
pub mod state_dir;
pub mod state_writer;
pub mod stun_servers;
pub mod teardown;

use std::process::ExitCode;
use std::time::Instant;

use settings::Config;
pub use startup::DaemonError;

/// Exit code of a daemon that `gretun down` ended, so that a service manager does not start it again.
const EXIT_DOWN: u8 = 10;

/// How the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By a signal: the tunnels stay.
    Stopped,
    /// By `gretun down`: the tunnels are gone.
    Down,
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Stopped => ExitCode::SUCCESS,
            Ended::Down => ExitCode::from(EXIT_DOWN),
        }
    }
}

/// Runs the daemon until it is told to stop; blocks.
///
/// # Errors
/// When it cannot start, such as without permission, without the kernel's modules, or with its port taken. Once it
/// runs, nothing that comes from the network ends it.
pub fn run(config: Config) -> Result<Ended, DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)?;
    let ended = runtime.block_on(async { startup::start(config).await?.run().await });
    // A name lookup may still be under way on a thread of the runtime; it is not worth waiting for.
    runtime.shutdown_background();
    ended
}

/// Sleeps until then; for ever where there is no deadline.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
