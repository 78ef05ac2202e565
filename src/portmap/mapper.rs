//! The state machine: searches for a router that grants a port, keeps the lease, gives it back.
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
//! The driver hands in what came and the time, takes [`PortMapper::poll_output`] until it is empty, and sleeps until
//! [`PortMapper::poll_timeout`].

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use tracing::{debug, info};

use super::epoch::Epoch;
use super::igd::{self, HttpRequest, Next, Talk};
use super::schedule::{
    CHECK_GAP, DOUBT_GAPS, Due, IGD_DELAY, LIFETIME, NAT_PMP_DELAY, NAT_PMP_GAPS, PCP_GAPS,
    RENEW_MIN_GAP, REST_GAPS, RETURN_GAPS, Repeat, SEARCH_GAPS, about, renewal,
};
use super::upnp::{self, Action, Control};
use super::{Finding, Lease, Network, Protocol, Status, nat_pmp, pcp};

/// What the driver has to send.
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
    /// What PCP knows the mapping by; kept as long as the router is the same.
    nonce: pcp::Nonce,
    /// What to ask for: what there was before.
    wish: SocketAddrV4,
    phase: Phase,
    /// The talk with a UPnP gateway, and the number of the request that it waits for.
    talk: Option<(u64, Talk)>,
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
    /// Where a UPnP gateway's description is.
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
    /// When to look at the epoch; with UPnP there is none.
    check: Option<Instant>,
    /// Looks that are still to come quickly.
    doubt: usize,
}

