//! Files that cannot be read.

use thiserror::Error;

use crate::error::{Kind, UserError};
use crate::tunnel::file::FileError;
use crate::tunnel::plan::PlanError;
use crate::tunnel::spec::SpecError;

/// A file that cannot be read, or a set of tunnels that cannot be written.
#[derive(Debug, Error)]
pub enum FormatError {
    /// Not a line of this format.
    #[error("{file}:{line}: {what}")]
    Syntax {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The fault.
        what: &'static str,
    },
    /// A setting with a value that it cannot have.
    #[error("{file}:{line}: {key}: {value:?} is not {expected}")]
    Value {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The setting.
        key: String,
        /// Its value.
        value: String,
        /// The expected form.
        expected: &'static str,
    },
    /// A tunnel that cannot be.
    #[error("{place}: tunnel {name}: {error}")]
    Tunnel {
        /// The file.
        place: String,
        /// The tunnel.
        name: String,
        /// The fault.
        error: SpecError,
    },
    /// A setting without which nothing can be said.
    #[error("{place}: {key} is missing")]
    Missing {
        /// The file.
        place: String,
        /// The setting.
        key: &'static str,
    },
    /// Two tunnels of one name.
    #[error("tunnel {name} is described twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// A file of our own that cannot be read.
    #[error("{file}: {error}")]
    Own {
        /// The file.
        file: String,
        /// The fault.
        error: FileError,
    },
    /// The tunnels cannot be together.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Our own file cannot be written.
    #[error("cannot write TOML: {0}")]
    Write(#[from] ::toml::ser::Error),
    /// The format is only written.
    #[error("Nix expressions cannot be read, only written")]
    WriteOnly,
}

impl UserError for FormatError {
    fn kind(&self) -> Kind {
        match self {
            FormatError::Plan(error) => error.kind(),
            FormatError::Write(_) => Kind::Failed,
            _ => Kind::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            FormatError::Plan(error) => error.hint(),
            FormatError::Syntax { .. } => Some(
                "--format says what the file is, if it was taken for something else".to_owned(),
            ),
            FormatError::Tunnel { error, .. } => error.hint(),
            FormatError::Own { error, .. } => error.hint(),
            FormatError::Twice { .. } => Some("give each tunnel in one file only".to_owned()),
            FormatError::WriteOnly => {
                Some("where its tunnels run, `gretun import --live` reads them".to_owned())
            }
            FormatError::Value { .. } | FormatError::Missing { .. } | FormatError::Write(_) => None,
        }
    }
}
