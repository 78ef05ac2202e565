//! The head of an HTTP/1 request: read strictly, and written anew for the server behind the front end, so that the two can
//! never disagree on where a request ends.

use std::fmt::Write as _;

use crate::proto::api::{HEADER_NODE, HEADER_NONCE, HEADER_SIGNATURE, HEADER_TIME, MAX_BODY};

/// The largest head, bytes: five times as much as a gretun client and a chatty proxy send.
pub const MAX_HEAD: usize = 8 * 1024;

/// The most header fields.
const MAX_FIELDS: usize = 64;

/// The longest request target, bytes; the API's are under 100.
const MAX_TARGET: usize = 1024;

/// The header fields that the API reads. All others stop at the front end.
const FORWARDED: [&str; 4] = [HEADER_NODE, HEADER_TIME, HEADER_NONCE, HEADER_SIGNATURE];

/// A request's head, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Method, capital letters.
    pub method: String,
    /// Path and query, visible ASCII.
    pub target: String,
    /// Length of the body that follows, bytes; at most [`MAX_BODY`].
    pub content_length: usize,
    /// Whether the connection can take another request afterwards.
    pub keep_alive: bool,
    /// Whether the client waits for a `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Names and values of the fields to pass on.
    pub forwarded: Vec<(&'static str, String)>,
}

/// The reason why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// No HTTP/1 request.
    #[error("this is not an HTTP/1.1 request")]
    Malformed,
    /// HTTP/2 without asking.
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken here")]
    Version,
    /// The head or target is larger than the limit.
    #[error(
        "the head is larger than {MAX_HEAD} bytes, {MAX_FIELDS} fields or {MAX_TARGET} bytes of path"
    )]
    TooLarge,
    /// A body of unknown length.
    #[error("a body needs a Content-Length")]
    LengthRequired,
    /// The body is larger than the limit.
    #[error("the body is larger than {MAX_BODY} bytes")]
    BodyTooLarge,
    /// An expectation that is not known.
    #[error("only `Expect: 100-continue` is known")]
    Expectation,
}

impl HeadError {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            HeadError::Malformed => 400,
            HeadError::LengthRequired => 411,
            HeadError::BodyTooLarge => 413,
            HeadError::Expectation => 417,
            HeadError::TooLarge => 431,
            HeadError::Version => 505,
        }
    }

    /// A short name without blanks, for a metric's label.
    pub fn reason(self) -> &'static str {
        match self {
            HeadError::Malformed => "malformed",
            HeadError::LengthRequired => "length_required",
            HeadError::BodyTooLarge => "body_too_large",
            HeadError::Expectation => "expectation",
            HeadError::TooLarge => "head_too_large",
            HeadError::Version => "version",
        }
    }
}

/// Finds the end of the head in `bytes`, after its empty line. An earlier call has searched the first `searched` bytes, so
/// that the work is linear in the new bytes, however slowly they arrive.
pub fn find_end(bytes: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    bytes[from..]
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|position| from + position + 4)
}

/// Returns whether `bytes` cannot become a request: every method begins with a capital letter, a TLS handshake does not.
pub fn is_hopeless(bytes: &[u8]) -> bool {
    bytes
        .first()
        .is_some_and(|first| !first.is_ascii_uppercase())
}

/// Reads a whole head.
pub fn parse(bytes: &[u8]) -> Result<Head, HeadError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(HeadError::Malformed),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
        Err(httparse::Error::Version) => return Err(HeadError::Version),
        Err(_) => return Err(HeadError::Malformed),
    }
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(HeadError::Malformed);
    };
    if target.len() > MAX_TARGET {
        return Err(HeadError::TooLarge);
    }
    let visible = target.bytes().all(|byte| byte.is_ascii_graphic());
    if !visible || !target.starts_with('/') || !method.bytes().all(|byte| byte.is_ascii_uppercase())
    {
        return Err(HeadError::Malformed);
    }
    let mut head = Head {
        method: method.to_owned(),
        target: target.to_owned(),
        content_length: 0,
        keep_alive: version == 1,
        expects_continue: false,
        forwarded: Vec::new(),
    };
    let mut length = None;
    for field in request.headers.iter() {
        head.read_field(field, &mut length)?;
    }
    head.content_length = length.unwrap_or(0);
    Ok(head)
}

impl Head {
    fn read_field(
        &mut self,
        field: &httparse::Header<'_>,
        length: &mut Option<usize>,
    ) -> Result<(), HeadError> {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if let Some(name) = FORWARDED.into_iter().find(|name| is(name)) {
            let value = text(field.value)?;
            let twice = self.forwarded.iter().any(|(other, _)| *other == name);
            if twice {
                return Err(HeadError::Malformed);
            }
            self.forwarded.push((name, value.to_owned()));
        } else if is("content-length") {
            let value = text(field.value)?;
            // `parse` alone would take a sign.
            if length.is_some() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(HeadError::Malformed);
            }
            match value.parse() {
                Ok(value) if value <= MAX_BODY => *length = Some(value),
                Ok(_) => return Err(HeadError::BodyTooLarge),
                Err(_) if value.is_empty() => return Err(HeadError::Malformed),
                Err(_) => return Err(HeadError::BodyTooLarge),
            }
        } else if is("transfer-encoding") {
            return Err(HeadError::LengthRequired);
        } else if is("connection") {
            let closes = text(field.value)?
                .split(',')
                .any(|option| option.trim().eq_ignore_ascii_case("close"));
            self.keep_alive &= !closes;
        } else if is("expect") {
            if !text(field.value)?.eq_ignore_ascii_case("100-continue") {
                return Err(HeadError::Expectation);
            }
            self.expects_continue = true;
        }
        Ok(())
    }

    /// Writes the head for the server behind the front end: one request for each connection, the known fields, and `more`.
    pub fn rewritten(&self, more: &[(&str, &str)]) -> String {
        let mut out = format!(
            "{} {} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.method, self.target, self.content_length
        );
        let forwarded = self
            .forwarded
            .iter()
            .map(|(name, value)| (*name, value.as_str()));
        for (name, value) in forwarded.chain(more.iter().copied()) {
            // Writing to a String cannot fail.
            let _ = write!(out, "{name}: {value}\r\n");
        }
        out.push_str("\r\n");
        out
    }
}

fn text(value: &[u8]) -> Result<&str, HeadError> {
    let text = std::str::from_utf8(value).map_err(|_| HeadError::Malformed)?;
    if text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ')
    {
        Ok(text.trim())
    } else {
        Err(HeadError::Malformed)
    }
}

#[cfg(test)]
#[path = "request_head_tests.rs"]
mod tests;
