//! The words of a verdict: its sentence, its evidence line by line, and what would change it.

use std::net::{SocketAddr, SocketAddrV4};

use crate::peer::discovery::port_mapping::{RouterPort, is_open};
use crate::peer::discovery::port_search::PortSearchOutcome;
use crate::peer::path::Via;
use crate::peer::verdict::explain::{Cause, Evidence, Remedy, Side, Tried};
use crate::proto::NatMapping;

/// Addresses named in one sentence: enough to recognise them, not a page.
const NAMED: usize = 4;

/// The verdict: one sentence without a full stop.
pub(in crate::peer) fn verdict(it: &Evidence, cause: Cause) -> String {
    let (peer, port) = (&it.peer, it.port);
    let answering = || names(it.tried.iter().filter(|it| it.answered));
    let unreachable = format!("{peer} is unreachable");
    let no_answer = format!("no answer from {}", names(it.tried.iter()));
    match cause {
        Cause::Direct => {
            let path = it.tunnel.as_ref().map(|it| it.path);
            let kind = it.tunnel.as_ref().map_or("path", |it| match it.via {
                Via::Lan => "path inside the LAN",
                Via::Public => "path",
                Via::Overlay => "path through another overlay",
            });
            let path = path.map(|it| it.to_string()).unwrap_or_default();
            format!(
                "{peer} is direct: data crosses the kernel tunnel both ways over the {kind} {path}"
            )
        }
        Cause::Searching => {
            let reason = it.searching_because.as_deref().unwrap_or_default();
            let error = it.tunnel.as_ref().and_then(|it| it.error.as_ref());
            let refused = error.map(|error| {
                format!("; until now this host's kernel does not take the tunnel: {error}")
            });
            format!(
                "paths to {peer} are being tried ({reason}); the verdict comes within 5 s{}",
                refused.unwrap_or_default()
            )
        }
        Cause::NoEndpoint => format!(
            "{peer} is unreachable: it has told the coordinator no address where it could be reached"
        ),
        Cause::PeerOffline => format!(
            "{peer} is offline: the coordinator has not heard from it for a minute, and it answers at none of its addresses"
        ),
        Cause::KernelRefused => {
            let error = it.tunnel.as_ref().and_then(|it| it.error.clone());
            format!(
                "{unreachable}: this host's kernel does not take the tunnel: {}",
                error.unwrap_or_default()
            )
        }
        Cause::DataDroppedAtPeer => format!(
            "{unreachable}: {} answers disco and its data comes in, but the firewall of {peer} drops UDP port {port} after disco has seen it",
            answering()
        ),
        Cause::DataDroppedHere => format!(
            "{unreachable}: {} answers disco, which is seen before the firewall, but no data comes in: a firewall drops UDP to port {port}, here or on the way",
            answering()
        ),
        Cause::NotNominated => format!(
            "{unreachable}: {} answers disco, but {peer}, whose turn it is, has not chosen a path",
            answering()
        ),
        Cause::NoNetwork => format!(
            "{unreachable} because this host has no network: neither the coordinator nor any of {} STUN servers answers",
            it.stun_asked
        ),
        Cause::UdpBlockedHere => format!(
            "{unreachable}: UDP is blocked on this side: the coordinator answers by TCP, but none of {} STUN servers answers by UDP",
            it.stun_asked
        ),
        Cause::StunSilent => format!(
            "{unreachable}: none of {} STUN servers answers, though UDP from other hosts comes in, so {peer} cannot be told the public address of this host",
            it.stun_asked
        ),
        Cause::NoCommonFamily => format!(
            "{unreachable}: this host has no address of the family of {}",
            names(it.tried.iter())
        ),
        Cause::SameNat => format!(
            "{unreachable}: both hosts are behind the public address {}, but neither does the LAN carry packets between them nor does the router send them back in (hairpin)",
            it.own_public
                .first()
                .map(|it| it.ip().to_string())
                .unwrap_or_default()
        ),
        Cause::SymmetricBoth => format!(
            "{unreachable}: {no_answer}: both NATs are symmetric (here {}, at {peer} {}): each gives every destination another public port, so neither side can be told where to send{}",
            it.own_nat,
            it.peer_nat,
            search(it)
        ),
        Cause::SymmetricHere => format!(
            "{unreachable}: {no_answer}: the NAT of this host is symmetric ({}), and the one of {peer} admits only packets from a port that it sent to: the port that packets to {peer} leave from is not known before{}",
            it.own_nat,
            search(it)
        ),
        Cause::SymmetricAtPeer => format!(
            "{unreachable}: {no_answer}: the NAT of {peer} is symmetric ({}), and the one of this host admits only packets from a port that it sent to: the port that packets of {peer} come from is not known before{}",
            it.peer_nat,
            search(it)
        ),
        Cause::UdpBlockedAtPeer => format!(
            "{unreachable}: {peer} knows no public address of its own, so UDP is blocked on its side, or no STUN server answers there"
        ),
        Cause::NoCoordinator => format!(
            "{unreachable}: the coordinator cannot be reached from here, so the two cannot agree when and where to send; what is known of {peer} may be out of date"
        ),
        Cause::OneWay => {
            let heard = names(it.tried.iter().filter(|it| it.heard));
            format!(
                "{unreachable}: it is heard from {heard}, but what this host sends does not reach it: a firewall on its side drops UDP{}",
                search(it)
            )
        }
        Cause::NatUnclear => format!(
            "{unreachable}: nothing comes back from it, and STUN saw too little of the two NATs (here {}, at {peer} {}) to say whether one of them is symmetric by address or a firewall drops UDP{}",
            it.own_nat,
            it.peer_nat,
            search(it)
        ),
        Cause::Silent => format!(
            "{unreachable}: nothing comes back from {}, and the NATs are no reason (here {}, at {peer} {}): a firewall drops UDP port {port} on one side, or {peer} has just gone",
            names(it.tried.iter()),
            it.own_nat,
            it.peer_nat
        ),
    }
}

