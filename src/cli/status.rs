//! `gretun status`: everything about one tunnel.

use std::net::IpAddr;

use super::Context;
use super::out::{out, outln};
use super::report::Report;
use super::static_tunnels::NetnsArgs;
use super::table;
use super::tunnel_view::TunnelView;
use crate::kernel::Kernel;
use crate::tunnel::plan::PlanError;

/// Show everything about a tunnel, whoever made it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gretun status site-b\n  gretun --json status --name site-b")]
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
    #[command(flatten)]
    netns: NetnsArgs,
}

/// Prints it.
pub fn run(args: &Args, context: Context) -> Result<(), Report> {
    let name = args.name.as_ref().or(args.name_flag.as_ref());
    let name = name.cloned().unwrap_or_default();
    let links = args
        .netns
        .block_on(async { Ok(Kernel::open()?.links()?) })?;
    let Some(tunnel) = links.tunnel(&name) else {
        return Err(PlanError::NotFound { name }.into());
    };
    let tunnel = TunnelView::new(tunnel);
    if context.json {
        outln!("{}", serde_json::json!(tunnel));
    } else {
        out!("{}", text(&tunnel));
    }
    Ok(())
}

fn text(tunnel: &TunnelView) -> String {
    let any = |ip: Option<IpAddr>| ip.map_or("any".to_owned(), |ip| ip.to_string());
    let mut rows: Vec<[String; 2]> = Vec::new();
    let mut add = |key: &str, value: String| {
        if !value.is_empty() {
            rows.push([key.to_owned(), value]);
        }
    };
    add("state", tunnel.state().to_owned());
    add("mode", tunnel.mode.to_owned());
    add("also named", tunnel.alt_names.join(", "));
    add("local", any(tunnel.local));
    add("remote", any(tunnel.remote));
    add("bound to", tunnel.dev.clone().unwrap_or_default());
    add("key", tunnel.key());
    add("encapsulation", tunnel.encap());
    add("ttl", tunnel.ttl.to_string());
    add("tos", tunnel.tos.to_string());
    add("path MTU discovery", tunnel.pmtudisc.to_string());
    add("mtu", tunnel.mtu.to_string());
    add("addresses", tunnel.addresses.join(", "));
    let peers: Vec<_> = tunnel
        .peer_addresses
        .iter()
        .map(IpAddr::to_string)
        .collect();
    add("far end", peers.join(", "));
    add("routes", tunnel.routes.join(", "));
    let counters = &tunnel.counters;
    let traffic = |bytes, packets, errors, dropped| {
        format!(
            "{} in {packets} packets, {errors} errors, {dropped} dropped",
            table::bytes(bytes)
        )
    };
    add(
        "received",
        traffic(
            counters.rx_bytes,
            counters.rx_packets,
            counters.rx_errors,
            counters.rx_dropped,
        ),
    );
    add(
        "sent",
        traffic(
            counters.tx_bytes,
            counters.tx_packets,
            counters.tx_errors,
            counters.tx_dropped,
        ),
    );
    add("owner", tunnel.owner.to_owned());
    add(
        "encryption",
        "none: the traffic is readable on the path".to_owned(),
    );
    if tunnel.has_more {
        add(
            "note",
            format!(
                "has more properties; `ip -d link show dev {}` shows them",
                tunnel.name
            ),
        );
    }
    table::render([tunnel.name.as_str(), ""], &rows)
}
