//! STUN binding requests and responses (RFC 8489) and CHANGE-REQUEST of RFC 5780, on stun-rs. A node learns the reflexive address of
//! its data port from them; the coordinator's STUN server answers them. No credentials, no other method.

use std::net::SocketAddr;

use stun_rs::attributes::discovery::{ChangeRequest, ChangeRequestFlags, Padding, ResponsePort};
use stun_rs::attributes::stun::{ErrorCode, MappedAddress, UnknownAttributes, XorMappedAddress};
use stun_rs::methods::BINDING;
use stun_rs::{
    MAGIC_COOKIE, MESSAGE_HEADER_SIZE, MessageClass, MessageDecoder, MessageEncoder, TransactionId,
};

pub use super::TxId;

/// Room for the largest message made here: a header, an ERROR-CODE with its text, and [`MAX_UNKNOWN`] attribute types.
const MAX_ENCODED: usize = 128;

/// Most unknown attribute types that an error response lists, so that it is never much larger than its request.
const MAX_UNKNOWN: usize = 8;

/// RFC 8489 section 14.8: a request with comprehension-required attributes that the server does not know.
const UNKNOWN_ATTRIBUTE: u16 = 420;

/// Types of RFC 5780 section 7.
pub const CHANGE_REQUEST: u16 = 0x0003;
const PADDING: u16 = 0x0026;
const RESPONSE_PORT: u16 = 0x0027;

/// A binding message, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StunMessage {
    /// A client asks for its address.
    Request {
        /// To be repeated in the answer.
        tx_id: TxId,
        /// Comprehension-required attribute types that are not known here: when there are any, the answer must be
        /// [`binding_unknown`] (RFC 8489 section 6.3.1).
        unknown: Vec<u16>,
        /// The answer is to come from another port of the server (CHANGE-REQUEST, RFC 5780 section 7.2).
        change_port: bool,
    },
    /// A server tells a client its address.
    Success {
        /// The request's.
        tx_id: TxId,
        /// The source address of the request, as the server saw it (XOR-MAPPED-ADDRESS, RFC 8489 section 14.2).
        mapped: SocketAddr,
    },
    /// A server refuses.
    Error {
        /// The request's.
        tx_id: TxId,
        /// The error code, 300 to 699; 0 when the server sent none.
        code: u16,
    },
}

/// The reason why bytes are no binding message; the caller counts and drops them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DecodeError {
    /// Not STUN at all.
    #[error("not STUN")]
    NotStun,
    /// An attribute is truncated or malformed.
    #[error("malformed STUN attribute")]
    Malformed,
    /// Another method than binding, or an indication, which asks for no answer.
    #[error("not a binding request or answer")]
    NotBinding,
    /// A success without an address.
    #[error("a STUN success without a mapped address")]
    NoAddress,
}

impl DecodeError {
    /// A short name without blanks, for a metric's label.
    pub fn reason(self) -> &'static str {
        match self {
            DecodeError::NotStun => "not_stun",
            DecodeError::Malformed => "malformed",
            DecodeError::NotBinding => "not_binding",
            DecodeError::NoAddress => "no_address",
        }
    }
}

/// Returns whether a datagram is to be handed to [`decode`] (RFC 8489 section 5). It must have the two zero bits, the magic cookie,
/// and a length that is a multiple of four and covers the datagram.
pub fn is_stun(datagram: &[u8]) -> bool {
    let Some((head, attributes)) = datagram.split_first_chunk::<MESSAGE_HEADER_SIZE>() else {
        return false;
    };
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    head[0] & 0xc0 == 0
        && head[4..8] == MAGIC_COOKIE.as_u32().to_be_bytes()
        && length % 4 == 0
        && length == attributes.len()
}

/// A binding request: 20 bytes, no attribute.
pub fn binding_request(tx_id: TxId) -> Vec<u8> {
    encode(message(tx_id, MessageClass::Request))
}

/// A binding request whose answer is to come from another port of the server: 28 bytes. Only a NAT that does not
/// filter by port lets it in.
pub fn binding_request_change_port(tx_id: TxId) -> Vec<u8> {
    let change = ChangeRequest::new(Some(ChangeRequestFlags::ChangePort.into()));
    encode(message(tx_id, MessageClass::Request).with_attribute(change))
}

/// The answer to a request that was seen to come from `mapped`: 32 bytes for IPv4, 44 for IPv6.
pub fn binding_success(tx_id: TxId, mapped: SocketAddr) -> Vec<u8> {
    encode(
        message(tx_id, MessageClass::SuccessResponse)
            .with_attribute(XorMappedAddress::from(mapped)),
    )
}

