use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::tunnel::snat;

/// Somebody else's set and chain in the table.
const FOREIGN: &str = "foreign";

/// Carries a change out as strictly as the kernel does: what is created must not be there, and what is deleted or named must be.
fn apply(observed: &mut Observed, change: &Change) {
    fn set<'a>(observed: &'a mut Observed, name: &str) -> &'a mut Set {
        let there = observed.sets.get_mut(name).expect("the set is there");
        there.as_mut().expect("the set is of gretun's type")
    }
    match change {
        Change::AddTable => {
            assert!(!observed.exists);
            observed.exists = true;
        }
        Change::DeleteEmptyTable => {
            if observed.sets.is_empty() && observed.chains.is_empty() {
                *observed = Observed::default();
            }
        }
        Change::AddSet { set, family } => {
            let added = Set {
                family: *family,
                elements: BTreeSet::new(),
            };
            assert!(observed.exists && !observed.sets.contains_key(set));
            observed.sets.insert(set.clone(), Some(added));
        }
        Change::DeleteSet { set } => {
            let chains = observed.chains.values();
            let mut rules = chains.flat_map(|chain| chain.iter().flat_map(|it| &it.rules));
            assert!(rules.all(|rule| rule.set != *set), "a rule names {set}");
            assert!(observed.sets.remove(set).is_some());
        }
        Change::AddElements {
            set: name,
            elements,
        } => {
            let there = set(observed, name);
            assert!(!elements.is_empty());
            for element in elements {
                assert!(Family::of_net(element.1) == there.family);
                assert!(there.elements.insert(element.clone()));
            }
        }
        Change::DeleteElements {
            set: name,
            elements,
        } => {
            let there = set(observed, name);
            assert!(!elements.is_empty());
            for element in elements {
                assert!(there.elements.remove(element));
            }
        }
        Change::AddChain { chain, base } => {
            assert!(observed.exists && base.rules.is_empty());
            let before = observed.chains.insert(chain.clone(), Some(base.clone()));
            assert_eq!(before, None);
        }
        Change::FlushChain { chain } => {
            let chain = observed.chains.get_mut(chain).expect("the chain is there");
            chain.as_mut().expect("a base chain").rules.clear();
        }
        Change::DeleteChain { chain } => {
            assert!(observed.chains.remove(chain).is_some());
        }
        Change::AddRule { chain, rule } => {
            set(observed, &rule.set);
            let chain = observed.chains.get_mut(chain).expect("the chain is there");
            let chain = chain.as_mut().expect("a base chain");
            chain.rules.push(rule.clone());
        }
    }
}

fn element() -> impl Strategy<Value = Element> {
    const NETWORKS: &[&str] = &["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1/32", "fd00::/8"];
    let network = prop::sample::select(NETWORKS).prop_map(|it| it.parse().unwrap());
    ("[ab]", network)
}

fn pairs() -> impl Strategy<Value = BTreeSet<Element>> {
    prop::collection::btree_set(element(), 0..6)
}

/// What somebody did to the table: removed or replaced a set, a chain or a rule, or added some of their own.
#[derive(Clone, Debug)]
enum Meddling {
    FlushRuleset,
    ForgetSet(String),
    ForgetChain,
    ForgetRules(usize),
    UnknownRule,
    OtherPriority,
    AddTheirs,
}

fn meddling() -> impl Strategy<Value = Meddling> {
    let set = prop::sample::select(&["tunnels_snat4", "tunnels_snat6"][..]);
    prop_oneof![
        Just(Meddling::FlushRuleset),
        set.prop_map(|it| Meddling::ForgetSet(it.to_owned())),
        Just(Meddling::ForgetChain),
        (0..4_usize).prop_map(Meddling::ForgetRules),
        Just(Meddling::UnknownRule),
        Just(Meddling::OtherPriority),
        Just(Meddling::AddTheirs),
    ]
}

