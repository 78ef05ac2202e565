//! The coordinator's HTTP API, version 1: what its requests and answers hold, and how requests are signed.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /v1/register` | [`RegisterRequest`] | [`RegisterResponse`] |
//! | `POST /v1/endpoints` | [`EndpointsRequest`] | `{}` |
//! | `GET /v1/peers?since=G&wait=S` | | [`PeerList`] |
//! | `POST /v1/signal` | [`SignalRequest`] | `{}` |
//! | `GET /v1/signal?wait=S` | | [`SignalList`] |
//!
//! Refusals carry an [`ErrorBody`]. Every request is signed; see [`sign_request`]. Fields unknown to a reader are
//! ignored, so that either side can be upgraded first.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::NatMapping;
use super::keys::{DiscoPublic, NodePublic, NodeSecret, SIGNATURE_LEN};
use crate::error::UserError;

/// Path of the registration.
pub const PATH_REGISTER: &str = "/v1/register";
/// Path of the endpoint update.
pub const PATH_ENDPOINTS: &str = "/v1/endpoints";
/// Path of the peer list; a long poll with `since` and `wait`.
pub const PATH_PEERS: &str = "/v1/peers";
/// Path of the signals, to send (POST) and to fetch (GET, a long poll with `wait`).
pub const PATH_SIGNAL: &str = "/v1/signal";

/// The longest that a poll may wait; more is cut to this.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// Longest distance of a request's time from the coordinator's clock, either way. Covers slow links and clocks without NTP,
/// and bounds the memory for nonces seen.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// The largest request body, bytes. The largest legitimate one, a registration with [`MAX_ENDPOINTS`] endpoints, is a
/// fifth of this.
pub const MAX_BODY: usize = 16 * 1024;

/// The most networks that a node may offer; the largest body has room for several times as many.
pub const MAX_ROUTES: usize = 64;

/// The most endpoints that a node may publish: some per interface, family and port mapping is plenty.
pub const MAX_ENDPOINTS: usize = 32;

/// The largest sealed envelope that a signal may carry, bytes; a call-me-maybe with [`MAX_ENDPOINTS`] takes 656.
pub const MAX_SEALED: usize = 2048;

/// A registration: the first of a node joins the network, later ones need no auth key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// The name that the node would like; it gets `NAME-2` and so on when another has it.
    pub name: String,
    /// Whom peers seal disco messages to.
    pub disco_key: DiscoPublic,
    /// The node's candidates (RFC 8445 section 4).
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// The mapping behaviour of the node's NAT; unknown if the node did not publish it.
    #[serde(default, skip_serializing_if = "NatMapping::is_unknown")]
    pub nat_mapping: NatMapping,
    /// Networks behind the node that it offers to carry packets to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<IpNet>,
    /// The auth key, needed for the first registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_key: Option<String>,
    /// The node's gretun version.
    pub version: String,
}

impl fmt::Debug for RegisterRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterRequest")
            .field("name", &self.name)
            .field("disco_key", &self.disco_key)
            .field("endpoints", &self.endpoints)
            .field("nat_mapping", &self.nat_mapping)
            .field("routes", &self.routes)
            .field("auth_key", &self.auth_key.as_ref().map(|_| ".."))
            .field("version", &self.version)
            .finish()
    }
}

/// The answer to a registration: all that a node needs to take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterResponse {
    /// The name that the node has.
    pub name: String,
    /// Its addresses inside the network, stable for as long as it is registered.
    pub tunnel_ips: Vec<IpAddr>,
    /// The pools that all tunnel addresses come from.
    pub networks: Vec<IpNet>,
    /// UDP ports of the coordinator's own STUN server, on the coordinator's host.
    pub stun_ports: Vec<u16>,
    /// Everybody else.
    pub peers: PeerList,
}

/// Replaces the endpoints of the node that signs, and the mapping of its NAT.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointsRequest {
    /// The node's candidates (RFC 8445 section 4).
    pub endpoints: Vec<Endpoint>,
    /// The mapping behaviour of the node's NAT; unknown if the node did not publish it.
    #[serde(default, skip_serializing_if = "NatMapping::is_unknown")]
    pub nat_mapping: NatMapping,
}

