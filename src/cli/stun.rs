//! `gretun stun`: the public endpoint of this host.

use std::net::{SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::time::{Duration, Instant};

use super::Context;
use super::local::LocalArgs;
use super::out::{out, outln};
use super::report::Report;
use super::table;
use crate::local_api::{self, Request, StunView};
use crate::proto::TxId;
use crate::proto::stun::{self, StunMessage};

/// Retransmissions of one request: RFC 8489 section 6.2.1 with a shorter first timeout, since a person waits.
const TIMEOUTS: [Duration; 4] = [
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_millis(1200),
    Duration::from_millis(2400),
];

/// Show the public endpoint of this host, and the STUN server that saw it
///
/// Without a server the running daemon is asked: its answer is about the port that carries the tunnels. With a server
/// a new socket is used, whose mapping may have another port.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gretun stun\n  gretun stun stun.example.org:3478\n  gretun --json stun --server 192.0.2.1:3478"
)]
pub struct Args {
    /// STUN server, host:port
    #[arg(value_name = "HOST:PORT")]
    target: Option<String>,
    /// STUN server, as a flag; repeatable
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "target")]
    server: Vec<String>,
    #[command(flatten)]
    local: LocalArgs,
}

/// Asks and prints.
pub fn run(args: &Args, context: Context) -> Result<(), Report> {
    let servers: Vec<&String> = args.server.iter().chain(&args.target).collect();
    let views = if servers.is_empty() {
        local_api::ask(&args.local.socket, &Request::Stun).map_err(|error| {
            Report::from(error).with_hint(
                "start the daemon with `gretun up`, or name a server: `gretun stun HOST:PORT`",
            )
        })?
    } else {
        servers
            .into_iter()
            .map(|server| query(server))
            .collect::<Result<Vec<StunView>, _>>()?
    };
    if views.is_empty() {
        return Err(Report::failed("no STUN server has answered the daemon")
            .with_hint("UDP may be blocked here, or the coordinator's STUN ports closed: try `gretun stun HOST:PORT`"));
    }
    if context.json {
        outln!("{}", serde_json::json!(views));
    } else {
        let rows: Vec<_> = views
            .iter()
            .map(|view| [view.endpoint.to_string(), view.server.to_string()])
            .collect();
        out!("{}", table::render(["ENDPOINT", "SERVER"], &rows));
    }
    Ok(())
}

fn query(server: &str) -> Result<StunView, Report> {
    let address = server
        .to_socket_addrs()
        .map_err(|error| {
            Report::usage(format!("STUN server {server:?}: {error}"))
                .with_hint("give it as host:port")
        })?
        .next()
        .ok_or_else(|| Report::failed(format!("STUN server {server:?} has no address")))?;
    ask(address).map_err(|error| Report::failed(format!("STUN server {address}: {error}")))
}

/// One binding transaction over a socket of its own.
fn ask(server: SocketAddr) -> std::io::Result<StunView> {
    let any: SocketAddr = if server.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    let mut tx_id = TxId([0; TxId::LEN]);
    getrandom::fill(&mut tx_id.0).map_err(std::io::Error::other)?;
    let mut buffer = [0; 1500];
    for timeout in TIMEOUTS {
        socket.send(&stun::binding_request(tx_id))?;
        let deadline = Instant::now() + timeout;
        while let Some(left) = deadline
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            socket.set_read_timeout(Some(left))?;
            match socket.recv(&mut buffer) {
                Ok(length) => match stun::decode(&buffer[..length]) {
                    Ok(StunMessage::Success {
                        tx_id: answered,
                        mapped,
                    }) if answered == tx_id => {
                        return Ok(StunView {
                            server,
                            endpoint: mapped,
                        });
                    }
                    // Not ours, or not STUN: wait on.
                    _ => {}
                },
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        "no answer within 4.5 s",
    ))
}
