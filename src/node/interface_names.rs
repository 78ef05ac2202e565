//! Names of the tunnel interfaces: a template with a number in it, and the number that each peer has.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::proto::NodePublic;
use crate::tunnel::name;

/// The largest number that a template must have room for.
const MAX_NUMBER: u16 = 9999;

/// The pattern of interface names, with `%d` where the number goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IfaceTemplate {
    before: String,
    after: String,
}

impl IfaceTemplate {
    /// Returns the name of the interface with this number.
    pub fn name(&self, number: u16) -> String {
        format!("{}{number}{}", self.before, self.after)
    }

    /// Returns the number in this interface name, where the template could have made the name.
    pub fn number(&self, name: &str) -> Option<u16> {
        name.strip_prefix(&self.before)?
            .strip_suffix(&self.after)?
            .parse()
            .ok()
    }
}

impl Default for IfaceTemplate {
    /// `gretun%d`.
    fn default() -> Self {
        IfaceTemplate {
            before: "gretun".to_owned(),
            after: String::new(),
        }
    }
}

impl FromStr for IfaceTemplate {
    type Err = IfaceTemplateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (before, after) =
            text.split_once("%d")
                .ok_or_else(|| IfaceTemplateError::NoNumber {
                    iface: text.to_owned(),
                })?;
        let template = IfaceTemplate {
            before: before.to_owned(),
            after: after.to_owned(),
        };
        if name::check_new(&template.name(MAX_NUMBER)).is_ok() {
            Ok(template)
        } else {
            Err(IfaceTemplateError::Invalid {
                iface: text.to_owned(),
            })
        }
    }
}

/// A template that names no interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IfaceTemplateError {
    /// It has no place for the number.
    #[error("iface {iface:?} has no %d")]
    NoNumber {
        /// What was given.
        iface: String,
    },
    /// The names made from it would not be valid.
    #[error("iface {iface:?} does not give a valid interface name")]
    Invalid {
        /// What was given.
        iface: String,
    },
}

/// The number in the interface name of each peer. Kept on disk, so that interface names survive restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceNumbers(BTreeMap<NodePublic, u16>);

impl InterfaceNumbers {
    /// Returns the peer's number; gives it the lowest free one where it has none.
    pub fn number(&mut self, peer: NodePublic) -> u16 {
        if let Some(&number) = self.0.get(&peer) {
            return number;
        }
        let taken: BTreeSet<u16> = self.0.values().copied().collect();
        let free = (0..=u16::MAX)
            .find(|number| !taken.contains(number))
            .unwrap_or(u16::MAX);
        self.0.insert(peer, free);
        free
    }

    /// Notes the number that the peer's link in the kernel has, unless another peer has that number by now.
    pub fn keep(&mut self, peer: NodePublic, number: u16) {
        if !self.0.values().any(|&taken| taken == number) {
            self.0.entry(peer).or_insert(number);
        }
    }

    /// Forgets the peers that `keep` does not name, so that their numbers can be used again.
    pub fn retain(&mut self, keep: impl Fn(&NodePublic) -> bool) {
        self.0.retain(|peer, _| keep(peer));
    }
}
