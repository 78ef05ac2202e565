//! Disco: the sealed messages by which two peers find a path to each other.
//!
//! An envelope, on the data port over UDP or relayed by the coordinator:
//!
//! ```text
//! offset  length  field
//!      0       6  magic 54 53 f0 9f 92 ac ("TS💬")
//!      6      32  sender's Curve25519 public key
//!     38      24  nonce
//!     62      16  Poly1305 tag   } NaCl box (X25519, XSalsa20-Poly1305)
//!     78       n  ciphertext     } of the message below
//! ```
//!
//! A message starts with a type byte and a version byte (0). The first three are Tailscale's (its package `disco`),
//! the others gretun's own. Integers are big endian; an address is 16 bytes, IPv4 as `::ffff:a.b.c.d`.
//!
//! ```text
//! 0x01 ping           2  transaction id (12)   14  sender's node key (32)   46  zero padding
//! 0x02 pong           2  transaction id (12)   14  address (16)             30  port (2)
//! 0x03 call-me-maybe  2  endpoints, each: address (16), port (2)
//! 0x40 nominate       2  sequence number (4)    6  transaction id (12)
//! 0x41 nominated      2  sequence number (4)    6  transaction id (12)
//! 0x42 data ping      2  transaction id (12)   14  zero padding
//! 0x43 data pong      2  transaction id (12)
//! 0x44 port search    2  flags (1)   3  step (2, signed)   5  first port (2)   7  seen address (16)   23  seen port (2)
//! ```
//!
//! Bytes after the fields of a message are ignored, so that later versions can add some; only the length of a
//! call-me-maybe is exact.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

pub use super::TxId;
use super::keys::{DiscoPublic, DiscoShared, KEY_LEN, NONCE_LEN, NodePublic, SEAL_OVERHEAD};

/// The first bytes of every envelope: "TS💬" in UTF-8.
pub const MAGIC: [u8; 6] = [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];

/// Bytes in front of the sealed part: magic, sender's key, nonce.
pub const HEADER_LEN: usize = MAGIC.len() + KEY_LEN + NONCE_LEN;

/// An envelope with a ping that has no padding, bytes.
pub const PING_LEN: usize = HEADER_LEN + SEAL_OVERHEAD + 2 + TxId::LEN + KEY_LEN;

const VERSION: u8 = 0;
const TYPE_PING: u8 = 0x01;
const TYPE_PONG: u8 = 0x02;
const TYPE_CALL_ME_MAYBE: u8 = 0x03;
const TYPE_NOMINATE: u8 = 0x40;
const TYPE_NOMINATED: u8 = 0x41;
const TYPE_DATA_PING: u8 = 0x42;
const TYPE_DATA_PONG: u8 = 0x43;
const TYPE_PORT_SEARCH: u8 = 0x44;

/// In the flags of a port search: the sender's NAT maps by destination.
const FLAG_DEPENDENT: u8 = 0x01;

/// In the flags of a port search: the sender's NAT may do so all the same.
const FLAG_MAYBE_DEPENDENT: u8 = 0x02;

const ADDRESS_LEN: usize = 16;
const ENDPOINT_LEN: usize = ADDRESS_LEN + 2;

/// One disco message, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Is there a path here? Answered with a pong to where it came from.
    Ping {
        /// Pairs the pong with it.
        tx_id: TxId,
        /// The node key that the sender claims; the receiver compares it with the sender of the envelope.
        node_key: NodePublic,
        /// Zero bytes that make the packet as large as the path that it probes.
        padding: usize,
    },
    /// The answer to a ping.
    Pong {
        /// The ping's.
        tx_id: TxId,
        /// The source address of the ping, as its receiver saw it.
        src: SocketAddr,
    },
    /// "These are my endpoints, send to them now": relayed by the coordinator.
    CallMeMaybe {
        /// The sender's candidates (RFC 8445 section 4).
        endpoints: Vec<SocketAddr>,
    },
    /// The controlling side chose the path that this arrives on.
    Nominate {
        /// Rises with each choice; an older one is stale.
        seq: u32,
        /// Pairs the answer with it.
        tx_id: TxId,
    },
    /// The other side's tunnel uses the nominated path now.
    Nominated {
        /// The nomination's.
        seq: u32,
        /// The nomination's.
        tx_id: TxId,
    },
    /// Does data cross the tunnel? Only ever sent through the GRE device.
    DataPing {
        /// Pairs the answer with it.
        tx_id: TxId,
    },
    /// The answer to a data ping, through the GRE device too.
    DataPong {
        /// The data ping's.
        tx_id: TxId,
    },
    /// "This is my NAT; search now": relayed by the coordinator.
    PortSearch(PortOffer),
}

