//! `gretun explain PEER`: why a pair is direct or unreachable.

use super::Context;
use super::local::LocalArgs;
use super::out::outln;
use super::peer_arg::PeerArg;
use super::report::Report;
use crate::local_api::ExplainView;
use crate::local_api::{self, Request};

/// Say why a peer is direct or unreachable, what was observed, and what would change it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gretun explain bob\n  gretun explain 100.64.0.2\n  gretun --json explain bob | jq -r .cause"
)]
pub struct Args {
    #[command(flatten)]
    peer: PeerArg,
    #[command(flatten)]
    local: LocalArgs,
}

/// Asks the daemon and prints.
pub fn run(args: &Args, context: Context) -> Result<(), Report> {
    let request = Request::Explain(args.peer.name());
    let answer: Option<ExplainView> = local_api::ask(&args.local.socket, &request)?;
    let view = args.peer.known(answer)?;
    if context.json {
        outln!("{}", serde_json::json!(view));
        return Ok(());
    }
    outln!("{}.", view.verdict);
    section("What was seen:", &view.evidence);
    section("What would change it (one is enough):", &view.remedies);
    Ok(())
}

fn section(title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    outln!("\n{title}");
    for line in lines {
        outln!("  - {line}");
    }
}
