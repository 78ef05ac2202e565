//! The command line: one file a command, and [`report`], which turns errors into messages, hints and exit codes.

mod apply;
mod completions;
mod create;
mod delete;
mod doctor;
mod down;
mod explain;
mod export;
mod import;
mod list;
mod local;
mod log;
mod man;
mod netcheck;
mod peer_arg;
mod peers;
mod ping;
pub mod report;
mod static_tunnels;
mod status;
mod stun;
mod table;
mod tunnel_view;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::report::Report;

/// What every command is told beside its own arguments.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Answer in JSON.
    pub json: bool,
    /// How often `--verbose` was given.
    pub verbose: u8,
}

/// Join Linux hosts with kernel GRE tunnels, also through NATs
///
/// GRE and FOU are plaintext: gretun finds paths and sets up kernel tunnels, it does not encrypt what they carry.
#[derive(Debug, Parser)]
#[command(name = "gretun", version, max_term_width = 100)]
pub struct Cli {
    /// Answer in JSON, errors included
    #[arg(long, global = true)]
    json: bool,
    /// Say more; twice for every packet
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
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
    Import(import::Args),
    Export(export::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Parses the command line, runs the command and gives the process's exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
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
        Command::Import(args) => import::run(&args, context),
        Command::Export(args) => export::run(&args, context),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    };
    done.map(|()| ExitCode::SUCCESS)
}
