//! `gretun completions`: shell completions on standard output.

use std::io;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::report::Report;

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  gretun completions bash > /etc/bash_completion.d/gretun")]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args) -> Result<(), Report> {
    clap_complete::generate(
        args.shell,
        &mut super::Cli::command(),
        "gretun",
        &mut io::stdout(),
    );
    Ok(())
}
