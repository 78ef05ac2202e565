//! The answers to the commands that ask the daemon.

use std::time::{Duration, Instant, SystemTime};

use sd_notify::NotifyState;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::event_loop::{Daemon, notify};
use super::metrics::Gauges;
use super::state_writer::Content;
use super::teardown;
use crate::error::chain;
use crate::kernel::tunnel::dump::ObservedTunnel;
use crate::local_api::{
    DaemonNetView, ExplainView, PathsView, PeerView, Query, RefusedRouteView, Request, StunView,
};
use crate::node::{Evidence, Explanation, Node, PeerStatus, RouteRefusal};

/// The service manager's patience while everything is removed, microseconds.
const DOWN_WATCHDOG: u32 = 300_000_000;

/// Time for the last answer to reach its client.
const ANSWER_GRACE: Duration = Duration::from_millis(50);

impl Daemon {
    /// Answers one query; true when it was `down`. What fails is the client's answer. After `down` the daemon ends also then, for it
    /// has no applier any more; a second `down` removes what is left.
    pub(super) async fn answer(&mut self, query: Query) -> bool {
        let is_down = query.request == Request::Down;
        let answer = match self.answer_to(query.request).await {
            Ok(Answer::Ready(value)) => Ok(value),
            Ok(Answer::FromKernel(ask)) => {
                tokio::task::spawn_blocking(move || reply(query.answer, ask()));
                return false;
            }
            Err(error) => Err(error),
        };
        reply(query.answer, answer);
        if is_down {
            // The answer is written by another task of this runtime.
            tokio::time::sleep(ANSWER_GRACE).await;
        }
        is_down
    }

    async fn answer_to(&mut self, request: Request) -> Result<Answer, String> {
        Ok(Answer::Ready(match request {
            Request::Peers => return Ok(Answer::FromKernel(self.peer_views())),
            Request::Stun => serde_json::json!(
                self.conductor
                    .node()
                    .stun_answers()
                    .map(|(server, endpoint)| StunView { server, endpoint })
                    .collect::<Vec<_>>()
            ),
            Request::Explain(peer) => serde_json::json!(self.explain(&peer)),
            Request::Paths(peer) => serde_json::json!(self.paths(&peer)),
            Request::Ping(peer) => serde_json::json!(self.ping(&peer)),
            Request::Net => serde_json::json!(DaemonNetView {
                port: self.config.port,
                mapping: self.conductor.node().nat_mapping(),
                servers: self.conductor.node().stun_servers().collect(),
                coordinator: self.config.coordinator.base().to_owned(),
                state_dir: self.config.state_dir.clone(),
                port_mapping: self.router_port_view(),
            }),
            Request::Metrics => {
                let text = self
                    .metrics
                    .render(&self.gauges(), self.conductor.node().counters());
                serde_json::Value::String(text.map_err(|error| chain(&error))?)
            }
            Request::Down => {
                info!("taking the tunnels down");
                // The loop stands still until the kernel has given up everything.
                notify(NotifyState::WatchdogUsec(DOWN_WATCHDOG));
                let extra = self.state.extra_ports();
                let port = self.config.port;
                let stopped = self.wanted.stop().await;
                teardown::remove_all(stopped, &self.kernel, self.own, port, &extra).map_err(
                    |error| format!("{}; `gretun down` removes the rest", chain(&error)),
                )?;
                if let Some(port_mapping) = &self.port_mapping {
                    port_mapping.give_back().await;
                    self.writer.write(Content::RouterPort(None));
                }
                serde_json::Value::Null
            }
        }))
    }

    fn gauges(&self) -> Gauges {
        Gauges {
            states: self
                .conductor
                .node()
                .states()
                .map(|(_, state)| state)
                .collect(),
            coordinator_up: self.conductor.is_coordinator_up(),
            router_port: self.has_router_port(),
            receive_overruns: self.sockets.port.overruns(),
            kernel_failures: self.conductor.kernel_failures(),
        }
    }

