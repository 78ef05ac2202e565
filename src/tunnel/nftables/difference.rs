//! From the kernel's table to the desired one, by the element.

use std::collections::BTreeSet;

use super::{Chain, Conflict, Element, Observed, Rule, Set, Table};
use crate::tunnel::mode::Family;

/// One change; those of a difference go to the kernel as one transaction, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Create the table.
    AddTable,
    /// Create a set without elements.
    AddSet {
        /// The set.
        set: String,
        /// The version of IP of its networks.
        family: Family,
    },
    /// Delete a set with its elements.
    DeleteSet {
        /// The set.
        set: String,
    },
    /// Add elements to a set.
    AddElements {
        /// The set.
        set: String,
        /// The elements.
        elements: BTreeSet<Element>,
    },
    /// Delete elements of a set.
    DeleteElements {
        /// The set.
        set: String,
        /// The elements.
        elements: BTreeSet<Element>,
    },
    /// Create a base chain without rules.
    AddChain {
        /// The chain.
        chain: String,
        /// Its hook and priority; its rules follow as changes of their own.
        base: Chain,
    },
    /// Delete all rules of a chain.
    FlushChain {
        /// The chain.
        chain: String,
    },
    /// Delete a chain with its rules.
    DeleteChain {
        /// The chain.
        chain: String,
    },
    /// Append a rule to a chain.
    AddRule {
        /// The chain.
        chain: String,
        /// The rule.
        rule: Rule,
    },
    /// Delete the table, unless it holds something of somebody else.
    DeleteEmptyTable,
}

/// Returns the changes after which the kernel's table is as desired; none where it is so already.
///
/// # Errors
/// When a set of a desired name has another type.
pub fn difference(observed: &Observed, desired: &Table) -> Result<Vec<Change>, Conflict> {
    if desired.is_empty() {
        return Ok(removal(observed, desired));
    }
    let mut changes = Vec::new();
    if !observed.exists {
        changes.push(Change::AddTable);
    }
    // Elements that go make room for elements that come: within a set the networks of one interface must not overlap.
    let mut added = Vec::new();
    for (name, set) in &desired.sets {
        let there = match observed.sets.get(name) {
            Some(Some(there)) if there.family == set.family => Some(there),
            Some(_) => return Err(Conflict { set: name.clone() }),
            None => {
                changes.push(Change::AddSet {
                    set: name.clone(),
                    family: set.family,
                });
                None
            }
        };
        let no_elements = BTreeSet::new();
        let there = there.map_or(&no_elements, |set| &set.elements);
        let elements: BTreeSet<Element> = there.difference(&set.elements).cloned().collect();
        if !elements.is_empty() {
            changes.push(Change::DeleteElements {
                set: name.clone(),
                elements,
            });
        }
        let elements: BTreeSet<Element> = set.elements.difference(there).cloned().collect();
        if !elements.is_empty() {
            added.push(Change::AddElements {
                set: name.clone(),
                elements,
            });
        }
    }
    changes.extend(added);
    for (name, chain) in &desired.chains {
        change_chain(name, observed.chains.get(name), chain, &mut changes);
    }
    Ok(changes)
}

fn change_chain(
    name: &str,
    observed: Option<&Option<Chain>>,
    desired: &Chain,
    changes: &mut Vec<Change>,
) {
    let chain = name.to_owned();
    let base = |it: &Chain| (it.hook, it.priority);
    match observed {
        Some(Some(there)) if there == desired => return,
        Some(Some(there)) if base(there) == base(desired) => {
            changes.push(Change::FlushChain { chain });
        }
        there => {
            if there.is_some() {
                let chain = chain.clone();
                changes.push(Change::DeleteChain { chain });
            }
            let base = Chain {
                rules: Vec::new(),
                ..desired.clone()
            };
            changes.push(Change::AddChain { chain, base });
        }
    }
    changes.extend(desired.rules.iter().map(|rule| Change::AddRule {
        chain: name.to_owned(),
        rule: rule.clone(),
    }));
}

/// Chains go before the sets that their rules name. A set of another type is not of gretun and stays.
fn removal(observed: &Observed, desired: &Table) -> Vec<Change> {
    let is_ours = |set: &Option<Set>, family| set.as_ref().is_some_and(|it| it.family == family);
    let chains = desired.chains.keys();
    let chains = chains.filter(|name| observed.chains.contains_key(*name));
    let chains = chains.map(|name| Change::DeleteChain {
        chain: name.clone(),
    });
    let sets = desired.sets.iter().filter(|(name, set)| {
        let there = observed.sets.get(*name);
        there.is_some_and(|there| is_ours(there, set.family))
    });
    let sets = sets.map(|(name, _)| Change::DeleteSet { set: name.clone() });
    let mut changes: Vec<Change> = chains.chain(sets).collect();
    if !changes.is_empty() {
        changes.push(Change::DeleteEmptyTable);
    }
    changes
}