/// The answer to a request with unknown comprehension-required attributes: error 420 that lists them.
pub fn binding_unknown(tx_id: TxId, unknown: &[u16]) -> Vec<u8> {
    let mut listed = UnknownAttributes::default();
    unknown
        .iter()
        .take(MAX_UNKNOWN)
        .for_each(|kind| listed.add(*kind));
    let mut answer = message(tx_id, MessageClass::ErrorResponse);
    if let Ok(code) = stun_rs::ErrorCode::new(UNKNOWN_ATTRIBUTE, "Unknown Attribute") {
        answer = answer.with_attribute(ErrorCode::from(code));
    }
    encode(answer.with_attribute(listed))
}

/// Reads a binding request or answer.
pub fn decode(datagram: &[u8]) -> Result<StunMessage, DecodeError> {
    if !is_stun(datagram) {
        return Err(DecodeError::NotStun);
    }
    let (message, _) = MessageDecoder::default()
        .decode(datagram)
        .map_err(|_| DecodeError::Malformed)?;
    if message.method() != BINDING {
        return Err(DecodeError::NotBinding);
    }
    let tx_id = TxId(*message.transaction_id().as_bytes());
    match message.class() {
        MessageClass::Request => Ok(StunMessage::Request {
            tx_id,
            unknown: unknown_required(&message),
            change_port: asks_to_change(&message, ChangeRequestFlags::ChangePort),
        }),
        MessageClass::SuccessResponse => mapped_address(&message)
            .map(|mapped| StunMessage::Success { tx_id, mapped })
            .ok_or(DecodeError::NoAddress),
        MessageClass::ErrorResponse => {
            let code = message
                .get::<ErrorCode>()
                .and_then(|found| found.as_error_code().ok());
            Ok(StunMessage::Error {
                tx_id,
                code: code.map_or(0, |code| code.error_code().error_code()),
            })
        }
        MessageClass::Indication => Err(DecodeError::NotBinding),
    }
}

/// XOR-MAPPED-ADDRESS, else the MAPPED-ADDRESS of servers older than RFC 5389.
fn mapped_address(message: &stun_rs::StunMessage) -> Option<SocketAddr> {
    if let Some(found) = message.get::<XorMappedAddress>() {
        return found
            .as_xor_mapped_address()
            .ok()
            .map(|it| *it.socket_address());
    }
    let found = message.get::<MappedAddress>()?;
    found
        .as_mapped_address()
        .ok()
        .map(|it| *it.socket_address())
}

fn asks_to_change(message: &stun_rs::StunMessage, flag: ChangeRequestFlags) -> bool {
    let found = message.get::<ChangeRequest>();
    let found = found.and_then(|it| it.as_change_request().ok());
    found.is_some_and(|it| it.flags().contains(flag))
}

/// The types that are not known, and those that stun-rs knows and nobody here obeys. RFC 5780 section 6.1: a server
/// without a second address refuses CHANGE-REQUEST with the flag for it.
fn unknown_required(message: &stun_rs::StunMessage) -> Vec<u16> {
    let attributes = message.attributes().iter();
    let mut unknown: Vec<u16> = attributes
        .filter_map(|attribute| attribute.as_unknown().ok())
        .map(|unknown| unknown.attribute_type())
        .filter(|kind| kind.is_comprehension_required())
        .map(|kind| kind.as_u16())
        .collect();
    let refused = [
        (
            asks_to_change(message, ChangeRequestFlags::ChangeIp),
            CHANGE_REQUEST,
        ),
        (message.get::<Padding>().is_some(), PADDING),
        (message.get::<ResponsePort>().is_some(), RESPONSE_PORT),
    ];
    unknown.extend(refused.iter().filter(|(is, _)| *is).map(|(_, kind)| kind));
    unknown
}

fn message(tx_id: TxId, class: MessageClass) -> stun_rs::StunMessageBuilder {
    stun_rs::StunMessageBuilder::new(BINDING, class)
        .with_transaction_id(TransactionId::from(tx_id.0))
}

fn encode(message: stun_rs::StunMessageBuilder) -> Vec<u8> {
    let mut buffer = vec![0; MAX_ENCODED];
    let encoded = MessageEncoder::default().encode(&mut buffer, &message.build());
    debug_assert!(
        encoded.is_ok(),
        "every message made here fits {MAX_ENCODED} bytes"
    );
    buffer.truncate(encoded.unwrap_or(0));
    buffer
}

#[cfg(test)]
#[path = "stun_tests.rs"]
mod tests;