fn meddle(observed: &mut Observed, meddling: Meddling) {
    let chains = observed.chains.iter_mut();
    let own = |name: &&String| *name != FOREIGN;
    let mut own = chains.filter(|(name, _)| own(name)).map(|(_, chain)| chain);
    match meddling {
        Meddling::FlushRuleset => *observed = Observed::default(),
        // The kernel lets nobody delete a set that a rule names.
        Meddling::ForgetSet(set) => {
            observed.chains.retain(|name, _| name == FOREIGN);
            observed.sets.remove(&set);
        }
        Meddling::ForgetChain => observed.chains.retain(|name, _| name == FOREIGN),
        Meddling::ForgetRules(kept) => {
            if let Some(Some(chain)) = own.next() {
                chain.rules.truncate(kept);
            }
        }
        Meddling::UnknownRule => {
            if let Some(chain) = own.next() {
                *chain = None;
            }
        }
        Meddling::OtherPriority => {
            if let Some(Some(chain)) = own.next() {
                chain.priority += 1;
            }
        }
        Meddling::AddTheirs => {
            observed.exists = true;
            observed.sets.insert(FOREIGN.to_owned(), None);
            observed.chains.insert(FOREIGN.to_owned(), None);
        }
    }
}

/// Of the table, what belongs to somebody else.
fn foreign(observed: &Observed) -> (bool, bool) {
    let (sets, chains) = (&observed.sets, &observed.chains);
    (sets.contains_key(FOREIGN), chains.contains_key(FOREIGN))
}

proptest! {
    #[test]
    fn the_difference_leads_to_the_desired_table_and_then_there_is_none(
        steps in prop::collection::vec((pairs(), prop::option::of(meddling())), 1..6),
    ) {
        let mut observed = Observed::default();
        for (pairs, meddling) in steps {
            if let Some(meddling) = meddling {
                meddle(&mut observed, meddling);
            }
            let theirs = foreign(&observed);
            let desired = snat::table(pairs.clone());
            for change in difference(&observed, &desired).unwrap() {
                apply(&mut observed, &change);
            }
            prop_assert_eq!(difference(&observed, &desired), Ok(vec![]));
            prop_assert_eq!(foreign(&observed), theirs);
            if pairs.is_empty() {
                let ours = |name: &&String| *name != FOREIGN;
                prop_assert_eq!(observed.sets.keys().filter(ours).count(), 0);
                prop_assert_eq!(observed.chains.keys().filter(ours).count(), 0);
            } else {
                prop_assert!(observed.has_rules_of(&desired));
                prop_assert_eq!(observed.elements(&desired), pairs);
            }
        }
    }

    #[test]
    fn one_pair_more_or_less_is_one_element(pairs in pairs(), other in element()) {
        prop_assume!(!pairs.is_empty() && !pairs.contains(&other));
        let mut observed = Observed::default();
        for change in difference(&observed, &snat::table(pairs.clone())).unwrap() {
            apply(&mut observed, &change);
        }
        let mut more = pairs.clone();
        more.insert(other);
        let changes = difference(&observed, &snat::table(more.clone())).unwrap();
        prop_assert!(matches!(&changes[..], [Change::AddElements { .. }]), "{:?}", changes);
        apply(&mut observed, &changes[0]);
        let changes = difference(&observed, &snat::table(pairs)).unwrap();
        prop_assert!(matches!(&changes[..], [Change::DeleteElements { .. }]), "{:?}", changes);
    }
}

#[test]
fn a_set_of_another_type_is_a_conflict_and_stays() {
    let observed = Observed {
        exists: true,
        sets: BTreeMap::from([("tunnels_snat4".to_owned(), None)]),
        chains: BTreeMap::new(),
    };
    let pair = ("t0".to_owned(), "10.0.0.0/8".parse().unwrap());
    let conflict = difference(&observed, &snat::table([pair])).unwrap_err();
    assert_eq!(conflict.set, "tunnels_snat4");
    assert_eq!(difference(&observed, &snat::table([])), Ok(vec![]));
}

#[test]
fn elements_without_their_rules_have_no_effect() {
    let desired = snat::table([("t0".to_owned(), "10.0.0.0/8".parse().unwrap())]);
    let mut observed = Observed::default();
    for change in difference(&observed, &desired).unwrap() {
        apply(&mut observed, &change);
    }
    assert!(observed.has_rules_of(&desired));
    meddle(&mut observed, Meddling::ForgetRules(3));
    assert!(!observed.has_rules_of(&desired));
    let changes = difference(&observed, &desired).unwrap();
    assert!(matches!(
        &changes[..],
        [Change::FlushChain { .. }, Change::AddRule { .. }, ..]
    ));
}
