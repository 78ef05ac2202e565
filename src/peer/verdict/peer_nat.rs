//! The NAT in front of a peer, as the peer publishes it.

use std::net::{SocketAddr, SocketAddrV4};

use crate::peer::discovery::port_mapping::is_open;
use crate::proto::NatMapping;
use crate::proto::api::{EndpointKind, PeerRecord};

/// The NAT in front of a peer.
#[derive(Clone, Debug, Default)]
pub(in crate::peer) struct PeerNat {
    /// The mapping behaviour.
    pub(in crate::peer) mapping: NatMapping,
    /// The reflexive addresses.
    pub(in crate::peer) public: Vec<SocketAddr>,
    /// The port mapping of the peer's router.
    pub(in crate::peer) mapped: Option<SocketAddrV4>,
}

impl PeerNat {
    /// Reads the coordinator's record of the peer.
    pub(in crate::peer) fn of(record: &PeerRecord) -> Self {
        let of_kind = |kind| record.endpoints.iter().filter(move |it| it.kind == kind);
        let mapped = of_kind(EndpointKind::Mapped).find_map(|it| match it.addr {
            SocketAddr::V4(addr) => Some(addr),
            SocketAddr::V6(_) => None,
        });
        // An address that STUN sees and the router granted is published once.
        let open = mapped.filter(|it| is_open(Some(*it)));
        let reflexive = of_kind(EndpointKind::Reflexive).map(|it| it.addr);
        PeerNat {
            mapping: record.nat_mapping,
            public: reflexive.chain(open.map(SocketAddr::V4)).collect(),
            mapped,
        }
    }
}
