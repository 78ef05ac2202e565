//! Why the HTTP front end refuses a client, and what it answers.

use std::io;

use crate::coord::request_head::HeadError;
use crate::proto::api::ErrorBody;

/// The reason why a client is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("the request did not arrive in time")]
    TooSlow,
    #[error("too many requests from this address")]
    TooFast,
    #[error("too many connections")]
    TooMany,
    #[error("the API does not answer")]
    NoAnswer,
}

/// The end of a connection without a whole request and its answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the client did not take the answer in time")]
    NotTaken,
}

impl From<HeadError> for Ended {
    fn from(error: HeadError) -> Ended {
        Ended::Refused(error.into())
    }
}

impl Refused {
    pub(super) fn status(&self) -> u16 {
        match self {
            Refused::Head(error) => error.status(),
            Refused::TooSlow => 408,
            Refused::TooFast => 429,
            Refused::TooMany => 503,
            Refused::NoAnswer => 504,
        }
    }

    pub(super) fn reason(&self) -> &'static str {
        match self {
            Refused::Head(error) => error.reason(),
            Refused::TooSlow => "too_slow",
            Refused::TooFast => "too_fast",
            Refused::TooMany => "too_many",
            Refused::NoAnswer => "no_answer",
        }
    }

    pub(super) fn answer(&self) -> Vec<u8> {
        let status = self.status();
        let body = ErrorBody {
            error: self.to_string(),
            hint: None,
        };
        let body = serde_json::to_string(&body).unwrap_or_default();
        let retry = if matches!(self, Refused::TooFast | Refused::TooMany) {
            "Retry-After: 1\r\n"
        } else {
            ""
        };
        let length = body.len();
        format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{retry}\
             Connection: close\r\n\r\n{body}",
            reason = self.reason(),
        )
        .into_bytes()
    }
}
