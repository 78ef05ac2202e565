//! Why a pair is joined or not: one verdict from everything that was seen, and what would change it.
//!
//! Pure: [`Evidence`] comes from [`crate::node::Node::explain`], which gathers it. What follows from what:
//! RFC 4787 behaviours join or not as `tests/sim/oracle.rs` reasons, so where nobody answers and one mapping is
//! symmetric, that is why; UDP that no STUN server answers explains more than any NAT; and disco that is
//! answered while data is not can only be a firewall, for disco is seen before it.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use crate::peer::discovery::port_mapping::{RouterPort, is_open};
use crate::peer::discovery::port_search::PortSearchOutcome;
use crate::peer::path::{Path, Via};
use crate::peer::verdict::state::State;
use crate::proto::NatMapping;

/// A candidate, and the outcome of the pings to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Where.
    pub remote: SocketAddr,
    /// Whether this host has an address of that family.
    pub has_family: bool,
    /// Pings sent there so far.
    pub pings: u32,
    /// Number of these that were answered.
    pub pongs: u32,
    /// Whether it answered lately.
    pub answered: bool,
    /// Whether anything of the peer came from there lately.
    pub heard: bool,
    /// Smoothed round trip of disco.
    pub round_trip: Option<Duration>,
    /// The latest one.
    pub latest: Option<Duration>,
}

/// The kernel tunnel, and what crossed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSeen {
    /// From where to where it is set.
    pub path: Path,
    /// The kind of the path.
    pub via: Via,
    /// The kernel's error, if it refuses the tunnel.
    pub error: Option<String>,
    /// Data pings sent over this path so far.
    pub pings: u32,
    /// Number of these that were answered.
    pub pongs: u32,
    /// Whether data of the peer came out of it lately.
    pub data_came_in: bool,
    /// Smoothed round trip of data.
    pub round_trip: Option<Duration>,
    /// The latest one.
    pub latest: Option<Duration>,
}

/// The observations about one peer and this host, from which the diagnosis follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The peer's name.
    pub peer: String,
    /// This host's data port.
    pub port: u16,
    /// The state of the peer.
    pub state: State,
    /// Why paths are being searched for, while they are.
    pub searching_because: Option<String>,
    /// Whether the coordinator can be reached from here.
    pub coordinator_up: bool,
    /// Whether the coordinator heard from the peer lately, by its last word.
    pub online: bool,
    /// The mapping of this host's NAT.
    pub own_nat: NatMapping,
    /// The reflexive addresses of this host.
    pub own_public: Vec<SocketAddr>,
    /// STUN servers that are asked.
    pub stun_asked: usize,
    /// Number of STUN servers that answered.
    pub stun_answered: usize,
    /// Whether disco came lately from a public address, of any peer: UDP gets through then.
    pub udp_came_in: bool,
    /// The mapping of the peer's NAT, as the peer publishes it.
    pub peer_nat: NatMapping,
    /// The reflexive addresses of the peer, as the peer publishes them.
    pub peer_public: Vec<SocketAddr>,
    /// The port mapping of this host.
    pub router_port: RouterPort,
    /// The port mapping of the peer, as the peer publishes it.
    pub peer_mapped: Option<SocketAddrV4>,
    /// Whether ports are searched for where a NAT is symmetric (`--aggressive-punch`).
    pub aggressive: bool,
    /// The outcome of the latest port search, unless it led to a path.
    pub port_search: Option<PortSearchOutcome>,
    /// Every place that was tried.
    pub tried: Vec<Tried>,
    /// The tunnel, once a path was chosen.
    pub tunnel: Option<TunnelSeen>,
}

/// The verdict. Names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Data crosses both ways.
    Direct,
    /// Paths are being tried; too early to say.
    Searching,
    /// The peer has told no address yet.
    NoEndpoint,
    /// The peer's daemon does not run, or has lost the coordinator.
    PeerOffline,
    /// This host's kernel refuses the tunnel.
    KernelRefused,
    /// Disco is answered and data comes in, but what is sent is dropped at the peer.
    DataDroppedAtPeer,
    /// Disco is answered, but no data comes in.
    DataDroppedHere,
    /// Disco is answered, but the peer, whose turn it is, has not chosen a path.
    NotNominated,
    /// Neither the coordinator nor any STUN server answers.
    NoNetwork,
    /// No STUN server answers here, and nothing else comes in by UDP.
    UdpBlockedHere,
    /// No STUN server answers here, though UDP of peers does come in.
    StunSilent,
    /// The two hosts have addresses of different families only.
    NoCommonFamily,
    /// Both are behind one public address, and neither the LAN nor the router connects them.
    SameNat,
    /// Both NATs are symmetric.
    SymmetricBoth,
    /// This host's NAT is symmetric, and the peer's admits only ports that it sent to.
    SymmetricHere,
    /// The peer's NAT is symmetric, and this host's admits only ports that it sent to.
    SymmetricAtPeer,
    /// The peer knows no public address of its own: no STUN server answers there.
    UdpBlockedAtPeer,
    /// The coordinator is away, so the two cannot be brought together.
    NoCoordinator,
    /// The peer is heard, but does not hear this host.
    OneWay,
    /// Nobody answers, and STUN could not see on what a NAT's mapping depends.
    NatUnclear,
    /// Nobody answers, and nothing seen from here says why.
    Silent,
}

