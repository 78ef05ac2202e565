//! `gretun netcheck`: checks how the network treats UDP.

use std::net::{SocketAddr, ToSocketAddrs as _};

use serde::Serialize;

use super::Context;
use super::local::LocalArgs;
use super::out::{out, outln, progressln};
use super::report::Report;
use super::table;
use crate::coordinator::CoordinatorUrl;
use crate::daemon::stun_servers;
use crate::local_api::PortMappingView;
use crate::local_api::{self, DaemonNetView, LocalApiError, Request};
use crate::netcheck::{self, FamilyView, NetcheckView};

/// Check NAT mapping and filtering, hairpin, blocked UDP, port-mapping services and MTU
///
/// The checks use UDP ports of their own, since the daemon's is busy; a NAT treats all ports alike. The STUN servers are
/// those of the running daemon, or those that are named. What the servers cannot tell is `unknown`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gretun netcheck\n  gretun netcheck --coordinator https://gretun.example.org:8443\n  gretun --json netcheck --server 192.0.2.1:3478 --server 192.0.2.1:3479"
)]
pub struct Args {
    /// STUN server; repeatable. Two ports of one address tell most
    #[arg(long, value_name = "HOST:PORT")]
    server: Vec<String>,
    /// Coordinator whose STUN servers to ask, where no daemon runs
    #[arg(long, value_name = "URL", env = "GRETUN_COORDINATOR")]
    coordinator: Option<CoordinatorUrl>,
    #[command(flatten)]
    local: LocalArgs,
}

/// All that is printed with `--json`.
#[derive(Debug, Serialize)]
struct View {
    /// The running daemon's view of its own port; null if no daemon runs.
    daemon: Option<DaemonNetView>,
    #[serde(flatten)]
    checked: NetcheckView,
}

/// Checks and prints. Exit code 1 when UDP is blocked in every family that could be tried.
pub fn run(args: &Args, context: Context) -> Result<(), Report> {
    let daemon = match local_api::ask(&args.local.socket, &Request::Net) {
        Ok(daemon) => Some(daemon),
        Err(LocalApiError::NoDaemon { .. } | LocalApiError::Connect { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let servers = servers(args, daemon.as_ref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Report::failed(format!("cannot run: {error}")))?;
    progressln!(
        "asking {} STUN servers and the router; up to 10 seconds ...",
        servers.len()
    );
    let checked = runtime.block_on(netcheck::run(&servers))?;
    let view = View { daemon, checked };
    if context.json {
        outln!("{}", serde_json::json!(view));
    } else {
        print(&view);
    }
    let tried = || {
        view.checked
            .families
            .iter()
            .filter(|it| !it.servers.is_empty())
    };
    if tried().count() > 0 && tried().all(|it| it.udp != netcheck::Udp::Works) {
        return Err(Report::failed("UDP is blocked: no STUN server answers")
            .with_hint("let UDP out of this network, and answers back in; without UDP there are no direct paths"));
    }
    Ok(())
}

fn servers(args: &Args, daemon: Option<&DaemonNetView>) -> Result<Vec<SocketAddr>, Report> {
    let names = match (&args.server[..], &args.coordinator, daemon) {
        ([], None, Some(daemon)) => return Ok(daemon.servers.clone()),
        ([], Some(url), _) => stun_servers::at_host(url.host(), &stun_servers::DEFAULT_PORTS),
        ([], None, None) => {
            return Err(Report::usage("no daemon runs, and no STUN server is named")
                .with_hint("name one with --server HOST:PORT, or --coordinator URL"));
        }
        (named, _, _) => named.to_vec(),
    };
    let mut servers = Vec::new();
    for name in names {
        let found = name.to_socket_addrs().map_err(|error| {
            Report::failed(format!("STUN server {name:?}: {error}"))
                .with_hint("give it as host:port")
        })?;
        servers.extend(found);
    }
    Ok(servers)
}

fn print(view: &View) {
    match &view.daemon {
        Some(daemon) => outln!(
            "The daemon's port {}: mapping {}. What follows was seen from other ports.",
            daemon.port,
            daemon.mapping
        ),
        None => outln!("No daemon runs here: what follows was seen from ports of this command."),
    }
    if let Some(it) = view.daemon.as_ref().and_then(|it| it.port_mapping.as_ref()) {
        outln!("{}", router_port(it));
    }
    if !view.checked.before_firewall {
        outln!("Without CAP_NET_RAW the host's own firewall counts as part of the network.");
    }
    outln!();
    let rows: Vec<_> = view.checked.families.iter().map(row).collect();
    let header = [
        "FAMILY",
        "UDP",
        "PUBLIC",
        "MAPPING",
        "FILTERING",
        "HAIRPIN",
        "SERVERS",
    ];
    out!("{}", table::render(header, &rows));
    outln!();
    if view.checked.port_mapping.is_empty() {
        outln!("port mapping: no PCP, NAT-PMP or UPnP IGD answers");
    }
    for service in &view.checked.port_mapping {
        let (protocol, gateway) = (&service.protocol, service.gateway);
        outln!("port mapping: {protocol} at {gateway} ({})", service.detail);
    }
    outln!();
    let rows: Vec<_> = view
        .checked
        .interfaces
        .iter()
        .map(|it| [it.name.clone(), it.mtu.to_string(), join(&it.addresses)])
        .collect();
    out!(
        "{}",
        table::render(["INTERFACE", "MTU", "ADDRESSES"], &rows)
    );
}

/// Describes the port mapping of the daemon, in a sentence.
fn router_port(view: &PortMappingView) -> String {
    let Some(gateway) = view.gateway else {
        return "There is no router that the daemon could ask for a port.".to_owned();
    };
    let (Some(external), Some(protocol)) = (view.external, view.protocol) else {
        let each = view.protocols.iter();
        let each: Vec<String> = each
            .map(|it| format!("{} {}", it.protocol, it.finding))
            .collect();
        return format!(
            "The router {gateway} grants the daemon no port: {}.",
            each.join(", ")
        );
    };
    let time = match view.expires_in_s {
        Some(seconds) => format!("for {seconds} s unless renewed"),
        None => "for ever".to_owned(),
    };
    let another = if view.behind_another_nat {
        " That is itself a private address: another NAT is in front of the router."
    } else {
        ""
    };
    format!("The router {gateway} grants the daemon {external} by {protocol}, {time}.{another}")
}

fn row(family: &FamilyView) -> [String; 7] {
    let name = |value: serde_json::Value| value.as_str().unwrap_or("-").to_owned();
    [
        family.family.clone(),
        name(serde_json::json!(family.udp)),
        join(&family.public),
        family.mapping.to_string(),
        name(serde_json::json!(family.filtering)),
        match family.hairpin {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        }
        .to_owned(),
        format!("{} of {} answer", family.answered, family.servers.len()),
    ]
}

fn join<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "-".to_owned();
    }
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    items.join(",")
}
