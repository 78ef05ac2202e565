//! The questions of a check, and the whole result.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::probe::{Probe, Question, tx_id};
use super::services::{self, Service};
use super::{NatFiltering, Seen, Udp};
use crate::kernel::{Kernel, KernelError};
use crate::proto::stun::{self, StunMessage};
use crate::proto::{NatMapping, TxId};

/// The result. Names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetcheckView {
    /// IPv4, then IPv6.
    pub families: Vec<FamilyView>,
    /// Whether the checks received packets ahead of the host's firewall, which needs CAP_NET_RAW.
    pub before_firewall: bool,
    /// Services that open ports in the router.
    pub port_mapping: Vec<Service>,
    /// The interfaces that packets leave through.
    pub interfaces: Vec<InterfaceView>,
}

/// The observations over one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyView {
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Whether UDP gets through.
    pub udp: Udp,
    /// The reflexive addresses that servers reported.
    pub public: Vec<SocketAddr>,
    /// The NAT's mapping.
    pub mapping: NatMapping,
    /// The NAT's filtering.
    pub filtering: NatFiltering,
    /// Whether the router sends packets from inside to its public address back in; null when that could not be tried.
    pub hairpin: Option<bool>,
    /// STUN servers that were asked.
    pub servers: Vec<SocketAddr>,
    /// Number of servers that answered.
    pub answered: usize,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// Its name.
    pub name: String,
    /// The largest packet that it takes, bytes.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Checks everything, from ports of its own.
///
/// # Errors
/// When the kernel cannot be asked, or gives no port.
pub async fn run(servers: &[SocketAddr]) -> Result<NetcheckView, NetcheckError> {
    let kernel = Kernel::open()?;
    let interfaces = kernel.interfaces()?;
    let locals: Vec<IpAddr> = interfaces
        .iter()
        .flat_map(|it| it.addresses.iter().copied())
        .collect();
    let (ipv4, ipv6, port_mapping) = tokio::join!(
        family("ipv4", Ipv4Addr::UNSPECIFIED.into(), servers, &locals),
        family("ipv6", Ipv6Addr::UNSPECIFIED.into(), servers, &locals),
        services::find(&kernel),
    );
    let (ipv4, before_firewall) = ipv4.map_err(NetcheckError::Port)?;
    let (ipv6, _) = ipv6.map_err(NetcheckError::Port)?;
    let interfaces = interfaces.into_iter().map(|it| InterfaceView {
        name: it.name,
        mtu: it.mtu,
        addresses: it.addresses,
    });
    Ok(NetcheckView {
        families: vec![ipv4, ipv6],
        before_firewall,
        port_mapping,
        interfaces: interfaces.collect(),
    })
}

async fn family(
    name: &str,
    any: IpAddr,
    servers: &[SocketAddr],
    locals: &[IpAddr],
) -> io::Result<(FamilyView, bool)> {
    let of_family = |ip: &IpAddr| ip.is_ipv4() == any.is_ipv4();
    let servers: Vec<SocketAddr> = servers
        .iter()
        .copied()
        .filter(|it| of_family(&it.ip()))
        .collect();
    let mut seen = Seen::default();
    let mut hairpin = None;
    let mut before_firewall = false;
    if locals.iter().any(of_family) && !servers.is_empty() {
        let mut probe = Probe::open(any).await?;
        before_firewall = probe.is_before_firewall();
        // Filtering needs a port that has sent nowhere but to the server that is asked.
        let (answers, filtering) =
            tokio::join!(mapping(&mut probe, &servers), filtering(any, &servers));
        seen.asked = servers.len();
        seen.answers = answers?;
        (seen.unsolicited, seen.solicited) = filtering?;
        hairpin = match (seen.answers.first(), seen.mapping(locals)) {
            (_, NatMapping::None) | (None, _) => None,
            // The destination cannot be known before.
            (_, kind) if kind.is_symmetric() => None,
            (Some((server, public)), _) => self::hairpin(any, &mut probe, *server, *public).await?,
        };
    }
    let mut public: Vec<SocketAddr> = seen.answers.iter().map(|(_, seen)| *seen).collect();
    public.sort_unstable();
    public.dedup();
    let mapping = seen.mapping(locals);
    let view = FamilyView {
        family: name.to_owned(),
        udp: seen.udp(),
        public,
        mapping,
        filtering: seen.filtering(),
        hairpin,
        answered: seen.answers.len(),
        servers,
    };
    Ok((view, before_firewall))
}

