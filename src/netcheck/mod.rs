//! Checks how the network between this host and the internet treats UDP: mapping, filtering, hairpinning, port-mapping services.
//!
//! The judgements are pure functions of the answers ([`Seen`]); [`run`] asks. Mapping and filtering are RFC 4787's kinds, found
//! as RFC 5780 section 4 does, with what one server at one address allows: what that cannot tell is not guessed.

mod probe;
mod run;
pub mod services;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::proto::NatMapping;

pub use run::{FamilyView, InterfaceView, NetcheckView, run};

/// The filtering behaviour of a NAT: the senders whose packets it admits to a public port (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NatFiltering {
    /// Another port of an address that was sent to: endpoint-independent or address-dependent filtering.
    PortIndependent,
    /// Only the very port that was sent to.
    AddressAndPortDependent,
    /// No server could try.
    Unknown,
}

/// Whether UDP gets through at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Udp {
    /// A STUN server answered.
    Works,
    /// No server that was asked answered.
    Blocked,
    /// There was none to ask: no server, or no address, of this family.
    Unknown,
}

/// The answers that came in, for one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Servers that were asked.
    pub asked: usize,
    /// The servers that answered, and the reflexive addresses that they reported.
    pub answers: Vec<(SocketAddr, SocketAddr)>,
    /// An answer from a server's other port, before anything was sent to that port.
    pub unsolicited: bool,
    /// An answer from the server's other port, after something was sent to that port. It shows that the server can send such
    /// answers, and that only a filter dropped the first one.
    pub solicited: bool,
}

impl Seen {
    /// Returns whether UDP gets through.
    pub fn udp(&self) -> Udp {
        match (self.asked, self.answers.len()) {
            (0, _) => Udp::Unknown,
            (_, 0) => Udp::Blocked,
            _ => Udp::Works,
        }
    }

    /// Judges the NAT's mapping from the answers.
    pub fn mapping(&self, locals: &[std::net::IpAddr]) -> NatMapping {
        NatMapping::of(locals, &self.answers)
    }

    /// The NAT's filtering.
    pub fn filtering(&self) -> NatFiltering {
        match (self.unsolicited, self.solicited) {
            (true, _) => NatFiltering::PortIndependent,
            (false, true) => NatFiltering::AddressAndPortDependent,
            (false, false) => NatFiltering::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_guessed() {
        let seen = Seen::default();
        assert_eq!(seen.udp(), Udp::Unknown);
        assert_eq!(seen.filtering(), NatFiltering::Unknown);
        assert_eq!(seen.mapping(&[]), NatMapping::Unknown);
    }

    #[test]
    fn a_filter_is_told_from_a_server_that_cannot_change_its_port() {
        let seen = |unsolicited, solicited| Seen {
            unsolicited,
            solicited,
            ..Seen::default()
        };
        assert_eq!(seen(true, true).filtering(), NatFiltering::PortIndependent);
        assert_eq!(
            seen(false, true).filtering(),
            NatFiltering::AddressAndPortDependent
        );
        assert_eq!(seen(false, false).filtering(), NatFiltering::Unknown);
    }

    #[test]
    fn silence_of_all_servers_is_blocked_udp() {
        let seen = Seen {
            asked: 2,
            ..Seen::default()
        };
        assert_eq!(seen.udp(), Udp::Blocked);
    }
}
