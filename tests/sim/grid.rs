//! Every kind of NAT against every other: connected exactly when the oracle says so, and as quickly as the documentation says.

use std::fmt::Write as _;
use std::time::Duration;

use gretun::node::State;

use crate::nat::{Filtering, Mapping, NatKind};
use crate::oracle::{
    Seen, depends_on_luck, direct_possible, joined_by_any_search, joined_without_search,
};
use crate::world::World;

/// Both daemons run and know each other: what needs no port search needs far less.
const JOIN_BOUND: Duration = Duration::from_secs(3);
/// The same for a pair that needs no port search.
const JOIN_BOUND_EASY: Duration = Duration::from_millis(300);
/// With one STUN server every port search begins after the second that the ordinary path search has for itself, and both hosts guess.
const JOIN_BOUND_ONE_SERVER: Duration = Duration::from_secs(4);
/// How long an impossible pair is watched.
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

/// From the start of `other`'s host until both call the other direct; each knows as many STUN servers as `seen` says.
fn join_time(
    seed: u64,
    seen: Seen,
    one: Option<NatKind>,
    other: Option<NatKind>,
) -> Option<Duration> {
    let mut world = World::new(seed);
    if seen == Seen::FromOneServer {
        world.servers.truncate(1);
    }
    let a = world.site("a", 2, one);
    let b = world.site("b", 1, other);
    world.start(a);
    world.run(Duration::from_secs(1));
    world.start(b);
    let (possible, bound) = match seen {
        Seen::FromTwoPorts => (direct_possible(one, other), JOIN_BOUND),
        Seen::FromOneServer => (joined_by_any_search(one, other), JOIN_BOUND_ONE_SERVER),
    };
    let bound = if possible { bound } else { WATCH };
    let joined = world.run_until(bound, |world| world.joined(a, b));
    let kinds = [one, other].map(Vec::from_iter);
    assert!(
        joined <= Some(JOIN_BOUND_EASY) || !joined_without_search(&kinds[0], &kinds[1]),
        "{one:?} with {other:?}: {joined:?}"
    );
    let lucky = depends_on_luck(seen, one, other);
    assert!(
        joined.is_some() == possible || lucky,
        "{one:?} with {other:?}\n{}",
        world.story()
    );
    if !possible && !lucky {
        assert_eq!(world.state(a, b), State::Unreachable, "{}", world.story());
    }
    joined
}

/// The table of all pairs, in milliseconds, which the documentation must hold.
fn assert_documented(seen: Seen) {
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
            let cell = join_time(seed, seen, one, other);
            let cell = cell.map_or("no".to_owned(), |it| it.as_millis().to_string());
            write!(table, " {cell} |").expect("a string takes it");
        }
    }
    assert!(
        DOCUMENTATION.contains(&table),
        "docs/NAT_TRAVERSAL.md should say:\n{table}"
    );
}

#[test]
fn every_pair_joins_exactly_when_it_can_and_as_quickly_as_documented() {
    assert_documented(Seen::FromTwoPorts);
}

#[test]
fn one_stun_server_joins_every_pair_that_two_join() {
    for one in kinds() {
        for other in kinds() {
            assert!(!direct_possible(one, other) || joined_by_any_search(one, other));
        }
    }
    assert_documented(Seen::FromOneServer);
}
