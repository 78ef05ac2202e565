//! The search for a router that grants a port: PCP, NAT-PMP and UPnP IGD side by side, each with its own schedule.

use std::time::Instant;

use tracing::debug;

use super::{Output, Phase, PortMapper, Search};
use crate::portmap::igd::{HttpRequest, Next, Session};
use crate::portmap::schedule::{
    Due, IGD_DELAY, LIFETIME, NAT_PMP_DELAY, NAT_PMP_GAPS, PCP_GAPS, REST_GAPS, Repeat,
    SEARCH_GAPS, about,
};
use crate::portmap::{Finding, Protocol, nat_pmp, pcp, upnp};

impl PortMapper {
    pub(super) fn begin_search(&mut self, now: Instant) {
        self.session = None;
        self.findings = [Finding::Asking, Finding::Asking, Finding::Asking];
        self.phase = Phase::Searching(Search {
            begun: now,
            pcp: Repeat::new(PCP_GAPS, now),
            nat_pmp: Repeat::new(NAT_PMP_GAPS, now + NAT_PMP_DELAY),
            ssdp: Repeat::new(SEARCH_GAPS, now),
            location: None,
            nat_pmp_port: None,
            nat_pmp_address: None,
        });
        self.search_due(now);
    }

    pub(super) fn search_due(&mut self, now: Instant) {
        let Phase::Searching(search) = &mut self.phase else {
            return;
        };
        let pcp = search.pcp.take(now, &mut self.rng);
        let nat_pmp = search.nat_pmp.take(now, &mut self.rng);
        let ssdp = search.ssdp.take(now, &mut self.rng);
        match pcp {
            Some(Due::Send) => self.send_pcp(LIFETIME),
            Some(Due::GiveUp) => self.settle(now, Protocol::Pcp, Finding::Silent),
            None => {}
        }
        match nat_pmp {
            Some(Due::Send) => self.send_nat_pmp(LIFETIME),
            Some(Due::GiveUp) => self.settle(now, Protocol::NatPmp, Finding::Silent),
            None => {}
        }
        match ssdp {
            Some(Due::Send) => self.out.push_back(Output::Search(upnp::search())),
            Some(Due::GiveUp) => self.settle(now, Protocol::UpnpIgd, Finding::Silent),
            None => {}
        }
        self.begin_session(now);
    }

    /// One protocol is through with. When all are, the router rests.
    pub(super) fn settle(&mut self, now: Instant, protocol: Protocol, finding: Finding) {
        let Phase::Searching(search) = &mut self.phase else {
            return;
        };
        debug!(%protocol, %finding, "no port from the router");
        self.findings[protocol as usize] = finding;
        match protocol {
            Protocol::Pcp => {
                search.pcp.due = None;
                search.nat_pmp.hurry(now);
            }
            Protocol::NatPmp => search.nat_pmp.due = None,
            Protocol::UpnpIgd => search.ssdp.due = None,
        }
        if Protocol::ALL.iter().all(|it| self.is_settled(*it)) {
            let gap = REST_GAPS[self.failures.min(REST_GAPS.len() - 1)];
            self.failures += 1;
            self.phase = Phase::Resting(now + about(gap, &mut self.rng));
        } else {
            self.begin_session(now);
        }
    }

    pub(super) fn is_settled(&self, protocol: Protocol) -> bool {
        self.findings[protocol as usize] != Finding::Asking
    }

    /// Talks to the UPnP gateway, if one was found and the others had their time.
    pub(super) fn begin_session(&mut self, now: Instant) {
        let others = [Protocol::Pcp, Protocol::NatPmp];
        let others_settled = others.iter().all(|it| self.is_settled(*it));
        let (Some(network), Phase::Searching(search)) = (self.network, &self.phase) else {
            return;
        };
        let is_time = others_settled || now >= search.begun + IGD_DELAY;
        if self.session.is_some() || self.is_settled(Protocol::UpnpIgd) || !is_time {
            return;
        }
        if let Some(location) = search.location.clone() {
            let (session, first) =
                Session::begin(network, self.port, self.suggested.port(), location);
            self.continue_session(session, first);
        }
    }

    pub(super) fn continue_session(&mut self, session: Session, next: Next) {
        if let Next::Ask(url, action) = next {
            let id = self.request(url, action);
            self.session = Some((id, session));
        }
    }

    pub(super) fn request(&mut self, url: String, action: Option<(String, String)>) -> u64 {
        self.requests += 1;
        let id = self.requests;
        self.out
            .push_back(Output::Http(HttpRequest { id, url, action }));
        id
    }

    pub(super) fn send_pcp(&mut self, lifetime: u32) {
        let Some(network) = self.network else { return };
        let request = pcp::MapRequest {
            client: network.own,
            nonce: self.nonce,
            internal_port: self.port,
            suggested: self.suggested,
            lifetime,
        };
        self.out
            .push_back(Output::ToRouter(request.encode().to_vec()));
    }

    /// The mapping, and the address that its answer does not tell.
    pub(super) fn send_nat_pmp(&mut self, lifetime: u32) {
        let suggested_port = if lifetime == 0 {
            0
        } else {
            self.suggested.port()
        };
        let request = nat_pmp::MapRequest {
            internal_port: self.port,
            suggested_port,
            lifetime,
        };
        self.out
            .push_back(Output::ToRouter(request.encode().to_vec()));
        if lifetime > 0 {
            self.send_nat_pmp_address();
        }
    }

    pub(super) fn send_nat_pmp_address(&mut self) {
        self.out
            .push_back(Output::ToRouter(nat_pmp::ADDRESS_REQUEST.to_vec()));
    }
}
