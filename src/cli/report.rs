//! Prints a failure to the person or script that asked: message, hint, exit code, JSON. Nothing else in the crate prints an
//! error or picks an exit code.

use std::process::ExitCode;

use super::out::errln;
use crate::error::{Kind, UserError, chain};

/// A failure ready to be shown.
#[derive(Debug)]
pub struct Report {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Report {
    /// A usage error found after parsing, such as two flags that contradict each other.
    pub fn usage(message: impl Into<String>) -> Self {
        Report {
            kind: Kind::Usage,
            message: message.into(),
            hint: None,
        }
    }

    /// A failure with no error value behind it, such as a threshold that was not met.
    pub fn failed(message: impl Into<String>) -> Self {
        Report {
            kind: Kind::Failed,
            message: message.into(),
            hint: None,
        }
    }

    /// Adds the way out.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The kind of this failure.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Prints to standard error, as text or as one JSON object, and gives the exit code.
    pub fn exit(&self, json: bool) -> ExitCode {
        if json {
            let object = serde_json::json!({"error": self.message, "hint": self.hint, "code": self.kind.code()});
            errln!("{object}");
        } else {
            errln!("error: {}", self.message);
            if let Some(hint) = &self.hint {
                errln!("hint: {hint}");
            }
        }
        ExitCode::from(self.kind.code())
    }
}

impl<E: UserError> From<E> for Report {
    fn from(error: E) -> Self {
        Report {
            kind: error.kind(),
            message: chain(&error),
            hint: error.hint(),
        }
    }
}
