//! `gretun probe`: whether something answers, by ICMP, TCP or HTTP.

use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use url::Url;

use super::Context;
use super::duration;
use super::out::{errln, outln};
use super::report::Report;
use super::static_tunnels::NetnsArgs;
use crate::probe::statistics::millis;
use crate::probe::{self, Method, Percent, Prober, Series, Statistics};

/// Test whether a host answers: ICMP echo, a TCP handshake or an HTTP request
///
/// Succeeds only if enough probes were answered: all of them, or the share given with --threshold. An HTTP request counts
/// as answered with status 2xx or 3xx; redirects are not followed, and proxies not used.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gretun probe 10.255.0.2
  gretun probe fd00:255::2 --interface site-b --count 10 --threshold 80
  gretun probe 10.255.0.2 --tcp 22 --timeout 500ms
  gretun probe --http http://10.255.0.2:8080/health
  gretun probe --target 10.255.0.2 --http https://www.example.org/    # asks that address for that name
  gretun --json probe 10.255.0.2 | jq .rtt_avg_ms

Exit codes: 0 threshold met, 1 not met, 2 usage, 3 permission missing.")]
pub struct Args {
    /// Address or name of the host; the host of --http if not given
    #[arg(value_name = "TARGET", required_unless_present_any = ["target_flag", "http"])]
    target: Option<String>,
    /// Address or name of the host
    #[arg(
        long = "target",
        id = "target_flag",
        value_name = "TARGET",
        conflicts_with = "target"
    )]
    target_flag: Option<String>,
    /// Connect to this TCP port in place of ICMP echo
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    tcp: Option<u16>,
    /// Ask for this URL (http or https) in place of ICMP echo
    #[arg(long, value_name = "URL", conflicts_with = "tcp")]
    http: Option<Url>,
    /// Number of probes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Timeout of each probe: 500ms, 2s, or seconds
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration::parse_some)]
    timeout: Duration,
    /// Share of the probes that must be answered, in percent
    #[arg(long, value_name = "PERCENT", default_value = "100")]
    threshold: Percent,
    /// Interval between probes
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration::parse)]
    interval: Duration,
    /// Interface that the probes must leave through
    #[arg(long, value_name = "DEV")]
    interface: Option<String>,
    #[command(flatten)]
    netns: NetnsArgs,
}

/// Probes, prints, and compares with the threshold.
pub fn run(args: &Args, context: Context) -> Result<(), Report> {
    let asked = Asked::new(args)?;
    args.netns.block_on(async {
        let target = asked.resolve().await?;
        let prober = Prober::new(
            asked.method.clone(),
            target,
            args.interface.clone(),
            args.timeout,
        )?;
        let series = Series {
            count: args.count,
            interval: args.interval,
        };
        let watched = context.verbose > 0 || std::io::stderr().is_terminal();
        let mut misses = Vec::new();
        let statistics = probe::run(&prober, series, |number, result| {
            let line = match result {
                Ok(time) => format!("answered in {:.1} ms", millis(*time)),
                Err(miss) => miss.to_string(),
            };
            if watched && !context.json {
                errln!("{} {number}: {line}", asked.shown());
            }
            if result.is_err() {
                misses.push((number, line));
            }
        })
        .await;
        misses.sort_unstable();
        if context.json {
            outln!("{}", asked.json(args, target, &statistics, &misses));
        } else {
            outln!("{}: {}", asked.shown(), summary(&statistics));
        }
        judge(args.threshold, &asked, &statistics, &misses)
    })
}

/// The target, as far as the command line alone names it.
struct Asked {
    host: String,
    port: u16,
    method: Method,
}

impl Asked {
    fn new(args: &Args) -> Result<Self, Report> {
        let given = args.target.as_ref().or(args.target_flag.as_ref());
        let Some(url) = &args.http else {
            let (port, method) = match args.tcp {
                Some(port) => (port, Method::Tcp),
                None => (0, Method::Echo),
            };
            let host = given.cloned().unwrap_or_default();
            return Ok(Asked { host, port, method });
        };
        let bad = |why: &str| {
            Report::usage(format!("--http: {url} {why}"))
                .with_hint("give it as http://HOST[:PORT]/PATH")
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("is neither http nor https"));
        }
        let (Some(url_host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(bad("names no host"));
        };
        let in_url = match url_host {
            url::Host::Domain(name) => name.to_owned(),
            url::Host::Ipv4(ip) => ip.to_string(),
            url::Host::Ipv6(ip) => ip.to_string(),
        };
        let is_name = matches!(url_host, url::Host::Domain(_));
        if let Some(given) = given.filter(|given| !is_name && **given != in_url) {
            return Err(Report::usage(format!("--http: {url} is not at {given}"))
                .with_hint("leave TARGET out, or give a name in the URL: then TARGET is asked for that name"));
        }
        Ok(Asked {
            host: given.cloned().unwrap_or(in_url),
            port,
            method: Method::Http(url.clone()),
        })
    }

