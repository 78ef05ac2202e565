//! Wire formats: keys, disco, STUN, and the coordinator API with its signatures. Pure codecs.
//!
//! Nothing here reads a clock, opens a socket or draws randomness: times, nonces and transaction ids are passed in.
//! Bytes from the network never raise more than a typed, copyable decode error that callers count.

pub mod address;
pub mod api;
pub mod disco;
pub mod keys;
pub mod name;
pub mod nat;
pub mod stun;

pub use keys::{DiscoPublic, DiscoSecret, DiscoShared, NodePublic, NodeSecret};
pub use nat::NatMapping;

use std::fmt;

/// A 96-bit transaction id: pairs an answer with its request, in disco (as Tailscale's `TxID`) and STUN (RFC 8489
/// section 5). It must be unpredictable, for it is all that ties a STUN answer to its request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId(pub [u8; TxId::LEN]);

impl TxId {
    /// Length on the wire, bytes.
    pub const LEN: usize = 12;
}

impl fmt::Debug for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TxId({self})")
    }
}

impl fmt::Display for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
