//! This host as its network sees it: its addresses, the NAT that STUN sees in front of it, the router's port, and the endpoints that
//! follow from them. Every peer is told when they change.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tracing::info;

use super::{LocalAddress, Node, Output, RouterPort, endpoints};
use crate::peer::Peer;
use crate::proto::address::is_sendable;
use crate::proto::api::EndpointsRequest;
use crate::proto::{NatMapping, NodePublic};

impl Node {
    /// The host's usable source addresses: all of them, at start and whenever they change. Addresses on tunnel links are
    /// not usable: a tunnel's own path would lead through it.
    pub fn handle_local_addresses(
        &mut self,
        now: Instant,
        addresses: Vec<impl Into<LocalAddress>>,
    ) {
        let mut addresses: Vec<LocalAddress> = addresses.into_iter().map(Into::into).collect();
        addresses.retain(|it| is_sendable(SocketAddr::new(it.ip, self.host.port)));
        addresses.sort_unstable();
        addresses.dedup_by_key(|it| it.ip);
        if addresses == self.host.addresses {
            return;
        }
        let mut locals: Vec<IpAddr> = addresses.iter().map(|it| it.ip).collect();
        locals.sort_unstable();
        locals.dedup();
        self.host.addresses = addresses;
        if locals == self.host.locals {
            // They only changed their links: paths and NATs are as before.
            return self.endpoints_changed(now, false);
        }
        info!(?locals, "local addresses");
        self.host.locals = locals;
        self.stun.restart(now);
        self.endpoints_changed(now, true);
        self.send_stun(now);
    }

    /// Something could not be sent for want of a route, and routes have changed: what was tried in vain is tried again.
    pub fn handle_route_change(&mut self, now: Instant) {
        self.stun.restart(now);
        self.send_stun(now);
        let peers: Vec<NodePublic> = self.peers.keys().copied().collect();
        for peer in peers {
            self.with_peer(now, peer, Peer::handle_route_change);
        }
    }

    /// The STUN servers to ask, resolved.
    pub fn handle_stun_servers(&mut self, now: Instant, servers: Vec<SocketAddr>) {
        self.stun.set_servers(now, servers);
        self.send_stun(now);
        self.endpoints_changed(now, false);
    }

    /// The router's grant for the data port changed.
    pub fn handle_router_port(&mut self, now: Instant, port: RouterPort) {
        if self.host.router_port != port {
            self.host.router_port = port;
            self.endpoints_changed(now, false);
        }
    }

    /// Returns the mapping behaviour of the NAT in front of this node, as STUN sees it.
    pub fn nat_mapping(&self) -> NatMapping {
        self.stun.nat(&self.host.locals)
    }

    /// STUN answered at an extra port.
    pub(super) fn handle_observation(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        match self.allocation_sampler.handle_datagram(now, from, data) {
            Ok(false) => self.counters.stun_answers_received += 1,
            Ok(true) => {
                self.counters.stun_answers_received += 1;
                self.host.nat.fresh = self.allocation_sampler.latest;
                let peers: Vec<NodePublic> = self.peers.keys().copied().collect();
                for peer in peers {
                    self.with_peer(now, peer, |peer, cx| peer.handle_observed(cx));
                }
            }
            Err(reason) => self.drop_input(reason),
        }
    }

    pub(super) fn sample_nat(&mut self) {
        let server = self.stun.answers().find(|(it, _)| it.is_ipv4());
        if let Some((server, _)) = server {
            let (rng, out) = (&mut self.rng, &mut self.out);
            self.allocation_sampler
                .ask(server, rng, out, &mut self.counters);
        }
    }

    fn update_nat(&mut self) {
        self.update_snapshot();
        self.host.nat.dependent = match self.stun.nat(&self.host.locals) {
            NatMapping::Unknown => None,
            NatMapping::None | NatMapping::EndpointIndependent | NatMapping::PortIndependent => {
                Some(false)
            }
            NatMapping::AddressDependent | NatMapping::AddressAndPortDependent => Some(true),
        };
        let mut seen = self.stun.answers().map(|(_, seen)| seen);
        self.host.nat.seen = seen.find(SocketAddr::is_ipv4);
        let (port, locals) = (self.host.port, &self.host.locals);
        let is_own = |it: SocketAddr| it.port() == port && locals.contains(&it.ip());
        self.host.nat.is_own = self.host.nat.seen.is_some_and(is_own);
        self.host.nat.is_asked = self.stun.is_asking(&self.host.locals);
    }

    pub(super) fn endpoints_changed(&mut self, now: Instant, locals_changed: bool) {
        self.update_nat();
        let endpoints = endpoints::gather(&self.host, &self.stun);
        let nat_mapping = self.nat_mapping();
        let changed = endpoints != self.published.endpoints;
        if changed || nat_mapping != self.published.nat_mapping {
            info!(?endpoints, %nat_mapping, "endpoints");
            self.host.endpoints = endpoints.iter().map(|it| it.addr).collect();
            self.published = EndpointsRequest {
                endpoints,
                nat_mapping,
            };
            self.out
                .push_back(Output::PublishEndpoints(self.published.clone()));
        }
        if changed || locals_changed {
            let peers: Vec<NodePublic> = self.peers.keys().copied().collect();
            for peer in peers {
                self.with_peer(now, peer, |peer, cx| {
                    peer.handle_host_change(cx, locals_changed);
                });
            }
        }
    }

    pub(super) fn send_stun(&mut self, now: Instant) {
        self.stun.handle_timeout(
            now,
            (&self.host.locals, self.host.port),
            &mut self.rng,
            &mut self.out,
            &mut self.counters,
        );
        self.update_snapshot();
    }
}
