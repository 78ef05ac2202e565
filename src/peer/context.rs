//! The host that a peer's machine runs on, and the context of one step of it.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng as _;

use crate::peer::counters::Counters;
use crate::peer::discovery::candidates::Candidate;
use crate::peer::discovery::port_mapping::RouterPort;
use crate::peer::discovery::port_search::NatState;
use crate::peer::output::Output;
use crate::peer::packet_window::PacketWindow;
use crate::peer::path::local_address::{self, LocalAddress};
use crate::peer::path::{Path, Via};
use crate::peer::tunnel::desired::Outside;
use crate::peer::verdict::input::HostSnapshot;
use crate::proto::address::{is_public, private_range};
use crate::proto::{DiscoPublic, NodePublic, TxId};

/// The host that the peers' machines run on.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) node_key: NodePublic,
    pub(crate) disco_key: DiscoPublic,
    /// The data port.
    pub(crate) port: u16,
    /// Usable source addresses.
    pub(crate) locals: Vec<IpAddr>,
    /// The same with what is known of each, in the order in which peers are told of them.
    pub(crate) addresses: Vec<LocalAddress>,
    /// Where this node can perhaps be reached.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// The NAT in front of this host as STUN sees it.
    pub(crate) nat: NatState,
    /// Whether ports may be searched for.
    pub(crate) aggressive: bool,
    /// The port mapping of the router for the data port.
    pub(crate) router_port: RouterPort,
    /// The knowledge of the network that verdicts on peers rest on.
    pub(crate) snapshot: HostSnapshot,
}

impl Host {
    /// The kind of the path to a candidate: the LAN only once the peer showed that it sees this host's own address.
    pub(crate) fn via(&self, candidate: &Candidate) -> Via {
        let is_own = |ip: IpAddr| self.locals.contains(&ip);
        let is_own_source = candidate.seen_from.is_some_and(is_own);
        candidate.path().map_or(Via::Public, |path| {
            local_address::via(&self.addresses, path, is_own_source)
        })
    }

    /// The kind of a path in use. A path that was just adopted counts as one in the LAN until a pong says otherwise.
    pub(crate) fn via_in_use(&self, path: Path, candidate: Option<&Candidate>) -> Via {
        let seen_from = candidate.and_then(|it| it.seen_from);
        let is_own_source = seen_from.is_none_or(|ip| self.locals.contains(&ip));
        local_address::via(&self.addresses, path, is_own_source)
    }

    /// Whether guesses may be sent to an address that a peer says is its own. Not into a network that is not the internet, which its
    /// routers and hosts would suffer from, unless STUN sees this host in a network of the same range.
    pub(crate) fn may_be_guessed_at(&self, ip: IpAddr) -> bool {
        let IpAddr::V4(ip) = ip else {
            return false;
        };
        let is_like_ours = |seen: SocketAddr| match (seen.ip(), private_range(ip)) {
            (IpAddr::V4(seen), Some(range)) => private_range(seen) == Some(range),
            _ => false,
        };
        is_public(ip) || self.nat.seen.is_some_and(is_like_ours)
    }

    /// Whether there is an address to send from at all.
    pub(crate) fn reaches(&self, remote: IpAddr) -> bool {
        self.locals
            .iter()
            .any(|local| local.is_ipv4() == remote.is_ipv4())
    }
}

/// The requests that a step of a peer's machine leaves to its node.
#[derive(Debug, Default)]
pub(crate) struct StepOutcome {
    /// How the peer's tunnel should be from now on, if that changed.
    pub(crate) tunnel: Option<Outside>,
    /// Whether STUN is to say now if this host's mapping still holds.
    pub(crate) asks_stun: bool,
    /// Whether a port search wants to know what the NAT gives to new flows.
    pub(crate) samples_nat: bool,
    /// Whether disco came in from beyond this site.
    pub(crate) udp_came_in: bool,
}

/// The context of one step of a peer's machine.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) host: &'a Host,
    pub(crate) rng: &'a mut ChaCha20Rng,
    pub(crate) out: &'a mut VecDeque<Output>,
    pub(crate) counters: &'a mut Counters,
    pub(crate) outcome: StepOutcome,
    /// The cap on packets of port searches, for all peers together.
    pub(crate) search_limiter: &'a mut PacketWindow,
    /// The number of the latest [`Output::SetTunnel`] of this node.
    pub(crate) requests: &'a mut u64,
}

impl Context<'_> {
    pub(super) fn nonce(&mut self) -> [u8; 24] {
        let mut nonce = [0; 24];
        self.rng.fill_bytes(&mut nonce);
        nonce
    }

    pub(super) fn tx_id(&mut self) -> TxId {
        let mut tx_id = [0; TxId::LEN];
        self.rng.fill_bytes(&mut tx_id);
        TxId(tx_id)
    }

    /// The number of the next [`Output::SetTunnel`].
    pub(super) fn request_number(&mut self) -> u64 {
        *self.requests += 1;
        *self.requests
    }

    /// Up to `bound`, evenly spread.
    pub(super) fn jitter(&mut self, bound: Duration) -> Duration {
        bound.mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX))
    }
}
