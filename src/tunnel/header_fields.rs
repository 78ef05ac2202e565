//! The small values of a tunnel: time to live, type of service, key.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A field of the outer header that is fixed or taken from the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InheritOrFixed {
    /// As in the inner packet.
    Inherit,
    /// Always this.
    Fixed(u8),
}

impl InheritOrFixed {
    /// The default time to live, as hosts use it.
    pub const TTL: InheritOrFixed = InheritOrFixed::Fixed(64);
    /// The default type of service.
    pub const TOS: InheritOrFixed = InheritOrFixed::Fixed(0);
}

impl fmt::Display for InheritOrFixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InheritOrFixed::Inherit => f.write_str("inherit"),
            InheritOrFixed::Fixed(value) => value.fmt(f),
        }
    }
}

impl Serialize for InheritOrFixed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            InheritOrFixed::Inherit => serializer.serialize_str("inherit"),
            InheritOrFixed::Fixed(value) => serializer.serialize_u8(*value),
        }
    }
}

/// The text is not such a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl FromStr for InheritOrFixed {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text == "inherit" {
            return Ok(InheritOrFixed::Inherit);
        }
        let value = match text.strip_prefix("0x") {
            Some(digits) => u8::from_str_radix(digits, 16),
            None => text.parse(),
        };
        value.map(InheritOrFixed::Fixed).map_err(|_| Malformed)
    }
}

/// Reads a GRE key: a number, or four as `ip` prints them.
///
/// # Errors
/// When the text is neither.
pub fn parse_key(text: &str) -> Result<u32, Malformed> {
    text.parse()
        .or_else(|_| text.parse::<Ipv4Addr>().map(u32::from))
        .map_err(|_| Malformed)
}
