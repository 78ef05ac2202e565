//! The error responses of the API, with their status and hint (RFC 9110 section 15).

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::enrol::KeyError;
use super::replay::NotFresh;
use crate::error::UserError;
use crate::proto::api::{AuthError, ErrorBody, MAX_BODY, MAX_ENDPOINTS, MAX_ROUTES, MAX_SEALED};
use crate::proto::keys::NodePublic;
use crate::proto::name::NameError;

/// An error response (RFC 9110 section 15).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The signature does not count.
    #[error(transparent)]
    Unsigned(#[from] AuthError),
    /// The signature counts, but not now, or not again.
    #[error(transparent)]
    NotFresh(#[from] NotFresh),
    /// The signer is not registered.
    #[error("this node is not registered here")]
    NotRegistered,
    /// A new node brought no auth key.
    #[error("an auth key is needed to join")]
    KeyNeeded,
    /// The auth key admits nobody.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Another node has this disco key.
    #[error("another node has this disco key")]
    DiscoKeyTaken,
    /// All addresses are taken.
    #[error("no address is free in {network}")]
    PoolExhausted {
        /// The pool.
        network: IpNet,
    },
    /// The name is no DNS label.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An endpoint that nobody can send to.
    #[error("{addr} is no endpoint that a peer can send to")]
    Endpoint {
        /// Which.
        addr: SocketAddr,
    },
    /// Too many endpoints.
    #[error("{count} endpoints; at most {MAX_ENDPOINTS} are taken")]
    TooManyEndpoints {
        /// The number in the request.
        count: usize,
    },
    /// Too many networks.
    #[error("{count} routes; at most {MAX_ROUTES} are taken")]
    TooManyRoutes {
        /// The number in the request.
        count: usize,
    },
    /// A text field is too long.
    #[error("`{field}` is longer than {max} bytes")]
    FieldTooLong {
        /// Which.
        field: &'static str,
        /// The limit, bytes.
        max: usize,
    },
    /// The body does not fit the path.
    #[error("the body is not valid: {reason}")]
    Body {
        /// The decoder's words.
        reason: String,
    },
    /// A query parameter cannot be read.
    #[error("the query parameter `{name}` is not a number")]
    Query {
        /// Which.
        name: &'static str,
    },
    /// The body is too large.
    #[error("the body is larger than {MAX_BODY} bytes")]
    TooLarge,
    /// A signal whose envelope is not base64, empty or too large.
    #[error("`sealed` is not base64 of 1 to {MAX_SEALED} bytes")]
    Sealed,
    /// A signal to nobody.
    #[error("no node {to} is registered")]
    NoRecipient {
        /// The recipient.
        to: NodePublic,
    },
    /// Too many requests of this node.
    #[error("too many requests")]
    TooFast {
        /// When the next one is taken.
        retry_after: Duration,
    },
    /// No such path.
    #[error("no such path")]
    NoSuchPath,
    /// The path exists, with another method.
    #[error("this path takes {allowed}")]
    Method {
        /// Which.
        allowed: &'static str,
    },
    /// Too many registrations wait for the disk.
    #[error("too many peers register at once")]
    Busy,
    /// The store cannot be written.
    #[error("the coordinator cannot store the change")]
    Store,
}

impl ApiError {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            ApiError::Unsigned(_) | ApiError::NotFresh(_) => 401,
            ApiError::NotRegistered | ApiError::KeyNeeded | ApiError::Key(_) => 403,
            ApiError::NoRecipient { .. } | ApiError::NoSuchPath => 404,
            ApiError::Method { .. } => 405,
            ApiError::DiscoKeyTaken | ApiError::PoolExhausted { .. } => 409,
            ApiError::TooLarge => 413,
            ApiError::TooFast { .. } => 429,
            ApiError::Busy | ApiError::Store => 503,
            ApiError::Name(_)
            | ApiError::Endpoint { .. }
            | ApiError::TooManyEndpoints { .. }
            | ApiError::TooManyRoutes { .. }
            | ApiError::FieldTooLong { .. }
            | ApiError::Body { .. }
            | ApiError::Query { .. }
            | ApiError::Sealed => 400,
        }
    }

    /// A short name without blanks, for a metric's label and the log.
    pub fn reason(&self) -> &'static str {
        match self {
            ApiError::Unsigned(AuthError::BadSignature) => "bad_signature",
            ApiError::Unsigned(_) => "not_signed",
            ApiError::NotFresh(NotFresh::Skew { .. }) => "clock_skew",
            ApiError::NotFresh(NotFresh::BeforeStart) => "before_start",
            ApiError::NotFresh(NotFresh::Repeated) => "repeated",
            ApiError::NotRegistered => "not_registered",
            ApiError::KeyNeeded => "key_needed",
            ApiError::Key(KeyError::Unknown) => "key_unknown",
            ApiError::Key(KeyError::Used) => "key_used",
            ApiError::Key(KeyError::Expired) => "key_expired",
            ApiError::DiscoKeyTaken => "disco_key_taken",
            ApiError::PoolExhausted { .. } => "pool_exhausted",
            ApiError::NoRecipient { .. } => "no_recipient",
            ApiError::TooFast { .. } => "too_fast",
            ApiError::NoSuchPath => "no_such_path",
            ApiError::Method { .. } => "method",
            ApiError::TooLarge => "too_large",
            ApiError::Busy => "busy",
            ApiError::Store => "store",
            ApiError::Name(_)
            | ApiError::Endpoint { .. }
            | ApiError::TooManyEndpoints { .. }
            | ApiError::TooManyRoutes { .. }
            | ApiError::FieldTooLong { .. }
            | ApiError::Body { .. }
            | ApiError::Query { .. }
            | ApiError::Sealed => "invalid",
        }
    }

    /// When to try again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ApiError::TooFast { retry_after } => Some(*retry_after),
            ApiError::Busy => Some(Duration::ZERO),
            _ => None,
        }
    }

    /// The answer's body.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: self.to_string(),
            hint: self.hint(),
        }
    }
}