/// A node's description of its NAT before a port search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortOffer {
    /// Whether the NAT has endpoint-dependent mapping (RFC 5128 section 2.4). The node behind it sends from many source ports;
    /// the other side guesses.
    pub dependent: bool,
    /// Perhaps the NAT does: STUN saw no such thing, but nothing else joined the two, for servers at one address cannot tell an
    /// address-dependent mapping from an independent one; or one server alone showed nothing of the mapping. Then both sides
    /// send from many ports and guess.
    pub maybe_dependent: bool,
    /// The increment between public ports if the NAT allocates them sequentially; else 0.
    pub step: i16,
    /// The first of the inner ports that the sender will send from.
    pub first_port: u16,
    /// The public address and port that the sender's NAT gave it last.
    pub seen: SocketAddr,
}

/// The reason why bytes are no disco message; the caller counts and drops them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DecodeError {
    /// The magic is missing.
    #[error("no disco magic")]
    NotDisco,
    /// The envelope or the message ends before its fields do.
    #[error("truncated")]
    Short,
    /// The box does not open: forged, damaged, or sealed to another key.
    #[error("the box does not open")]
    NotForUs,
    /// A message type this version does not know.
    #[error("unknown message type {0:#04x}")]
    UnknownType(u8),
    /// A call-me-maybe of another version, or whose length is no whole number of endpoints.
    #[error("malformed endpoints")]
    Endpoints,
}

impl DecodeError {
    /// A short name without blanks, for a metric's label.
    pub fn reason(self) -> &'static str {
        match self {
            DecodeError::NotDisco => "not_disco",
            DecodeError::Short => "short",
            DecodeError::NotForUs => "not_for_us",
            DecodeError::UnknownType(_) => "unknown_type",
            DecodeError::Endpoints => "endpoints",
        }
    }
}

impl Message {
    /// The bytes to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Message::Ping {
                tx_id,
                node_key,
                padding,
            } => {
                let mut out = header(TYPE_PING, TxId::LEN + KEY_LEN + padding);
                out.extend_from_slice(&tx_id.0);
                out.extend_from_slice(node_key.as_bytes());
                out.resize(out.len() + padding, 0);
                out
            }
            Message::Pong { tx_id, src } => {
                let mut out = header(TYPE_PONG, TxId::LEN + ENDPOINT_LEN);
                out.extend_from_slice(&tx_id.0);
                put_endpoint(&mut out, src);
                out
            }
            Message::CallMeMaybe { endpoints } => {
                let mut out = header(TYPE_CALL_ME_MAYBE, endpoints.len() * ENDPOINT_LEN);
                endpoints
                    .iter()
                    .for_each(|endpoint| put_endpoint(&mut out, endpoint));
                out
            }
            Message::Nominate { seq, tx_id } => nomination(TYPE_NOMINATE, *seq, tx_id),
            Message::Nominated { seq, tx_id } => nomination(TYPE_NOMINATED, *seq, tx_id),
            Message::DataPing { tx_id } => {
                let mut out = header(TYPE_DATA_PING, TxId::LEN);
                out.extend_from_slice(&tx_id.0);
                out
            }
            Message::DataPong { tx_id } => {
                let mut out = header(TYPE_DATA_PONG, TxId::LEN);
                out.extend_from_slice(&tx_id.0);
                out
            }
            Message::PortSearch(offer) => {
                let mut out = header(TYPE_PORT_SEARCH, 5 + ENDPOINT_LEN);
                let flag = |set, flag| if set { flag } else { 0 };
                out.push(
                    flag(offer.dependent, FLAG_DEPENDENT)
                        | flag(offer.maybe_dependent, FLAG_MAYBE_DEPENDENT),
                );
                out.extend_from_slice(&offer.step.to_be_bytes());
                out.extend_from_slice(&offer.first_port.to_be_bytes());
                put_endpoint(&mut out, &offer.seen);
                out
            }
        }
    }

    /// Reads the bytes that [`Message::encode`] wrote, here or at a peer of another version.
    pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
        let mut rest = Reader(bytes);
        let [kind, version] = rest.take()?;
        match kind {
            TYPE_PING => Ok(Message::Ping {
                tx_id: TxId(rest.take()?),
                node_key: NodePublic::from_bytes(rest.take()?),
                padding: rest.0.len(),
            }),
            TYPE_PONG => Ok(Message::Pong {
                tx_id: TxId(rest.take()?),
                src: rest.endpoint()?,
            }),
            TYPE_CALL_ME_MAYBE => {
                if version != VERSION || rest.0.len() % ENDPOINT_LEN != 0 {
                    return Err(DecodeError::Endpoints);
                }
                let mut endpoints = Vec::with_capacity(rest.0.len() / ENDPOINT_LEN);
                while !rest.0.is_empty() {
                    endpoints.push(rest.endpoint()?);
                }
                Ok(Message::CallMeMaybe { endpoints })
            }
            TYPE_NOMINATE => Ok(Message::Nominate {
                seq: rest.u32()?,
                tx_id: TxId(rest.take()?),
            }),
            TYPE_NOMINATED => Ok(Message::Nominated {
                seq: rest.u32()?,
                tx_id: TxId(rest.take()?),
            }),
            TYPE_DATA_PING => Ok(Message::DataPing {
                tx_id: TxId(rest.take()?),
            }),
            TYPE_DATA_PONG => Ok(Message::DataPong {
                tx_id: TxId(rest.take()?),
            }),
            TYPE_PORT_SEARCH => {
                let [flags] = rest.take()?;
                Ok(Message::PortSearch(PortOffer {
                    dependent: flags & FLAG_DEPENDENT != 0,
                    maybe_dependent: flags & FLAG_MAYBE_DEPENDENT != 0,
                    step: i16::from_be_bytes(rest.take()?),
                    first_port: u16::from_be_bytes(rest.take()?),
                    seen: rest.endpoint()?,
                }))
            }
            unknown => Err(DecodeError::UnknownType(unknown)),
        }
    }
}

