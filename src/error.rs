//! The ground floor of error handling: every error that can reach a person or a script has a kind and a hint.
//!
//! An error type that can leave a command implements [`UserError`]. `cli/report.rs` alone prints errors and picks exit codes.

use std::error::Error;

/// The kind of a failure. It decides the exit code, which is stable once released.
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

/// An error with its kind and a hint for the reader.
pub trait UserError: Error {
    /// The kind, and with it the exit code.
    fn kind(&self) -> Kind {
        Kind::Failed
    }

    /// One sentence that names the way out, with the command to run where there is one.
    fn hint(&self) -> Option<String> {
        None
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
