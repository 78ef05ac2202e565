//! Prometheus metrics of the daemon. Counters live in the node; a scrape reads them, so nothing is counted twice.

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, IntCounter, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::error::UserError;
use crate::node::{Counters, State};

/// Upper bounds of the hole punch histogram, in seconds: from one LAN round trip to a hopeless pair.
const PUNCH_BUCKETS: [f64; 9] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0];

/// The metrics that outlive a scrape.
#[derive(Debug)]
pub struct Metrics {
    hole_punch: Histogram,
}

/// The values of a scrape beside the node's counters.
#[derive(Clone, Debug)]
pub struct Gauges {
    /// The state of every peer.
    pub states: Vec<State>,
    /// Whether the coordinator answers.
    pub coordinator_up: bool,
    /// Whether the router grants a port.
    pub router_port: bool,
    /// Datagrams that the kernel dropped because the daemon was too slow.
    pub receive_overruns: u64,
    /// Kernel operations that failed.
    pub kernel_failures: u64,
}

impl Metrics {
    /// Registers what is kept between scrapes.
    ///
    /// # Errors
    /// Never for these fixed names and buckets; the library cannot know.
    pub fn new() -> Result<Self, MetricsError> {
        let opts = HistogramOpts::new(
            "gretun_hole_punch_duration_seconds",
            "Time from the first attempt to reach a peer until data crossed the tunnel",
        )
        .buckets(PUNCH_BUCKETS.to_vec());
        Ok(Metrics {
            hole_punch: Histogram::with_opts(opts)?,
        })
    }

    /// Notes how long it took until data crossed, in seconds.
    pub fn hole_punched(&self, seconds: f64) {
        self.hole_punch.observe(seconds);
    }

    /// The text of a scrape.
    ///
    /// # Errors
    /// Never for these fixed names; the library cannot know.
    pub fn render(&self, gauges: &Gauges, counters: &Counters) -> Result<String, MetricsError> {
        let registry = Registry::new();
        registry.register(Box::new(self.hole_punch.clone()))?;
        let peers = IntGaugeVec::new(Opts::new("gretun_peers", "Peers by state"), &["state"])?;
        for state in State::ALL {
            let count = gauges
                .states
                .iter()
                .filter(|&&other| other == state)
                .count();
            peers.with_label_values(&[state.as_str()]).set(count as i64);
        }
        registry.register(Box::new(peers))?;
        gauge(
            &registry,
            "gretun_coordinator_up",
            "Whether the coordinator answers",
            gauges.coordinator_up.into(),
        )?;
        gauge(
            &registry,
            "gretun_router_port",
            "Whether the router grants a public port",
            gauges.router_port.into(),
        )?;
        let totals = [
            (
                "gretun_disco_pings_sent_total",
                "Disco pings sent",
                counters.pings_sent,
            ),
            (
                "gretun_disco_pongs_received_total",
                "Disco pongs received in time",
                counters.pongs_received,
            ),
            (
                "gretun_data_pings_sent_total",
                "Probes sent through tunnels",
                counters.data_pings_sent,
            ),
            (
                "gretun_data_pongs_received_total",
                "Probes answered through tunnels",
                counters.data_pongs_received,
            ),
            (
                "gretun_port_searches_total",
                "Searches for ports begun",
                counters.port_searches,
            ),
            (
                "gretun_port_search_pings_sent_total",
                "Disco pings sent by searches for ports",
                counters.port_search_pings_sent,
            ),
            (
                "gretun_receive_overruns_total",
                "Datagrams lost because the daemon was too slow",
                gauges.receive_overruns,
            ),
            (
                "gretun_kernel_failures_total",
                "Kernel operations that failed",
                gauges.kernel_failures,
            ),
        ];
        for (name, help, value) in totals {
            let counter = IntCounter::new(name, help)?;
            counter.inc_by(value);
            registry.register(Box::new(counter))?;
        }
        let drops = prometheus::IntCounterVec::new(
            Opts::new("gretun_dropped_total", "Datagrams dropped, by reason"),
            &["reason"],
        )?;
        for (reason, count) in &counters.drops {
            drops.with_label_values(&[reason.as_str()]).inc_by(*count);
        }
        registry.register(Box::new(drops))?;
        let switches = prometheus::IntCounterVec::new(
            Opts::new(
                "gretun_path_switches_total",
                "Tunnels set from one path to another, by reason",
            ),
            &["reason"],
        )?;
        for (reason, count) in &counters.path_switches {
            switches
                .with_label_values(&[reason.as_str()])
                .inc_by(*count);
        }
        registry.register(Box::new(switches))?;
        let changes = prometheus::IntCounterVec::new(
            Opts::new(
                "gretun_peer_state_changes_total",
                "Changes of peers' states, by the new state and the reason",
            ),
            &["state", "reason"],
        )?;
        for ((state, reason), count) in &counters.state_changes {
            changes
                .with_label_values(&[state.as_str(), reason])
                .inc_by(*count);
        }
        registry.register(Box::new(changes))?;
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn gauge(registry: &Registry, name: &str, help: &str, value: f64) -> Result<(), MetricsError> {
    let gauge = Gauge::new(name, help)?;
    gauge.set(value);
    registry.register(Box::new(gauge) as Box<dyn Collector>)?;
    Ok(())
}

/// The metrics library refused.
#[derive(Debug, thiserror::Error)]
#[error("metrics")]
pub struct MetricsError(#[from] prometheus::Error);

impl UserError for MetricsError {}
