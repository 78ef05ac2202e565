//! Keeps a lease by renewals and epoch checks (RFC 6887 section 8.5), and deletes the mapping (section 15).

use std::time::{Duration, Instant};

use tracing::info;

use super::{Output, Phase, PortMapper};
use crate::portmap::igd::{self, Next, Session};
use crate::portmap::schedule::{
    CHECK_GAP, Due, LIFETIME, RECHECK_GAPS, RENEW_MIN_GAP, RETURN_GAPS, Repeat, about, renewal,
};
use crate::portmap::upnp::Action;
use crate::portmap::{Lease, Protocol, pcp};

impl PortMapper {
    pub(super) fn lease_due(&mut self, now: Instant) {
        let Phase::Leased(held) = &mut self.phase else {
            return;
        };
        if held.expires().is_some_and(|at| at <= now) {
            info!(external = %held.lease.external, "the router has not renewed its port");
            return self.begin_search(now);
        }
        let check = held.check.is_some_and(|at| at <= now);
        if check {
            let gap = if held.rechecks > 0 {
                let gap = RECHECK_GAPS[RECHECK_GAPS.len() - held.rechecks];
                held.rechecks -= 1;
                gap
            } else {
                about(CHECK_GAP, &mut self.rng)
            };
            held.check = Some(now + gap);
        }
        let renew = held.renew <= now;
        if renew {
            held.attempt += 1;
            let lifetime = held
                .lifetime
                .unwrap_or(Duration::from_secs(LIFETIME.into()));
            let next = held.granted + renewal(lifetime, held.attempt, &mut self.rng);
            held.renew = next.max(now + RENEW_MIN_GAP);
        }
        let lease = held.lease.clone();
        match (lease.protocol, renew, check) {
            (Protocol::Pcp, true, _) => self.send_pcp(LIFETIME),
            (Protocol::NatPmp, true, _) => self.send_nat_pmp(LIFETIME),
            (Protocol::UpnpIgd, true, _) => self.renew_igd(lease),
            (Protocol::Pcp, false, true) => {
                let announce = pcp::announce(lease.network.own);
                self.out.push_back(Output::ToRouter(announce.to_vec()));
            }
            (Protocol::NatPmp, false, true) => self.send_nat_pmp_address(),
            (_, false, _) => {}
        }
    }

    pub(super) fn renew_igd(&mut self, lease: Lease) {
        let Phase::Leased(held) = &self.phase else {
            return;
        };
        let lifetime = held.lifetime.map_or(0, |it| it.as_secs() as u32);
        if let Some(control) = lease.control {
            let port = lease.external.port();
            let (session, first) =
                Session::renew(lease.network, self.port, port, lifetime, control);
            self.continue_session(session, first);
        }
    }

    pub(super) fn begin_return(&mut self, now: Instant, lease: Lease) {
        info!(external = %lease.external, "giving the router its port back");
        self.session = None;
        self.network = Some(lease.network);
        self.phase = Phase::Returning(Box::new(lease), Repeat::new(RETURN_GAPS, now));
        self.return_due(now);
    }

    pub(super) fn return_due(&mut self, now: Instant) {
        let Phase::Returning(lease, repeat) = &mut self.phase else {
            return;
        };
        match (repeat.take(now, &mut self.rng), lease.protocol) {
            (Some(Due::Send), Protocol::Pcp) => self.send_pcp(0),
            (Some(Due::Send), Protocol::NatPmp) => self.send_nat_pmp(0),
            (Some(Due::Send), Protocol::UpnpIgd) => {
                let action = Action::Delete {
                    external_port: lease.external.port(),
                };
                // Once: TCP repeats by itself.
                if let Some(control) = lease.control.take()
                    && let Next::Ask(url, action) = igd::request(&control, action)
                {
                    self.request(url, action);
                }
            }
            (Some(Due::GiveUp), _) => self.set_idle(),
            (None, _) => {}
        }
    }

    pub(super) fn set_idle(&mut self) {
        self.session = None;
        self.phase = Phase::Idle;
        self.findings = Default::default();
    }
}