/// Asks all servers from one port. Returns the servers that answered, with the reflexive addresses that they reported.
async fn mapping(
    probe: &mut Probe,
    servers: &[SocketAddr],
) -> io::Result<Vec<(SocketAddr, SocketAddr)>> {
    let tx_id = tx_id()?;
    let questions: Vec<Question> = servers
        .iter()
        .map(|to| Question {
            to: *to,
            data: stun::binding_request(tx_id),
        })
        .collect();
    let mut answers: Vec<(SocketAddr, SocketAddr)> = Vec::new();
    probe
        .ask(&questions, |from, message| {
            if let Some(mapped) = success(message, tx_id)
                && servers.contains(&from)
                && answers.iter().all(|(it, _)| *it != from)
            {
                answers.push((from, mapped));
            }
            answers.len() == servers.len()
        })
        .await;
    Ok(answers)
}

/// Returns whether an answer from a server's other port comes in: before anything was sent to that port, and after.
async fn filtering(any: IpAddr, servers: &[SocketAddr]) -> io::Result<(bool, bool)> {
    let pair = servers.iter().find_map(|one| {
        let sibling = |it: &&SocketAddr| it.ip() == one.ip() && it.port() != one.port();
        Some((*one, *servers.iter().find(sibling)?))
    });
    let Some((server, other)) = pair else {
        return Ok((false, false));
    };
    let mut probe = Probe::open(any).await?;
    let tx_id = tx_id()?;
    let change = || Question {
        to: server,
        data: stun::binding_request_change_port(tx_id),
    };
    let mut unsolicited = false;
    let mut refused = false;
    let from_other = |from: SocketAddr, message: &StunMessage| {
        success(message, tx_id).is_some() && from.ip() == server.ip() && from != server
    };
    probe
        .ask(&[change()], |from, message| {
            unsolicited |= from_other(from, message);
            refused |= matches!(message, StunMessage::Error { .. });
            unsolicited || refused
        })
        .await;
    if unsolicited || refused {
        return Ok((unsolicited, unsolicited));
    }
    // Send to the other port as well, so that an answer that was filtered by port comes in.
    let open = Question {
        to: other,
        data: stun::binding_request(self::tx_id()?),
    };
    let mut solicited = false;
    probe
        .ask(&[open, change()], |from, message| {
            solicited |= from_other(from, message);
            solicited
        })
        .await;
    Ok((false, solicited))
}

/// Returns whether packets between two ports of this host, sent to their public addresses, come back in.
async fn hairpin(
    any: IpAddr,
    one: &mut Probe,
    server: SocketAddr,
    one_public: SocketAddr,
) -> io::Result<Option<bool>> {
    let mut other = Probe::open(any).await?;
    let Some((_, other_public)) = mapping(&mut other, &[server]).await?.first().copied() else {
        return Ok(None);
    };
    let tx_id = tx_id()?;
    let question = |to| Question {
        to,
        data: stun::binding_request(tx_id),
    };
    // Both send, so that each has sent to the other whatever the filter asks for.
    let (mut here, mut there) = (false, false);
    let came = |message: &StunMessage| matches!(message, StunMessage::Request { tx_id: it, .. } if *it == tx_id);
    let (to_other, to_one) = ([question(other_public)], [question(one_public)]);
    tokio::join!(
        one.ask(&to_other, |_, message| {
            here |= came(message);
            here
        }),
        other.ask(&to_one, |_, message| {
            there |= came(message);
            there
        }),
    );
    Ok(Some(here || there))
}

fn success(message: &StunMessage, expected: TxId) -> Option<SocketAddr> {
    match message {
        StunMessage::Success { tx_id, mapped } if *tx_id == expected => Some(*mapped),
        _ => None,
    }
}

/// The reason why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum NetcheckError {
    /// The kernel cannot be asked for interfaces.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// No UDP port to ask from.
    #[error("no UDP port can be had")]
    Port(#[source] io::Error),
}

impl crate::error::UserError for NetcheckError {}
