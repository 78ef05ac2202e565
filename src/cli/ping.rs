//! `gretun ping PEER`: every path to a peer, and data through the tunnel.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Context;
use super::local::LocalArgs;
use super::out::outln;
use super::peer_arg::PeerArg;
use super::report::Report;
use crate::local_api::{self, Request};
use crate::local_api::{PathView, PathsView};

/// Rounds without `--count`: enough for a search to end.
const MAX_ROUNDS: u32 = 10;

/// Interval at which the daemon is asked for answers.
const LOOK_GAP: Duration = Duration::from_millis(50);

/// Ping a peer over every path and through its tunnel, until data crosses
///
/// Each round sends one disco ping to every place where the peer can perhaps be reached, and one data ping through
/// the kernel tunnel. Without --count the rounds end once data has crossed, after ten at most. Exit code 0 means that
/// data crossed, 1 that it did not.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gretun ping bob\n  gretun ping --count 5 --timeout 500ms bob\n  gretun --json ping bob"
)]
pub struct Args {
    #[command(flatten)]
    peer: PeerArg,
    /// Rounds, whether or not data crosses
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Timeout of the answers of one round
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    local: LocalArgs,
}

/// The outcome of one ping of a round; with `--json` one object a line.
#[derive(Debug, Serialize)]
struct Outcome {
    /// The number of the round, from 1.
    round: u32,
    /// `disco`, or `data` through the tunnel.
    kind: &'static str,
    endpoint: SocketAddr,
    /// Null when no answer came in time.
    rtt_ms: Option<f64>,
}

/// Pings and prints as answers come.
pub fn run(args: &Args, context: Context) -> Result<ExitCode, Report> {
    let rounds = args.count.unwrap_or(MAX_ROUNDS);
    let mut crossed = false;
    for round in 1..=rounds {
        crossed |= ping(args, context, round)?;
        if crossed && args.count.is_none() {
            break;
        }
    }
    if crossed {
        return Ok(ExitCode::SUCCESS);
    }
    let peer = args.peer.name();
    Err(Report::failed(format!("no data crossed to {peer}"))
        .with_hint(format!("`gretun explain {peer}` says why")))
}

/// One round: whether data crossed.
fn ping(args: &Args, context: Context, round: u32) -> Result<bool, Report> {
    let begin = Instant::now();
    let before = ask(args, Request::Ping)?;
    let mut open = Open::new(&before);
    let print = |kind, path: &PathView, answered: bool| {
        let outcome = Outcome {
            round,
            kind,
            endpoint: path.endpoint,
            rtt_ms: path.rtt_ms.filter(|_| answered),
        };
        outcome.print(context.json);
    };
    let mut crossed = false;
    loop {
        let now = ask(args, Request::Paths)?;
        let over = begin.elapsed() >= args.timeout;
        open.disco.retain(|old| {
            let path = now.paths.iter().find(|it| it.endpoint == old.endpoint);
            let answered = path.filter(|it| it.pongs > old.pongs);
            answered.inspect(|it| print("disco", it, true));
            answered.is_none()
        });
        if let Some(tunnel) = now.tunnel {
            // A tunnel that was moved or made meanwhile counts from nothing.
            let old = open.data.filter(|it| it.endpoint == tunnel.endpoint);
            let answered = tunnel.pongs > old.map_or(0, |it| it.pongs);
            if answered && !crossed {
                print("data", &tunnel, true);
                crossed = true;
            }
        }
        if over || (open.disco.is_empty() && crossed) {
            open.disco.iter().for_each(|it| print("disco", it, false));
            if let (Some(tunnel), false) = (&now.tunnel, crossed) {
                print("data", tunnel, false);
            }
            break;
        }
        thread::sleep(LOOK_GAP);
    }
    // Rounds are a timeout apart, so that one that is answered at once does not hurry the next.
    if round < args.count.unwrap_or(1) {
        thread::sleep(args.timeout.saturating_sub(begin.elapsed()));
    }
    Ok(crossed)
}

/// The pings of a round that wait for their answer.
struct Open {
    disco: Vec<PathView>,
    data: Option<PathView>,
}

impl Open {
    fn new(before: &PathsView) -> Self {
        Open {
            disco: before.paths.clone(),
            data: before.tunnel,
        }
    }
}

impl Outcome {
    fn print(&self, json: bool) {
        if json {
            outln!("{}", serde_json::json!(self));
            return;
        }
        let Outcome { kind, endpoint, .. } = self;
        let what = match *kind {
            "data" => "through the tunnel",
            _ => "disco",
        };
        match self.rtt_ms {
            Some(rtt) => outln!("{endpoint}  {what}: {rtt:.1} ms"),
            None => outln!("{endpoint}  {what}: no answer"),
        }
    }
}

fn ask(args: &Args, request: fn(String) -> Request) -> Result<PathsView, Report> {
    let socket: &Path = &args.local.socket;
    let answer: Option<PathsView> = local_api::ask(socket, &request(args.peer.name()))?;
    args.peer.known(answer)
}
