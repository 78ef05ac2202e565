//! A file of tunnels, TOML or JSON: the table `tunnels` has one table a tunnel, named as the interface.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::owner;
use super::spec::{SpecError, TunnelSpec};
use super::table::TunnelTable;
use crate::cli::report::{Explain, Kind};

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
    pub tunnels: BTreeMap<String, TunnelTable>,
}

impl TunnelFile {
    /// Reads a file's text; JSON starts with a brace, which TOML cannot.
    ///
    /// # Errors
    /// When it is neither, or has a key that is not known.
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
    /// Names the tunnel and the key at fault.
    pub fn specs(&self) -> Result<Vec<TunnelSpec>, FileError> {
        let specs = self.tunnels.iter().map(|(name, table)| {
            table.spec(name).map_err(|error| FileError::Tunnel {
                name: name.clone(),
                error,
            })
        });
        specs.collect()
    }
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
        /// What is wrong.
        error: SpecError,
    },
}

impl Explain for FileError {
    fn kind(&self) -> Kind {
        Kind::Usage
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
