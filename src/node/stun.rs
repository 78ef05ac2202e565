//! The node's STUN client: all servers at once, quick repetitions, then just enough to keep the mapping open.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng as _;

use crate::peer::{Counters, Datagram, DropReason, Output};
use crate::proto::address::is_sendable;
use crate::proto::stun::{self, StunMessage};
use crate::proto::{NatMapping, TxId};

/// Gaps between the repetitions of an unanswered request: RFC 8489 section 6.2.1 doubles from 500 ms, which is made for
/// servers one does not know; joining waits for this answer, so it starts at 100 ms.
const REPEAT_GAPS: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];

/// Gap between requests to one server: below the 30 s after which Linux and many routers drop an idle mapping.
const KEEP_GAP: Duration = Duration::from_secs(20);

/// Added to [`KEEP_GAP`], up to this, so that many nodes do not ask in step.
const KEEP_JITTER: Duration = Duration::from_secs(4);

/// A peer that rechecks its path makes all servers be asked again, but not more often than this.
const REFRESH_MIN_GAP: Duration = Duration::from_secs(1);

/// Most servers asked: the coordinator has two, and a handful more tell nothing new.
const MAX_SERVERS: usize = 8;

/// What one server is asked and said.
#[derive(Debug)]
struct Server {
    addr: SocketAddr,
    /// The request that waits for its answer.
    tx_id: Option<TxId>,
    /// Index into [`REPEAT_GAPS`].
    step: usize,
    /// The next request or repetition; `None` while no local address has the server's family.
    due: Option<Instant>,
    mapped: Option<SocketAddr>,
    /// The host's addresses changed since that answer: it is void unless the server confirms it.
    unconfirmed: bool,
    /// The latest request and all its repetitions went unanswered.
    silent: bool,
}

/// The client's state, one entry a server.
#[derive(Debug, Default)]
pub(super) struct StunClient {
    servers: Vec<Server>,
    refreshed: Option<Instant>,
}

impl StunClient {
    /// Asks these servers from now on; what was learned from those that stay is kept.
    pub(super) fn set_servers(&mut self, now: Instant, addrs: Vec<SocketAddr>) {
        self.servers.retain(|it| addrs.contains(&it.addr));
        for addr in addrs {
            if self.servers.len() < MAX_SERVERS && self.servers.iter().all(|it| it.addr != addr) {
                self.servers.push(Server {
                    addr,
                    tx_id: None,
                    step: 0,
                    due: Some(now),
                    mapped: None,
                    unconfirmed: false,
                    silent: false,
                });
            }
        }
    }

    /// The host's addresses changed: what was learned holds only as far as it is confirmed now.
    pub(super) fn restart(&mut self, now: Instant) {
        for server in &mut self.servers {
            server.unconfirmed = true;
        }
        self.refreshed = None;
        for server in &mut self.servers {
            server.tx_id = None;
        }
        self.refresh(now);
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = SocketAddr> {
        self.servers.iter().map(|it| it.addr)
    }

    /// Each server that has answered, and where it saw this node.
    pub(super) fn answers(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        self.servers
            .iter()
            .filter_map(|it| Some((it.addr, it.mapped?)))
    }

    /// How many servers are asked, being of a family that this host has, and how many of them answered the latest time.
    pub(super) fn count(&self, locals: &[IpAddr]) -> (usize, usize) {
        let asked = || self.servers.iter().filter(|it| reaches(locals, it.addr));
        let answered = asked().filter(|it| it.mapped.is_some() && !it.silent);
        (asked().count(), answered.count())
    }

    /// Whether a server over IPv4 that has not answered yet may still do so: a request or one of its repetitions is under way.
    pub(super) fn is_asking(&self, locals: &[IpAddr]) -> bool {
        let mut asked = self.servers.iter().filter(|it| reaches(locals, it.addr));
        asked.any(|it| it.addr.is_ipv4() && it.mapped.is_none() && !it.silent)
    }

    /// Asks all servers again that are not being asked, unless that was done just now.
    pub(super) fn refresh(&mut self, now: Instant) {
        if self.refreshed.is_some_and(|at| now < at + REFRESH_MIN_GAP) {
            return;
        }
        self.refreshed = Some(now);
        for server in self.servers.iter_mut().filter(|it| it.tx_id.is_none()) {
            server.step = 0;
            server.due = Some(now);
        }
    }

    /// Sends what is due from the data port, to servers of the families that `locals` has.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        (locals, port): (&[IpAddr], u16),
        rng: &mut ChaCha20Rng,
        out: &mut VecDeque<Output>,
        counters: &mut Counters,
    ) {
        let due = |it: &&mut Server| it.due.is_some_and(|at| at <= now);
        for server in self.servers.iter_mut().filter(due) {
            if !reaches(locals, server.addr) {
                server.due = None;
                continue;
            }
            let tx_id = *server.tx_id.get_or_insert_with(|| {
                let mut tx_id = [0; TxId::LEN];
                rng.fill_bytes(&mut tx_id);
                TxId(tx_id)
            });
            out.push_back(Output::Send(Datagram {
                local: None,
                port,
                to: server.addr,
                data: stun::binding_request(tx_id),
            }));
            counters.stun_requests_sent += 1;
            match REPEAT_GAPS.get(server.step) {
                Some(gap) => {
                    server.step += 1;
                    server.due = Some(now + *gap);
                }
                None => {
                    server.mapped = server.mapped.filter(|_| !server.unconfirmed);
                    server.silent = true;
                    server.rest(now, rng);
                }
            }
        }
    }

