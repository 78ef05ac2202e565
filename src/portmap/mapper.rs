//! The state machine: searches for a router that grants a port mapping, keeps the lease, deletes the mapping.
//!
//! ```text
//!            network              granted            not renewed, lost, refused
//!   idle ------------> searching --------> leased ---------------------------> searching
//!     ^                  |   ^                |
//!     | returned         |   | after a rest   | give_back
//!     |      all silent  v   |                v
//!     +---------------- resting            returning ----> idle
//! ```
//!
//! The driver hands in received messages and the time, takes [`PortMapper::poll_output`] until it is empty, and sleeps until
//! [`PortMapper::poll_timeout`].

mod answers;
mod keep;
mod search;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use tracing::debug;

use super::epoch::Epoch;
use super::igd::{HttpRequest, Next, Session};
use super::schedule::{IGD_DELAY, LEASE_MIN, RECHECK_GAPS, RENEW_MIN_GAP, Repeat};
use super::{Finding, Lease, Network, Protocol, Status, nat_pmp, pcp, upnp};

/// A message that the driver has to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A datagram to [`pcp::PORT`] of the gateway.
    ToRouter(Vec<u8>),
    /// A datagram to [`upnp::SSDP`], and to its port at the gateway: a host firewall that knows connections lets the answer to the
    /// second in.
    Search(Vec<u8>),
    /// An HTTP request; the answer goes to [`PortMapper::handle_http`].
    Http(HttpRequest),
}

/// One port of this host, and what routers grant for it.
#[derive(Debug)]
pub struct PortMapper {
    port: u16,
    rng: ChaCha20Rng,
    network: Option<Network>,
    findings: [Finding; 3],
    /// The nonce that identifies the mapping in PCP; kept as long as the router is the same.
    nonce: pcp::Nonce,
    /// The suggested external address and port (RFC 6887 section 11.1): those of the previous mapping.
    suggested: SocketAddrV4,
    phase: Phase,
    /// The session with a UPnP gateway, and the number of the request that it waits for.
    session: Option<(u64, Session)>,
    requests: u64,
    /// Searches in a row that found nothing.
    failures: usize,
    out: VecDeque<Output>,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Searching(Search),
    Leased(Box<Held>),
    Resting(Instant),
    Returning(Box<Lease>, Repeat),
}

#[derive(Debug)]
struct Search {
    begun: Instant,
    pcp: Repeat,
    nat_pmp: Repeat,
    ssdp: Repeat,
    /// The URL of a UPnP gateway's description.
    location: Option<String>,
    nat_pmp_port: Option<(u16, u32, Epoch)>,
    nat_pmp_address: Option<Ipv4Addr>,
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    granted: Instant,
    /// `None`: for ever.
    lifetime: Option<Duration>,
    /// Renewals since it was granted.
    attempt: u32,
    renew: Instant,
    epoch: Option<Epoch>,
    /// Time of the next epoch check; UPnP has no epoch.
    check: Option<Instant>,
    /// Looks that are still to come quickly.
    rechecks: usize,
}

impl Held {
    fn expires(&self) -> Option<Instant> {
        self.lifetime.map(|it| self.granted + it.max(LEASE_MIN))
    }
}

