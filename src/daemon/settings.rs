//! The settings of `gretun up`: one set of names for flags, environment and the TOML file; flags win over the file.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use thiserror::Error;

use crate::coordinator::{CoordinatorUrl, UrlError};
use crate::error::{Kind, UserError};
use crate::node::{IfaceTemplate, IfaceTemplateError};
use crate::proto::name;

/// Default UDP port for discovery and data.
pub const DEFAULT_PORT: u16 = 7777;

/// Default place of the local API socket.
pub const DEFAULT_SOCKET: &str = "/run/gretun/gretun.sock";

const DEFAULT_STATE_DIR: &str = "/var/lib/gretun";
const DEFAULT_IFACE: &str = "gretun%d";

/// The settings, each with the same name as flag (`--fou-port`), variable (`GRETUN_FOU_PORT`) and TOML key
/// (`fou-port`). Everything is optional here; [`Settings::resolve`] fills in the defaults and checks.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Settings {
    /// Coordinator to join, such as `https://gretun.example.org:8443`
    #[arg(long, env = "GRETUN_COORDINATOR", value_name = "URL")]
    pub coordinator: Option<String>,
    /// Name of this host among its peers [default: the host name]
    #[arg(long, env = "GRETUN_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Directory of the keys and of what must survive a restart [default: /var/lib/gretun]
    #[arg(long, env = "GRETUN_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// File with the auth key that the coordinator gave for this host
    #[arg(long, env = "GRETUN_AUTH_KEY_FILE", value_name = "FILE")]
    pub auth_key_file: Option<PathBuf>,
    /// Name of the tunnel interfaces; %d becomes the index of the peer [default: gretun%d]
    #[arg(long, env = "GRETUN_IFACE", value_name = "TEMPLATE")]
    pub iface: Option<String>,
    /// UDP port of discovery and data [default: 7777]
    #[arg(long, env = "GRETUN_FOU_PORT", value_name = "PORT")]
    pub fou_port: Option<u16>,
    /// STUN server, host:port; repeatable [default: the coordinator's own]
    #[arg(
        long,
        env = "GRETUN_STUN_SERVER",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub stun_server: Vec<String>,
    /// Run a port search (up to 1000 packets a second for 2 s) where a NAT assigns another public port to each destination
    /// [default: true]
    #[arg(
        long,
        env = "GRETUN_AGGRESSIVE_PUNCH",
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub aggressive_punch: Option<bool>,
    /// Ask the router for a public port, by PCP, NAT-PMP or UPnP IGD [default: true]
    #[arg(
        long,
        env = "GRETUN_PORT_MAPPING",
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub port_mapping: Option<bool>,
    /// Networks behind this host to offer to peers, comma separated; this host must forward IP
    #[arg(
        long,
        env = "GRETUN_ADVERTISE_ROUTES",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub advertise_routes: Vec<IpNet>,
    /// Reach the networks that peers offer through their tunnels [default: false]
    #[arg(
        long,
        env = "GRETUN_ACCEPT_ROUTES",
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub accept_routes: Option<bool>,
    /// Masquerade what peers send to the offered networks, so that the hosts there need no route back [default: false]
    #[arg(
        long,
        env = "GRETUN_SNAT_ROUTES",
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub snat_routes: Option<bool>,
    /// Serve Prometheus metrics on this address, such as 127.0.0.1:9477
    #[arg(long, env = "GRETUN_METRICS_ADDR", value_name = "ADDR:PORT")]
    pub metrics_addr: Option<SocketAddr>,
    /// Unix socket on which the other commands reach the daemon [default: /run/gretun/gretun.sock]
    #[arg(long, env = "GRETUN_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Settings with every default filled in and every value checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The coordinator's URL.
    pub coordinator: CoordinatorUrl,
    /// Name that this host asks for.
    pub node_name: String,
    /// Directory of the keys, the peer cache and the link indices.
    pub state_dir: PathBuf,
    /// File with the auth key, read at registration.
    pub auth_key_file: Option<PathBuf>,
    /// The template of interface names.
    pub iface: IfaceTemplate,
    /// UDP port of discovery and data.
    pub port: u16,
    /// STUN servers in place of the coordinator's.
    pub stun_servers: Vec<String>,
    /// Whether ports may be searched for where a NAT gives every destination another one.
    pub aggressive_punch: bool,
    /// Whether the router is asked for a public port.
    pub port_mapping: bool,
    /// Networks to offer to peers.
    pub advertise_routes: Vec<IpNet>,
    /// Whether to take the networks that peers offer.
    pub accept_routes: bool,
    /// Whether to masquerade what peers send to the offered networks.
    pub snat_routes: bool,
    /// The address and port of the metrics.
    pub metrics_addr: Option<SocketAddr>,
    /// Path of the local API socket.
    pub socket: PathBuf,
}

