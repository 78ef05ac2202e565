//! The coordinator's URL.

use std::str::FromStr;

use thiserror::Error;
use url::{ParseError, Url};

use crate::error::{Kind, UserError};

/// The coordinator's URL: `http` or `https`, a host, no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorUrl {
    base: String,
    host: String,
}

impl CoordinatorUrl {
    /// The URL without a trailing slash, ready for an API path to follow. What comes before the API path (a reverse
    /// proxy's prefix) is not part of what is signed.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The host, a name or an address; IPv6 addresses without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether requests travel inside TLS.
    pub fn is_tls(&self) -> bool {
        self.base.starts_with("https:")
    }
}

impl FromStr for CoordinatorUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why| UrlError {
            url: text.to_owned(),
            why,
        };
        let url = Url::parse(text).map_err(|error| match error {
            ParseError::IdnaError => wrong("its host must be in ASCII, as DNS has it (xn--...)"),
            _ => wrong("it is not a URL"),
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("it must begin with http:// or https://"));
        }
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| wrong("it names no host"))?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it must not have a query or a fragment"));
        }
        Ok(CoordinatorUrl {
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            base: url.as_str().trim_end_matches('/').to_owned(),
        })
    }
}

/// A coordinator's URL that cannot be used.
#[derive(Debug, Error)]
#[error("coordinator {url:?}: {why}")]
pub struct UrlError {
    /// The text that was given.
    url: String,
    /// The fault.
    why: &'static str,
}

impl UserError for UrlError {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn hint(&self) -> Option<String> {
        Some("give a URL such as https://gretun.example.org:8443".to_owned())
    }
}
