//! Sections of settings, as systemd and GLib write them. A section may come twice, and so may a setting.

use super::{FormatError, Setting, Source};

/// `[name]` and the lines below it.
#[derive(Clone, Debug)]
pub(super) struct Section<'a> {
    pub name: &'a str,
    pub entries: Vec<Setting<'a>>,
}

impl<'a> Section<'a> {
    /// The last setting of this name.
    pub fn get(&self, key: &str) -> Option<Setting<'a>> {
        let mut entries = self.entries.iter().rev();
        entries.find(|entry| entry.key == key).copied()
    }
}

/// Splits a file.
pub(super) fn read(source: &Source) -> Result<Vec<Section<'_>>, FormatError> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for (i, line) in source.text.lines().enumerate() {
        let bad = |what| FormatError::Syntax {
            file: source.name.clone(),
            line: i + 1,
            what,
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.ends_with('\\') {
            return Err(bad("a setting over several lines is not supported"));
        }
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest
                .strip_suffix(']')
                .ok_or_else(|| bad("no closing bracket"))?;
            let entries = Vec::new();
            sections.push(Section { name, entries });
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| bad("neither [section] nor key=value"))?;
        let section = sections
            .last_mut()
            .ok_or_else(|| bad("a setting before the first [section]"))?;
        section.entries.push(Setting {
            file: &source.name,
            line: i + 1,
            key: key.trim(),
            value: value.trim(),
        });
    }
    Ok(sections)
}
