//! The requests of the machines to their driver.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::peer::tunnel::desired::DesiredTunnel;
use crate::peer::verdict::state::State;
use crate::peer::verdict::state_reason::StateReason;
use crate::proto::NodePublic;
use crate::proto::api::EndpointsRequest;

/// A request to the driver; requests are carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram.
    Send(Datagram),
    /// Take disco and STUN that come to any of [`super::EXTRA_PORTS`] too, or no longer. Not at first.
    ListenOnExtraPorts(bool),
    /// Send a frame through the peer's GRE device with EtherType 0x88B5.
    SendThroughTunnel {
        /// The peer of the device.
        peer: NodePublic,
        /// The frame's payload.
        data: Vec<u8>,
    },
    /// Have the coordinator hand an envelope to a peer (`POST /v1/signal`). Worth little after a second: better dropped
    /// than queued while the coordinator is away.
    Signal(Signal),
    /// Tell the coordinator where this node can be reached (`POST /v1/endpoints`). The latest value is the whole truth.
    PublishEndpoints(EndpointsRequest),
    /// Desired state of the peer's tunnel: the latest value wins. The driver answers with a [`super::TunnelReport`] of the
    /// highest number that the kernel satisfies, also when the link is like this already.
    SetTunnel {
        /// The peer of the tunnel.
        peer: NodePublic,
        /// How it should be.
        tunnel: DesiredTunnel,
    },
    /// The peer left the network: remove its tunnel.
    RemoveTunnel {
        /// The peer of the tunnel.
        peer: NodePublic,
    },
    /// The interface numbers of the peers changed: keep them across restarts.
    KeepInterfaceNumbers,
    /// A peer changed its state; for the log and the metrics.
    StateChange(StateChange),
    /// The verdict on a peer that stays unconnected is another one; for the log.
    VerdictChange(VerdictChange),
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Source address; `None` leaves it to the route.
    pub local: Option<IpAddr>,
    /// Source port: the data port, or one of [`super::EXTRA_PORTS`].
    pub port: u16,
    /// Destination.
    pub to: SocketAddr,
    /// The UDP payload.
    pub data: Vec<u8>,
}

/// An envelope that the coordinator hands to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// The recipient.
    pub to: NodePublic,
    /// The sealed disco envelope.
    pub sealed: Vec<u8>,
}

/// A peer changed its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The peer's node key.
    pub peer: NodePublic,
    /// Its name.
    pub name: String,
    /// The state it left.
    pub from: State,
    /// The state it is in.
    pub to: State,
    /// How long it had been in `from`: of `punching` to `direct`, the time that hole punching took.
    pub after: Duration,
    /// Why.
    pub reason: StateReason,
}

/// The verdict on a peer that stays unconnected, in the state that it had, is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictChange {
    /// The peer's node key.
    pub peer: NodePublic,
    /// Its name.
    pub name: String,
    /// The state that it is in.
    pub state: State,
    /// The verdict, as [`StateReason::NotConnected`].
    pub reason: StateReason,
}