/// The peers of the node that asked (itself not among them).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerList {
    /// Differs from any earlier value once anything changed; to be passed back as `since`.
    pub generation: u64,
    /// All peers, each whole.
    pub peers: Vec<PeerRecord>,
}

/// The public record of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Its name, unique, a DNS label.
    pub name: String,
    /// Its identity.
    pub node_key: NodePublic,
    /// Whom to seal disco messages to.
    pub disco_key: DiscoPublic,
    /// Its addresses inside the network.
    pub tunnel_ips: Vec<IpAddr>,
    /// The node's candidates (RFC 8445 section 4).
    pub endpoints: Vec<Endpoint>,
    /// The mapping behaviour of the node's NAT; unknown if the node did not publish it.
    #[serde(default, skip_serializing_if = "NatMapping::is_unknown")]
    pub nat_mapping: NatMapping,
    /// Networks behind it that it offers to carry packets to. Whether to believe it is each peer's own choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<IpNet>,
    /// Whether the coordinator heard from it lately.
    pub online: bool,
}

/// A UDP endpoint where a node can perhaps be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Address and port.
    pub addr: SocketAddr,
    /// The source of the endpoint.
    pub kind: EndpointKind,
}

/// The source of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointKind {
    /// An address of one of its interfaces.
    Local,
    /// The reflexive address that a STUN server reported.
    Reflexive,
    /// A port mapping that its router granted.
    Mapped,
}

/// Hands a sealed disco envelope to another node; the coordinator cannot read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalRequest {
    /// The recipient.
    pub to: NodePublic,
    /// The envelope, base64 (RFC 4648 section 4).
    pub sealed: String,
}

impl SignalRequest {
    /// A signal that carries `envelope`.
    pub fn new(to: NodePublic, envelope: &[u8]) -> Self {
        SignalRequest {
            to,
            sealed: BASE64.encode(envelope),
        }
    }

    /// The envelope; `None` when `sealed` is not base64.
    pub fn envelope(&self) -> Option<Vec<u8>> {
        BASE64.decode(self.sealed.as_bytes()).ok()
    }
}

/// The signals that waited for the node that asked, oldest first. They are handed out once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalList {
    /// Empty when the wait ended without any.
    pub signals: Vec<Signal>,
}

/// One signal, as its recipient gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// The node that signed the request with this signal.
    pub from: NodePublic,
    /// The envelope, base64 (RFC 4648 section 4).
    pub sealed: String,
}

impl Signal {
    /// The envelope; `None` when `sealed` is not base64.
    pub fn envelope(&self) -> Option<Vec<u8>> {
        BASE64.decode(self.sealed.as_bytes()).ok()
    }
}

/// The body of every error response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The fault.
    pub error: String,
    /// A hint how to get it right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Names of the four headers that sign a request.
pub const HEADER_NODE: &str = "x-gretun-node";
/// The request's time, Unix milliseconds in decimal.
pub const HEADER_TIME: &str = "x-gretun-time";
/// 16 random bytes, base64url without padding.
pub const HEADER_NONCE: &str = "x-gretun-nonce";
/// The Ed25519 signature, base64url without padding.
pub const HEADER_SIGNATURE: &str = "x-gretun-signature";

/// Length of a request's nonce, bytes: random ones do not meet by chance.
pub const REQUEST_NONCE_LEN: usize = 16;

/// First line of the signed text: no other use of the node key signs a text that starts like this.
const SIGNED_TEXT_VERSION: &str = "gretun-request-v1";

/// The signature of a request and the values that it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHeaders {
    /// The node that signs.
    pub node: NodePublic,
    /// When, Unix milliseconds on the signer's clock.
    pub time_ms: u64,
    /// Random, once.
    pub nonce: [u8; REQUEST_NONCE_LEN],
    /// Over the signed text.
    pub signature: [u8; SIGNATURE_LEN],
}

