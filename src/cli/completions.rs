//! `gretun completions` and `gretun-coord completions`: shell completions on standard output.

use clap_complete::Shell;

use super::out::out;
use super::report::Report;

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gretun completions bash > /etc/bash_completion.d/gretun\n  gretun completions --shell zsh"
)]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL", required_unless_present = "shell_flag")]
    shell: Option<Shell>,
    /// The shell
    #[arg(
        long = "shell",
        id = "shell_flag",
        value_name = "SHELL",
        conflicts_with = "shell"
    )]
    shell_flag: Option<Shell>,
}

/// Prints the script for a program.
pub fn run(args: &Args, mut program: clap::Command) -> Result<(), Report> {
    let Some(shell) = args.shell.or(args.shell_flag) else {
        return Err(Report::usage("SHELL: is missing"));
    };
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, name, &mut script);
    out!("{}", String::from_utf8_lossy(&script));
    Ok(())
}
