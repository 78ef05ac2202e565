//! The nftables table of gretun as a model: what it is to hold, what the kernel holds, and the changes that lead from one to the
//! other. Pure; `kernel/host/nftables/` reads the kernel's table and sends the changes as one transaction.
//!
//! Every set has the key (interface name, network), and every rule looks its packets up in one set. So a tunnel that comes or goes
//! is an element, and the rules stay. Sets and chains that gretun does not name are of somebody else and stay as they are.

mod difference;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use thiserror::Error;

use super::mode::Family;

pub use difference::{Change, difference};

/// The name of the table; its family is `inet`.
pub const TABLE: &str = "gretun";

/// An interface, and a network that is reached through it.
pub type Element = (String, IpNet);

/// The part of the table that gretun manages, as it is to be. While no set has an element, the table is to hold none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The sets by their names.
    pub sets: BTreeMap<String, Set>,
    /// The base chains by their names.
    pub chains: BTreeMap<String, Chain>,
}

/// A set of (interface name, network), with the flag `interval`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The version of IP of its networks.
    pub family: Family,
    /// The elements. Those of one interface do not overlap: the kernel refuses that.
    pub elements: BTreeSet<Element>,
}

/// The names of two sets of one purpose.
#[derive(Clone, Copy, Debug)]
pub struct SetPair {
    /// The set of IPv4 networks.
    pub v4: &'static str,
    /// The set of IPv6 networks.
    pub v6: &'static str,
}

impl SetPair {
    /// Returns the name of the set for this version of IP.
    pub fn of(self, family: Family) -> &'static str {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Returns both sets with these elements, by their names. nftables, which reads a network by its first and last address, knows no
    /// host bits.
    pub fn holding(self, elements: impl IntoIterator<Item = Element>) -> BTreeMap<String, Set> {
        let empty = [Family::V4, Family::V6].map(|family| {
            let elements = BTreeSet::new();
            (self.of(family).to_owned(), Set { family, elements })
        });
        let mut sets = BTreeMap::from(empty);
        for (link, network) in elements {
            if let Some(set) = sets.get_mut(self.of(Family::of_net(network))) {
                set.elements.insert((link, network.trunc()));
            }
        }
        sets
    }

    /// Returns the `nft` command that adds or deletes an element.
    pub fn command(self, verb: &str, link: &str, network: IpNet) -> String {
        let set = self.of(Family::of_net(network));
        format!("{verb} element inet {TABLE} {set} {{ \"{link}\" . {network} }}")
    }
}

/// A base chain whose policy is `accept`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where packets come by.
    pub hook: Hook,
    /// The place among the chains at this hook.
    pub priority: i32,
    /// The rules in their order.
    pub rules: Vec<Rule>,
}

/// The type of a chain together with its hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `type nat hook postrouting`.
    NatPostrouting,
    /// `type filter hook prerouting`.
    FilterPrerouting,
}

/// A rule for packets of one version of IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The version of IP of the packets.
    pub family: Family,
    /// The set that an interface and an address of the packet are looked up in.
    pub set: String,
    /// The lookup, and the verdict that follows.
    pub action: Action,
}

/// The action of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `iifname . ip daddr @SET masquerade`, or the same of the interface that the packet leaves by.
    Masquerade(Interface),
    /// `iifgroup GROUP iifname . ip saddr != @SET drop`: of what comes in by the links of a device group, only the sources in the set
    /// are let in.
    DropOtherSources {
        /// The device group.
        group: u32,
    },
}

/// An interface of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// The packet came in by it.
    Input,
    /// The packet leaves by it.
    Output,
}

/// The kernel's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether there is a table of this name.
    pub exists: bool,
    /// All sets; `None` for a set with another key or of another kind.
    pub sets: BTreeMap<String, Option<Set>>,
    /// All chains; `None` for a chain that is no base chain of a known type, or that has a rule of another form.
    pub chains: BTreeMap<String, Option<Chain>>,
}

/// A name of the table is in use for something else.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the set {set} in the table inet {TABLE} has another type")]
pub struct Conflict {
    /// The name of the set.
    pub set: String,
}

impl Table {
    /// Whether the kernel's table is to hold nothing of this.
    pub fn is_empty(&self) -> bool {
        self.sets.values().all(|set| set.elements.is_empty())
    }

    /// The elements of all sets.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.sets.values().flat_map(|set| &set.elements)
    }
}

impl Observed {
    /// The kernel's elements in the sets that the model names.
    pub fn elements(&self, model: &Table) -> BTreeSet<Element> {
        let sets = model.sets.keys().filter_map(|name| self.set(name));
        sets.flat_map(|set| set.elements.clone()).collect()
    }

    /// Whether the rules of the model are in force. Without them the elements have no effect.
    pub fn has_rules_of(&self, model: &Table) -> bool {
        let mut chains = model.chains.iter();
        chains.all(|(name, chain)| self.chains.get(name).and_then(Option::as_ref) == Some(chain))
    }

    fn set(&self, name: &str) -> Option<&Set> {
        self.sets.get(name)?.as_ref()
    }
}
