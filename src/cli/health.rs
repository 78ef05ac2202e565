//! `gretun health`: all tunnels at once, each by its far inner address.

use std::io::{IsTerminal as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use super::duration;
use super::out::{out, outln};
use super::probe::{figures, loss};
use super::report::Report;
use super::static_tunnels::NetnsArgs;
use super::table;
use crate::kernel::Kernel;
use crate::kernel::tunnel::dump::ObservedTunnel;
use crate::probe::far_end::far_ends;
use crate::probe::statistics::millis;
use crate::probe::{self, Condition, Method, ProbeError, Prober, Series, Statistics};
use crate::tunnel::plan::PlanError;

/// Far ends that are probed at the same time: each probe on its way has a socket, and processes may have 1024.
const AT_ONCE: usize = 200;

/// Cursor to the upper left corner, and clears the screen from there.
const REDRAW: &str = "\x1b[H\x1b[2J";

/// Probe all tunnels at once, each through itself to its far inner address
///
/// The far inner address is the point-to-point peer, or the other host of a /30, /31 or /127. A tunnel without one has
/// nothing to probe. A tunnel is up when every probe was answered, lossy when some were, down when none was or the interface
/// is down. The far host must answer ICMP echo.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gretun health
  gretun health site-b --count 10 --interval 100ms
  gretun health --watch
  gretun --json health | jq '.[] | select(.state == \"down\") | .name'

Exit codes: 0 no tunnel is down, 1 one is down (with --watch: at the end), 2 usage, 3 permission missing.")]
pub struct Args {
    /// Names of tunnels (all if none is given)
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Name of a tunnel, as a flag; repeatable
    #[arg(
        long = "name",
        id = "name_flag",
        value_name = "NAME",
        conflicts_with = "names"
    )]
    name_flag: Vec<String>,
    /// Probe again and again until interrupted: a live table on a terminal, lines with the time elsewhere
    #[arg(long)]
    watch: bool,
    /// Number of probes to each far end
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Timeout of each probe: 500ms, 2s, or seconds
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration::parse_some)]
    timeout: Duration,
    /// Interval between probes
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = duration::parse)]
    interval: Duration,
    /// With --watch: from the end of one round to the start of the next
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration::parse, requires = "watch")]
    pause: Duration,
    #[command(flatten)]
    netns: NetnsArgs,
}

/// Probes and prints, once or until interrupted.
pub fn run(args: &Args, context: Context) -> Result<(), Report> {
    args.netns.block_on(async {
        let kernel = Kernel::open()?;
        let rows = if args.watch {
            watch(args, &kernel, context).await?
        } else {
            let rows = round(args, &kernel).await?;
            print_once(&rows, context);
            rows
        };
        judge(&rows)
    })
}

