//! PCP, the Port Control Protocol (RFC 6887), as far as one UDP port over IPv4 needs it: MAP and ANNOUNCE.
//!
//! ```text
//! request header, 24 bytes (section 7.1)          response header, 24 bytes (section 7.2)
//!  0  version = 2                                  0  version = 2
//!  1  opcode, top bit 0                            1  opcode, top bit 1
//!  2  reserved                                     3  result code
//!  4  lifetime asked for, seconds                  4  lifetime, seconds
//!  8  client's address, IPv4 as ::ffff:a.b.c.d     8  epoch time, seconds
//!                                                 12  reserved
//! MAP, 36 bytes after the header (sections 11.1, 11.2)
//!  0  nonce
//! 12  IP protocol, 17 for UDP
//! 16  internal port
//! 18  external port: suggested, or assigned
//! 20  external address: suggested, or assigned
//! ```

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use thiserror::Error;

/// The server's UDP port, NAT-PMP's as well (section 19.4).
pub const PORT: u16 = 5351;

/// The first byte of every message.
pub const VERSION: u8 = 2;

const OPCODE_ANNOUNCE: u8 = 0;
const OPCODE_MAP: u8 = 1;
const RESPONSE: u8 = 0x80;
const HEADER: usize = 24;
const MAP_LEN: usize = HEADER + 36;
/// The longest message (section 7).
const LONGEST: usize = 1100;
const UDP: u8 = 17;

/// Identifies a client's requests for one mapping, so that nobody else can change that mapping (section 11.1).
pub type Nonce = [u8; 12];

/// Asks for a mapping of a UDP port, renews it, or gives it back with a lifetime of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// The address that the request is sent from.
    pub client: Ipv4Addr,
    /// The nonce of every request for this mapping.
    pub nonce: Nonce,
    /// The host's port.
    pub internal_port: u16,
    /// The suggested external address and port (section 11.1); unspecified and 0 if the client suggests none.
    pub suggested: SocketAddrV4,
    /// For how long, seconds; 0 deletes.
    pub lifetime: u32,
}

impl MapRequest {
    /// The request as it is sent.
    pub fn encode(&self) -> [u8; MAP_LEN] {
        let mut bytes = [0; MAP_LEN];
        header(&mut bytes, OPCODE_MAP, self.lifetime, self.client);
        bytes[24..36].copy_from_slice(&self.nonce);
        bytes[36] = UDP;
        bytes[40..42].copy_from_slice(&self.internal_port.to_be_bytes());
        bytes[42..44].copy_from_slice(&self.suggested.port().to_be_bytes());
        bytes[44..60].copy_from_slice(&self.suggested.ip().to_ipv6_mapped().octets());
        bytes
    }
}

/// Asks whether the server is there and since when (section 14.1): nothing is opened.
pub fn announce(client: Ipv4Addr) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    header(&mut bytes, OPCODE_ANNOUNCE, 0, client);
    bytes
}

fn header(bytes: &mut [u8], opcode: u8, lifetime: u32, client: Ipv4Addr) {
    bytes[0] = VERSION;
    bytes[1] = opcode;
    bytes[4..8].copy_from_slice(&lifetime.to_be_bytes());
    bytes[8..24].copy_from_slice(&client.to_ipv6_mapped().octets());
}

/// A server's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Whether the request was carried out.
    pub result: ResultCode,
    /// For how long: the mapping, or the error (section 8.5), seconds.
    pub lifetime: u32,
    /// Seconds since the server lost its state (section 8.5).
    pub epoch: u32,
    /// The opcode and its fields.
    pub body: Body,
}

/// The part of an answer that depends on the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// To [`announce`], or unasked.
    Announce,
    /// The answer to [`MapRequest`]. An error repeats the request.
    Map(Mapping),
}

/// A mapping as the server has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The nonce of the request.
    pub nonce: Nonce,
    /// The host's port.
    pub internal_port: u16,
    /// The assigned external address and port. `None` when the address is not IPv4.
    pub external: Option<SocketAddrV4>,
}

impl Response {
    /// Reads a datagram of the server.
    ///
    /// # Errors
    /// When it is no answer of this version, or to no request that this client sends.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (head, _) = bytes
            .split_first_chunk::<HEADER>()
            .filter(|_| bytes.len() <= LONGEST && bytes.len().is_multiple_of(4))
            .ok_or(DecodeError::Length(bytes.len()))?;
        if head[0] != VERSION {
            return Err(DecodeError::Version(head[0]));
        }
        let opcode = head[1] & !RESPONSE;
        if head[1] & RESPONSE == 0 {
            return Err(DecodeError::Request);
        }
        let body = match opcode {
            OPCODE_ANNOUNCE => Body::Announce,
            OPCODE_MAP => {
                let whole = bytes.first_chunk::<MAP_LEN>();
                Body::Map(mapping(whole.ok_or(DecodeError::Length(bytes.len()))?)?)
            }
            other => return Err(DecodeError::Opcode(other)),
        };
        Ok(Response {
            result: ResultCode(head[3]),
            lifetime: be32(head, 4),
            epoch: be32(head, 8),
            body,
        })
    }
}

fn mapping(bytes: &[u8; MAP_LEN]) -> Result<Mapping, DecodeError> {
    if bytes[36] != UDP {
        return Err(DecodeError::Protocol(bytes[36]));
    }
    let mut nonce = Nonce::default();
    nonce.copy_from_slice(&bytes[24..36]);
    let mut external = [0; 16];
    external.copy_from_slice(&bytes[44..60]);
    let port = u16::from_be_bytes([bytes[42], bytes[43]]);
    let external = Ipv6Addr::from(external).to_ipv4_mapped();
    Ok(Mapping {
        nonce,
        internal_port: u16::from_be_bytes([bytes[40], bytes[41]]),
        external: external.map(|ip| SocketAddrV4::new(ip, port)),
    })
}

fn be32(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The result code of a request (section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultCode(pub u8);

impl ResultCode {
    /// It was carried out.
    pub const SUCCESS: ResultCode = ResultCode(0);
    /// The server speaks another version.
    pub const UNSUPP_VERSION: ResultCode = ResultCode(1);
}

impl fmt::Display for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "SUCCESS",
            1 => "UNSUPP_VERSION",
            2 => "NOT_AUTHORIZED",
            3 => "MALFORMED_REQUEST",
            4 => "UNSUPP_OPCODE",
            5 => "UNSUPP_OPTION",
            6 => "MALFORMED_OPTION",
            7 => "NETWORK_FAILURE",
            8 => "NO_RESOURCES",
            9 => "UNSUPP_PROTOCOL",
            10 => "USER_EX_QUOTA",
            11 => "CANNOT_PROVIDE_EXTERNAL",
            12 => "ADDRESS_MISMATCH",
            13 => "EXCESSIVE_REMOTE_PEERS",
            other => return write!(f, "result code {other}"),
        })
    }
}

/// The reason why a datagram is no answer of a PCP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Too short, too long, or not a multiple of 4.
    #[error("{0} bytes are no PCP message")]
    Length(usize),
    /// Another version, such as NAT-PMP's 0.
    #[error("PCP version {0}")]
    Version(u8),
    /// The R bit is not set.
    #[error("a request, not an answer")]
    Request,
    /// To a question that is never asked.
    #[error("an answer with opcode {0}")]
    Opcode(u8),
    /// The mapping is of another transport protocol.
    #[error("a mapping of IP protocol {0}")]
    Protocol(u8),
}

#[cfg(test)]
#[path = "pcp_tests.rs"]
pub(in crate::portmap) mod tests;