/// The outcome of the port search, as the end of a sentence.
fn search(it: &Evidence) -> String {
    match it.port_search {
        _ if !it.aggressive => {
            ", and ports are not searched for (--aggressive-punch is off)".to_owned()
        }
        Some(PortSearchOutcome::InVain { sent, to }) => {
            format!(", and {sent} packets to ports of {to} met none that is open")
        }
        Some(PortSearchOutcome::PeerTakesNoPart) => {
            format!(", and {} takes no part in a port search", it.peer)
        }
        None => String::new(),
    }
}

/// Returns the observations, one line each.
pub(in crate::peer) fn lines(it: &Evidence) -> Vec<String> {
    let peer = &it.peer;
    let mut lines = vec![
        format!(
            "NAT here: {}; {} of {} STUN servers answered{}",
            nat(it.own_nat),
            it.stun_answered,
            it.stun_asked,
            seen_at(&it.own_public)
        ),
        format!(
            "NAT of {peer}: {}{}",
            nat(it.peer_nat),
            seen_at(&it.peer_public)
        ),
    ];
    match it.router_port {
        RouterPort::Granted(external) => lines.push(granted("here", external)),
        _ if it.own_nat == NatMapping::None => {}
        RouterPort::None => lines.push(
            "router here: grants no port, neither by PCP nor by NAT-PMP or UPnP IGD".to_owned(),
        ),
        RouterPort::Off => {
            lines.push("router here: not asked for a port (--port-mapping is off)".to_owned());
        }
    }
    lines.extend(it.peer_mapped.map(|at| granted(&format!("of {peer}"), at)));
    lines.push(match (it.coordinator_up, it.online) {
        (true, true) => format!("the coordinator answers, and says that {peer} is online"),
        (true, false) => format!("the coordinator answers, and says that {peer} is offline"),
        (false, _) => "the coordinator does not answer".to_owned(),
    });
    lines.extend(it.tried.iter().map(tried));
    if let Some(tunnel) = &it.tunnel {
        let came_in = if tunnel.data_came_in {
            "does"
        } else {
            "does not"
        };
        lines.push(format!(
            "tunnel {}: {} of {} data pings answered; data of {peer} {came_in} come in{}",
            tunnel.path,
            tunnel.pongs,
            tunnel.pings,
            tunnel
                .round_trip
                .map(|it| format!("; round trip {:.1} ms", it.as_secs_f64() * 1e3))
                .unwrap_or_default()
        ));
    }
    lines
}

fn granted(whose: &str, external: SocketAddrV4) -> String {
    let reach = if is_open(Some(external)) {
        "to which anybody may send"
    } else {
        "which is itself a private address: there is another NAT in front of that router"
    };
    format!("router {whose}: grants {external}, {reach}")
}

