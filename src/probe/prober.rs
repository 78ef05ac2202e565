//! One probe of any kind: the targets, and the reasons why a probe was not answered.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::time::timeout;
use url::Url;

use super::echo::EchoSocket;
use super::http::{HttpError, HttpProbe};
use super::{interface, tcp};
use crate::error::{Kind, UserError, chain};

/// The kind and target of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// ICMP echo; the port of the target means nothing.
    Echo,
    /// A TCP handshake.
    Tcp,
    /// An HTTP request whose status is 2xx or 3xx.
    Http(Url),
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Echo => "icmp",
            Method::Tcp => "tcp",
            Method::Http(_) => "http",
        })
    }
}

/// Probes one target.
pub struct Prober {
    target: SocketAddr,
    interface: Option<String>,
    timeout: Duration,
    method: Ready,
}

enum Ready {
    Echo,
    Tcp,
    Http(HttpProbe),
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober")
            .field("target", &self.target)
            .field("interface", &self.interface)
            .finish_non_exhaustive()
    }
}

impl Prober {
    /// Checks that probes can be sent at all; needs a tokio runtime. `limit` is how long each waits for its answer.
    ///
    /// # Errors
    /// When the interface is not there, or the process may not send such probes.
    pub fn new(
        method: Method,
        target: SocketAddr,
        interface: Option<String>,
        limit: Duration,
    ) -> Result<Self, ProbeError> {
        if let Some(name) = &interface {
            interface::check(name).map_err(|source| ProbeError::Interface {
                name: name.clone(),
                source,
            })?;
        }
        let method = match method {
            Method::Echo => {
                let opened = EchoSocket::open(target, interface.as_deref());
                if let Err(error) = opened
                    && error.kind() == io::ErrorKind::PermissionDenied
                {
                    return Err(ProbeError::NotAllowed(error));
                }
                Ready::Echo
            }
            Method::Tcp => Ready::Tcp,
            Method::Http(url) => {
                let probe = HttpProbe::new(url, target, interface.as_deref());
                Ready::Http(probe.map_err(ProbeError::Http)?)
            }
        };
        Ok(Prober {
            target,
            interface,
            timeout: limit,
            method,
        })
    }

    /// Sends the probe of this number and waits; gives the round trip.
    ///
    /// # Errors
    /// When there was no answer, or not the right one.
    pub async fn once(&self, number: u32) -> Result<Duration, Miss> {
        match timeout(self.timeout, self.ask(number)).await {
            Ok(result) => result,
            Err(_) => Err(Miss::Timeout(self.timeout)),
        }
    }

    async fn ask(&self, number: u32) -> Result<Duration, Miss> {
        let interface = self.interface.as_deref();
        match &self.method {
            Ready::Echo => {
                let socket = EchoSocket::open(self.target, interface)?;
                // The number on the wire may wrap: each request has a token of its own.
                Ok(socket.exchange(number as u16).await?)
            }
            Ready::Tcp => match tcp::handshake(self.target, interface).await {
                Ok(time) => Ok(time),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    Err(Miss::Refused(self.target.port()))
                }
                Err(error) => Err(error.into()),
            },
            Ready::Http(probe) => {
                let answer = probe.ask().await;
                let (status, time) = answer.map_err(|error| self.http_miss(&error))?;
                if status.is_success() || status.is_redirection() {
                    Ok(time)
                } else {
                    Err(Miss::Status(status.as_u16()))
                }
            }
        }
    }
}

impl Prober {
    /// The system's error where there is one below those of HTTP.
    fn http_miss(&self, error: &reqwest::Error) -> Miss {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            let system = source.downcast_ref::<io::Error>();
            match system.and_then(io::Error::raw_os_error) {
                Some(libc::ECONNREFUSED) => return Miss::Refused(self.target.port()),
                Some(code) => return io::Error::from_raw_os_error(code).into(),
                None => cause = source,
            }
        }
        Miss::Http(chain(error))
    }
}

/// The reason why a probe was not answered.
#[derive(Debug, Error)]
pub enum Miss {
    /// Nothing came in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The host is there, the port is closed.
    #[error("connection refused: the host is there, but nothing listens on port {0}")]
    Refused(u16),
    /// An answer, but none of success.
    #[error("HTTP status {0}")]
    Status(u16),
    /// HTTP or TLS failed.
    #[error("{0}")]
    Http(String),
    /// The system could not send, or was told why there is no answer.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// The reason why no probe can be sent.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The interface cannot be used.
    #[error("cannot send through interface {name}")]
    Interface {
        /// Its name.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Neither an unprivileged nor a raw ICMP socket can be had.
    #[error("cannot send ICMP echo requests: this process may open no ICMP socket")]
    NotAllowed(#[source] io::Error),
    /// The HTTP client cannot be set up.
    #[error("cannot set up HTTP")]
    Http(#[source] HttpError),
}

impl UserError for ProbeError {
    fn kind(&self) -> Kind {
        match self {
            ProbeError::NotAllowed(_) => Kind::Environment,
            ProbeError::Interface { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Kind::Environment
            }
            ProbeError::Interface { .. } | ProbeError::Http(_) => Kind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ProbeError::NotAllowed(_) => Some(
                "run as root, give the process CAP_NET_RAW, or let all users ping: `sysctl -w net.ipv4.ping_group_range='0 2147483647'`; --tcp needs no right".to_owned(),
            ),
            ProbeError::Interface { .. } => Some("`ip link` shows the interfaces".to_owned()),
            ProbeError::Http(_) => None,
        }
    }
}