/// Runs rounds until SIGINT or SIGTERM; returns the last finished round.
async fn watch(args: &Args, kernel: &Kernel, context: Context) -> Result<Vec<Row>, Report> {
    let failed =
        |error: std::io::Error| Report::failed(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let is_live = std::io::stdout().is_terminal() && !context.json;
    let mut last = Vec::new();
    loop {
        let next = async {
            let rows = round(args, kernel).await?;
            if print_round(&rows, is_live, context).is_err() {
                return Ok((rows, true));
            }
            Ok::<_, Report>((rows, false))
        };
        tokio::select! {
            done = next => {
                let (rows, reader_is_gone) = done?;
                last = rows;
                if reader_is_gone {
                    return Ok(last);
                }
            }
            _ = terminate.recv() => return Ok(last),
            _ = interrupt.recv() => return Ok(last),
        }
        tokio::select! {
            () = tokio::time::sleep(args.pause) => {}
            _ = terminate.recv() => return Ok(last),
            _ = interrupt.recv() => return Ok(last),
        }
    }
}

/// One far end of one tunnel.
struct Row {
    name: String,
    far_end: Option<IpAddr>,
    is_up: bool,
    statistics: Statistics,
    /// The reason why the last unanswered probe was not answered.
    why: Option<String>,
}

impl Row {
    fn new(tunnel: &ObservedTunnel, far_end: Option<IpAddr>) -> Self {
        Row {
            name: tunnel.state.link.name.clone(),
            far_end,
            is_up: tunnel.state.link.up,
            statistics: Statistics::default(),
            why: (!tunnel.state.link.up).then(|| "the interface is down".to_owned()),
        }
    }

    /// Nothing where there is nothing to probe.
    fn condition(&self) -> Option<Condition> {
        if !self.is_up {
            return Some(Condition::Down);
        }
        self.far_end.map(|_| self.statistics.condition())
    }

    fn state(&self) -> String {
        match self.condition() {
            Some(condition) => condition.to_string(),
            None => "nothing to probe".to_owned(),
        }
    }

    fn json(&self) -> Value {
        let mut object = json!({
            "name": self.name,
            "far_end": self.far_end,
            "state": self.condition().map(|condition| condition.to_string()),
            "why": self.why,
        });
        if let Some(map) = object.as_object_mut() {
            map.extend(figures(&self.statistics));
        }
        object
    }

    fn cells(&self) -> [String; 6] {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let is_probed = self.statistics.sent > 0;
        let times = self.statistics.round_trips().map(|times| {
            let [least, mean, most] = times.map(millis);
            format!("{least:.1}/{mean:.1}/{most:.1}ms")
        });
        [
            self.name.clone(),
            or_dash(self.far_end.map(|end| end.to_string())),
            self.state(),
            or_dash(is_probed.then(|| format!("{}%", loss(&self.statistics)))),
            or_dash(times),
            or_dash(self.why.clone()),
        ]
    }
}

/// Probes every far end of every tunnel that is asked for, all at the same time.
async fn round(args: &Args, kernel: &Kernel) -> Result<Vec<Row>, Report> {
    let links = kernel.links_without_routes()?;
    let names: Vec<_> = args.names.iter().chain(&args.name_flag).collect();
    for name in &names {
        if links.tunnel(name).is_none() {
            let name = (*name).clone();
            return Err(PlanError::NotFound { name }.into());
        }
    }
    let is_asked = |tunnel: &&ObservedTunnel| {
        let known = [&tunnel.state.link.name].into_iter();
        let mut known = known.chain(&tunnel.state.alt_names);
        names.is_empty() || known.any(|known| names.contains(&known))
    };
    let mut rows = Vec::new();
    for tunnel in links.tunnels.iter().filter(is_asked) {
        let ends = far_ends(&tunnel.state.addresses);
        if ends.is_empty() {
            rows.push(Row::new(tunnel, None));
        }
        rows.extend(ends.iter().map(|end| Row::new(tunnel, Some(*end))));
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let probed = stream::iter(rows.into_iter().map(|row| probe_row(args, row)));
    let rows: Vec<_> = probed.buffered(AT_ONCE).collect().await;
    rows.into_iter().collect()
}

async fn probe_row(args: &Args, mut row: Row) -> Result<Row, Report> {
    let (Some(end), true) = (row.far_end, row.is_up) else {
        return Ok(row);
    };
    let prober = Prober::new(
        Method::Echo,
        SocketAddr::new(end, 0),
        Some(row.name.clone()),
        args.timeout,
    );
    let prober = match prober {
        Ok(prober) => prober,
        // The tunnel went away meanwhile: that is a result.
        Err(error @ ProbeError::Interface { .. }) => {
            row.is_up = false;
            row.why = Some(crate::error::chain(&error));
            return Ok(row);
        }
        Err(error) => return Err(error.into()),
    };
    let series = Series {
        count: args.count,
        interval: args.interval,
    };
    let why = &mut row.why;
    row.statistics = probe::run(&prober, series, |_, result| {
        if let Err(miss) = result {
            *why = Some(miss.to_string());
        }
    })
    .await;
    Ok(row)
}

const HEADER: [&str; 6] = ["NAME", "FAR END", "STATE", "LOSS", "RTT MIN/AVG/MAX", "WHY"];

fn print_once(rows: &[Row], context: Context) {
    if context.json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        outln!("{}", Value::Array(rows));
    } else if rows.is_empty() {
        outln!("no tunnels");
    } else {
        out!("{}", table(rows));
    }
}

fn table(rows: &[Row]) -> String {
    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    table::render(HEADER, &cells)
}

/// Prints a round of `--watch`; an error means that nobody reads any more.
fn print_round(rows: &[Row], is_live: bool, context: Context) -> std::io::Result<()> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    let mut text = String::new();
    if context.json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        text = format!("{}\n", json!({"time": now.to_string(), "tunnels": rows}));
    } else if is_live {
        text = format!("{REDRAW}{now}  (Ctrl-C ends)\n\n{}", table(rows));
    } else {
        for row in rows {
            text.push_str(&format!("{now} {}\n", row.cells().join("  ")));
        }
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Success, unless a tunnel is down.
fn judge(rows: &[Row]) -> Result<(), Report> {
    let down = rows
        .iter()
        .filter(|row| row.condition() == Some(Condition::Down));
    let mut names: Vec<_> = down.map(|row| row.name.as_str()).collect();
    names.dedup();
    if names.is_empty() {
        return Ok(());
    }
    let report = Report::failed(format!("down: {}", names.join(", ")));
    Err(report.with_hint(
        "`gretun status NAME` shows the counters: packets sent and none received mean that the path or the far end drops them",
    ))
}