impl Cause {
    /// The name in `gretun --json explain`; stable.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Direct => "direct",
            Cause::Searching => "searching",
            Cause::NoEndpoint => "no-endpoint",
            Cause::PeerOffline => "peer-offline",
            Cause::KernelRefused => "kernel-refused",
            Cause::DataDroppedAtPeer => "data-dropped-at-peer",
            Cause::DataDroppedHere => "data-dropped-here",
            Cause::NotNominated => "not-nominated",
            Cause::NoNetwork => "no-network",
            Cause::UdpBlockedHere => "udp-blocked-here",
            Cause::StunSilent => "stun-silent",
            Cause::NoCommonFamily => "no-common-family",
            Cause::SameNat => "same-nat",
            Cause::SymmetricBoth => "symmetric-both",
            Cause::SymmetricHere => "symmetric-here",
            Cause::SymmetricAtPeer => "symmetric-at-peer",
            Cause::UdpBlockedAtPeer => "udp-blocked-at-peer",
            Cause::NoCoordinator => "no-coordinator",
            Cause::OneWay => "one-way",
            Cause::NatUnclear => "nat-unclear",
            Cause::Silent => "silent",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An end of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// This host.
    Here,
    /// The peer.
    Peer,
}

/// A remedy that would change the diagnosis. One of those named is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remedy {
    /// A NAT there that keeps one public port whatever the destination.
    IndependentMapping(Side),
    /// An endpoint-independent mapping on both sides.
    IndependentMappings,
    /// A router there that grants a port when it is asked.
    PortMapping(Side),
    /// A NAT there that also admits packets from anywhere to that port.
    FullCone(Side),
    /// IPv6 on both sides.
    Ipv6,
    /// Let UDP in through the firewall there.
    OpenFirewall(Side),
    /// Let UDP out of the network there.
    AllowUdp(Side),
    /// Start the daemon there, or its network.
    StartDaemon(Side),
    /// Make the coordinator reachable from here.
    ReachCoordinator,
    /// Ask a STUN server at a second address, so that the verdict can be exact.
    SecondStunServer,
    /// Let hosts of one LAN reach each other.
    JoinLan,
    /// `gretun doctor` finds the missing part of the kernel.
    Doctor(Side),
    /// Search for ports: it is switched off here.
    AggressivePunch,
    /// Nothing but time.
    Wait,
}

/// A verdict with its grounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The verdict, for scripts.
    pub cause: Cause,
    /// The verdict, one sentence without a full stop.
    pub verdict: String,
    /// The observations, one line each.
    pub evidence: Vec<String>,
    /// The remedies; empty only for a connected pair.
    pub remedies: Vec<Remedy>,
}

/// Judges.
pub fn explain(evidence: &Evidence) -> Explanation {
    let cause = cause(evidence);
    Explanation {
        cause,
        verdict: crate::peer::verdict::text::verdict(evidence, cause),
        evidence: crate::peer::verdict::text::lines(evidence),
        remedies: remedies(evidence, cause),
    }
}

fn cause(it: &Evidence) -> Cause {
    match it.state {
        State::Direct => return Cause::Direct,
        State::Unknown if !it.coordinator_up => return Cause::NoCoordinator,
        State::Unknown => return Cause::NoEndpoint,
        State::HaveEndpoints if !it.coordinator_up => return no_coordinator(it),
        State::HaveEndpoints => return Cause::PeerOffline,
        State::Punching | State::Unreachable => {}
    }
    // It takes five seconds to try everything; a verdict before that would be a guess.
    if it.state == State::Punching {
        return Cause::Searching;
    }
    if it.tunnel.as_ref().is_some_and(|it| it.error.is_some()) {
        return Cause::KernelRefused;
    }
    if it.tried.iter().any(|it| it.answered) {
        return match &it.tunnel {
            None => Cause::NotNominated,
            Some(tunnel) if tunnel.data_came_in => Cause::DataDroppedAtPeer,
            Some(_) => Cause::DataDroppedHere,
        };
    }
    let heard = it.tried.iter().any(|it| it.heard);
    let no_stun = it.stun_asked > 0 && it.stun_answered == 0;
    if no_stun && !heard && !it.udp_came_in {
        return no_coordinator_or(it, Cause::NoNetwork, Cause::UdpBlockedHere);
    }
    if it.tried.iter().all(|it| !it.has_family) {
        return Cause::NoCommonFamily;
    }
    if shares_public_address(it) {
        return Cause::SameNat;
    }
    // A port that a router granted takes what comes from anywhere, whatever the NATs do else.
    let own_open = is_open(it.router_port.granted());
    let open = own_open || is_open(it.peer_mapped);
    match (it.own_nat, it.peer_nat) {
        (own, peer) if !open && own.is_symmetric() && peer.is_symmetric() => Cause::SymmetricBoth,
        (own, peer) if !open && own.is_symmetric() && peer != NatMapping::None => {
            Cause::SymmetricHere
        }
        (own, peer) if !open && peer.is_symmetric() && own != NatMapping::None => {
            Cause::SymmetricAtPeer
        }
        _ if no_stun && !own_open => Cause::StunSilent,
        (_, NatMapping::Unknown) if it.peer_public.is_empty() => Cause::UdpBlockedAtPeer,
        _ if !it.coordinator_up => Cause::NoCoordinator,
        (own, peer) if !open && is_unclear(own, peer) => Cause::NatUnclear,
        _ if heard => Cause::OneWay,
        _ => Cause::Silent,
    }
}

