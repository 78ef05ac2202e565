//! UDP around the tunnel's packets, so that NATs, load balancers and receive queues can tell flows apart.

use std::fmt;

use super::mode::{Family, Mode};

/// The UDP encapsulation of a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encap {
    /// None: the outer IP header is followed by the tunnel's own.
    #[default]
    None,
    /// Foo over UDP: nothing but a UDP header.
    Fou(Udp),
    /// Generic UDP encapsulation: a UDP header and four bytes (draft-ietf-intarea-gue).
    Gue(Udp),
}

/// The UDP header of an encapsulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source port; 0 lets the kernel take one per flow.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Whether the UDP checksum is filled in.
    pub csum: bool,
}

impl Encap {
    /// The name that `--encap` takes.
    pub fn name(self) -> &'static str {
        match self {
            Encap::None => "none",
            Encap::Fou(_) => "fou",
            Encap::Gue(_) => "gue",
        }
    }

    /// The UDP header, where there is one.
    pub fn udp(self) -> Option<Udp> {
        match self {
            Encap::None => None,
            Encap::Fou(udp) | Encap::Gue(udp) => Some(udp),
        }
    }

    /// The FOU port that the kernel must listen on for the far end's packets: our fixed source port, or the destination
    /// port when both ends use the same one.
    pub fn listener(self, mode: Mode) -> Option<FouPort> {
        let udp = self.udp()?;
        Some(FouPort {
            port: if udp.sport == 0 { udp.dport } else { udp.sport },
            family: mode.outer(),
            receives: match self {
                Encap::Gue(_) => Receives::Gue,
                _ => Receives::Protocol(mode.protocol()),
            },
        })
    }
}

/// A UDP port on which the kernel takes tunnel packets out of UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FouPort {
    /// The port.
    pub port: u16,
    /// Outer IP version.
    pub family: Family,
    /// The contents of the UDP packets.
    pub receives: Receives,
}

/// The contents of the UDP packets of a FOU port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Receives {
    /// Packets of one IP protocol.
    Protocol(u8),
    /// GUE, which names the protocol itself.
    Gue,
}

impl fmt::Display for FouPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} UDP port {} for ", self.family, self.port)?;
        match self.receives {
            Receives::Protocol(protocol) => write!(f, "IP protocol {protocol}"),
            Receives::Gue => f.write_str("GUE"),
        }
    }
}