    async fn resolve(&self) -> Result<SocketAddr, Report> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = host.parse::<IpAddr>()
            && (ip.is_unspecified() || ip.is_multicast())
        {
            return Err(Report::usage(format!("TARGET: {ip} is no host's address"))
                .with_hint("give the address of one host, such as the far inner end of a tunnel"));
        }
        if host.is_empty() {
            return Err(Report::usage("TARGET: is empty").with_hint("give an address or a name"));
        }
        let unknown = |why: String| {
            Report::failed(format!("cannot find {host}: {why}"))
                .with_hint("give an IP address, or a name that `getent hosts NAME` knows")
        };
        let found = tokio::net::lookup_host((host, self.port)).await;
        let mut found = found.map_err(|error| unknown(error.to_string()))?;
        found
            .next()
            .ok_or_else(|| unknown("it has no address".to_owned()))
    }

    fn shown(&self) -> String {
        match &self.method {
            Method::Echo => self.host.clone(),
            Method::Tcp => format!("{} port {}", self.host, self.port),
            Method::Http(url) => url.to_string(),
        }
    }

    fn json(
        &self,
        args: &Args,
        target: SocketAddr,
        statistics: &Statistics,
        misses: &[(u32, String)],
    ) -> Value {
        let misses: Vec<_> = misses
            .iter()
            .map(|(number, why)| json!({"probe": number, "why": why}))
            .collect();
        let mut object = json!({
            "target": self.host,
            "address": target.ip(),
            "method": self.method.to_string(),
            "interface": args.interface,
            "threshold_percent": args.threshold.value(),
            "met": statistics.meets(args.threshold),
            "misses": misses,
        });
        if let Some(map) = object.as_object_mut() {
            match &self.method {
                Method::Echo => {}
                Method::Tcp => drop(map.insert("port".to_owned(), self.port.into())),
                Method::Http(url) => drop(map.insert("url".to_owned(), url.as_str().into())),
            }
            map.extend(figures(statistics));
        }
        object
    }
}

/// The figures of a series, as `probe` and `health` give them in JSON.
pub(super) fn figures(statistics: &Statistics) -> serde_json::Map<String, Value> {
    let times = statistics.round_trips();
    let time = |which: usize| times.map_or(Value::Null, |times| millis(times[which]).into());
    [
        ("sent", statistics.sent.into()),
        ("answered", statistics.answered.into()),
        ("loss_percent", loss(statistics).into()),
        ("rtt_min_ms", time(0)),
        ("rtt_avg_ms", time(1)),
        ("rtt_max_ms", time(2)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into_iter()
    .collect()
}

/// Unsupported in percent with one decimal.
pub(super) fn loss(statistics: &Statistics) -> f64 {
    (statistics.loss_percent() * 10.0).round() / 10.0
}

fn summary(statistics: &Statistics) -> String {
    let share = format!(
        "{} of {} answered, {}% lost",
        statistics.answered,
        statistics.sent,
        loss(statistics)
    );
    match statistics.round_trips() {
        Some(times) => {
            let [least, mean, most] = times.map(millis);
            format!("{share}; RTT min {least:.1}, avg {mean:.1}, max {most:.1} ms")
        }
        None => share,
    }
}

/// Returns success, or a report of the shortfall with the reason of the last unanswered probe.
fn judge(
    threshold: Percent,
    asked: &Asked,
    statistics: &Statistics,
    misses: &[(u32, String)],
) -> Result<(), Report> {
    if statistics.meets(threshold) {
        return Ok(());
    }
    let why = misses.last().map_or("", |(_, why)| why.as_str());
    let answered = format!("{} of {}", statistics.answered, statistics.sent);
    let report = Report::failed(format!(
        "{}: {answered} probes answered, {threshold} wanted: {why}",
        asked.shown()
    ));
    Err(report.with_hint(match asked.method {
        Method::Echo => "`ip route get` shows the way there; a firewall may drop ICMP: --tcp PORT asks differently",
        Method::Tcp => "`ss -ltn` on that host shows what listens; a firewall that drops gives no answer at all",
        Method::Http(_) => "`gretun probe --tcp PORT` tells whether the connection or the answer is at fault",
    }))
}
