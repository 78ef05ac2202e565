//! What all HTTP clients here have in common: which certificates they look at.

use std::sync::Arc;

use reqwest::ClientBuilder;

/// Sets up TLS for `https` URLs, with the certificates of the system; or none for `http`, where no certificate is looked
/// at, so that a host without any does not fail and none are loaded.
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
