//! The `gretun-coord` command line.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};
use tracing::Level;

use super::out::errln;
use super::report::Report;
use super::{completions, man};
use crate::coord::admin::{self, Answer, KeyView, PeerView, Request};
use crate::coord::clock::unix_ms;
use crate::coord::config::Given;
use crate::coord::enrol::{KeyPolicy, KeyState};
use crate::coord::{server, state_dir};

const EXAMPLES: &str = "\
Examples:
  gretun-coord                                    run with the defaults
  gretun-coord --pool 10.77.0.0/16 --cert c.pem --key k.pem
  gretun-coord keys create                        a key that admits one peer
  gretun-coord keys create --reusable --expires 24h --tag ci
  gretun-coord peers list";

/// Coordinator of a gretun network: registry of peers, address allocation, signalling and STUN.
///
/// It holds no private key of any node: its loss stops no tunnel, its theft reveals who is in the network, and no more.
#[derive(Debug, Parser)]
#[command(name = "gretun-coord", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    given: Given,

    /// Read settings from this TOML file; flags win
    #[arg(long, value_name = "FILE", env = "GRETUN_COORD_CONFIG", global = true)]
    config: Option<PathBuf>,

    /// Check the settings and exit
    #[arg(long)]
    check_config: bool,

    /// Log, errors and listings as JSON
    #[arg(long, global = true, display_order = 900)]
    json: bool,

    /// Log more (-v debug, -vv each request)
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = 901)]
    verbose: u8,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Auth keys: who may join
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Registered peers
    #[command(subcommand)]
    Peers(PeersCommand),
    #[command(
        after_help = "Example:\n  gretun-coord completions bash > /etc/bash_completion.d/gretun-coord"
    )]
    Completions(completions::Args),
    #[command(after_help = "Example:\n  gretun-coord man --dir /usr/local/share/man/man1")]
    Man(man::Args),
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key and print it. It is shown once; only a hash is kept
    #[command(after_help = "Examples:\n  gretun-coord keys create > alice.key\n  \
                            gretun-coord keys create --reusable --ephemeral --expires 90d --tag ci")]
    Create {
        /// Admit any number of peers, not one
        #[arg(long)]
        reusable: bool,
        /// Remove the key's peers once they have been offline for 10 minutes
        #[arg(long)]
        ephemeral: bool,
        /// Admit nobody after this time, e.g. 30m, 24h, 90d
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        expires: Option<Duration>,
        /// Label the key's peers (repeatable)
        #[arg(long = "tag", value_name = "TAG", value_parser = parse_tag)]
        tags: Vec<String>,
    },
    /// List the keys
    List,
    /// Revoke a key. Peers that it admitted stay; see `peers remove`
    Revoke {
        /// The key's id, or the key itself
        id: String,
    },
}

#[derive(Debug, Subcommand)]
enum PeersCommand {
    /// List the peers
    List,
    /// Remove a peer and free its name and addresses
    Remove {
        /// The peer's name or node key
        peer: String,
    },
}

/// Runs the program with the process's arguments; usage errors exit with 2 before this returns.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => report.exit(json),
    }
}

fn run(cli: Cli) -> Result<(), Report> {
    let given = match &cli.config {
        Some(path) => cli.given.or(Given::read(path)?),
        None => cli.given,
    };
    let request = match cli.command {
        None => {
            let state_dir = given.state_dir();
            let settings = given.settings()?;
            if cli.check_config {
                return Ok(());
            }
            start_logging(Level::INFO, cli.verbose, cli.json);
            return Ok(server::run(&settings, &state_dir?)?);
        }
        Some(_) if cli.check_config => {
            return Err(Report::usage(
                "--check-config checks the settings of the server, and takes no command",
            ));
        }
        Some(Command::Completions(args)) => return completions::run(&args, Cli::command()),
        Some(Command::Man(args)) => return man::run(&args, Cli::command()),
        Some(Command::Keys(command)) => command.request(),
        Some(Command::Peers(PeersCommand::List)) => Request::ListPeers,
        Some(Command::Peers(PeersCommand::Remove { peer })) => Request::RemovePeer { peer },
    };
    start_logging(Level::WARN, cli.verbose, cli.json);
    let state_dir = given.state_dir()?;
    state_dir::create(&state_dir)?;
    show(&admin::call(&state_dir, &request)?, cli.json);
    Ok(())
}

impl KeysCommand {
    fn request(self) -> Request {
        match self {
            KeysCommand::Create {
                reusable,
                ephemeral,
                expires,
                tags,
            } => Request::CreateKey {
                policy: KeyPolicy {
                    reusable,
                    ephemeral,
                    tags,
                    expires_ms: expires.map(|time| {
                        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                        unix_ms().saturating_add(ms)
                    }),
                },
            },
            KeysCommand::List => Request::ListKeys,
            KeysCommand::Revoke { id } => Request::RevokeKey { id },
        }
    }
}

/// Logs to standard error, because standard output is for answers.
fn start_logging(quietest: Level, verbose: u8, json: bool) {
    let level = match verbose {
        0 => quietest,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    let logger = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false);
    if json {
        logger.json().flatten_event(true).init();
    } else {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        logger.with_ansi(terminal).init();
    }
}

/// Prints an answer, as JSON or for a person.
fn show(answer: &Answer, json: bool) {
    let text = if json {
        as_json(answer)
    } else {
        as_text(answer)
    };
    // A reader that went away wants no more.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if let Answer::KeyCreated { listed, .. } = answer
        && !json
    {
        let who = if listed.policy.reusable {
            "peers"
        } else {
            "one peer"
        };
        errln!(
            "This key admits {who}; it is not shown again. On the peer: gretun up --auth-key-file FILE"
        );
    }
}

