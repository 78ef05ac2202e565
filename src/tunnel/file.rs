//! A file of tunnels, TOML or JSON: the table `tunnels` has one table a tunnel, named as the interface.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};
use thiserror::Error;

use super::encap::FouPort;
use super::owner;
use super::spec::{SpecError, TunnelSpec};
use super::tunnel_flags::TunnelTable;
use crate::error::{Kind, UserError};

/// The set of tunnels that `create` and `apply` mean where none is named.
pub const DEFAULT_SET: &str = "default";

/// A file of tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TunnelFile {
    /// Name of the set: `apply` removes tunnels of the same set that the file no longer lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// The tunnels by their interface names.
    #[serde(deserialize_with = "each_once")]
    pub tunnels: BTreeMap<String, TunnelTable>,
}

impl TunnelFile {
    /// Reads a file's text; JSON starts with a brace, which TOML cannot.
    ///
    /// # Errors
    /// When the text is neither TOML nor JSON, or has an unknown key.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let file: TunnelFile = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| FileError::Syntax(error.to_string()))?
        } else {
            toml::from_str(text).map_err(|error| FileError::Syntax(error.to_string()))?
        };
        if !owner::is_set_name(file.set()) {
            return Err(FileError::Set(file.set().to_owned()));
        }
        Ok(file)
    }

    /// The name of the set.
    pub fn set(&self) -> &str {
        self.set.as_deref().unwrap_or(DEFAULT_SET)
    }

    /// The tunnels, checked.
    ///
    /// # Errors
    /// Names the tunnel and the key at fault, or the two tunnels that cannot be together.
    pub fn specs(&self) -> Result<Vec<TunnelSpec>, FileError> {
        let specs = self.tunnels.iter().map(|(name, table)| {
            table.spec(name).map_err(|error| FileError::Tunnel {
                name: name.clone(),
                error,
            })
        });
        let specs: Vec<TunnelSpec> = specs.collect::<Result<_, _>>()?;
        let mut seen: HashMap<_, &str> = HashMap::new();
        for spec in &specs {
            if let Some(other) = seen.insert(spec.demux(), &spec.name) {
                return Err(FileError::Alike {
                    name: spec.name.clone(),
                    other: other.to_owned(),
                });
            }
        }
        let mut ports: HashMap<_, (FouPort, &str)> = HashMap::new();
        for spec in &specs {
            let Some(port) = spec.encap.listener(spec.mode) else {
                continue;
            };
            let (first, other) = *ports
                .entry((port.family, port.port))
                .or_insert((port, &spec.name));
            if first != port {
                return Err(FileError::PortShared {
                    name: spec.name.clone(),
                    port,
                    other: other.to_owned(),
                    first,
                });
            }
        }
        Ok(specs)
    }
}

/// Tables by name, each name once: TOML has that rule, JSON parsers silently take the last.
fn each_once<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, TunnelTable>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = BTreeMap<String, TunnelTable>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table of tunnels by their names")
        }

        fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut tunnels = BTreeMap::new();
            while let Some((name, table)) = map.next_entry::<String, _>()? {
                if tunnels.contains_key(&name) {
                    let what = format!("tunnel {name} is described twice");
                    return Err(de::Error::custom(what));
                }
                tunnels.insert(name, table);
            }
            Ok(tunnels)
        }
    }
    deserializer.deserialize_map(Visitor)
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FileError {
    /// Neither TOML nor JSON, or with unknown keys.
    #[error("{0}")]
    Syntax(String),
    /// The name of the set does not fit into a link's alias.
    #[error("set: {0:?} is not a name of up to 64 letters, digits, dots, dashes and underscores")]
    Set(String),
    /// A tunnel that cannot be.
    #[error("tunnels.{name}.{error}")]
    Tunnel {
        /// Its name.
        name: String,
        /// The fault.
        error: SpecError,
    },
    /// Two tunnels that want different things of one FOU port.
    #[error("tunnels.{name}: wants {port}, and tunnels.{other} wants {first}")]
    PortShared {
        /// One.
        name: String,
        /// The port and contents that this tunnel needs.
        port: FouPort,
        /// The other.
        other: String,
        /// The port and contents that the other tunnel needs.
        first: FouPort,
    },
    /// Two tunnels whose packets the kernel could not tell apart; it refuses the second one.
    #[error("tunnels.{name}: has the ends, the ikey and the dev of tunnels.{other}")]
    Alike {
        /// One.
        name: String,
        /// The other.
        other: String,
    },
}

impl UserError for FileError {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn hint(&self) -> Option<String> {
        match self {
            FileError::Syntax(_) => {
                Some("the keys are the names of the flags: `gretun create --help`".to_owned())
            }
            FileError::Set(_) => None,
            FileError::Tunnel { error, .. } => error.hint(),
            FileError::PortShared { .. } => Some(
                "a FOU port takes one kind of packets: give one of them another encap-sport".to_owned(),
            ),
            FileError::Alike { .. } => Some(
                "the kernel tells tunnels apart by these: give each a key of its own (GRE), or another local end"
                    .to_owned(),
            ),
        }
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
