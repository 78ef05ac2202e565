//! The transport addresses at which peers can perhaps reach this node: the candidates that it publishes.

use std::net::SocketAddr;

use super::stun::StunClient;
use crate::peer::Host;
use crate::proto::address::is_sendable;
use crate::proto::api::{Endpoint, EndpointKind};

/// Most endpoints published: more than any host needs, fewer than a peer takes from a record.
pub(super) const MAX_ENDPOINTS: usize = 16;

/// The endpoints of a host, each once. Those that are reached from outside come first: of more than fit, the host's own addresses
/// that are the least use are left out.
pub(super) fn gather(host: &Host, stun: &StunClient) -> Vec<Endpoint> {
    let mapped = host.router_port.granted().map(|addr| Endpoint {
        addr: addr.into(),
        kind: EndpointKind::Mapped,
    });
    let reflexive = stun.mapped().into_iter().map(|addr| Endpoint {
        addr,
        kind: EndpointKind::Reflexive,
    });
    let published = host.addresses.iter().filter(|it| it.is_published);
    let local = published.map(|it| Endpoint {
        addr: SocketAddr::new(it.ip, host.port),
        kind: EndpointKind::Local,
    });
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for endpoint in mapped.into_iter().chain(reflexive).chain(local) {
        let known = endpoints.iter_mut().find(|it| it.addr == endpoint.addr);
        match (known, endpoint.kind) {
            (None, _) if is_sendable(endpoint.addr) => endpoints.push(endpoint),
            // Without a NAT the public address is the host's own.
            (Some(known), EndpointKind::Local) => known.kind = EndpointKind::Local,
            _ => {}
        }
    }
    endpoints.truncate(MAX_ENDPOINTS);
    endpoints
}
