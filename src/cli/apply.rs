//! `gretun apply`: makes the tunnels of a set match a file exactly.

use std::path::PathBuf;

use super::Context;
use super::report::Report;
use super::static_tunnels::{self, NetnsArgs, Session, unreadable};
use crate::error::UserError as _;
use crate::tunnel::file::{FileError, TunnelFile};
use crate::tunnel::owner::Owner;
use crate::tunnel::plan;

/// Make all tunnels as a file says: create, change in place, remove
///
/// The file is TOML or JSON, with a table [tunnels.NAME] for each tunnel and the names of the flags of `create` as keys.
/// Tunnels of the same set that the file does not list are removed; all others are left alone. Either all changes are
/// made, or none.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gretun apply /etc/gretun/tunnels.toml --dry-run
  gretun apply /etc/gretun/tunnels.toml
  gretun apply /etc/gretun/tunnels.toml --check

A file:
  [tunnels.site-b]
  local = \"192.0.2.1\"
  remote = \"198.51.100.7\"
  key = 42
  tunnel-ip = [\"10.255.0.1/30\"]
  route = [\"10.2.0.0/16\"]

Exit codes: 0 done, 1 failed and undone, 2 usage or a bad file, 3 permission or kernel feature missing.")]
pub struct Args {
    /// The file; - reads standard input
    #[arg(value_name = "FILE", required_unless_present = "file_flag")]
    file: Option<PathBuf>,
    /// The file; - reads standard input
    #[arg(
        long = "file",
        id = "file_flag",
        value_name = "FILE",
        conflicts_with = "file"
    )]
    file_flag: Option<PathBuf>,
    /// Show the plan and the same as iproute2 commands, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Check the file and exit; needs no privilege and no kernel
    #[arg(long, conflicts_with = "dry_run")]
    check: bool,
    #[command(flatten)]
    netns: NetnsArgs,
}

/// Reads the file and carries it out.
pub fn run(args: &Args, context: Context) -> Result<(), Report> {
    let path = args.file.as_ref().or(args.file_flag.as_ref());
    let path = path.cloned().unwrap_or_default();
    let text = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(&path)
    };
    let text = text.map_err(|error| unreadable(&path, &error))?;
    let bad = |error: FileError| {
        let report = Report::usage(format!("{}: {error}", path.display()));
        match error.hint() {
            Some(hint) => report.with_hint(hint),
            None => report,
        }
    };
    let file = TunnelFile::parse(&text).map_err(bad)?;
    let specs = file.specs().map_err(bad)?;
    if args.check {
        return Ok(());
    }
    if !args.dry_run {
        static_tunnels::check(&specs)?;
    }
    args.netns.block_on(async {
        let owner = Owner::Static {
            set: file.set().to_owned(),
        };
        let session = Session::open(args.dry_run)?;
        let states = session.states(&specs, &owner);
        let ops = plan::apply(&states, &session.observed, file.set())?;
        session.carry_out(&ops, args.dry_run, context)
    })
}