impl Held {
    fn expires(&self) -> Option<Instant> {
        self.lifetime.map(|it| self.granted + it)
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
            wish: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port),
            phase: Phase::Idle,
            talk: None,
            requests: 0,
            failures: 0,
            out: VecDeque::new(),
        };
        match before.filter(|it| it.port == port) {
            Some(lease) => {
                mapper.network = Some(lease.network);
                mapper.nonce = lease.nonce;
                mapper.wish = lease.external;
            }
            None => mapper.rng.fill_bytes(&mut mapper.nonce),
        }
        mapper
    }

    /// One that has nothing to do but to give this lease back.
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
            self.wish = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, self.port);
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
            self.begin_talk(now);
        }
    }

    /// The answer to an [`Output::Http`]: its status and body, or why there is none.
    pub fn handle_http(&mut self, now: Instant, id: u64, answer: Result<(u16, String), String>) {
        let Some((_, mut talk)) = self.talk.take_if(|(waited, _)| *waited == id) else {
            if let Phase::Returning(..) = self.phase
                && self.requests == id
            {
                self.set_idle();
            }
            return;
        };
        let next = match answer {
            Ok((status, body)) => talk.answer(status, &body, self.rng.next_u32()),
            Err(error) => Next::Failed(error),
        };
        match next {
            Next::Ask(url, action) => {
                let id = self.request(url, action);
                self.talk = Some((id, talk));
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
    pub fn handle_doubt(&mut self, now: Instant) {
        if let Phase::Leased(held) = &mut self.phase {
            match &mut held.check {
                Some(check) => {
                    held.doubt = DOUBT_GAPS.len();
                    *check = now;
                }
                None if now >= held.granted + RENEW_MIN_GAP => held.renew = now,
                None => {}
            }
        }
    }

    /// Gives the port back, if there is one; [`PortMapper::is_idle`] when that is done.
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
                let talk = search.location.is_some() && !self.is_settled(Protocol::UpnpIgd);
                let talk = (talk && self.talk.is_none()).then(|| search.begun + IGD_DELAY);
                let dues = [search.pcp.due, search.nat_pmp.due, search.ssdp.due, talk];
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

    /// Whether nothing is going on: nothing was begun, or all was given back.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// What is known.
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

// Searching.
impl PortMapper {
    fn begin_search(&mut self, now: Instant) {
        self.talk = None;
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

    fn search_due(&mut self, now: Instant) {
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
        self.begin_talk(now);
    }

    /// One protocol is through with. When all are, the router rests.
    fn settle(&mut self, now: Instant, protocol: Protocol, finding: Finding) {
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
            self.begin_talk(now);
        }
    }

    fn is_settled(&self, protocol: Protocol) -> bool {
        self.findings[protocol as usize] != Finding::Asking
    }

    /// Talks to the UPnP gateway, if one was found and the others had their time.
    fn begin_talk(&mut self, now: Instant) {
        let others = [Protocol::Pcp, Protocol::NatPmp];
        let others_settled = others.iter().all(|it| self.is_settled(*it));
        let (Some(network), Phase::Searching(search)) = (self.network, &self.phase) else {
            return;
        };
        let is_time = others_settled || now >= search.begun + IGD_DELAY;
        if self.talk.is_some() || self.is_settled(Protocol::UpnpIgd) || !is_time {
            return;
        }
        if let Some(location) = search.location.clone() {
            let (talk, first) = Talk::begin(network, self.port, self.wish.port(), location);
            self.talk_on(talk, first);
        }
    }

    fn talk_on(&mut self, talk: Talk, next: Next) {
        if let Next::Ask(url, action) = next {
            let id = self.request(url, action);
            self.talk = Some((id, talk));
        }
    }

    fn request(&mut self, url: String, action: Option<(String, String)>) -> u64 {
        self.requests += 1;
        let id = self.requests;
        self.out
            .push_back(Output::Http(HttpRequest { id, url, action }));
        id
    }

    fn send_pcp(&mut self, lifetime: u32) {
        let Some(network) = self.network else { return };
        let request = pcp::MapRequest {
            client: network.own,
            nonce: self.nonce,
            internal_port: self.port,
            suggested: self.wish,
            lifetime,
        };
        self.out
            .push_back(Output::ToRouter(request.encode().to_vec()));
    }

    /// The mapping, and the address that its answer does not tell.
    fn send_nat_pmp(&mut self, lifetime: u32) {
        let suggested_port = if lifetime == 0 { 0 } else { self.wish.port() };
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

    fn send_nat_pmp_address(&mut self) {
        self.out
            .push_back(Output::ToRouter(nat_pmp::ADDRESS_REQUEST.to_vec()));
    }
}

// What routers answer.
impl PortMapper {
    fn handle_pcp(&mut self, now: Instant, response: pcp::Response) {
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

    fn handle_nat_pmp(&mut self, now: Instant, response: nat_pmp::Response) {
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
    fn conclude_nat_pmp(&mut self, now: Instant) {
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
    fn handle_epoch(&mut self, now: Instant, protocol: Protocol, epoch: Epoch) {
        if let Phase::Leased(held) = &mut self.phase
            && held.lease.protocol == protocol
        {
            let before = held.epoch.replace(epoch);
            if before.is_some_and(|it| !it.goes_on_to(epoch)) {
                info!(%protocol, "the router has lost its state: its port is asked for again");
                held.renew = now;
                self.lease_due(now);
            }
        }
    }

    fn refused(&mut self, now: Instant, protocol: Protocol, why: String) {
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

    fn granted(
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
        self.wish = external;
        self.talk = None;
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
            renew: now + renewal(renewed_within, 0, &mut self.rng),
            epoch,
            check: (protocol != Protocol::UpnpIgd).then(|| now + about(CHECK_GAP, &mut self.rng)),
            doubt: 0,
        }));
    }
}

// Keeping the lease, and giving it back.
impl PortMapper {
    fn lease_due(&mut self, now: Instant) {
        let Phase::Leased(held) = &mut self.phase else {
            return;
        };
        if held.expires().is_some_and(|at| at <= now) {
            info!(external = %held.lease.external, "the router has not renewed its port");
            return self.begin_search(now);
        }
        let check = held.check.is_some_and(|at| at <= now);
        if check {
            let gap = if held.doubt > 0 {
                let gap = DOUBT_GAPS[DOUBT_GAPS.len() - held.doubt];
                held.doubt -= 1;
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

    fn renew_igd(&mut self, lease: Lease) {
        let Phase::Leased(held) = &self.phase else {
            return;
        };
        let lifetime = held.lifetime.map_or(0, |it| it.as_secs() as u32);
        if let Some(control) = lease.control {
            let port = lease.external.port();
            let (talk, first) = Talk::renew(lease.network, self.port, port, lifetime, control);
            self.talk_on(talk, first);
        }
    }

    fn begin_return(&mut self, now: Instant, lease: Lease) {
        info!(external = %lease.external, "giving the router its port back");
        self.talk = None;
        self.network = Some(lease.network);
        self.phase = Phase::Returning(Box::new(lease), Repeat::new(RETURN_GAPS, now));
        self.return_due(now);
    }

    fn return_due(&mut self, now: Instant) {
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

    fn set_idle(&mut self) {
        self.talk = None;
        self.phase = Phase::Idle;
        self.findings = Default::default();
    }
}

#[cfg(test)]
#[path = "mapper_tests.rs"]
mod tests;
