//! HTTP requests: each on a connection of its own, without proxies, redirects not followed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use thiserror::Error;
use url::Url;

use crate::http_client;

/// A client for one URL.
pub struct HttpProbe {
    client: Client,
    url: Url,
}

impl HttpProbe {
    /// Prepares requests for `url` that go to `target` whatever the name in the URL resolves to.
    pub fn new(url: Url, target: SocketAddr, interface: Option<&str>) -> Result<Self, HttpError> {
        let mut builder = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .pool_max_idle_per_host(0)
            .user_agent(concat!("gretun/", env!("CARGO_PKG_VERSION")));
        if let Some(url::Host::Domain(name)) = url.host() {
            builder = builder.resolve(name, target);
        }
        if let Some(name) = interface {
            builder = builder.interface(name);
        }
        let client = http_client::with_tls(builder, url.scheme() == "https")?.build()?;
        Ok(HttpProbe { client, url })
    }

    /// Asks once: the status, and the time until it was there.
    pub async fn ask(&self) -> Result<(StatusCode, Duration), reqwest::Error> {
        let began = Instant::now();
        let response = self.client.get(self.url.clone()).send().await?;
        Ok((response.status(), began.elapsed()))
    }
}

/// The reason why no HTTP client can be created.
#[derive(Debug, Error)]
pub enum HttpError {
    /// TLS cannot be set up.
    #[error("no TLS")]
    Tls(#[from] rustls::Error),
    /// The client cannot be set up.
    #[error("no client")]
    Client(#[from] reqwest::Error),
}
