//! One setting of a file that is being read.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::{FormatError, Unsupported};
use crate::tunnel::header_fields::{InheritOrFixed, parse_key};

/// A setting with the place where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting<'a> {
    pub file: &'a str,
    pub line: usize,
    pub key: &'a str,
    pub value: &'a str,
}

impl Setting<'_> {
    pub fn loss(&self, why: impl Into<String>) -> Unsupported {
        Unsupported {
            place: format!("{}:{}", self.file, self.line),
            key: self.key.to_owned(),
            why: why.into(),
        }
    }

    /// The loss of a setting that gretun has no word for.
    pub fn unknown(&self) -> Unsupported {
        self.loss("gretun has no such setting")
    }

    pub fn bad(&self, expected: &'static str) -> FormatError {
        FormatError::Value {
            file: self.file.to_owned(),
            line: self.line,
            key: self.key.to_owned(),
            value: self.value.to_owned(),
            expected,
        }
    }

    pub fn parse<T: FromStr>(&self, expected: &'static str) -> Result<T, FormatError> {
        self.value.parse().map_err(|_| self.bad(expected))
    }

    pub fn ip(&self) -> Result<IpAddr, FormatError> {
        self.parse("an IP address")
    }

    /// An address, or none for the words that mean any.
    pub fn ip_or_any(&self) -> Result<Option<IpAddr>, FormatError> {
        match self.value {
            "any" | "0.0.0.0" | "::" => Ok(None),
            _ => self.ip().map(Some),
        }
    }

    /// A network or an address with its prefix length; an address alone is a host.
    pub fn net(&self) -> Result<IpNet, FormatError> {
        let host = self.value.parse::<IpAddr>().map(IpNet::from);
        host.or_else(|_| self.parse("an address with its prefix length"))
    }

    pub fn key_value(&self) -> Result<u32, FormatError> {
        parse_key(self.value).map_err(|_| self.bad("a key"))
    }

    /// A number from 0 to 255 of which one means "as in the inner packet".
    pub fn outer(&self, inherit: u8) -> Result<InheritOrFixed, FormatError> {
        let value = self.parse("\"inherit\" or a number within 0 to 255")?;
        Ok(if value == InheritOrFixed::Fixed(inherit) {
            InheritOrFixed::Inherit
        } else {
            value
        })
    }

    /// A switch, in the words that systemd, GLib and shell scripts use.
    pub fn switch(&self) -> Result<bool, FormatError> {
        match self.value.to_ascii_lowercase().as_str() {
            "yes" | "true" | "on" | "1" | "y" | "t" => Ok(true),
            "no" | "false" | "off" | "0" | "n" | "f" => Ok(false),
            _ => Err(self.bad("yes or no")),
        }
    }
}
