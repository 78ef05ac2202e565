//! A port that a router grants: what it joins, how quickly, and what is said where it does not help.

use std::time::Duration;

use gretun::node::{Cause, Remedy, RouterPort, Side, State};

use crate::grid::kinds;
use crate::nat::NatKind;
use crate::network::{INTERNET, RouterId};
use crate::oracle::direct_possible;
use crate::port_search::pair;
use crate::world::{HostId, World};

const SECOND: Duration = Duration::from_secs(1);
const SYMMETRIC: Option<NatKind> = Some(NatKind::SYMMETRIC);

/// The external port: another than the data port, as where that belongs to another host of the LAN.
const EXTERNAL: u16 = 40_123;

/// The documented time in which a pair is connected where a router grants a port.
const AT_ONCE: Duration = Duration::from_millis(150);

fn verdict(world: &World, at: HostId, of: HostId) -> (Cause, Vec<Remedy>, String) {
    let peer = world.hosts[of.0].node_key;
    let found = world.node(at).explain(world.now, peer);
    let (_, explanation) = found.expect("the peer is known");
    (
        explanation.cause,
        explanation.remedies,
        format!("{:?}", explanation.evidence),
    )
}

/// Measures the time from the start of the second daemon until both call the other direct. The router of `a` grants a port.
fn join_time(seed: u64, one: Option<NatKind>, other: Option<NatKind>) -> (World, Option<Duration>) {
    let (mut world, a, b) = pair(seed, one, other);
    if one.is_some() {
        world.grant_port(a, &[RouterId(0)], EXTERNAL);
    }
    let (first, second) = if seed % 4 < 2 { (a, b) } else { (b, a) };
    world.start(first);
    world.run(SECOND);
    world.start(second);
    let joined = world.run_until(5 * SECOND, |world| world.joined(a, b));
    (world, joined)
}

#[test]
fn every_pair_is_joined_at_once_when_one_router_grants_a_port() {
    for (row, one) in kinds().into_iter().enumerate() {
        for (column, other) in kinds().into_iter().enumerate() {
            for order in 0..4 {
                let seed = (row * 100 + column) as u64 * 4 + order;
                let (world, joined) = join_time(seed, one, other);
                let joined =
                    joined.unwrap_or_else(|| panic!("{one:?} {other:?}\n{}", world.story()));
                let searches = [0, 1].map(|it| world.node(HostId(it)).counters().port_searches);
                assert!(
                    one.is_none() || (joined <= AT_ONCE && searches == [0; 2]),
                    "{one:?} {other:?} {order}: {joined:?}, {searches:?} port searches"
                );
            }
        }
    }
}

#[test]
fn a_port_that_is_granted_late_joins_a_pair_that_was_given_up() {
    let mut world = World::new(4);
    let a = world.site("a", 2, SYMMETRIC);
    let b = world.site("b", 1, SYMMETRIC);
    world.start(a);
    world.start(b);
    world.run(30 * SECOND);
    assert_eq!(world.state(a, b), State::Unreachable);
    for (at, of) in [(a, b), (b, a)] {
        let (cause, remedies, _) = verdict(&world, at, of);
        assert_eq!(cause, Cause::SymmetricBoth);
        assert_eq!(
            remedies[..2],
            [
                Remedy::PortMapping(Side::Here),
                Remedy::PortMapping(Side::Peer)
            ]
        );
    }
    assert!(!direct_possible(SYMMETRIC, SYMMETRIC));
    world.grant_port(a, &[RouterId(0)], EXTERNAL);
    let joined = world.run_until(SECOND, |world| world.joined(a, b));
    assert!(joined.is_some(), "{}", world.story());
    let (cause, _, evidence) = verdict(&world, b, a);
    assert_eq!(cause, Cause::Direct);
    assert!(
        evidence.contains("router of a: grants 203.0.113.1:40123"),
        "{evidence}"
    );
}

#[test]
fn what_a_router_behind_another_nat_grants_is_told_for_what_it_is() {
    let mut world = World::new(5);
    let (carrier, home) = (world.net(), world.net());
    let outer = world.router(NatKind::SYMMETRIC, INTERNET, "203.0.113.9", carrier);
    let inner = world.router(NatKind::SYMMETRIC, carrier, "100.64.0.7", home);
    let a = world.host("a", 2, home, "192.168.1.10");
    let b = world.site("b", 1, SYMMETRIC);
    world.grant_port(a, &[inner], EXTERNAL);
    world.start(a);
    world.start(b);
    world.run(30 * SECOND);
    for (at, of, side) in [(a, b, Side::Here), (b, a, Side::Peer)] {
        let (cause, remedies, evidence) = verdict(&world, at, of);
        assert_eq!(cause, Cause::SymmetricBoth, "{}", world.story());
        assert!(
            !remedies.contains(&Remedy::PortMapping(side)),
            "{remedies:?}"
        );
        assert!(evidence.contains("another NAT in front"), "{evidence}");
    }
    // A neighbour behind the same carrier can use it.
    let c = world.host("c", 3, carrier, "100.64.0.8");
    world.start(c);
    let joined = world.run_until(5 * SECOND, |world| world.joined(a, c));
    assert!(joined.is_some(), "{}", world.story());
    // The carrier's router forwards too, as one that is asked by PCP would: only then the port is of use to all.
    world.grant_port(a, &[inner, outer], EXTERNAL);
    let open = "203.0.113.9:40123".parse().expect("an address");
    world.set_router_port(a, RouterPort::Granted(open));
    let joined = world.run_until(5 * SECOND, |world| world.joined(a, b));
    assert!(joined.is_some(), "{}", world.story());
}

#[test]
fn a_granted_port_that_a_firewall_closes_is_no_matter_of_nats() {
    let mut world = World::new(6);
    let a = world.site("a", 2, SYMMETRIC);
    let b = world.site("b", 1, SYMMETRIC);
    // The router says so, and does nothing.
    let granted = "203.0.113.1:40123".parse().expect("an address");
    world.set_router_port(a, RouterPort::Granted(granted));
    world.start(a);
    world.start(b);
    world.run(30 * SECOND);
    for (at, of) in [(a, b), (b, a)] {
        let (cause, remedies, _) = verdict(&world, at, of);
        assert_eq!(cause, Cause::Silent);
        assert!(
            remedies
                .iter()
                .all(|it| !matches!(it, Remedy::PortMapping(_)))
        );
    }
}

#[test]
fn a_port_that_is_switched_off_is_the_first_remedy_and_says_how() {
    let mut world = World::new(7);
    let a = world.site("a", 2, SYMMETRIC);
    let b = world.site("b", 1, SYMMETRIC);
    world.hosts[a.0].router_port = RouterPort::Off;
    world.start(a);
    world.start(b);
    world.run(30 * SECOND);
    let peer = world.hosts[b.0].node_key;
    let found = world.node(a).explain(world.now, peer);
    let (evidence, explanation) = found.expect("the peer is known");
    let first = explanation.remedies[0].text(&evidence);
    assert!(first.contains("--port-mapping"), "{first}");
}
