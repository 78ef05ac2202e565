//! The client of a coordinator: its URL ([`CoordinatorUrl`]), signed requests (`http.rs`) and the session of a daemon
//! ([`start`]).

mod client;
mod http;
mod url;

pub use client::{Event, Handle, Registration, start};
pub use http::{ClientError, http_client};
pub use url::{CoordinatorUrl, UrlError};

#[cfg(test)]
mod hostile_tests;
