//! Every kind of NAT against every other: connected exactly when the oracle says so, and as quickly as the documentation says.

use std::fmt::Write as _;
use std::time::Duration;

use gretun::node::State;

use crate::nat::{Filtering, Mapping, NatKind};
use crate::oracle::{depends_on_luck, direct_possible};
use crate::world::World;

/// Time to connect when both daemons run and know each other; a pair that needs no port search needs far less.
const JOIN_BOUND: Duration = Duration::from_secs(3);
/// Time for which an impossible pair is watched.
const WATCH: Duration = Duration::from_secs(25);

const DOCUMENTATION: &str = include_str!("../../docs/NAT_TRAVERSAL.md");

pub fn kinds() -> Vec<Option<NatKind>> {
    let mut kinds: Vec<Option<NatKind>> = vec![None, Some(NatKind::LINUX)];
    kinds.extend(NatKind::all().map(Some));
    kinds.push(Some(NatKind::SEQUENTIAL));
    kinds
}

fn name(kind: Option<NatKind>) -> String {
    let Some(kind) = kind else {
        return "none".to_owned();
    };
    if kind == NatKind::LINUX {
        return "Linux".to_owned();
    }
    if kind == NatKind::SEQUENTIAL {
        return "in order".to_owned();
    }
    let mapping = match kind.mapping {
        Mapping::Independent => "I",
        Mapping::Address => "A",
        Mapping::AddressPort => "AP",
    };
    let filtering = match kind.filtering {
        Filtering::Independent => "I",
        Filtering::Address => "A",
        Filtering::AddressPort => "AP",
    };
    format!("{mapping}/{filtering}")
}

/// Measures the time from the start of `other`'s host until both call the other direct.
fn join_time(seed: u64, one: Option<NatKind>, other: Option<NatKind>) -> Option<Duration> {
    let mut world = World::new(seed);
    let a = world.site("a", 2, one);
    let b = world.site("b", 1, other);
    world.start(a);
    world.run(Duration::from_secs(1));
    world.start(b);
    let possible = direct_possible(one, other);
    let bound = if possible { JOIN_BOUND } else { WATCH };
    let joined = world.run_until(bound, |world| world.joined(a, b));
    assert!(
        joined.is_some() == possible || depends_on_luck(one, other),
        "{one:?} with {other:?}\n{}",
        world.story()
    );
    if !possible && !depends_on_luck(one, other) {
        assert_eq!(world.state(a, b), State::Unreachable, "{}", world.story());
    }
    joined
}

#[test]
fn every_pair_joins_exactly_when_it_can_and_as_quickly_as_documented() {
    let mut table = String::from("|  |");
    for kind in kinds() {
        write!(table, " {} |", name(kind)).expect("a string takes it");
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(kinds().len()));
    for (row, one) in kinds().into_iter().enumerate() {
        write!(table, "\n| **{}** |", name(one)).expect("a string takes it");
        for (column, other) in kinds().into_iter().enumerate() {
            let seed = (row * 100 + column) as u64;
            let cell = join_time(seed, one, other);
            let cell = cell.map_or("no".to_owned(), |it| it.as_millis().to_string());
            write!(table, " {cell} |").expect("a string takes it");
        }
    }
    assert!(
        DOCUMENTATION.contains(&table),
        "docs/NAT_TRAVERSAL.md should say:\n{table}"
    );
}
