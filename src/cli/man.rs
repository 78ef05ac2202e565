//! `gretun man` and `gretun-coord man`: manual pages of every command.

use std::path::PathBuf;

use super::report::Report;

/// Write the manual pages of this program and all its commands
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  gretun man --dir /usr/local/share/man/man1")]
pub struct Args {
    /// Directory to write to; it must exist
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Writes the pages of a program.
pub fn run(args: &Args, program: clap::Command) -> Result<(), Report> {
    clap_mangen::generate_to(program, &args.dir).map_err(|error| {
        Report::failed(format!(
            "cannot write manual pages to {}: {error}",
            args.dir.display()
        ))
    })
}
