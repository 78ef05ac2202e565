//! Why no path was found, in a sentence with what was seen.

use std::net::SocketAddr;

use crate::peer::{Context, Peer};

/// Addresses named in a reason: enough to recognise them, not a page.
const NAMED: usize = 4;

impl Peer {
    /// The verdict on a search that ended without a path: one sentence without a full stop.
    pub(crate) fn evidence(&self, cx: &Context<'_>) -> String {
        let start = self.search.started;
        let tunnel = self.tunnel.as_ref();
        if let Some((tunnel, error)) = tunnel.and_then(|it| Some((it, it.error()?))) {
            return format!(
                "the tunnel over {} could not be set up: {error}",
                tunnel.path
            );
        }
        let answering: Vec<SocketAddr> = self
            .candidates
            .iter()
            .filter(|it| it.answered_since(start))
            .map(|it| it.remote)
            .collect();
        let heard: Vec<SocketAddr> = self
            .candidates
            .iter()
            .filter(|it| it.heard_since(start))
            .map(|it| it.remote)
            .collect();
        let all: Vec<SocketAddr> = self.candidates.iter().map(|it| it.remote).collect();
        if !answering.is_empty() && tunnel.is_some() {
            let port = cx.host.port;
            format!(
                "disco is answered by {} but no data crossed the tunnel: a firewall on one of the hosts drops UDP port {port}",
                name(&answering)
            )
        } else if !answering.is_empty() {
            format!(
                "disco is answered by {} but the peer has nominated no path",
                name(&answering)
            )
        } else if !heard.is_empty() {
            let reach = format!(
                "the peer is heard from {} but answers nothing: what this host sends does not reach it",
                name(&heard)
            );
            match self.port_evidence(cx) {
                Some(ports) => format!("{reach}; {ports}"),
                None => reach,
            }
        } else {
            let no_answer = format!("no answer from {}", name(&all));
            match self.port_evidence(cx) {
                Some(ports) => format!("{no_answer}: {ports}"),
                None => no_answer,
            }
        }
    }
}

fn name(addresses: &[SocketAddr]) -> String {
    let named: Vec<String> = addresses
        .iter()
        .take(NAMED)
        .map(SocketAddr::to_string)
        .collect();
    let named = named.join(", ");
    match addresses.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
