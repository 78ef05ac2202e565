//! How a failure reaches the person or script that asked: message, hint, exit code, JSON. Every error type that can
//! leave a command implements [`Explain`]; nothing else in the crate prints an error or picks an exit code.

use std::error::Error;
use std::process::ExitCode;

use super::out::errln;

/// What kind of failure it was; decides the exit code, which is stable once released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command ran and did not reach its goal: exit code 1.
    Failed,
    /// The command line or a configuration file is wrong: exit code 2.
    Usage,
    /// A permission or a kernel feature is missing: exit code 3.
    Environment,
}

impl Kind {
    /// The process exit code for this kind.
    pub fn code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Environment => 3,
        }
    }
}

/// An error that knows what kind it is and what the reader can do about it.
pub trait Explain: Error {
    /// The kind, and with it the exit code.
    fn kind(&self) -> Kind {
        Kind::Failed
    }

    /// One sentence that names the way out, with the command to run where there is one.
    fn hint(&self) -> Option<String> {
        None
    }
}

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

impl<E: Explain> From<E> for Report {
    fn from(error: E) -> Self {
        Report {
            kind: error.kind(),
            message: chain(&error),
            hint: error.hint(),
        }
    }
}

/// An error with all its causes on one line; a cause that the text already contains is not repeated.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
