//! The mapping behaviour of a NAT, judged from STUN answers (RFC 4787 section 4.1, RFC 5780 section 4.3).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The mapping behaviour of the NAT in front of a node, for the data port (RFC 4787 section 4.1). The coordinator's record of
/// a node publishes it to the peers.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum NatMapping {
    /// The public address is one of the host's own.
    None,
    /// Servers at several addresses saw the same public address and port.
    EndpointIndependent,
    /// Two ports of one server saw the same, and no other server was asked: endpoint-independent or, which is rare,
    /// address-dependent.
    PortIndependent,
    /// Servers at different addresses saw different public ports, two ports of one server the same: "symmetric".
    AddressDependent,
    /// Two ports of one server saw different public ports: "symmetric".
    AddressAndPortDependent,
    /// Fewer than two answers, or a kind that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

impl NatMapping {
    /// Judges the answers of the STUN servers of one address family: pairs of a server and the reflexive address that it reported.
    pub fn of(locals: &[IpAddr], answers: &[(SocketAddr, SocketAddr)]) -> NatMapping {
        if answers
            .first()
            .is_some_and(|(_, mapped)| locals.contains(&mapped.ip()))
        {
            return NatMapping::None;
        }
        let pairs = || {
            let with = |(index, one): (usize, _)| answers[..index].iter().map(move |it| (one, it));
            answers.iter().enumerate().flat_map(with)
        };
        let differ = |same_server: bool| {
            pairs().any(|((one, seen), (other, also))| {
                (one.ip() == other.ip()) == same_server && seen != also
            })
        };
        if differ(true) {
            NatMapping::AddressAndPortDependent
        } else if differ(false) {
            // Without two ports of one server it may depend on the port as well; either way it is symmetric.
            NatMapping::AddressDependent
        } else if pairs().any(|((one, _), (other, _))| one.ip() != other.ip()) {
            NatMapping::EndpointIndependent
        } else if answers.len() > 1 {
            NatMapping::PortIndependent
        } else {
            NatMapping::Unknown
        }
    }

    /// Returns whether the public port differs by destination, so that no peer can be told where to send: "symmetric".
    pub fn is_symmetric(self) -> bool {
        matches!(
            self,
            NatMapping::AddressDependent | NatMapping::AddressAndPortDependent
        )
    }

    /// Returns whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        *self == NatMapping::Unknown
    }

    /// The name in JSON, on the wire and in metrics; stable.
    pub fn as_str(self) -> &'static str {
        match self {
            NatMapping::None => "none",
            NatMapping::EndpointIndependent => "endpoint-independent",
            NatMapping::PortIndependent => "port-independent",
            NatMapping::AddressDependent => "address-dependent",
            NatMapping::AddressAndPortDependent => "address-and-port-dependent",
            NatMapping::Unknown => "unknown",
        }
    }
}

impl fmt::Display for NatMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [NatMapping; 6] = [
        NatMapping::None,
        NatMapping::EndpointIndependent,
        NatMapping::PortIndependent,
        NatMapping::AddressDependent,
        NatMapping::AddressAndPortDependent,
        NatMapping::Unknown,
    ];

    fn of(answers: &[(&str, &str)]) -> NatMapping {
        let parse = |text: &str| text.parse().unwrap();
        let answers: Vec<_> = answers
            .iter()
            .map(|(server, mapped)| (parse(server), parse(mapped)))
            .collect();
        NatMapping::of(&["192.168.1.2".parse().unwrap()], &answers)
    }

    #[test]
    fn the_kind_is_told_from_the_answers() {
        let (one, two, far) = ("203.0.113.1:3478", "203.0.113.1:3479", "203.0.113.9:3478");
        let (a, b) = ("198.51.100.1:5", "198.51.100.1:6");
        assert_eq!(of(&[]), NatMapping::Unknown);
        assert_eq!(of(&[(one, a)]), NatMapping::Unknown);
        assert_eq!(of(&[(one, "192.168.1.2:5")]), NatMapping::None);
        assert_eq!(of(&[(one, a), (two, a)]), NatMapping::PortIndependent);
        assert_eq!(
            of(&[(one, a), (two, b)]),
            NatMapping::AddressAndPortDependent
        );
        assert_eq!(of(&[(one, a), (far, a)]), NatMapping::EndpointIndependent);
        assert_eq!(
            of(&[(one, a), (two, a), (far, a)]),
            NatMapping::EndpointIndependent
        );
        assert_eq!(
            of(&[(one, a), (two, a), (far, b)]),
            NatMapping::AddressDependent
        );
        assert_eq!(of(&[(one, a), (far, b)]), NatMapping::AddressDependent);
        assert_eq!(
            of(&[(one, a), (two, b), (far, "198.51.100.1:7")]),
            NatMapping::AddressAndPortDependent
        );
    }

    #[test]
    fn its_name_is_its_json_and_an_unknown_kind_is_no_error() {
        for kind in ALL {
            assert_eq!(serde_json::json!(kind), serde_json::json!(kind.as_str()));
            let back: NatMapping = serde_json::from_value(kind.as_str().into()).unwrap();
            assert_eq!(back, kind);
        }
        let newer: NatMapping = serde_json::from_str("\"of-another-time\"").unwrap();
        assert_eq!(newer, NatMapping::Unknown);
    }
}