impl PortMapper {
    /// For the data port; `before` is the lease of the time before, if that is known. Nothing happens until
    /// [`PortMapper::handle_network`].
    pub fn new(port: u16, before: Option<Lease>, seed: [u8; 32]) -> Self {
        let mut mapper = PortMapper {
            port,
            rng: ChaCha20Rng::from_seed(seed),
            network: None,
            findings: Default::default(),
            nonce: pcp::Nonce::default(),
            suggested: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port),
            phase: Phase::Idle,
            session: None,
            requests: 0,
            failures: 0,
            out: VecDeque::new(),
        };
        match before.filter(|it| it.port == port) {
            Some(lease) => {
                mapper.network = Some(lease.network);
                mapper.nonce = lease.nonce;
                mapper.suggested = lease.external;
            }
            None => mapper.rng.fill_bytes(&mut mapper.nonce),
        }
        mapper
    }

    /// Creates a mapper whose only task is to delete this mapping (RFC 6887 section 15).
    pub fn returning(now: Instant, lease: Lease, seed: [u8; 32]) -> Self {
        let mut mapper = PortMapper::new(lease.port, Some(lease.clone()), seed);
        mapper.begin_return(now, lease);
        mapper
    }

    /// The router and this host's address towards it, at start and whenever they may have changed.
    pub fn handle_network(&mut self, now: Instant, network: Option<Network>) {
        let is_idle = matches!(self.phase, Phase::Idle);
        if network == self.network && !(is_idle && network.is_some()) {
            return;
        }
        if let (Some(before), Some(network)) = (self.network, network)
            && before.gateway != network.gateway
        {
            self.rng.fill_bytes(&mut self.nonce);
            self.suggested = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, self.port);
        }
        self.failures = 0;
        match network {
            Some(network) => {
                self.network = Some(network);
                self.begin_search(now);
            }
            // The router is kept in mind: the lease is asked for again when it comes back.
            None => self.set_idle(),
        }
    }

    /// A datagram came from [`pcp::PORT`] of the gateway.
    pub fn handle_router(&mut self, now: Instant, data: &[u8]) {
        if let Ok(response) = pcp::Response::decode(data) {
            self.handle_pcp(now, response);
        } else if let Some(response) = nat_pmp::Response::decode(data) {
            self.handle_nat_pmp(now, response);
        }
    }

    /// The kernel says that nobody listens at [`pcp::PORT`] of the gateway (ICMP port unreachable).
    pub fn handle_nobody_there(&mut self, now: Instant) {
        if let Phase::Searching(search) = &mut self.phase {
            search.pcp.due = None;
            search.nat_pmp.due = None;
            for protocol in [Protocol::Pcp, Protocol::NatPmp] {
                self.settle(now, protocol, Finding::Silent);
            }
        }
    }

    /// A datagram came to the port that searches leave from.
    pub fn handle_search_answer(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        let (Some(network), Phase::Searching(search)) = (self.network, &mut self.phase) else {
            return;
        };
        let Some(location) = upnp::search_answer(data) else {
            return;
        };
        // Other devices of the LAN are none of our business, whatever they claim to be.
        let is_gateway = from.ip() == IpAddr::V4(network.gateway);
        if is_gateway && upnp::is_at(&location, network.gateway) && search.location.is_none() {
            search.location = Some(location);
            search.ssdp.due = None;
            self.begin_session(now);
        }
    }

    /// The answer to an [`Output::Http`]: its status and body, or why there is none.
    pub fn handle_http(&mut self, now: Instant, id: u64, answer: Result<(u16, String), String>) {
        let Some((_, mut session)) = self.session.take_if(|(waited, _)| *waited == id) else {
            if let Phase::Returning(..) = self.phase
                && self.requests == id
            {
                self.set_idle();
            }
            return;
        };
        let next = match answer {
            Ok((status, body)) => session.answer(status, &body, self.rng.next_u32()),
            Err(error) => Next::Failed(error),
        };
        match next {
            Next::Ask(url, action) => {
                let id = self.request(url, action);
                self.session = Some((id, session));
            }
            Next::Granted(external, control, lifetime) => {
                let lifetime = (lifetime > 0).then(|| Duration::from_secs(lifetime.into()));
                self.granted(
                    now,
                    Protocol::UpnpIgd,
                    external,
                    lifetime,
                    None,
                    Some(control),
                );
            }
            Next::Failed(why) => match &self.phase {
                Phase::Leased(held) if held.lease.protocol == Protocol::UpnpIgd => {
                    debug!(why, "the router does not renew the port");
                    // Its next renewal may succeed; else it expires.
                    if held.lifetime.is_none() {
                        self.begin_search(now);
                    }
                }
                _ => self.settle(now, Protocol::UpnpIgd, Finding::Refused(why)),
            },
        }
    }

    /// A path was lost: perhaps because the router restarted, and has forgotten the port.
    pub fn handle_path_loss(&mut self, now: Instant) {
        if let Phase::Leased(held) = &mut self.phase {
            match &mut held.check {
                Some(check) => {
                    held.rechecks = RECHECK_GAPS.len();
                    *check = now;
                }
                None if now >= held.granted + RENEW_MIN_GAP => held.renew = now,
                None => {}
            }
        }
    }

    /// Deletes the mapping, if there is one (RFC 6887 section 15). [`PortMapper::is_idle`] tells when that is done.
    pub fn give_back(&mut self, now: Instant) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Leased(held) => self.begin_return(now, held.lease),
            _ => self.set_idle(),
        }
    }

    /// The time of [`PortMapper::poll_timeout`] has come. Harmless at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &self.phase {
            Phase::Idle => {}
            Phase::Searching(_) => self.search_due(now),
            Phase::Leased(_) => self.lease_due(now),
            Phase::Resting(until) if *until <= now => self.begin_search(now),
            Phase::Resting(_) => {}
            Phase::Returning(..) => self.return_due(now),
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`PortMapper::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Idle => None,
            Phase::Searching(search) => {
                let session = search.location.is_some() && !self.is_settled(Protocol::UpnpIgd);
                let session = (session && self.session.is_none()).then(|| search.begun + IGD_DELAY);
                let dues = [search.pcp.due, search.nat_pmp.due, search.ssdp.due, session];
                dues.into_iter().flatten().min()
            }
            Phase::Leased(held) => [Some(held.renew), held.check, held.expires()]
                .into_iter()
                .flatten()
                .min(),
            Phase::Resting(until) => Some(*until),
            Phase::Returning(_, repeat) => repeat.due,
        }
    }

    /// The port, while there is one.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.phase {
            Phase::Leased(held) => Some(&held.lease),
            _ => None,
        }
    }

    /// Returns whether nothing is going on: nothing was begun, or all was given back.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Returns the state of the mapper.
    pub fn status(&self) -> Status {
        let is_idle = self.is_idle();
        Status {
            network: self.network.filter(|_| !is_idle),
            findings: self.findings.clone(),
            lease: self.lease().cloned(),
            expires: match &self.phase {
                Phase::Leased(held) => held.expires(),
                _ => None,
            },
        }
    }
}

#[cfg(test)]
mod tests;
