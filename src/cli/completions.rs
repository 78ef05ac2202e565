//! `gretun completions` and `gretun-coord completions`: shell completions on standard output.

use std::io;

use clap_complete::Shell;

use super::report::Report;

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  gretun completions bash > /etc/bash_completion.d/gretun")]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script for a program.
pub fn run(args: &Args, mut program: clap::Command) -> Result<(), Report> {
    let name = program.get_name().to_owned();
    clap_complete::generate(args.shell, &mut program, name, &mut io::stdout());
    Ok(())
}
