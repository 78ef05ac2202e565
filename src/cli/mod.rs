//! The command line: one file a command, and [`report`], which turns errors into messages, hints and exit codes.

mod apply;
pub(crate) mod completions;
pub mod coord;
mod create;
mod delete;
mod doctor;
mod down;
mod duration;
mod explain;
mod export;
mod health;
mod import;
mod list;
mod local;
mod log;
pub(crate) mod man;
mod netcheck;
pub(crate) mod out;
mod peer_arg;
mod peers;
mod ping;
mod probe;
pub mod report;
mod static_tunnels;
mod status;
mod stun;
mod table;
mod tunnel_view;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use self::report::Report;

/// The global arguments, which every command gets beside its own.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Answer in JSON.
    pub json: bool,
    /// Number of `--verbose` flags.
    pub verbose: u8,
}

/// Connect Linux hosts by kernel GRE tunnels, also through NATs
///
/// GRE and FOU are plaintext: gretun finds paths and sets up kernel tunnels, it does not encrypt what they carry.
#[derive(Debug, Parser)]
#[command(name = "gretun", version, max_term_width = 100)]
pub struct Cli {
    /// Answer in JSON, errors included
    #[arg(long, global = true, display_order = 900)]
    json: bool,
    /// Say more; twice for every packet
    #[arg(long, short, global = true, action = clap::ArgAction::Count, display_order = 901)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Args),
    Down(down::Args),
    Peers(peers::Args),
    Explain(explain::Args),
    Ping(ping::Args),
    Netcheck(netcheck::Args),
    Doctor(Box<doctor::Args>),
    Stun(stun::Args),
    Create(Box<create::Args>),
    Apply(apply::Args),
    Delete(delete::Args),
    List(list::Args),
    Status(status::Args),
    Probe(probe::Args),
    Health(health::Args),
    Import(import::Args),
    Export(export::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Parses the command line, runs the command and gives the process's exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let context = Context {
        json: cli.json,
        verbose: cli.verbose,
    };
    log::start(context);
    match run(cli.command, context) {
        Ok(code) => code,
        Err(report) => report.exit(context.json),
    }
}

/// Prints clap's answer to a command line: help and version, or an error, as JSON if that was asked for.
fn refuse(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    if !error.use_stderr() || !wants_json {
        error.exit();
    }
    let text = error.render().to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    let message = message.trim_start_matches("error: ").trim();
    Report::usage(message)
        .with_hint("`gretun COMMAND --help` has examples")
        .exit(true)
}

fn run(command: Command, context: Context) -> Result<ExitCode, Report> {
    let done = match command {
        Command::Up(args) => return up::run(args),
        Command::Down(args) => down::run(args),
        Command::Explain(args) => explain::run(&args, context),
        Command::Doctor(args) => return doctor::run(*args, context),
        Command::Netcheck(args) => netcheck::run(&args, context),
        Command::Ping(args) => return ping::run(&args, context),
        Command::Peers(args) => peers::run(&args, context),
        Command::Stun(args) => stun::run(&args, context),
        Command::Create(args) => create::run(&args, context),
        Command::Apply(args) => apply::run(&args, context),
        Command::Delete(args) => delete::run(&args, context),
        Command::List(args) => list::run(&args, context),
        Command::Status(args) => status::run(&args, context),
        Command::Probe(args) => probe::run(&args, context),
        Command::Health(args) => health::run(&args, context),
        Command::Import(args) => import::run(&args, context),
        Command::Export(args) => export::run(&args, context),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
    };
    done.map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, ValueEnum as _};

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_description_and_examples() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name}");
            let after = command.get_after_help().map(ToString::to_string);
            let after = after.unwrap_or_default();
            assert!(after.starts_with("Example"), "{name}: {after}");
            assert!(
                after.contains(&format!("{name} ")) || after.contains(&format!("{name}\n")),
                "{name}: {after}"
            );
        }
    }

    #[test]
    fn every_command_has_a_manual_page_and_completions() {
        let directory = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(Cli::command(), directory.path()).unwrap();
        let scripts = clap_complete::Shell::value_variants().iter().map(|shell| {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "gretun", &mut script);
            (shell, String::from_utf8(script).unwrap())
        });
        let scripts: Vec<_> = scripts.collect();
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let page = directory.path().join(format!("gretun-{name}.1"));
            // A dash may be broken at, so it is written as `\-`.
            let page = std::fs::read_to_string(page).unwrap().replace("\\-", "-");
            assert!(page.contains("Example"), "{name} has no examples: {page}");
            for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(page.contains(&format!("--{flag}")), "{name} --{flag}");
                for (shell, script) in &scripts {
                    assert!(
                        script.contains(name) && script.contains(flag),
                        "{shell}: {name} --{flag}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_a_command_acts_on_is_a_flag_too() {
        let value = |argument: &clap::Arg| {
            let names = argument.get_value_names().unwrap_or_default();
            names.first().map(ToString::to_string).unwrap_or_default()
        };
        for command in Cli::command().get_subcommands() {
            for positional in command.get_positionals() {
                let wanted = value(positional);
                let mut flags = command.get_arguments().filter(|a| a.get_long().is_some());
                assert!(
                    flags.any(|flag| wanted.contains(&value(flag)) && !value(flag).is_empty()),
                    "{} {wanted} has no flag",
                    command.get_name()
                );
            }
        }
    }
}
