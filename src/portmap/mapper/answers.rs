//! Handles the answers of routers by PCP and NAT-PMP, and what follows from a grant or a refusal.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use tracing::info;

use super::{Held, Phase, PortMapper};
use crate::portmap::epoch::Epoch;
use crate::portmap::schedule::{CHECK_GAP, LIFETIME, RENEW_MIN_GAP, about, renewal};
use crate::portmap::upnp::Control;
use crate::portmap::{Finding, Lease, Protocol, nat_pmp, pcp};

impl PortMapper {
    pub(super) fn handle_pcp(&mut self, now: Instant, response: pcp::Response) {
        let epoch = Epoch::new(now, response.epoch);
        let mapping = match response.body {
            pcp::Body::Announce => return self.handle_epoch(now, Protocol::Pcp, epoch),
            pcp::Body::Map(mapping) => mapping,
        };
        if (mapping.nonce, mapping.internal_port) != (self.nonce, self.port) {
            return;
        }
        if let Phase::Returning(lease, _) = &self.phase {
            if lease.protocol == Protocol::Pcp {
                self.set_idle();
            }
            return;
        }
        let lifetime = Duration::from_secs(response.lifetime.into());
        let external = mapping
            .external
            .filter(|it| it.port() != 0 && !it.ip().is_unspecified());
        match (response.result, external) {
            (pcp::ResultCode::SUCCESS, Some(external)) if !lifetime.is_zero() => {
                let (lifetime, epoch) = (Some(lifetime), Some(epoch));
                self.granted(now, Protocol::Pcp, external, lifetime, epoch, None);
            }
            (pcp::ResultCode::SUCCESS, _) => {
                self.refused(now, Protocol::Pcp, "no external IPv4 address".to_owned());
            }
            (code, _) => self.refused(now, Protocol::Pcp, code.to_string()),
        }
    }

    pub(super) fn handle_nat_pmp(&mut self, now: Instant, response: nat_pmp::Response) {
        if let Phase::Returning(lease, _) = &self.phase {
            let is_answer = !matches!(response, nat_pmp::Response::Address { .. });
            if lease.protocol == Protocol::NatPmp && is_answer {
                self.set_idle();
            }
            return;
        }
        match response {
            nat_pmp::Response::Refused(code) => {
                let is_version = code == nat_pmp::ResultCode::UNSUPPORTED_VERSION;
                let protocol = if is_version && !self.is_settled(Protocol::Pcp) {
                    Protocol::Pcp
                } else {
                    Protocol::NatPmp
                };
                self.refused(now, protocol, code.to_string());
            }
            nat_pmp::Response::Address { epoch, external } => {
                let epoch = Epoch::new(now, epoch);
                match &mut self.phase {
                    Phase::Searching(search) => search.nat_pmp_address = Some(external),
                    Phase::Leased(held) if held.lease.protocol == Protocol::NatPmp => {
                        held.lease.external.set_ip(external);
                    }
                    _ => {}
                }
                self.handle_epoch(now, Protocol::NatPmp, epoch);
                self.conclude_nat_pmp(now);
            }
            nat_pmp::Response::Map {
                epoch,
                internal_port,
                external_port,
                lifetime,
            } if internal_port == self.port && lifetime > 0 && external_port != 0 => {
                let granted = (external_port, lifetime, Epoch::new(now, epoch));
                match &mut self.phase {
                    Phase::Searching(search) => search.nat_pmp_port = Some(granted),
                    Phase::Leased(held) if held.lease.protocol == Protocol::NatPmp => {
                        let external = SocketAddrV4::new(*held.lease.external.ip(), external_port);
                        let lifetime = Some(Duration::from_secs(lifetime.into()));
                        let epoch = Some(granted.2);
                        self.granted(now, Protocol::NatPmp, external, lifetime, epoch, None);
                    }
                    _ => {}
                }
                self.conclude_nat_pmp(now);
            }
            nat_pmp::Response::Map { .. } => {}
        }
    }

    /// Once both parts of NAT-PMP's answer are there.
    pub(super) fn conclude_nat_pmp(&mut self, now: Instant) {
        let Phase::Searching(search) = &self.phase else {
            return;
        };
        let (Some((port, lifetime, epoch)), Some(ip)) =
            (search.nat_pmp_port, search.nat_pmp_address)
        else {
            return;
        };
        if ip.is_unspecified() {
            let why = "no external address".to_owned();
            return self.refused(now, Protocol::NatPmp, why);
        }
        let lifetime = Some(Duration::from_secs(lifetime.into()));
        let external = SocketAddrV4::new(ip, port);
        self.granted(now, Protocol::NatPmp, external, lifetime, Some(epoch), None);
    }

    /// A router that lost its state is asked again at once.
    pub(super) fn handle_epoch(&mut self, now: Instant, protocol: Protocol, epoch: Epoch) {
        if let Phase::Leased(held) = &mut self.phase
            && held.lease.protocol == protocol
        {
            let before = held.epoch.replace(epoch);
            if before.is_some_and(|it| !it.is_consistent_with(epoch)) {
                info!(%protocol, "the router has lost its state: its port is asked for again");
                held.renew = now;
                self.lease_due(now);
            }
        }
    }

    pub(super) fn refused(&mut self, now: Instant, protocol: Protocol, why: String) {
        match &self.phase {
            Phase::Searching(_) if !self.is_settled(protocol) => {
                self.settle(now, protocol, Finding::Refused(why));
            }
            Phase::Leased(held) if held.lease.protocol == protocol => {
                info!(%protocol, why, "the router takes its port back");
                self.begin_search(now);
            }
            _ => {}
        }
    }

    pub(super) fn granted(
        &mut self,
        now: Instant,
        protocol: Protocol,
        external: SocketAddrV4,
        lifetime: Option<Duration>,
        epoch: Option<Epoch>,
        control: Option<Control>,
    ) {
        let Some(network) = self.network else { return };
        let before = match &self.phase {
            // Another protocol was quicker.
            Phase::Leased(held) if held.lease.protocol != protocol => return,
            Phase::Leased(held) => Some(held.lease.external),
            Phase::Searching(_) => None,
            Phase::Idle | Phase::Resting(_) | Phase::Returning(..) => return,
        };
        if before != Some(external) {
            info!(%protocol, router = %network.gateway, %external, ?lifetime, "the router grants a port");
        }
        for (it, finding) in Protocol::ALL.iter().zip(&mut self.findings) {
            if *it == protocol {
                *finding = Finding::Granted;
            } else if *finding == Finding::Asking {
                *finding = Finding::Unasked;
            }
        }
        self.failures = 0;
        self.suggested = external;
        self.session = None;
        let renewed_within = lifetime.unwrap_or(Duration::from_secs(LIFETIME.into()));
        self.phase = Phase::Leased(Box::new(Held {
            lease: Lease {
                protocol,
                network,
                port: self.port,
                external,
                nonce: self.nonce,
                control,
            },
            granted: now,
            lifetime,
            attempt: 0,
            renew: now + renewal(renewed_within, 0, &mut self.rng).max(RENEW_MIN_GAP),
            epoch,
            check: (protocol != Protocol::UpnpIgd).then(|| now + about(CHECK_GAP, &mut self.rng)),
            rechecks: 0,
        }));
    }
}
