//! Why a peer is in its state.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::peer::path::Path;
use crate::peer::verdict::explain::Cause;

/// Why a peer came into its state. The text is for people; [`StateReason::as_str`] is what metrics count by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateReason {
    /// Path search: the coordinator says that the peer is online.
    PeerOnline,
    /// Path search: the peer has its first endpoints.
    NewEndpoints,
    /// Path search: the peer has other endpoints, or is online again.
    PeerChanged,
    /// Path search: the peer has a new disco key.
    NewDiscoKey,
    /// Path search: a call-me-maybe of the peer came.
    CallMeMaybe,
    /// Path search: a packet of the peer came from this address.
    PacketReceived(SocketAddr),
    /// Path search: this host lost the address that the tunnel was sent from.
    LocalAddressLost(IpAddr),
    /// Path search: this host has other endpoints.
    HostChanged,
    /// Path search: this host has routes that it lacked.
    RouteChanged,
    /// Path search: a tunnel over this path was found in the kernel at start.
    Adopted(Path),
    /// Path search: data probes over this path were not answered any more.
    PathLost(Path),
    /// Path search: data probes were not answered after the tunnel was switched to this path.
    SwitchFailed(Path),
    /// Not direct any more: the kernel has not switched the tunnel to this path yet, so that no data probe can be sent.
    SwitchPending(Path),
    /// Direct: a data probe was answered.
    DataCrossed {
        /// The address and port of the peer that the tunnel is set to.
        remote: SocketAddr,
        /// From the data probe to its answer.
        round_trip: Duration,
    },
    /// The pair is not connected, and no path search is under way.
    NotConnected {
        /// The cause that `gretun explain` names.
        cause: Cause,
        /// Its sentence, which `gretun explain` and `gretun peers` show and the log has.
        verdict: String,
    },
}

impl StateReason {
    /// The value of the metrics' `reason` label; stable. For a pair that is not connected it is the cause of `gretun explain`.
    pub fn as_str(&self) -> &'static str {
        match self {
            StateReason::PeerOnline => "peer_online",
            StateReason::NewEndpoints => "new_endpoints",
            StateReason::PeerChanged => "peer_changed",
            StateReason::NewDiscoKey => "new_disco_key",
            StateReason::CallMeMaybe => "call_me_maybe",
            StateReason::PacketReceived(_) => "packet_received",
            StateReason::LocalAddressLost(_) => "local_address_lost",
            StateReason::HostChanged => "host_changed",
            StateReason::RouteChanged => "route_changed",
            StateReason::Adopted(_) => "adopted",
            StateReason::PathLost(_) => "path_lost",
            StateReason::SwitchFailed(_) => "switch_failed",
            StateReason::SwitchPending(_) => "switch_pending",
            StateReason::DataCrossed { .. } => "data_crossed",
            StateReason::NotConnected { cause, .. } => cause.as_str(),
        }
    }
}

/// Writes a sentence without a full stop.
impl fmt::Display for StateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateReason::PeerOnline => f.write_str("the peer is online"),
            StateReason::NewEndpoints => f.write_str("the peer has endpoints now"),
            StateReason::PeerChanged => {
                f.write_str("the peer has other endpoints, or is online again")
            }
            StateReason::NewDiscoKey => f.write_str("the peer has a new disco key"),
            StateReason::CallMeMaybe => f.write_str("the peer calls"),
            StateReason::PacketReceived(from) => write!(f, "the peer is heard from {from}"),
            StateReason::LocalAddressLost(gone) => write!(f, "this host lost its address {gone}"),
            StateReason::HostChanged => f.write_str("this host can be reached elsewhere now"),
            StateReason::RouteChanged => f.write_str("this host has other routes now"),
            StateReason::Adopted(path) => write!(f, "testing the tunnel found over {path}"),
            StateReason::PathLost(path) => {
                write!(f, "no answer came through the tunnel over {path} any more")
            }
            StateReason::SwitchPending(path) => {
                write!(f, "the kernel has not switched the tunnel to {path} yet")
            }
            StateReason::SwitchFailed(path) => {
                write!(f, "no data crossed the tunnel after it moved to {path}")
            }
            StateReason::DataCrossed { remote, round_trip } => {
                let took = round_trip.as_secs_f64() * 1e3;
                write!(
                    f,
                    "data crossed the tunnel to {remote} and back, the last in {took:.1} ms"
                )
            }
            StateReason::NotConnected { verdict, .. } => f.write_str(verdict),
        }
    }
}
