//! NAT-PMP, the NAT Port Mapping Protocol (RFC 6886), as far as one UDP port needs it.
//!
//! ```text
//! public address, 2 bytes (section 3.2)      its answer, 12 bytes
//!  0  version = 0                             0  version = 0
//!  1  opcode = 0                              1  opcode = 128
//!                                             2  result code
//!                                             4  epoch time, seconds
//!                                             8  external address
//! UDP mapping, 12 bytes (section 3.3)        its answer, 16 bytes
//!  0  version = 0                             0  version = 0
//!  1  opcode = 1                              1  opcode = 129
//!  4  internal port                           2  result code
//!  6  suggested external port                 4  epoch time, seconds
//!  8  lifetime asked for, seconds             8  internal port
//!                                            10  external port
//!                                            12  lifetime, seconds
//! ```

use std::fmt;
use std::net::Ipv4Addr;

/// The first byte of every message.
pub const VERSION: u8 = 0;

/// Asks for the router's external address.
pub const ADDRESS_REQUEST: [u8; 2] = [VERSION, OPCODE_ADDRESS];

const OPCODE_ADDRESS: u8 = 0;
const OPCODE_MAP_UDP: u8 = 1;
const RESPONSE: u8 = 128;

/// Asks for a mapping of a UDP port, renews it, or gives it back with a lifetime of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// The host's port.
    pub internal_port: u16,
    /// The suggested external port; 0 if the client suggests none, and to delete.
    pub suggested_port: u16,
    /// For how long, seconds; 0 deletes.
    pub lifetime: u32,
}

impl MapRequest {
    /// The request as it is sent.
    pub fn encode(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[1] = OPCODE_MAP_UDP;
        bytes[4..6].copy_from_slice(&self.internal_port.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.suggested_port.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.lifetime.to_be_bytes());
        bytes
    }
}

/// A router's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// To [`ADDRESS_REQUEST`].
    Address {
        /// Seconds since the router lost its state.
        epoch: u32,
        /// The external address.
        external: Ipv4Addr,
    },
    /// To [`MapRequest`].
    Map {
        /// Seconds since the router lost its state.
        epoch: u32,
        /// The host's port.
        internal_port: u16,
        /// The external port; of no meaning when the mapping was deleted.
        external_port: u16,
        /// For how long, seconds; 0 when it was deleted.
        lifetime: u32,
    },
    /// A refusal, whatever the request was.
    Refused(ResultCode),
}

impl Response {
    /// Reads a datagram of the router; `None` if it is no answer to any request of this client.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [version, opcode, code_high, code_low, rest @ ..] = bytes else {
            return None;
        };
        let code = u16::from_be_bytes([*code_high, *code_low]);
        match (*version, opcode.checked_sub(RESPONSE)?, code, rest) {
            (VERSION, OPCODE_ADDRESS, 0, &[e0, e1, e2, e3, a, b, c, d]) => {
                Some(Response::Address {
                    epoch: u32::from_be_bytes([e0, e1, e2, e3]),
                    external: Ipv4Addr::new(a, b, c, d),
                })
            }
            (VERSION, OPCODE_MAP_UDP, 0, &[e0, e1, e2, e3, i0, i1, x0, x1, l0, l1, l2, l3]) => {
                Some(Response::Map {
                    epoch: u32::from_be_bytes([e0, e1, e2, e3]),
                    internal_port: u16::from_be_bytes([i0, i1]),
                    external_port: u16::from_be_bytes([x0, x1]),
                    lifetime: u32::from_be_bytes([l0, l1, l2, l3]),
                })
            }
            (VERSION, _, 1.., _) => Some(Response::Refused(ResultCode(code))),
            _ => None,
        }
    }
}

/// The reason why a request was refused (section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultCode(pub u16);

impl ResultCode {
    /// The router speaks another version. A router without PCP says so to a PCP request.
    pub const UNSUPPORTED_VERSION: ResultCode = ResultCode(1);
}

impl fmt::Display for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            1 => "unsupported version",
            2 => "not authorized",
            3 => "network failure",
            4 => "out of resources",
            5 => "unsupported opcode",
            other => return write!(f, "result code {other}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 6886 section 3.3.
    #[test]
    fn a_mapping_request_has_the_layout_of_the_rfc() {
        let request = MapRequest {
            internal_port: 0x1e61,
            suggested_port: 0x9c40,
            lifetime: 7200,
        };
        let expected = [0, 1, 0, 0, 0x1e, 0x61, 0x9c, 0x40, 0x00, 0x00, 0x1c, 0x20];
        assert_eq!(request.encode(), expected);
    }

    #[test]
    fn the_external_address_is_read() {
        let answer = [0, 128, 0, 0, 0, 0, 1, 4, 203, 0, 113, 9];
        let expected = Response::Address {
            epoch: 260,
            external: Ipv4Addr::new(203, 0, 113, 9),
        };
        assert_eq!(Response::decode(&answer), Some(expected));
        assert_eq!(Response::decode(&answer[..11]), None);
        assert_eq!(Response::decode(&ADDRESS_REQUEST), None);
    }

    #[test]
    fn a_refusal_is_read_however_short_it_is() {
        let refused = |code| Some(Response::Refused(ResultCode(code)));
        // The answer of a router without PCP to a PCP MAP request (section 9 of RFC 6886, appendix A of RFC 6887).
        assert_eq!(
            Response::decode(&[0, 129, 0, 1, 0, 0, 0, 9]),
            refused(ResultCode::UNSUPPORTED_VERSION.0)
        );
        assert_eq!(Response::decode(&[0, 128, 0, 3]), refused(3));
        assert_eq!(Response::decode(&[0, 129, 1, 0]), refused(256));
        assert_eq!(Response::decode(&[0, 129, 0]), None);
        assert_eq!(Response::decode(&[2, 129, 0, 1, 0, 0, 0, 9]), None);
    }

    proptest! {
        #[test]
        fn a_mapping_is_read_as_the_router_sent_it(
            epoch: u32, internal_port: u16, external_port: u16, lifetime: u32,
        ) {
            let answer = [
                &[0, 129, 0, 0][..],
                &epoch.to_be_bytes(),
                &internal_port.to_be_bytes(),
                &external_port.to_be_bytes(),
                &lifetime.to_be_bytes(),
            ].concat();
            let expected = Response::Map { epoch, internal_port, external_port, lifetime };
            prop_assert_eq!(Response::decode(&answer), Some(expected));
        }

        #[test]
        fn no_datagram_is_too_strange(bytes: Vec<u8>) {
            let _ = Response::decode(&bytes);
        }
    }
}
