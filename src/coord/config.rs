//! The coordinator's settings: flags and environment, then the configuration file, then defaults. Everything is checked
//! here, before anything is opened, so that `--check-config` needs neither privilege nor network.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::{fmt, io};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::Deserialize;

use super::pool::{Pool, PoolError};
use super::state_dir::{self, StateDirError};
use crate::error::{Kind, UserError};

/// The default address and port of the API.
pub const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8443);

/// STUN's port (RFC 8489 section 18.6), and a second one for telling a NAT's mapping kind.
pub const DEFAULT_STUN_PORTS: [u16; 2] = [3478, 3479];

/// A network of the shared address space (RFC 6598), which no LAN should use.
const DEFAULT_POOL: &str = "100.64.0.0/24";

/// A unique local prefix (RFC 4193) whose 48 bits after `fd` spell "gretun".
const DEFAULT_POOL6: &str = "fd67:7265:7475:6e00::/64";

/// The settings that can be given, as flags, in the environment, or in the file under the same names.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Given {
    /// Address and port of the API (repeatable) [default: 0.0.0.0:8443]
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "GRETUN_COORD_LISTEN",
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub listen: Option<Vec<SocketAddr>>,

    /// IPv4 network that peers get their addresses from [default: 100.64.0.0/24]
    #[arg(long, value_name = "CIDR", env = "GRETUN_COORD_POOL")]
    pub pool: Option<Ipv4Net>,

    /// IPv6 network that peers get their addresses from, or `none` [default: fd67:7265:7475:6e00::/64]
    #[arg(long, value_name = "CIDR", env = "GRETUN_COORD_POOL6")]
    pub pool6: Option<OrNone<Ipv6Net>>,

    /// Admit anybody without an auth key. For labs only
    #[arg(long, env = "GRETUN_COORD_OPEN", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub open: Option<bool>,

    /// Directory of the store and of the administration socket [default: /var/lib/gretun-coord for root, else
    /// $XDG_STATE_HOME/gretun-coord]
    #[arg(
        long,
        value_name = "DIR",
        env = "GRETUN_COORD_STATE_DIR",
        global = true
    )]
    pub state_dir: Option<PathBuf>,

    /// Where the registry is kept: `embedded`, a file in the state directory [default: embedded]
    #[arg(long, value_name = "STORE", env = "GRETUN_COORD_STORE")]
    pub store: Option<String>,

    /// Address and UDP port of the STUN server (repeatable), or `none` [default: ports 3478 and 3479 of all addresses]
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "GRETUN_COORD_STUN_LISTEN",
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub stun_listen: Option<Vec<OrNone<SocketAddr>>>,

    /// TLS certificate chain, PEM; needs --key
    #[arg(long, value_name = "FILE", env = "GRETUN_COORD_CERT")]
    pub cert: Option<PathBuf>,

    /// TLS private key, PEM; needs --cert
    #[arg(long, value_name = "FILE", env = "GRETUN_COORD_KEY")]
    pub key: Option<PathBuf>,

    /// Serve Prometheus metrics on this address and port, at /metrics
    #[arg(long, value_name = "ADDR:PORT", env = "GRETUN_COORD_METRICS_ADDR")]
    pub metrics_addr: Option<SocketAddr>,
}

/// A value that can be switched off with the word `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum OrNone<T>
where
    T: std::str::FromStr,
    T::Err: fmt::Display,
{
    /// Switched off.
    None,
    /// A value.
    Some(T),
}

impl<T> std::str::FromStr for OrNone<T>
where
    T: std::str::FromStr,
    T::Err: fmt::Display,
{
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        match text {
            "none" => Ok(OrNone::None),
            value => value.parse().map(OrNone::Some),
        }
    }
}

impl<T> TryFrom<String> for OrNone<T>
where
    T: std::str::FromStr,
    T::Err: fmt::Display,
{
    type Error = T::Err;

    fn try_from(text: String) -> Result<Self, T::Err> {
        text.parse()
    }
}

/// The settings, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The addresses and ports of the API; at least one.
    pub listen: Vec<SocketAddr>,
    /// The address pools, IPv4 first.
    pub pools: Vec<Pool>,
    /// Whether anybody is let in.
    pub open: bool,
    /// The addresses and ports of the STUN server.
    pub stun: StunListen,
    /// Certificate chain and private key files.
    pub tls: Option<TlsFiles>,
    /// The address and port of the metrics.
    pub metrics: Option<SocketAddr>,
}

/// The addresses and ports of the STUN server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StunListen {
    /// The default ports of all IPv4 addresses, and of all IPv6 addresses where the host has IPv6.
    Default,
    /// These; none switches it off.
    Listed(Vec<SocketAddr>),
}

