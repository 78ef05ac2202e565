//! The argument that names a peer, and the report that there is no such peer.

use super::report::Report;

/// Names the peer, as a flag or as the one positional argument.
#[derive(Clone, Debug, clap::Args)]
pub struct PeerArg {
    /// The peer's name, tunnel address or node key
    #[arg(value_name = "PEER", required_unless_present = "peer")]
    target: Option<String>,
    /// The peer, as a flag
    #[arg(long, value_name = "PEER", conflicts_with = "target")]
    peer: Option<String>,
}

impl PeerArg {
    /// The peer as it was named.
    pub fn name(&self) -> String {
        let named = self.target.as_ref().or(self.peer.as_ref());
        named.cloned().unwrap_or_default()
    }

    /// Returns the daemon's answer about the peer, or the report that there is no such peer.
    pub fn known<T>(&self, answer: Option<T>) -> Result<T, Report> {
        answer.ok_or_else(|| {
            Report::failed(format!("there is no peer {:?} in the network", self.name()))
                .with_hint("`gretun peers` lists them")
        })
    }
}
