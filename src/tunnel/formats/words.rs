//! The words of a command of iproute2, read from left to right.

use super::{FormatError, Setting};

/// The words of a command, taken one by one.
pub(super) struct Words<'a> {
    pub(super) at: Setting<'a>,
    pub(super) words: std::slice::Iter<'a, &'a str>,
}

impl<'a> Words<'a> {
    pub(super) fn next(&mut self) -> Option<&'a str> {
        self.words.next().copied()
    }

    /// The value of the word before.
    pub(super) fn value(&mut self, key: &'a str) -> Result<Setting<'a>, FormatError> {
        let value = self.next();
        let entry = Setting {
            key,
            value: value.unwrap_or_default(),
            ..self.at
        };
        value.map(|_| entry).ok_or_else(|| entry.bad("a value"))
    }

    pub(super) fn entry(&self, key: &'a str) -> Setting<'a> {
        Setting { key, ..self.at }
    }
}