/// Seals `message` from the owner of `from` into an envelope. A nonce must never be used twice between two keys.
pub fn seal(
    shared: &DiscoShared,
    from: &DiscoPublic,
    nonce: [u8; NONCE_LEN],
    message: &Message,
) -> Vec<u8> {
    let sealed = shared.seal(nonce, &message.encode());
    let mut out = Vec::with_capacity(HEADER_LEN + sealed.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(from.as_bytes());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&sealed);
    out
}

/// An envelope, still sealed: enough to look the sender up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The key of the claimed sender. The claim holds if the box that this node shares with that key opens the envelope.
    pub sender: DiscoPublic,
    /// The nonce of the box. A nonce that was seen before marks a replay.
    pub nonce: [u8; NONCE_LEN],
    sealed: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Takes a datagram apart without opening it.
    pub fn parse(datagram: &'a [u8]) -> Result<Envelope<'a>, DecodeError> {
        let Some(after_magic) = datagram.strip_prefix(&MAGIC) else {
            return Err(DecodeError::NotDisco);
        };
        let mut rest = Reader(after_magic);
        let sender = DiscoPublic::from_bytes(rest.take()?);
        let nonce = rest.take()?;
        if rest.0.len() < SEAL_OVERHEAD {
            return Err(DecodeError::Short);
        }
        Ok(Envelope {
            sender,
            nonce,
            sealed: rest.0,
        })
    }

    /// Opens the box and reads the message.
    pub fn open(&self, shared: &DiscoShared) -> Result<Message, DecodeError> {
        let plain = shared
            .open(self.nonce, self.sealed)
            .ok_or(DecodeError::NotForUs)?;
        Message::decode(&plain)
    }
}

fn header(kind: u8, payload_len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + payload_len);
    out.extend_from_slice(&[kind, VERSION]);
    out
}

fn nomination(kind: u8, seq: u32, tx_id: &TxId) -> Vec<u8> {
    let mut out = header(kind, 4 + TxId::LEN);
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(&tx_id.0);
    out
}

fn put_endpoint(out: &mut Vec<u8>, endpoint: &SocketAddr) {
    let address = match endpoint.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    out.extend_from_slice(&address.octets());
    out.extend_from_slice(&endpoint.port().to_be_bytes());
}

/// The bytes not read yet.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.take().map(u32::from_be_bytes)
    }

    fn endpoint(&mut self) -> Result<SocketAddr, DecodeError> {
        let address = Ipv6Addr::from(self.take::<ADDRESS_LEN>()?).to_canonical();
        let port = u16::from_be_bytes(self.take()?);
        Ok(SocketAddr::new(address, port))
    }
}

#[cfg(test)]
#[path = "disco_tests.rs"]
mod tests;
