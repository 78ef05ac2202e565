//! Sets up the log: to standard error, with time and colour only if a person reads it.

use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt;

use super::Context;

/// Starts logging for the whole process.
pub fn start(context: Context) {
    let level = match context.verbose {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let builder = fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        // It would print its own failures to the very place that it failed to write to, and panic.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .with_target(context.verbose > 0);
    // The journal has its own time stamps.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    match (context.json, journal) {
        (true, _) => builder.json().init(),
        (false, true) => builder.without_time().init(),
        (false, false) => builder.init(),
    }
}
