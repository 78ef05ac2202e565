//! `gretun create`: make one tunnel.

use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use super::report::Report;
use super::static_tunnels::{self, NetnsArgs, Session};
use crate::kernel::host::process;
use crate::tunnel::file::DEFAULT_SET;
use crate::tunnel::owner::{Owner, is_set_name};
use crate::tunnel::plan;
use crate::tunnel::spec::TunnelSpec;
use crate::tunnel::tunnel_flags::TunnelTable;

/// Make a tunnel between two known addresses
///
/// Works out the MTU from the path, and takes everything back when a step fails. GRE, IP-in-IP, FOU and GUE do not
/// encrypt.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gretun create site-b --local 192.0.2.1 --remote 198.51.100.7 --key 42 --tunnel-ip 10.255.0.1/30 --route 10.2.0.0/16
  gretun create tun0 --remote 198.51.100.7 --encap fou --encap-dport 5555 --tunnel-ip 10.255.0.1/30
  gretun create tun6 --mode sit --remote 198.51.100.7 --tunnel-ip 2001:db8:1::1/64 --dry-run

Exit codes: 0 done, 1 failed and undone, 2 usage, 3 permission or kernel feature missing.")]
pub struct Args {
    /// Interface name of the tunnel
    #[arg(value_name = "NAME", required_unless_present = "name_flag")]
    name: Option<String>,
    /// Interface name of the tunnel
    #[arg(
        long = "name",
        id = "name_flag",
        value_name = "NAME",
        conflicts_with = "name"
    )]
    name_flag: Option<String>,
    #[command(flatten)]
    tunnel: TunnelTable,
    /// Change the tunnel to this if it exists already
    #[arg(long)]
    replace: bool,
    /// Show the plan and the same as iproute2 commands, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Keep the tunnel as long as this process runs
    #[arg(long)]
    foreground: bool,
    /// Name of the set that the tunnel belongs to: `apply` removes what its file no longer lists
    #[arg(long, value_name = "SET", default_value = DEFAULT_SET)]
    set: String,
    #[command(flatten)]
    netns: NetnsArgs,
}

/// Makes the tunnel.
pub fn run(args: &Args, context: Context) -> Result<(), Report> {
    let name = args.name.as_ref().or(args.name_flag.as_ref());
    let spec = args
        .tunnel
        .spec(name.map_or("", String::as_str))
        .map_err(|error| {
            let report = Report::usage(format!("--{error}"));
            match error.hint() {
                Some(hint) => report.with_hint(hint),
                None => report,
            }
        })?;
    if !is_set_name(&args.set) {
        let report = Report::usage(format!("--set: {:?} is no name", args.set));
        return Err(report.with_hint("up to 64 letters, digits, dots, dashes and underscores"));
    }
    let specs = [spec];
    if !args.dry_run {
        static_tunnels::check(&specs)?;
    }
    args.netns.block_on(create(args, &specs, context))
}

async fn create(args: &Args, specs: &[TunnelSpec], context: Context) -> Result<(), Report> {
    let owner = if args.foreground {
        let run = process::this().map_err(|error| Report::failed(error.to_string()))?;
        Owner::Foreground(run)
    } else {
        Owner::Static {
            set: args.set.clone(),
        }
    };
    let mut session = Session::open(args.dry_run)?;
    let states = session.states(specs, &owner);
    let mut ops = Vec::new();
    for state in &states {
        ops.extend(plan::create(state, &session.observed, args.replace)?);
    }
    if !args.foreground || args.dry_run {
        return session.carry_out(&ops, args.dry_run, context);
    }
    // A signal must not end the process from here on before the tunnel is gone.
    let failed =
        |error: std::io::Error| Report::failed(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    session.carry_out(&ops, false, context)?;
    drop(session);
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "no service manager to tell");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    session = Session::open(false)?;
    let ours: Vec<_> = session
        .observed
        .tunnels
        .iter()
        .filter(|tunnel| tunnel.owner() == owner)
        .collect();
    let ops = plan::delete(&ours, &session.observed)?;
    session.carry_out(&ops, false, context)
}
