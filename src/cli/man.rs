//! `gretun man` and `gretun-coord man`: manual pages of every command.

use std::path::PathBuf;

use super::report::Report;

/// Write the manual pages of this program and all its commands
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gretun man /usr/local/share/man/man1\n  gretun man --dir /tmp/man && man -l /tmp/man/gretun-probe.1"
)]
pub struct Args {
    /// Directory to write to; it must exist
    #[arg(value_name = "DIR", required_unless_present = "dir_flag")]
    dir: Option<PathBuf>,
    /// Directory to write to; it must exist
    #[arg(
        long = "dir",
        id = "dir_flag",
        value_name = "DIR",
        conflicts_with = "dir"
    )]
    dir_flag: Option<PathBuf>,
}

/// Writes the pages of a program.
pub fn run(args: &Args, program: clap::Command) -> Result<(), Report> {
    let Some(dir) = args.dir.as_ref().or(args.dir_flag.as_ref()) else {
        return Err(Report::usage("DIR: is missing"));
    };
    clap_mangen::generate_to(program, dir).map_err(|error| {
        Report::failed(format!(
            "cannot write manual pages to {}: {error}",
            dir.display()
        ))
        .with_hint("the directory must exist and be writable: `mkdir -p DIR`")
    })
}
