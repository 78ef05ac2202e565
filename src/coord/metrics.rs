//! Metrics of the coordinator, for Prometheus.

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Upper bounds of the time that a request takes, seconds: from a cached answer to a slow disk's commit.
const SECONDS: [f64; 9] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.1, 0.5, 2.0];

/// All metrics. Each is public for who counts; the names are in [`Metrics::new`].
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Peers by `online`.
    pub peers: IntGaugeVec,
    /// Answers by `route` and `status`.
    pub requests: IntCounterVec,
    /// Time to an answer by `route`; requests that waited for news are left out.
    pub request_seconds: HistogramVec,
    /// Refused requests by `reason`.
    pub refusals: IntCounterVec,
    /// Signals by `outcome`: `queued`, `delivered`, `dropped_full`, `dropped_old`.
    pub signals: IntCounterVec,
    /// Requests that wait for news, by `kind`.
    pub pending: IntGaugeVec,
    /// Open connections.
    pub connections: IntGauge,
    /// Connections and requests that the front end refused, by `reason`.
    pub gate_refusals: IntCounterVec,
    /// Time that a commit takes.
    pub commit_seconds: Histogram,
    /// Commits that failed.
    pub commit_errors: IntCounter,
    /// STUN requests answered.
    pub stun_answers: IntCounter,
    /// Datagrams at the STUN server that were dropped, by `reason`.
    pub stun_drops: IntCounterVec,
}

impl Metrics {
    /// Makes and registers all of them.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let metrics = Metrics {
            registry: Registry::new(),
            peers: IntGaugeVec::new(
                Opts::new("gretun_coord_peers", "Registered peers."),
                &["online"],
            )?,
            requests: IntCounterVec::new(
                Opts::new("gretun_coord_requests_total", "Requests answered."),
                &["route", "status"],
            )?,
            request_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "gretun_coord_request_seconds",
                    "Time to an answer, without requests that waited for news.",
                )
                .buckets(SECONDS.to_vec()),
                &["route"],
            )?,
            refusals: IntCounterVec::new(
                Opts::new(
                    "gretun_coord_refusals_total",
                    "Requests refused, by reason.",
                ),
                &["reason"],
            )?,
            signals: IntCounterVec::new(
                Opts::new(
                    "gretun_coord_signals_total",
                    "Signals, by what became of them.",
                ),
                &["outcome"],
            )?,
            pending: IntGaugeVec::new(
                Opts::new(
                    "gretun_coord_parked_requests",
                    "Requests that wait for news.",
                ),
                &["kind"],
            )?,
            connections: IntGauge::new("gretun_coord_connections", "Open client connections.")?,
            gate_refusals: IntCounterVec::new(
                Opts::new(
                    "gretun_coord_gate_refusals_total",
                    "Connections and requests turned away before the API, by reason.",
                ),
                &["reason"],
            )?,
            commit_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "gretun_coord_commit_seconds",
                    "Time that a commit to the store takes.",
                )
                .buckets(SECONDS.to_vec()),
            )?,
            commit_errors: IntCounter::new(
                "gretun_coord_commit_errors_total",
                "Commits to the store that failed.",
            )?,
            stun_answers: IntCounter::new(
                "gretun_coord_stun_answers_total",
                "STUN requests answered.",
            )?,
            stun_drops: IntCounterVec::new(
                Opts::new(
                    "gretun_coord_stun_drops_total",
                    "Datagrams at the STUN server dropped, by reason.",
                ),
                &["reason"],
            )?,
        };
        metrics.register()?;
        Ok(metrics)
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        debug_assert!(encoded.is_ok(), "writing to memory cannot fail");
        text
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        let all: [Box<dyn prometheus::core::Collector>; 12] = [
            Box::new(self.peers.clone()),
            Box::new(self.requests.clone()),
            Box::new(self.request_seconds.clone()),
            Box::new(self.refusals.clone()),
            Box::new(self.signals.clone()),
            Box::new(self.pending.clone()),
            Box::new(self.connections.clone()),
            Box::new(self.gate_refusals.clone()),
            Box::new(self.commit_seconds.clone()),
            Box::new(self.commit_errors.clone()),
            Box::new(self.stun_answers.clone()),
            Box::new(self.stun_drops.clone()),
        ];
        all.into_iter()
            .try_for_each(|it| self.registry.register(it))
    }
}