/// The files that TLS needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// The reason why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The file cannot be parsed.
    #[error("{path} is no valid configuration: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        reason: String,
    },
    /// A network is no pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// One of the two TLS files is missing.
    #[error("--{given} needs --{missing}")]
    HalfTls {
        /// The setting that is given.
        given: &'static str,
        /// The setting that is missing.
        missing: &'static str,
    },
    /// An empty list of addresses.
    #[error("`listen` names no address")]
    NoListen,
    /// `none` among addresses.
    #[error("`none` and an address contradict each other in --stun-listen")]
    NoneAndSome,
    /// A store that does not exist.
    #[error("there is no store `{kind}`")]
    UnknownStore {
        /// The scheme of the store that was asked for. The rest is left out, because it may hold a password.
        kind: String,
    },
    /// There is no state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
}

impl UserError for ConfigError {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn hint(&self) -> Option<String> {
        match self {
            ConfigError::Pool(error) => error.hint(),
            ConfigError::StateDir(error) => error.hint(),
            ConfigError::NoListen => Some(format!("leave it out for {DEFAULT_LISTEN}")),
            ConfigError::UnknownStore { .. } => Some(
                "`embedded` keeps everything in the state directory, and is the default".to_owned(),
            ),
            ConfigError::Parse { .. } => {
                Some("the names are those of the flags; see `gretun-coord --help`".to_owned())
            }
            ConfigError::Read { .. } | ConfigError::HalfTls { .. } | ConfigError::NoneAndSome => {
                None
            }
        }
    }
}

impl Given {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Given, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            reason: error.to_string().trim_end().to_owned(),
        })
    }

    /// These settings, and those of `file` where these say nothing.
    pub fn or(self, file: Given) -> Given {
        Given {
            listen: self.listen.or(file.listen),
            pool: self.pool.or(file.pool),
            pool6: self.pool6.or(file.pool6),
            open: self.open.or(file.open),
            state_dir: self.state_dir.or(file.state_dir),
            store: self.store.or(file.store),
            stun_listen: self.stun_listen.or(file.stun_listen),
            cert: self.cert.or(file.cert),
            key: self.key.or(file.key),
            metrics_addr: self.metrics_addr.or(file.metrics_addr),
        }
    }

    /// The state directory.
    pub fn state_dir(&self) -> Result<PathBuf, ConfigError> {
        match &self.state_dir {
            Some(given) => Ok(given.clone()),
            None => Ok(state_dir::default_path()?),
        }
    }

    /// Checks all and fills in the defaults.
    pub fn settings(self) -> Result<Settings, ConfigError> {
        match self.store.as_deref() {
            None | Some("embedded") => {}
            Some(other) => {
                let kind = other.split(':').next().unwrap_or(other).to_owned();
                return Err(ConfigError::UnknownStore { kind });
            }
        }
        let listen = self.listen.unwrap_or_else(|| vec![DEFAULT_LISTEN]);
        if listen.is_empty() {
            return Err(ConfigError::NoListen);
        }
        let tls = match (self.cert, self.key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            (Some(_), None) => return Err(half_tls("cert", "key")),
            (None, Some(_)) => return Err(half_tls("key", "cert")),
        };
        Ok(Settings {
            listen,
            pools: pools(self.pool, self.pool6)?,
            open: self.open.unwrap_or(false),
            stun: stun_listen(self.stun_listen)?,
            tls,
            metrics: self.metrics_addr,
        })
    }
}

impl StunListen {
    /// The addresses to listen on, and for each whether the coordinator can do without.
    pub fn addresses(&self) -> Vec<(SocketAddr, bool)> {
        match self {
            StunListen::Listed(listed) => listed.iter().map(|addr| (*addr, false)).collect(),
            StunListen::Default => DEFAULT_STUN_PORTS
                .into_iter()
                .flat_map(|port| {
                    [
                        (SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), false),
                        (SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), true),
                    ]
                })
                .collect(),
        }
    }
}

fn half_tls(given: &'static str, missing: &'static str) -> ConfigError {
    ConfigError::HalfTls { given, missing }
}

fn pools(v4: Option<Ipv4Net>, v6: Option<OrNone<Ipv6Net>>) -> Result<Vec<Pool>, ConfigError> {
    // The defaults are well-formed: a test reads them.
    let v4 = v4.or_else(|| DEFAULT_POOL.parse().ok());
    let v6 = match v6 {
        Some(OrNone::Some(net)) => Some(net),
        Some(OrNone::None) => None,
        None => DEFAULT_POOL6.parse().ok(),
    };
    let v4 = v4.map(Pool::v4).transpose()?;
    let v6 = v6.map(Pool::v6).transpose()?;
    Ok(v4.into_iter().chain(v6).collect())
}

fn stun_listen(given: Option<Vec<OrNone<SocketAddr>>>) -> Result<StunListen, ConfigError> {
    let Some(given) = given else {
        return Ok(StunListen::Default);
    };
    let addresses: Vec<SocketAddr> = given
        .iter()
        .filter_map(|it| match it {
            OrNone::Some(addr) => Some(*addr),
            OrNone::None => None,
        })
        .collect();
    if addresses.is_empty() || addresses.len() == given.len() {
        Ok(StunListen::Listed(addresses))
    } else {
        Err(ConfigError::NoneAndSome)
    }
}

/// In TOML, one value or a list of them.
fn one_or_many<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an address and port, or a list of them")]
    enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }
    Ok(Some(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    }))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
