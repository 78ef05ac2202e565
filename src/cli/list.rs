//! `gretun list`: all tunnels of the host.

use std::net::IpAddr;

use super::Context;
use super::out::{out, outln};
use super::report::Report;
use super::static_tunnels::NetnsArgs;
use super::table;
use super::tunnel_view::TunnelView;
use crate::kernel::Kernel;

/// Show all tunnels of the host, whoever made them
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gretun list\n  gretun list --netns lab\n  gretun --json list | jq '.[] | select(.up | not) | .name'"
)]
pub struct Args {
    #[command(flatten)]
    netns: NetnsArgs,
}

/// Prints them.
pub fn run(args: &Args, context: Context) -> Result<(), Report> {
    let links = args
        .netns
        .block_on(async { Ok(Kernel::open()?.links()?) })?;
    let tunnels: Vec<_> = links.tunnels.iter().map(TunnelView::new).collect();
    if context.json {
        let text = serde_json::to_string(&tunnels);
        let text = text.map_err(|error| Report::failed(error.to_string()))?;
        outln!("{text}");
        return Ok(());
    }
    if tunnels.is_empty() {
        outln!("no tunnels");
        return Ok(());
    }
    let header = [
        "NAME",
        "MODE",
        "LOCAL",
        "REMOTE",
        "KEY",
        "ENCAP",
        "MTU",
        "ADDRESSES",
        "ROUTES",
        "STATE",
        "RX",
        "TX",
        "OWNER",
    ];
    let rows: Vec<_> = tunnels.iter().map(row).collect();
    out!("{}", table::render(header, &rows));
    Ok(())
}

fn row(tunnel: &TunnelView) -> [String; 13] {
    let any = |ip: Option<IpAddr>| ip.map_or("any".to_owned(), |ip| ip.to_string());
    let list = |texts: &[String]| {
        if texts.is_empty() {
            "-".to_owned()
        } else {
            texts.join(",")
        }
    };
    [
        tunnel.name.clone(),
        tunnel.mode.to_owned(),
        any(tunnel.local),
        any(tunnel.remote),
        tunnel.key(),
        tunnel.encap(),
        tunnel.mtu.to_string(),
        list(&tunnel.addresses),
        list(&tunnel.routes),
        tunnel.state().to_owned(),
        table::bytes(tunnel.counters.rx_bytes),
        table::bytes(tunnel.counters.tx_bytes),
        tunnel.owner.to_owned(),
    ]
}
