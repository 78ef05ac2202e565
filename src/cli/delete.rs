//! `gretun delete`: remove a tunnel with all that belongs to it.

use super::Context;
use super::report::Report;
use super::static_tunnels::{self, NetnsArgs, Session};
use crate::tunnel::plan::{self, PlanError};

/// Remove a tunnel, its routes, its address translation, and its FOU port if no other tunnel uses it
///
/// Any tunnel can be removed, whoever made it, but those of the overlay daemon, which would make them again.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gretun delete site-b\n  gretun delete --name site-b --dry-run"
)]
pub struct Args {
    /// Interface name or alternative name of the tunnel
    #[arg(value_name = "NAME", required_unless_present = "name_flag")]
    name: Option<String>,
    /// Interface name or alternative name of the tunnel
    #[arg(
        long = "name",
        id = "name_flag",
        value_name = "NAME",
        conflicts_with = "name"
    )]
    name_flag: Option<String>,
    /// Show the plan and the same as iproute2 commands, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    netns: NetnsArgs,
}

/// Removes the tunnel.
pub fn run(args: &Args, context: Context) -> Result<(), Report> {
    let name = args.name.as_ref().or(args.name_flag.as_ref());
    let name = name.cloned().unwrap_or_default();
    if !args.dry_run {
        static_tunnels::check(&[])?;
    }
    args.netns.block_on(async {
        let session = Session::open(args.dry_run)?;
        let observed = &session.observed;
        let tunnel = session
            .links
            .tunnel(&name)
            .and_then(|tunnel| observed.tunnel(&tunnel.state.link.name));
        // Its device may be gone without its address translation.
        if tunnel.is_none() && !observed.stray_snat.iter().any(|(link, _)| *link == name) {
            return Err(PlanError::NotFound { name }.into());
        }
        let ops = plan::delete(tunnel.as_slice(), observed)?;
        session.carry_out(&ops, args.dry_run, context)
    })
}