impl Settings {
    /// Reads a TOML file of settings.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, or has a key that does not exist.
    pub fn from_file(path: &Path) -> Result<Self, SettingsError> {
        let text = fs::read_to_string(path).map_err(|source| SettingsError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| SettingsError::Parse {
            path: path.to_owned(),
            source,
        })
    }

    /// These settings, and where they are silent those of `below`.
    pub fn over(self, below: Settings) -> Settings {
        Settings {
            coordinator: self.coordinator.or(below.coordinator),
            node_name: self.node_name.or(below.node_name),
            state_dir: self.state_dir.or(below.state_dir),
            auth_key_file: self.auth_key_file.or(below.auth_key_file),
            iface: self.iface.or(below.iface),
            fou_port: self.fou_port.or(below.fou_port),
            stun_server: if self.stun_server.is_empty() {
                below.stun_server
            } else {
                self.stun_server
            },
            aggressive_punch: self.aggressive_punch.or(below.aggressive_punch),
            port_mapping: self.port_mapping.or(below.port_mapping),
            advertise_routes: if self.advertise_routes.is_empty() {
                below.advertise_routes
            } else {
                self.advertise_routes
            },
            accept_routes: self.accept_routes.or(below.accept_routes),
            snat_routes: self.snat_routes.or(below.snat_routes),
            metrics_addr: self.metrics_addr.or(below.metrics_addr),
            socket: self.socket.or(below.socket),
        }
    }

    /// The state directory that these settings lead to: their own, systemd's `STATE_DIRECTORY`, or the default.
    pub fn state_dir(&self) -> PathBuf {
        self.state_dir
            .clone()
            .or_else(|| std::env::var_os("STATE_DIRECTORY").map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR))
    }

    /// The socket path that these settings lead to.
    pub fn socket(&self) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
    }

    /// Checks every value and asks nothing of this machine, which may not be the one that the settings are for: a NixOS
    /// configuration is checked in a sandbox whose host name is `localhost`.
    ///
    /// # Errors
    /// Names the first setting that is missing or wrong.
    pub fn check(self) -> Result<(), SettingsError> {
        self.resolve_on(|| Ok(String::from("host"))).map(drop)
    }

    /// Fills in the defaults and checks every value.
    ///
    /// # Errors
    /// Names the first setting that is missing or wrong.
    pub fn resolve(self) -> Result<Config, SettingsError> {
        self.resolve_on(host_name)
    }

    fn resolve_on(
        self,
        host_name: impl FnOnce() -> Result<String, SettingsError>,
    ) -> Result<Config, SettingsError> {
        let state_dir = self.state_dir();
        let socket = self.socket();
        let coordinator = self
            .coordinator
            .as_deref()
            .ok_or(SettingsError::NoCoordinator)?
            .parse()?;
        let iface = self.iface.as_deref().unwrap_or(DEFAULT_IFACE).parse()?;
        let node_name = match self.node_name {
            Some(name) => name,
            None => host_name()?,
        };
        check_node_name(&node_name)?;
        let port = self.fou_port.unwrap_or(DEFAULT_PORT);
        if port == 0 {
            return Err(SettingsError::PortZero);
        }
        for server in &self.stun_server {
            check_host_port(server)?;
        }
        for &network in &self.advertise_routes {
            check_route(network)?;
        }
        let snat_routes = self.snat_routes.unwrap_or(false);
        if snat_routes && self.advertise_routes.is_empty() {
            return Err(SettingsError::NothingToSnat);
        }
        Ok(Config {
            coordinator,
            node_name,
            state_dir,
            auth_key_file: self.auth_key_file,
            iface,
            port,
            stun_servers: self.stun_server,
            aggressive_punch: self.aggressive_punch.unwrap_or(true),
            port_mapping: self.port_mapping.unwrap_or(true),
            advertise_routes: self.advertise_routes,
            accept_routes: self.accept_routes.unwrap_or(false),
            snat_routes,
            metrics_addr: self.metrics_addr,
            socket,
        })
    }
}