    /// An answer, which must come from the server that was asked.
    pub(super) fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &[u8],
        rng: &mut ChaCha20Rng,
    ) -> Result<(), DropReason> {
        let (tx_id, mapped) = match stun::decode(data) {
            // Publishing an address that nobody can send to would have the coordinator refuse all endpoints of this node.
            Ok(StunMessage::Success { mapped, .. }) if !is_sendable(mapped) => {
                return Err(DropReason::Malformed);
            }
            Ok(StunMessage::Success { tx_id, mapped }) => (tx_id, Some(mapped)),
            Ok(StunMessage::Error { tx_id, .. }) => (tx_id, None),
            Ok(StunMessage::Request { .. }) => return Err(DropReason::WrongChannel),
            Err(_) => return Err(DropReason::Malformed),
        };
        let asked = |it: &&mut Server| it.addr == from && it.tx_id == Some(tx_id);
        let server = self.servers.iter_mut().find(asked);
        let server = server.ok_or(DropReason::Unsolicited)?;
        server.rest(now, rng);
        server.mapped = mapped.or(server.mapped);
        server.unconfirmed = false;
        server.silent = false;
        Ok(())
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.servers.iter().filter_map(|it| it.due).min()
    }

    /// The public addresses of the data port, as the servers see it, each once.
    pub(super) fn mapped(&self) -> Vec<SocketAddr> {
        let mut mapped: Vec<SocketAddr> = self.servers.iter().filter_map(|it| it.mapped).collect();
        mapped.sort_unstable();
        mapped.dedup();
        mapped
    }

    /// What the answers tell of the NAT: of IPv4 where there are any, for that is where NATs are.
    pub(super) fn nat(&self, locals: &[IpAddr]) -> NatMapping {
        let of = |is_ipv4: bool| {
            let family = |(_, mapped): &(SocketAddr, SocketAddr)| mapped.is_ipv4() == is_ipv4;
            let answers: Vec<_> = self.answers().filter(family).collect();
            (!answers.is_empty()).then(|| NatMapping::of(locals, &answers))
        };
        of(true).or_else(|| of(false)).unwrap_or_default()
    }
}

impl Server {
    /// Answered, or given up for now: the next request only keeps the mapping.
    fn rest(&mut self, now: Instant, rng: &mut ChaCha20Rng) {
        let share = f64::from(rng.next_u32()) / f64::from(u32::MAX);
        self.tx_id = None;
        self.step = 0;
        self.due = Some(now + KEEP_GAP + KEEP_JITTER.mul_f64(share));
    }
}

fn reaches(locals: &[IpAddr], server: SocketAddr) -> bool {
    locals.iter().any(|it| it.is_ipv4() == server.is_ipv4())
}

#[cfg(test)]
#[path = "stun_tests.rs"]
mod tests;
