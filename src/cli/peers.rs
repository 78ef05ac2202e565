//! `gretun peers`: every peer with its state, path and counters.

use super::Context;
use super::local::LocalArgs;
use super::out::{out, outln};
use super::report::Report;
use super::table;
use crate::local_api::{self, PeerView, Request};

/// Show all peers: tunnel addresses, state, path, round trip, MTU, traffic
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gretun peers\n  gretun --json peers | jq '.[] | select(.state != \"direct\")'"
)]
pub struct Args {
    #[command(flatten)]
    local: LocalArgs,
}

/// Asks the daemon and prints.
pub fn run(args: &Args, context: Context) -> Result<(), Report> {
    let peers: Vec<PeerView> = local_api::ask(&args.local.socket, &Request::Peers)?;
    if context.json {
        outln!("{}", serde_json::json!(peers));
        return Ok(());
    }
    if peers.is_empty() {
        outln!("no peers yet");
        return Ok(());
    }
    let rows: Vec<_> = peers.iter().map(row).collect();
    let header = [
        "NAME",
        "ADDRESSES",
        "STATE",
        "VIA",
        "ENDPOINT",
        "INTERFACE",
        "RTT",
        "MTU",
        "RX",
        "TX",
        "SINCE",
    ];
    out!("{}", table::render(header, &rows));
    for peer in peers.iter().filter(|peer| peer.state != "direct") {
        outln!("{}: {}", peer.name, peer.reason);
    }
    Ok(())
}

fn row(peer: &PeerView) -> [String; 11] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let addresses: Vec<_> = peer.tunnel_ips.iter().map(ToString::to_string).collect();
    [
        peer.name.clone(),
        addresses.join(","),
        peer.state.clone(),
        or_dash(peer.via.clone()),
        or_dash(peer.endpoint.map(|endpoint| endpoint.to_string())),
        or_dash(peer.interface.clone()),
        or_dash(peer.rtt_ms.map(|rtt| format!("{rtt:.1}ms"))),
        or_dash(peer.mtu.map(|mtu| mtu.to_string())),
        table::bytes(peer.rx_bytes),
        table::bytes(peer.tx_bytes),
        peer.since.clone(),
    ]
}