fn as_json(answer: &Answer) -> String {
    let value = match answer {
        Answer::KeyCreated { key, listed } => {
            let mut value = serde_json::json!(listed);
            value["key"] = key.as_str().into();
            value
        }
        Answer::Keys(keys) => serde_json::json!(keys),
        Answer::KeyRevoked { id } => serde_json::json!({ "id": id }),
        Answer::Peers(peers) => serde_json::json!(peers),
        Answer::PeerRemoved { name } => serde_json::json!({ "name": name }),
    };
    format!("{value}\n")
}

fn as_text(answer: &Answer) -> String {
    match answer {
        Answer::KeyCreated { key, .. } => format!("{key}\n"),
        Answer::Keys(keys) if keys.is_empty() => "no auth keys\n".to_owned(),
        Answer::Keys(keys) => {
            let head = ["ID", "STATE", "USES", "KIND", "EXPIRES", "TAGS"];
            table(head, keys.iter().map(key_row))
        }
        Answer::KeyRevoked { id } => format!("key {id} revoked\n"),
        Answer::Peers(peers) if peers.is_empty() => "no peers\n".to_owned(),
        Answer::Peers(peers) => {
            let head = ["NAME", "ADDRESSES", "ONLINE", "KIND", "VERSION", "TAGS"];
            table(head, peers.iter().map(peer_row))
        }
        Answer::PeerRemoved { name } => format!("peer {name} removed\n"),
    }
}

fn key_row(key: &KeyView) -> [String; 6] {
    let state = match key.state {
        KeyState::Valid => "valid",
        KeyState::Used => "used",
        KeyState::Expired => "expired",
    };
    let once = if key.policy.reusable {
        "reusable"
    } else {
        "one-time"
    };
    let kind = if key.policy.ephemeral {
        format!("{once}, ephemeral")
    } else {
        once.to_owned()
    };
    let expires = key
        .policy
        .expires_ms
        .map_or_else(|| "never".to_owned(), |end| from_now(end, unix_ms()));
    [
        key.id.clone(),
        state.to_owned(),
        key.uses.to_string(),
        kind,
        expires,
        key.policy.tags.join(","),
    ]
}

fn peer_row(peer: &PeerView) -> [String; 6] {
    let addresses: Vec<String> = peer.tunnel_ips.iter().map(ToString::to_string).collect();
    let online = match peer.online {
        Some(true) => "yes",
        Some(false) => "no",
        None => "?",
    };
    [
        peer.name.clone(),
        addresses.join(","),
        online.to_owned(),
        if peer.ephemeral {
            "ephemeral"
        } else {
            "lasting"
        }
        .to_owned(),
        peer.version.clone(),
        peer.tags.join(","),
    ]
}

/// Columns as wide as their widest cell, two blanks apart.
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned))
        .chain(rows)
        .collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    });
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Seconds in the units that durations are written with, largest first.
const UNITS: [(char, u64); 5] = [
    ('w', 604_800),
    ('d', 86_400),
    ('h', 3600),
    ('m', 60),
    ('s', 1),
];

fn from_now(end_ms: u64, now_ms: u64) -> String {
    let Some(seconds) = end_ms.checked_sub(now_ms).map(|ms| ms / 1000) else {
        return "past".to_owned();
    };
    // Two of the unit at least, so that what is cut off does not matter.
    let unit = UNITS.into_iter().find(|(_, length)| seconds >= 2 * length);
    let (letter, length) = unit.unwrap_or(('s', 1));
    format!("in {}{letter}", seconds / length)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || "a number and a unit (s, m, h, d, w) are expected, such as 24h".to_owned();
    let unit = text.chars().last().ok_or_else(expected)?;
    let (_, length) = UNITS
        .into_iter()
        .find(|(letter, _)| *letter == unit)
        .ok_or_else(expected)?;
    let number: u64 = text[..text.len() - unit.len_utf8()]
        .parse()
        .map_err(|_| expected())?;
    let seconds = number
        .checked_mul(length)
        .filter(|seconds| *seconds > 0)
        .ok_or_else(expected)?;
    Ok(Duration::from_secs(seconds))
}

fn parse_tag(text: &str) -> Result<String, String> {
    let fit = (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    if fit {
        Ok(text.to_owned())
    } else {
        Err("1 to 63 letters, digits and any of `-_.:` are expected".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, seconds) in [
            ("90s", 90),
            ("30m", 1800),
            ("24h", 86_400),
            ("90d", 7_776_000),
            ("1w", 604_800),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)));
        }
        for bad in [
            "",
            "24",
            "h",
            "-1h",
            "1.5h",
            "0s",
            "1y",
            "99999999999999999999w",
            "9999999999999999w",
            "1é",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_to_come_are_rounded_down_to_a_unit() {
        for (seconds, text) in [
            (1, "in 1s"),
            (119, "in 119s"),
            (120, "in 2m"),
            (86_400, "in 24h"),
            (200_000, "in 2d"),
        ] {
            assert_eq!(from_now(seconds * 1000, 0), text);
        }
        assert_eq!(from_now(1, 2), "past");
    }

    #[test]
    fn tables_line_up() {
        let rows = [
            ["a".to_owned(), String::new()],
            ["long".to_owned(), "x".to_owned()],
        ];
        assert_eq!(
            table(["ID", "TAGS"], rows.into_iter()),
            "ID    TAGS\na\nlong  x\n"
        );
    }
}
