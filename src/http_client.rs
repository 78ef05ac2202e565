//! Shared parts of all HTTP clients: the certificates that they trust, and a limit on the bytes that they read.

use std::sync::Arc;

use reqwest::{ClientBuilder, Response};

/// Sets up TLS for `https` URLs, with the certificates of the system. For `http` it loads no certificates, so that a host without
/// any does not fail.
///
/// # Errors
/// When no TLS client can be set up.
pub fn with_tls(builder: ClientBuilder, is_https: bool) -> Result<ClientBuilder, rustls::Error> {
    let provider = rustls::crypto::ring::default_provider();
    if is_https {
        // One provider serves the whole process; that it is there already is no error.
        let _ = provider.install_default();
        return Ok(builder);
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Ok(builder.tls_backend_preconfigured(tls))
}

/// The answer's body; `None` when it is longer than `max` bytes, of which no more is then read.
///
/// # Errors
/// When the connection breaks before the end.
pub async fn read_body(
    mut response: Response,
    max: usize,
) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > max {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

#[cfg(test)]
#[path = "http_client_tests.rs"]
pub(crate) mod tests;