impl UserError for ApiError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            ApiError::Unsigned(auth) => return auth.hint(),
            ApiError::NotFresh(NotFresh::Skew { .. }) => {
                "clock skew: set the clocks of this host and of the coordinator (`timedatectl set-ntp true`)"
            }
            ApiError::NotFresh(NotFresh::BeforeStart) => {
                "try again; if it stays, clock skew: this host's clock is behind the coordinator's (`timedatectl`)"
            }
            ApiError::NotFresh(NotFresh::Repeated) => "every request needs a new random nonce",
            ApiError::NotRegistered => {
                "register first, with an auth key (`gretun up --auth-key-file FILE`)"
            }
            ApiError::KeyNeeded => {
                "make one on the coordinator with `gretun-coord keys create`, and pass it to `gretun up --auth-key-file FILE`"
            }
            ApiError::Key(KeyError::Unknown) => {
                "see `gretun-coord keys list` on the coordinator; revoked keys are not listed"
            }
            ApiError::Key(KeyError::Used) => {
                "make another with `gretun-coord keys create`, or one for several nodes with `--reusable`"
            }
            ApiError::Key(KeyError::Expired) => "make another with `gretun-coord keys create`",
            ApiError::DiscoKeyTaken => {
                "was the state directory copied from another host? remove it there or here, and start again"
            }
            ApiError::PoolExhausted { .. } => {
                "remove peers that are gone (`gretun-coord peers list`, `peers remove NAME`), or start the coordinator with a larger --pool"
            }
            ApiError::Name(name) => {
                return name
                    .suggestion
                    .as_ref()
                    .map(|it| format!("use `{it}` (--node-name)"));
            }
            ApiError::NoRecipient { .. } => "fetch the list of peers again",
            ApiError::TooFast { .. } | ApiError::Busy => {
                "wait as long as the header Retry-After says"
            }
            ApiError::Store => "see the coordinator's log; is its disk full?",
            ApiError::Endpoint { .. }
            | ApiError::TooManyEndpoints { .. }
            | ApiError::TooManyRoutes { .. }
            | ApiError::FieldTooLong { .. }
            | ApiError::Body { .. }
            | ApiError::Query { .. }
            | ApiError::TooLarge
            | ApiError::Sealed
            | ApiError::NoSuchPath
            | ApiError::Method { .. } => return None,
        };
        Some(text.to_owned())
    }
}