/// The host's own name, up to the first dot, in the form that peers accept.
fn host_name() -> Result<String, SettingsError> {
    let raw =
        fs::read_to_string("/proc/sys/kernel/hostname").map_err(|_| SettingsError::NoHostName)?;
    let label = name::nearest_label(raw.trim());
    label
        .filter(|it| it != "localhost")
        .ok_or(SettingsError::NoHostName)
}

fn check_node_name(name: &str) -> Result<(), SettingsError> {
    if name::is_label(name) {
        return Ok(());
    }
    Err(SettingsError::NodeName {
        name: name.to_owned(),
    })
}

fn check_host_port(server: &str) -> Result<(), SettingsError> {
    let valid = server.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if valid {
        Ok(())
    } else {
        Err(SettingsError::StunServer {
            server: server.to_owned(),
        })
    }
}

/// A network that can be offered: without host bits, and not everything.
fn check_route(network: IpNet) -> Result<(), SettingsError> {
    if network.addr() == network.network() && network.prefix_len() > 0 {
        Ok(())
    } else {
        Err(SettingsError::Route { network })
    }
}

/// A fault of the settings.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The configuration file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is not TOML, or has an unknown key or a value of the wrong type.
    #[error("{}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The place and the reason.
        source: toml::de::Error,
    },
    /// No coordinator was named.
    #[error("no coordinator is named")]
    NoCoordinator,
    /// The coordinator's URL cannot be used.
    #[error(transparent)]
    Coordinator(#[from] UrlError),
    /// The interface template cannot be used.
    #[error(transparent)]
    Iface(#[from] IfaceTemplateError),
    /// The node name is not a DNS label.
    #[error("node-name {name:?} is not a DNS label")]
    NodeName {
        /// The value as it was given.
        name: String,
    },
    /// The host has no name of its own that could serve as node name.
    #[error("this host has no name")]
    NoHostName,
    /// A network to offer has host bits, or is the whole internet.
    #[error("advertise-routes: {network} is not a network that can be offered")]
    Route {
        /// The value as it was given.
        network: IpNet,
    },
    /// Masquerading without a network to masquerade towards.
    #[error("snat-routes does nothing without advertise-routes")]
    NothingToSnat,
    /// Port 0 cannot be used: the port must be known to the peers' NATs.
    #[error("fou-port must not be 0")]
    PortZero,
    /// A STUN server is not of the form host:port.
    #[error("stun-server {server:?} is not of the form host:port")]
    StunServer {
        /// The value as it was given.
        server: String,
    },
}

impl UserError for SettingsError {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            SettingsError::Read { .. } => "check the path given with --config",
            SettingsError::Parse { .. } => {
                "`gretun up --help` lists the names; a key is the flag without its dashes"
            }
            SettingsError::NoCoordinator => {
                "give --coordinator URL, or `coordinator = \"URL\"` in the file named by --config"
            }
            SettingsError::Coordinator(error) => return error.hint(),
            SettingsError::Iface(_) => {
                "give a template such as gretun%d, at most 13 bytes long with its %d"
            }
            SettingsError::NodeName { .. } => {
                "use lower-case letters, digits and inner hyphens, at most 63 of them"
            }
            SettingsError::NoHostName => "give --node-name NAME",
            SettingsError::Route { network } => {
                return Some(format!(
                    "write the network itself, such as {}; a default route cannot be offered",
                    network.trunc()
                ));
            }
            SettingsError::NothingToSnat => "name the networks with --advertise-routes",
            SettingsError::PortZero => "choose a fixed port, such as 7777",
            SettingsError::StunServer { .. } => "give it as stun.example.org:3478",
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