fn nat(kind: NatMapping) -> &'static str {
    match kind {
        NatMapping::None => "none, the public address is its own",
        NatMapping::EndpointIndependent => "one public port for all destinations",
        NatMapping::PortIndependent => "one public port for all ports of one server",
        NatMapping::AddressDependent => "another public port for each address (symmetric)",
        NatMapping::AddressAndPortDependent => {
            "another public port for each address and port (symmetric)"
        }
        NatMapping::Unknown => "not known",
    }
}

fn seen_at(public: &[SocketAddr]) -> String {
    if public.is_empty() {
        return String::new();
    }
    let public: Vec<String> = public.iter().map(SocketAddr::to_string).collect();
    format!("; seen at {}", public.join(", "))
}

fn tried(it: &Tried) -> String {
    let Tried { remote, pings, .. } = it;
    if !it.has_family {
        return format!("{remote}: not tried, this host has no address of its family");
    }
    let heard = match (it.answered, it.heard) {
        (true, _) => "answers",
        (false, true) => "is heard from there, but does not answer",
        (false, false) => "silent",
    };
    let round_trip = it
        .round_trip
        .map(|it| format!(", round trip {:.1} ms", it.as_secs_f64() * 1e3));
    format!(
        "{remote}: {heard}; {} of {pings} pings answered{}",
        it.pongs,
        round_trip.unwrap_or_default()
    )
}

fn names<'a>(tried: impl Iterator<Item = &'a Tried>) -> String {
    let all: Vec<String> = tried.map(|it| it.remote.to_string()).collect();
    let named = all[..all.len().min(NAMED)].join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

impl Remedy {
    /// Returns the instruction, as one line; `it` holds the observations that the verdict rests on.
    pub fn text(self, it: &Evidence) -> String {
        let (peer, port) = (&it.peer, it.port);
        let on = |side: Side| match side {
            Side::Here => "this host".to_owned(),
            Side::Peer => peer.clone(),
        };
        match self {
            Remedy::IndependentMapping(side) => format!(
                "a NAT in front of {} that keeps one public port whatever the destination (Linux: `masquerade` without `random`; pfSense and OPNsense: static port for UDP {port})",
                on(side)
            ),
            Remedy::IndependentMappings => format!(
                "NATs on both sides that keep one public port whatever the destination (Linux: `masquerade` without `random`; pfSense and OPNsense: static port for UDP {port})"
            ),
            Remedy::PortMapping(Side::Here) if it.router_port == RouterPort::Off => {
                "let this host ask its router for a port: start `gretun up` with --port-mapping".to_owned()
            }
            Remedy::PortMapping(side) => format!(
                "UPnP IGD, NAT-PMP or PCP switched on in the router of {}, so that it grants UDP port {port} when gretun asks",
                on(side)
            ),
            Remedy::FullCone(side) => format!(
                "a public address for {}, or a NAT in front of it that admits packets from anywhere to a port in use (full cone)",
                on(side)
            ),
            Remedy::Ipv6 => "IPv6 on both hosts".to_owned(),
            Remedy::OpenFirewall(Side::Here) => {
                format!("let UDP port {port} in through the firewall of this host: `gretun doctor` says which rule drops it")
            }
            Remedy::OpenFirewall(Side::Peer) => {
                format!("let UDP port {port} in through the firewall of {peer}: `gretun doctor` there says which rule drops it")
            }
            Remedy::AllowUdp(side) => format!(
                "let UDP out of the network of {}, to any port, and answers back in; STUN needs the coordinator's UDP ports 3478 and 3479, or --stun-server",
                on(side)
            ),
            Remedy::StartDaemon(side) => {
                format!("start `gretun up` on {}, and see that it reaches the coordinator", on(side))
            }
            Remedy::ReachCoordinator => {
                "make the coordinator reachable from this host: `gretun doctor` tries it".to_owned()
            }
            Remedy::SecondStunServer => {
                "name STUN servers at two addresses with --stun-server on both hosts, and the verdict will be exact".to_owned()
            }
            Remedy::JoinLan => {
                "let the hosts of the LAN reach each other (client isolation off, routes between its networks), or switch on hairpin NAT in the router".to_owned()
            }
            Remedy::Doctor(side) => format!("`gretun doctor` on {}", on(side)),
            Remedy::AggressivePunch => {
                "let this host search for ports: start `gretun up` with --aggressive-punch".to_owned()
            }
            Remedy::Wait => "a few seconds".to_owned(),
        }
    }
}