impl SignedHeaders {
    /// Header names and values, to be sent.
    pub fn pairs(&self) -> [(&'static str, String); 4] {
        [
            (HEADER_NODE, self.node.to_string()),
            (HEADER_TIME, self.time_ms.to_string()),
            (HEADER_NONCE, BASE64URL_NOPAD.encode(&self.nonce)),
            (HEADER_SIGNATURE, BASE64URL_NOPAD.encode(&self.signature)),
        ]
    }

    /// Reads the headers of a request; `get` finds a header's value by its lower-case name.
    pub fn read<'a>(
        get: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Result<SignedHeaders, AuthError> {
        let header = |name| get(name).ok_or(AuthError::Missing { name });
        Ok(SignedHeaders {
            node: well_formed(HEADER_NODE, header(HEADER_NODE)?.parse().ok())?,
            time_ms: well_formed(HEADER_TIME, header(HEADER_TIME)?.parse().ok())?,
            nonce: well_formed(HEADER_NONCE, base64url(header(HEADER_NONCE)?))?,
            signature: well_formed(HEADER_SIGNATURE, base64url(header(HEADER_SIGNATURE)?))?,
        })
    }
}

/// The reason why a request's signature is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AuthError {
    /// A header is not there.
    #[error("the header `{name}` is missing")]
    Missing {
        /// The header's name.
        name: &'static str,
    },
    /// A header cannot be read.
    #[error("the header `{name}` is malformed")]
    Malformed {
        /// The header's name.
        name: &'static str,
    },
    /// The signature is not this node's over this request.
    #[error("the signature does not match the request")]
    BadSignature,
}

impl UserError for AuthError {
    fn hint(&self) -> Option<String> {
        match self {
            AuthError::Missing { .. } | AuthError::Malformed { .. } => Some(
                "every request is signed with the node key; is this a gretun client?".to_owned(),
            ),
            AuthError::BadSignature => Some(
                "a proxy between node and coordinator must leave path, query and body as they are"
                    .to_owned(),
            ),
        }
    }
}

/// Signs a request. `path_query` is the request target as sent (`/v1/peers?since=3`); `nonce` must be random.
///
/// The signed text is six lines joined by a newline: `gretun-request-v1`, the method, the request target, the SHA-256
/// of the body in lower-case hexadecimal, the time and the nonce as they stand in the headers.
pub fn sign_request(
    secret: &NodeSecret,
    method: &str,
    path_query: &str,
    body: &[u8],
    time_ms: u64,
    nonce: [u8; REQUEST_NONCE_LEN],
) -> SignedHeaders {
    SignedHeaders {
        node: secret.public(),
        time_ms,
        nonce,
        signature: secret.sign(&signed_text(method, path_query, body, time_ms, &nonce)),
    }
}

/// Checks that `headers` sign this request, and says who did. Whether the time is recent and the nonce new is for the
/// caller, who has a clock and a memory.
pub fn verify_request(
    method: &str,
    path_query: &str,
    body: &[u8],
    headers: &SignedHeaders,
) -> Result<NodePublic, AuthError> {
    let text = signed_text(method, path_query, body, headers.time_ms, &headers.nonce);
    if headers.node.verify(&text, &headers.signature) {
        Ok(headers.node)
    } else {
        Err(AuthError::BadSignature)
    }
}

fn signed_text(
    method: &str,
    path_query: &str,
    body: &[u8],
    time_ms: u64,
    nonce: &[u8; REQUEST_NONCE_LEN],
) -> Vec<u8> {
    let body_hash = HEXLOWER.encode(&Sha256::digest(body));
    let nonce = BASE64URL_NOPAD.encode(nonce);
    format!("{SIGNED_TEXT_VERSION}\n{method}\n{path_query}\n{body_hash}\n{time_ms}\n{nonce}")
        .into_bytes()
}

fn well_formed<T>(name: &'static str, value: Option<T>) -> Result<T, AuthError> {
    value.ok_or(AuthError::Malformed { name })
}

fn base64url<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE64URL_NOPAD
        .decode(text.as_bytes())
        .ok()?
        .try_into()
        .ok()
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
