//! `gretun doctor`: finds faults of this host that keep gretun from working.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Context;
use super::out::{outln, progressln};
use super::report::Report;
use crate::coordinator::CoordinatorUrl;
use crate::daemon::settings::{DEFAULT_PORT, Settings};
use crate::daemon::stun_servers;
use crate::doctor::{self, Finding, Level, Patient};
use crate::local_api::{self, DaemonNetView, Request};

/// Find faults of this host that keep gretun from working, with the command that fixes each
///
/// Takes the settings of `gretun up`; those of a running daemon are known already. Changes nothing. Exit code 0 means
/// that nothing is wrong, 1 that something is.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gretun doctor\n  gretun doctor --config /etc/gretun.toml\n  gretun --json doctor | jq '.[] | select(.level == \"problem\")'"
)]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    /// TOML file of the same names; flags and environment win over it
    #[arg(long, env = "GRETUN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Looks and prints.
pub fn run(args: Args, context: Context) -> Result<ExitCode, Report> {
    let settings = match &args.config {
        Some(path) => args.settings.over(Settings::from_file(path)?),
        None => args.settings,
    };
    let patient = patient(&settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Report::failed(format!("cannot run: {error}")))?;
    progressln!("looking at this host, its coordinator and STUN; up to 10 seconds ...");
    let findings = runtime.block_on(doctor::run(&patient));
    if context.json {
        outln!("{}", serde_json::json!(findings));
    } else {
        let port = patient.port;
        match patient.daemon.is_some() {
            true => outln!("A daemon runs, on UDP port {port}.\n"),
            false => outln!("No daemon runs; looking at what `gretun up` would need.\n"),
        }
        findings.iter().for_each(print);
    }
    let is_well = findings.iter().all(|it| it.level != Level::Problem);
    Ok(if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn patient(settings: &Settings) -> Result<Patient, Report> {
    let daemon: Option<DaemonNetView> = local_api::ask(&settings.socket(), &Request::Net).ok();
    let named = settings.coordinator.as_ref();
    let named: Option<CoordinatorUrl> = named.map(|it| it.parse()).transpose()?;
    let running = daemon.as_ref().and_then(|it| it.coordinator.parse().ok());
    let coordinator = named.or(running);
    let stun_servers = match (&settings.stun_server[..], &daemon, &coordinator) {
        ([], Some(daemon), _) => daemon.servers.iter().map(ToString::to_string).collect(),
        ([], None, Some(url)) => stun_servers::at_host(url.host(), &stun_servers::DEFAULT_PORTS),
        (named, _, _) => named.to_vec(),
    };
    Ok(Patient {
        port: daemon
            .as_ref()
            .map_or(settings.fou_port.unwrap_or(DEFAULT_PORT), |it| it.port),
        state_dir: daemon
            .as_ref()
            .map_or_else(|| settings.state_dir(), |it| it.state_dir.clone()),
        daemon,
        coordinator,
        stun_servers,
    })
}

fn print(finding: &Finding) {
    let mark = match finding.level {
        Level::Ok => "ok",
        Level::Note => "note",
        Level::Problem => "PROBLEM",
    };
    outln!("{mark:8} {}: {}", finding.check, finding.what);
    if !finding.evidence.is_empty() {
        outln!("         seen: {}", finding.evidence);
    }
    if let Some(fix) = &finding.fix {
        outln!("         fix: {fix}");
    }
}