fn no_coordinator(it: &Evidence) -> Cause {
    let no_stun = it.stun_asked > 0 && it.stun_answered == 0;
    if no_stun && !it.udp_came_in {
        Cause::NoNetwork
    } else {
        Cause::NoCoordinator
    }
}

fn no_coordinator_or(it: &Evidence, down: Cause, up: Cause) -> Cause {
    if it.coordinator_up { up } else { down }
}

fn shares_public_address(it: &Evidence) -> bool {
    let is_own = |ip: IpAddr| it.own_public.iter().any(|own| own.ip() == ip);
    it.own_nat != NatMapping::None && it.peer_public.iter().any(|addr| is_own(addr.ip()))
}

/// Whether one of the NATs may be symmetric by address, and STUN could not see it. One alone is none of it: whoever has
/// a public address is found by a symmetric peer too.
fn is_unclear(own: NatMapping, peer: NatMapping) -> bool {
    let may_be_symmetric = |it| matches!(it, NatMapping::PortIndependent | NatMapping::Unknown);
    let public = own == NatMapping::None || peer == NatMapping::None;
    !public && (may_be_symmetric(own) || may_be_symmetric(peer))
}

fn remedies(it: &Evidence, cause: Cause) -> Vec<Remedy> {
    use Remedy::*;
    match cause {
        Cause::Direct => vec![],
        Cause::Searching => vec![Wait],
        Cause::NoEndpoint | Cause::PeerOffline => vec![StartDaemon(Side::Peer)],
        Cause::KernelRefused => vec![Doctor(Side::Here)],
        Cause::DataDroppedAtPeer => vec![OpenFirewall(Side::Peer)],
        Cause::DataDroppedHere => vec![OpenFirewall(Side::Here), OpenFirewall(Side::Peer)],
        Cause::NotNominated => vec![Doctor(Side::Peer)],
        Cause::NoNetwork => vec![ReachCoordinator, AllowUdp(Side::Here)],
        Cause::UdpBlockedHere | Cause::StunSilent => vec![AllowUdp(Side::Here)],
        Cause::UdpBlockedAtPeer => vec![AllowUdp(Side::Peer)],
        Cause::NoCommonFamily => vec![Ipv6],
        Cause::SameNat => vec![JoinLan],
        Cause::SymmetricBoth => {
            let nats = [
                FullCone(Side::Here),
                FullCone(Side::Peer),
                IndependentMappings,
                Ipv6,
            ];
            port_mappings(it).chain(nats).collect()
        }
        Cause::SymmetricHere | Cause::SymmetricAtPeer => {
            let (symmetric, other) = match cause {
                Cause::SymmetricHere => (Side::Here, Side::Peer),
                _ => (Side::Peer, Side::Here),
            };
            let nat = [IndependentMapping(symmetric), FullCone(other), Ipv6];
            let search = (!it.aggressive).then_some(AggressivePunch);
            search
                .into_iter()
                .chain(port_mappings(it))
                .chain(nat)
                .collect()
        }
        Cause::NoCoordinator => vec![ReachCoordinator],
        Cause::OneWay => vec![OpenFirewall(Side::Peer)],
        Cause::NatUnclear => vec![
            SecondStunServer,
            OpenFirewall(Side::Here),
            OpenFirewall(Side::Peer),
        ],
        Cause::Silent => {
            let mut sides = vec![OpenFirewall(Side::Peer), OpenFirewall(Side::Here)];
            if it.peer_nat != NatMapping::None && it.own_nat == NatMapping::None {
                sides.reverse();
            }
            sides
        }
    }
}

/// On which sides a port of the router would help: not where it granted one already, and is itself behind another NAT.
fn port_mappings(it: &Evidence) -> impl Iterator<Item = Remedy> + use<> {
    let here = it.router_port.granted().is_none();
    let peer = it.peer_mapped.is_none();
    let sides = [here.then_some(Side::Here), peer.then_some(Side::Peer)];
    sides.into_iter().flatten().map(Remedy::PortMapping)
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
