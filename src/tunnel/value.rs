//! The small values of a tunnel: time to live, type of service, key.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A field of the outer header that is fixed or taken from the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer {
    /// As in the inner packet.
    Inherit,
    /// Always this.
    Fixed(u8),
}

impl Outer {
    /// The default time to live, as hosts use it.
    pub const TTL: Outer = Outer::Fixed(64);
    /// The default type of service.
    pub const TOS: Outer = Outer::Fixed(0);
}

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outer::Inherit => f.write_str("inherit"),
            Outer::Fixed(value) => value.fmt(f),
        }
    }
}

impl Serialize for Outer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Outer::Inherit => serializer.serialize_str("inherit"),
            Outer::Fixed(value) => serializer.serialize_u8(*value),
        }
    }
}

/// The text is not such a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl FromStr for Outer {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text == "inherit" {
            return Ok(Outer::Inherit);
        }
        let value = match text.strip_prefix("0x") {
            Some(digits) => u8::from_str_radix(digits, 16),
            None => text.parse(),
        };
        value.map(Outer::Fixed).map_err(|_| Malformed)
    }
}

/// Reads a GRE key: a number, or four as `ip` prints them.
///
/// # Errors
/// When it is neither.
pub fn parse_key(text: &str) -> Result<u32, Malformed> {
    text.parse()
        .or_else(|_| text.parse::<Ipv4Addr>().map(u32::from))
        .map_err(|_| Malformed)
}
