//! Serves `/metrics` over HTTP, from a thread of its own.

use std::net::SocketAddr;
use std::thread;

use thiserror::Error;
use tiny_http::{Header, Method, Response, Server};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info};

use crate::error::UserError;
use crate::local_api::{Query, Request};

/// Listens on `address` and answers scrapes with what the daemon says.
///
/// # Errors
/// When the address cannot be listened on.
pub fn start(address: SocketAddr, queries: mpsc::Sender<Query>) -> Result<(), MetricsServerError> {
    let server = Server::http(address).map_err(|error| MetricsServerError::Listen {
        address,
        reason: error.to_string(),
    })?;
    info!(%address, "serving metrics");
    thread::Builder::new()
        .name("metrics".to_owned())
        .spawn(move || serve(&server, &queries))
        .map_err(MetricsServerError::Thread)?;
    Ok(())
}

fn serve(server: &Server, queries: &mpsc::Sender<Query>) {
    for request in server.incoming_requests() {
        let sent = match (request.method(), request.url()) {
            (Method::Get | Method::Head, "/metrics") => match scrape(queries) {
                Some(text) => {
                    let response = Response::from_string(text);
                    request.respond(
                        match "Content-Type: text/plain; version=0.0.4".parse::<Header>() {
                            Ok(header) => response.with_header(header),
                            Err(()) => response,
                        },
                    )
                }
                None => request.respond(
                    Response::from_string("the daemon is stopping\n").with_status_code(503),
                ),
            },
            _ => request
                .respond(Response::from_string("only /metrics is here\n").with_status_code(404)),
        };
        if let Err(error) = sent {
            debug!(%error, "a scraper went away");
        }
    }
}

/// Asks the daemon; `None` when it is stopping.
fn scrape(queries: &mpsc::Sender<Query>) -> Option<String> {
    let (answer, answered) = oneshot::channel();
    let query = Query {
        request: Request::Metrics,
        answer,
    };
    queries.blocking_send(query).ok()?;
    match answered.blocking_recv().ok()? {
        Ok(serde_json::Value::String(text)) => Some(text),
        _ => None,
    }
}

/// Why metrics cannot be served.
#[derive(Debug, Error)]
pub enum MetricsServerError {
    /// The address cannot be listened on.
    #[error("cannot serve metrics on {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        reason: String,
    },
    /// No thread can be started.
    #[error("cannot start the thread that serves metrics")]
    Thread(#[source] std::io::Error),
}

impl UserError for MetricsServerError {
    fn hint(&self) -> Option<String> {
        Some("choose a free address of this host with --metrics-addr".to_owned())
    }
}
