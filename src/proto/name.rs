//! Names of peers: DNS labels, unique within the network.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest DNS label, bytes (RFC 1035 section 2.3.4).
pub const MAX_LEN: usize = 63;

/// A peer's name: 1 to 63 of `a-z`, `0-9` and `-`, no hyphen at either end (RFC 1123 section 2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerName(String);

/// The text is no DNS label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a DNS label")]
pub struct NameError {
    /// The name that was asked for, cut to a length that fits a message.
    pub text: String,
    /// The nearest name that would do, if any letter of it is usable.
    pub suggestion: Option<String>,
}

impl PeerName {
    /// Takes a name as asked for; capitals become small letters, anything else unfit is an error.
    pub fn parse(text: &str) -> Result<PeerName, NameError> {
        let name = text.to_ascii_lowercase();
        if is_label(&name) {
            return Ok(PeerName(name));
        }
        Err(NameError {
            text: text
                .chars()
                .take(MAX_LEN + 1)
                .collect::<String>()
                .escape_debug()
                .to_string(),
            suggestion: nearest_label(&name),
        })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// This name, or `NAME-N` for the first N from 2 on that is free.
    pub fn first_free(&self, taken: impl Fn(&PeerName) -> bool) -> PeerName {
        let mut candidate = self.clone();
        let mut number = 2_u32;
        while taken(&candidate) {
            candidate = self.numbered(number);
            number = number.saturating_add(1);
        }
        candidate
    }

    /// Returns whether this name is `wanted`, or derived from it by [`PeerName::first_free`].
    pub fn stems_from(&self, wanted: &PeerName) -> bool {
        self == wanted
            || self
                .0
                .rsplit_once('-')
                .and_then(|(_, digits)| digits.parse().ok())
                .is_some_and(|number| number >= 2 && wanted.numbered(number) == *self)
    }

    fn numbered(&self, number: u32) -> PeerName {
        let suffix = format!("-{number}");
        let stem = &self.0[..self.0.len().min(MAX_LEN - suffix.len())];
        PeerName(stem.trim_end_matches('-').to_owned() + &suffix)
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PeerName {
    type Error = NameError;

    fn try_from(text: String) -> Result<PeerName, NameError> {
        PeerName::parse(&text)
    }
}

impl From<PeerName> for String {
    fn from(name: PeerName) -> String {
        name.0
    }
}

/// Whether a text is a DNS label in small letters (RFC 1123 section 2.1).
pub fn is_label(name: &str) -> bool {
    (1..=MAX_LEN).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Returns the first label of a host's name in small letters, with unfit characters replaced by hyphens; `None` if no letter or digit
/// is left.
pub fn nearest_label(name: &str) -> Option<String> {
    let label = name.split('.').next().unwrap_or(name).to_ascii_lowercase();
    let fit: String = label
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(MAX_LEN)
        .collect();
    let fit = fit.trim_matches('-');
    (!fit.is_empty()).then(|| fit.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> PeerName {
        PeerName::parse(text).unwrap()
    }

    #[test]
    fn labels_are_taken_and_capitals_lowered() {
        for good in ["a", "7", "alice", "web-01", "a--b", &"x".repeat(63)] {
            assert_eq!(name(good).as_str(), good);
        }
        assert_eq!(name("Alice").as_str(), "alice");
    }

    #[test]
    fn what_is_no_label_is_refused_with_the_nearest_that_is() {
        let suggestions = [
            ("", None),
            ("-", None),
            ("ü", None),
            ("-a", Some("a")),
            ("a-", Some("a")),
            ("my_host.example.org", Some("my-host")),
            ("a b", Some("a-b")),
            ("a\nb", Some("a-b")),
        ];
        for (bad, suggestion) in suggestions {
            assert_eq!(
                PeerName::parse(bad).unwrap_err().suggestion.as_deref(),
                suggestion,
                "{bad:?}"
            );
        }
        assert!(PeerName::parse(&"x".repeat(64)).is_err());
    }

    #[test]
    fn a_taken_name_gets_the_first_free_number() {
        let mut taken = BTreeSet::new();
        for expected in ["alice", "alice-2", "alice-3"] {
            let given = name("alice").first_free(|it| taken.contains(it));
            assert_eq!(given.as_str(), expected);
            assert!(given.stems_from(&name("alice")));
            taken.insert(given);
        }
        assert!(!name("alice-1").stems_from(&name("alice")));
        assert!(!name("bob-2").stems_from(&name("alice")));
    }

    proptest! {
        #[test]
        fn numbered_names_and_suggestions_are_labels(text in ".{0,80}", label in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", number in 2_u32..) {
            if let Err(NameError { suggestion: Some(suggestion), .. }) = PeerName::parse(&text) {
                prop_assert!(is_label(&suggestion), "{}", suggestion);
            }
            let numbered = name(&label).numbered(number);
            prop_assert!(is_label(numbered.as_str()), "{}", numbered);
            prop_assert!(numbered.stems_from(&name(&label)));
        }
    }
}