    /// Returns the question for `peers`: the counters of the tunnels are the kernel's.
    fn peer_views(&self) -> Ask {
        let peers = self.conductor.node().status(Instant::now()).into_iter();
        let peers: Vec<(PeerView, Option<u32>)> = peers
            .map(|status| {
                let link = self.conductor.link(status.node_key);
                let index = link.map(|link| link.index);
                (peer_view(status, self.conductor.node()), index)
            })
            .collect();
        let kernel = self.kernel.clone();
        Box::new(move || {
            let links = kernel.links_without_routes();
            let tunnels = links.map_err(|error| chain(&error))?.tunnels;
            let peers = peers.into_iter();
            let views = peers.map(|(view, index)| with_link(view, index, &tunnels));
            Ok(serde_json::json!(views.collect::<Vec<_>>()))
        })
    }
}

/// A question to the kernel, which may take its time.
type Ask = Box<dyn FnOnce() -> Result<serde_json::Value, String> + Send>;

/// An answer, or how to get it on a thread of its own.
enum Answer {
    Ready(serde_json::Value),
    FromKernel(Ask),
}

fn reply(
    client: oneshot::Sender<Result<serde_json::Value, String>>,
    answer: Result<serde_json::Value, String>,
) {
    if let Err(error) = &answer {
        warn!(error, "a command cannot be answered");
    }
    // A client that did not wait for its answer has no use for it.
    let _ = client.send(answer);
}

/// A peer of `gretun peers`, as far as the node knows it.
fn peer_view(status: PeerStatus, node: &Node) -> PeerView {
    let offers = node.offered_routes(status.node_key);
    let refused = offers.iter().filter_map(|it| {
        let reason = match it.refusal? {
            RouteRefusal::CarriedBy(peer) => format!("{} carries it", node.name(peer)),
            refusal => refusal.to_string(),
        };
        let network = it.network;
        Some(RefusedRouteView { network, reason })
    });
    let routed = offers.iter().filter(|it| it.refusal.is_none());
    PeerView {
        routes: routed.map(|it| it.network).collect(),
        routes_refused: refused.collect(),
        name: status.name,
        node_key: status.node_key,
        tunnel_ips: status.tunnel_ips,
        state: status.state.to_string(),
        reason: status.reason.to_string(),
        via: status.via.map(|via| via.to_string()),
        endpoint: status.path.map(|path| path.remote),
        interface: None,
        rtt_ms: status.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        mtu: None,
        rx_bytes: 0,
        tx_bytes: 0,
        since: rfc3339(status.since),
    }
}

/// The same with what the kernel has of its tunnel, which is the link of this index.
fn with_link(view: PeerView, index: Option<u32>, observed: &[ObservedTunnel]) -> PeerView {
    let link = index.and_then(|index| observed.iter().find(|tunnel| tunnel.index == index));
    let Some(link) = link else {
        return view;
    };
    PeerView {
        interface: Some(link.state.link.name.clone()),
        mtu: Some(link.state.link.mtu),
        rx_bytes: link.counters.rx_bytes,
        tx_bytes: link.counters.tx_bytes,
        ..view
    }
}

impl Daemon {
    /// The verdict on a peer, named by its name, tunnel address or node key; `None` when there is no such peer.
    pub(super) fn explain(&self, peer: &str) -> Option<ExplainView> {
        let (evidence, explanation) = self.judge(peer)?;
        Some(ExplainView::new(&evidence, explanation))
    }

    /// Every path to a peer, as [`Daemon::explain`] finds it.
    pub(super) fn paths(&self, peer: &str) -> Option<PathsView> {
        let (evidence, _) = self.judge(peer)?;
        Some(PathsView::new(evidence))
    }

    /// The same before one more ping goes over every path and through the tunnel.
    pub(super) fn ping(&mut self, peer: &str) -> Option<PathsView> {
        let before = self.paths(peer)?;
        let key = self.conductor.node().find(peer)?;
        self.conductor.ping(Instant::now(), key);
        Some(before)
    }

    fn judge(&self, peer: &str) -> Option<(Evidence, Explanation)> {
        let node = self.conductor.node();
        node.explain(Instant::now(), node.find(peer)?)
    }
}

/// A point of the monotonic clock on the wall clock.
fn rfc3339(instant: Instant) -> String {
    let at = SystemTime::now()
        .checked_sub(instant.elapsed())
        .unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
}
