//! Signed requests to the coordinator, and what can go wrong with them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::{Client, Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tracing::debug;

use super::url::CoordinatorUrl;
use crate::error::{UserError, chain};
use crate::http_client;
use crate::proto::api::{self, ErrorBody};
use crate::proto::keys::NodeSecret;

/// A TCP connection that takes longer than this to open is not coming.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout of an ordinary request in all.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for which the coordinator is asked to hold a long poll: short enough for NATs that forget idle TCP connections.
pub const POLL_WAIT: Duration = Duration::from_secs(25);

/// Answers without looking at who asks.
const HEALTH_PATH: &str = "/healthz";

/// The largest answer that is read, in bytes.
pub(super) const ANSWER_MAX: usize = 4 << 20;

/// Sends one signed request at a time.
pub struct Requester {
    http: Client,
    base: String,
    node: Arc<NodeSecret>,
}

impl Requester {
    /// Requests to the coordinator at `url`, signed by `node`.
    pub fn new(http: Client, url: &CoordinatorUrl, node: Arc<NodeSecret>) -> Self {
        Requester {
            http,
            base: url.base().to_owned(),
            node,
        }
    }

    /// Opens a connection and leaves it to the pool.
    pub async fn warm_up(self) {
        let request = self
            .http
            .get(format!("{}{}", self.base, HEALTH_PATH))
            .timeout(REQUEST_TIMEOUT);
        if let Err(error) = request.send().await {
            debug!(error = %chain(&error), "no spare connection to the coordinator");
        }
    }

    /// Sends a body and returns the answer.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::Encode)?;
        self.request(Method::POST, path, body, REQUEST_TIMEOUT)
            .await
    }

    /// Sends a long poll, which the coordinator may hold for [`POLL_WAIT`], and returns the answer.
    pub async fn poll<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, Vec::new(), POLL_WAIT + REQUEST_TIMEOUT)
            .await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<T, ClientError> {
        let time_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            });
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| ClientError::Randomness)?;
        let signed = api::sign_request(&self.node, method.as_str(), path, &body, time_ms, nonce);
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .timeout(timeout)
            .header("content-type", "application/json");
        for (name, value) in signed.pairs() {
            request = request.header(name, value);
        }
        let response = request.body(body).send().await?;
        let status = response.status();
        let answer = http_client::read_body(response, ANSWER_MAX).await?;
        let answer = answer.ok_or(ClientError::TooLong)?;
        if status.is_success() {
            serde_json::from_slice(&answer).map_err(ClientError::Decode)
        } else {
            let body = serde_json::from_slice(&answer).unwrap_or_else(|_| ErrorBody {
                error: format!("status {status}"),
                hint: Some("check that the URL leads to a gretun coordinator".to_owned()),
            });
            Err(ClientError::Refused { status, body })
        }
    }
}

/// A client for the coordinator's API: its own timeouts, no proxy, TLS where the URL asks for it.
pub fn http_client(url: &CoordinatorUrl) -> Result<Client, ClientError> {
    let builder = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        // A request is signed for this coordinator, and may carry the auth key.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    let builder = http_client::with_tls(builder, url.is_tls()).map_err(ClientError::Tls)?;
    let builder = builder.https_only(url.is_tls());
    Ok(builder.build()?)
}

/// Why a request or a session ended.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Connecting, sending or receiving failed.
    #[error("request failed")]
    Http(#[from] reqwest::Error),
    /// The coordinator answered with an error.
    #[error("the coordinator answered {status}: {}", body.error)]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The coordinator's message.
        body: ErrorBody,
    },
    /// The request cannot be written as JSON.
    #[error("the request cannot be encoded")]
    Encode(#[source] serde_json::Error),
    /// The answer is not what the API promises.
    #[error("the answer cannot be understood")]
    Decode(#[source] serde_json::Error),
    /// The answer is larger than any honest one.
    #[error("the answer is longer than {ANSWER_MAX} bytes")]
    TooLong,
    /// The file of the auth key cannot be read.
    #[error("cannot read the auth key {}", path.display())]
    AuthKey {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// No TLS client can be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Randomness,
    /// The daemon is going away.
    #[error("the daemon is stopping")]
    Closed,
}

impl UserError for ClientError {}
