//! `gretun explain` against the simulator's own knowledge: the verdict names the true cause, and what it says would change
//! the outcome does.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gretun::node::{Cause, Evidence, Explanation, Remedy, Side, State, StateReason};

use crate::grid::kinds;
use crate::nat::{Filtering, Mapping, NatKind, Ports};
use crate::network::INTERNET;
use crate::oracle::direct_possible;
use crate::world::{HostId, World};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than a search, one for ports, and a retry.
const LONG: Duration = Duration::from_secs(25);

type Kind = Option<NatKind>;

fn explain(world: &World, at: HostId, of: HostId) -> (Evidence, Explanation) {
    let peer = world.hosts[of.0].node_key;
    let found = world.node(at).explain(world.now, peer);
    found.expect("the peer is known")
}

fn cause(world: &World, at: HostId, of: HostId) -> Cause {
    let (evidence, explanation) = explain(world, at, of);
    let text = format!("{explanation:?}");
    assert!(explanation.verdict.contains(&evidence.peer), "{text}");
    assert!(!explanation.verdict.ends_with('.'), "{text}");
    assert!(!explanation.evidence.is_empty(), "{text}");
    let joined = explanation.cause == Cause::Direct;
    assert_eq!(explanation.remedies.is_empty(), joined, "{text}");
    explanation.cause
}

/// Runs both until they are connected, or have had time for it.
fn pair(seed: u64, one: Kind, other: Kind, servers_at_two_addresses: bool) -> (World, [HostId; 2]) {
    let mut world = World::new(seed);
    if servers_at_two_addresses {
        let second = SocketAddr::new(IpAddr::from([198, 51, 100, 2]), 3478);
        world.servers.push(second);
    }
    let a = world.site("a", 2, one);
    let b = world.site("b", 1, other);
    world.start(a);
    world.start(b);
    world.run_until(LONG, |world| world.joined(a, b));
    settle(&mut world, [a, b]);
    (world, [a, b])
}

/// Runs until no path search is under way, because a path search has no diagnosis yet.
fn settle(world: &mut World, [a, b]: [HostId; 2]) {
    let searches = |world: &World, at, of| explain(world, at, of).1.cause == Cause::Searching;
    let settled = world.run_until(LONG, |world| {
        !searches(world, a, b) && !searches(world, b, a)
    });
    assert!(settled.is_some(), "{}", world.story());
}

/// The truth: whether the public port differs by destination.
fn is_symmetric(kind: Kind) -> bool {
    kind.is_some_and(|it| it.mapping != Mapping::Independent && it.ports != Ports::Preserve)
}

fn truth(own: Kind, peer: Kind, joined: bool) -> Cause {
    match (is_symmetric(own), is_symmetric(peer)) {
        _ if joined => Cause::Direct,
        (true, true) => Cause::SymmetricBoth,
        (true, false) => Cause::SymmetricHere,
        (false, true) => Cause::SymmetricAtPeer,
        (false, false) => unreachable!("predictable mappings always join"),
    }
}

/// The NATs after a remedy was applied.
fn remedied(remedy: Remedy, own: Kind, peer: Kind) -> Option<(Kind, Kind)> {
    let independent = |kind: Kind| {
        kind.map(|it| NatKind {
            mapping: Mapping::Independent,
            ..it
        })
    };
    let open = Some(NatKind::new(Mapping::Independent, Filtering::Independent));
    match remedy {
        Remedy::IndependentMapping(Side::Here) => Some((independent(own), peer)),
        Remedy::IndependentMapping(Side::Peer) => Some((own, independent(peer))),
        Remedy::IndependentMappings => Some((independent(own), independent(peer))),
        // A port that takes what comes from anywhere.
        Remedy::FullCone(Side::Here) | Remedy::PortMapping(Side::Here) => Some((open, peer)),
        Remedy::FullCone(Side::Peer) | Remedy::PortMapping(Side::Peer) => Some((own, open)),
        Remedy::Ipv6 => None,
        other => panic!("{other:?} does not change a NAT"),
    }
}

#[test]
fn in_every_cell_of_the_grid_the_verdict_is_the_truth_and_its_remedies_help() {
    for (row, one) in kinds().into_iter().enumerate() {
        for (column, other) in kinds().into_iter().enumerate() {
            let seed = (row * 100 + column) as u64;
            let (world, [a, b]) = pair(seed, one, other, true);
            let joined = world.joined(a, b);
            for (at, of, own, peer) in [(a, b, one, other), (b, a, other, one)] {
                let found = cause(&world, at, of);
                let story = world.story();
                assert_eq!(
                    found,
                    truth(own, peer, joined),
                    "{own:?} with {peer:?}\n{story}"
                );
                for remedy in explain(&world, at, of).1.remedies {
                    if let Some((own, peer)) = remedied(remedy, own, peer) {
                        assert!(direct_possible(own, peer), "{remedy:?}: {own:?} {peer:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn with_stun_at_one_address_only_nothing_untrue_is_said() {
    for (row, one) in kinds().into_iter().enumerate() {
        for (column, other) in kinds().into_iter().enumerate() {
            let seed = (row * 100 + column) as u64;
            let (world, [a, b]) = pair(seed, one, other, false);
            for (at, of, own, peer) in [(a, b, one, other), (b, a, other, one)] {
                let found = cause(&world, at, of);
                let true_as_far_as_it_goes = match found {
                    Cause::Direct => world.joined(a, b),
                    Cause::SymmetricBoth => is_symmetric(own) && is_symmetric(peer),
                    Cause::SymmetricHere => is_symmetric(own),
                    Cause::SymmetricAtPeer => is_symmetric(peer),
                    // It names this very possibility.
                    Cause::NatUnclear => is_symmetric(own) || is_symmetric(peer),
                    _ => false,
                };
                let story = world.story();
                assert!(true_as_far_as_it_goes, "{found}: {own:?} {peer:?}\n{story}");
            }
        }
    }
}

const RESTRICTED: Kind = Some(NatKind::PORT_RESTRICTED);

/// As [`pair`], port-restricted, with a change before the daemons start.
fn changed(change: impl FnOnce(&mut World, [HostId; 2])) -> (World, [HostId; 2]) {
    let mut world = World::new(7);
    let a = world.site("a", 2, RESTRICTED);
    let b = world.site("b", 1, RESTRICTED);
    change(&mut world, [a, b]);
    world.start(a);
    world.start(b);
    world.run(LONG);
    (world, [a, b])
}

fn both(world: &World, [a, b]: [HostId; 2]) -> [Cause; 2] {
    [cause(world, a, b), cause(world, b, a)]
}

#[test]
fn a_host_firewall_that_drops_data_is_told_from_a_nat() {
    let (mut world, hosts) = changed(|world, [_, b]| {
        world.hosts[b.0].firewall.drops_data = true;
    });
    let expected = [Cause::DataDroppedAtPeer, Cause::DataDroppedHere];
    assert_eq!(both(&world, hosts), expected, "{}", world.story());
    // The remedy that the diagnosis names connects the pair.
    let remedies = explain(&world, hosts[0], hosts[1]).1.remedies;
    assert_eq!(remedies, [Remedy::OpenFirewall(Side::Peer)]);
    world.hosts[hosts[1].0].firewall.drops_data = false;
    let joined = world.run_until(LONG, |world| world.joined(hosts[0], hosts[1]));
    assert!(joined.is_some(), "{}", world.story());
    assert_eq!(both(&world, hosts), [Cause::Direct; 2]);

    let (world, hosts) = changed(|world, [a, b]| {
        for host in [a, b] {
            world.hosts[host.0].firewall.drops_data = true;
        }
    });
    assert_eq!(both(&world, hosts), [Cause::DataDroppedHere; 2]);
}

#[test]
fn blocked_udp_is_told_on_both_sides() {
    let (world, hosts) = changed(|world, [_, b]| {
        world.hosts[b.0].firewall.drops_udp = true;
    });
    let expected = [Cause::UdpBlockedAtPeer, Cause::UdpBlockedHere];
    assert_eq!(both(&world, hosts), expected, "{}", world.story());
}

#[test]
fn udp_that_is_blocked_later_is_told_too() {
    let (mut world, hosts) = changed(|_, _| {});
    assert_eq!(both(&world, hosts), [Cause::Direct; 2]);
    world.hosts[hosts[1].0].firewall.drops_udp = true;
    world.run(60 * SECOND);
    assert_eq!(cause(&world, hosts[1], hosts[0]), Cause::UdpBlockedHere);
    // Two STUN servers at one address cannot tell a firewall from a mapping that depends on the address.
    assert_eq!(cause(&world, hosts[0], hosts[1]), Cause::NatUnclear);
}

#[test]
fn silent_stun_servers_are_told_from_blocked_udp() {
    let mut world = World::new(10);
    world.servers_answer = false;
    let a = world.site("a", 1, RESTRICTED);
    let b = world.site("b", 2, None);
    let c = world.site("c", 3, RESTRICTED);
    for host in [a, b, c] {
        world.start(host);
    }
    world.run(LONG);
    assert_eq!(cause(&world, a, b), Cause::Direct, "{}", world.story());
    assert_eq!(cause(&world, a, c), Cause::StunSilent, "{}", world.story());
}

#[test]
fn a_peer_that_is_gone_and_a_coordinator_that_is_gone_are_told_apart() {
    let (mut world, [a, b]) = changed(|_, _| {});
    world.stop(b);
    world.run(LONG);
    world.set_online(b, false);
    world.run(LONG);
    assert_eq!(cause(&world, a, b), Cause::PeerOffline, "{}", world.story());
    world.set_coordinator(false);
    assert_eq!(cause(&world, a, b), Cause::NoCoordinator);
    world.hosts[a.0].firewall.drops_udp = true;
    world.run(60 * SECOND);
    assert_eq!(cause(&world, a, b), Cause::NoNetwork);
}

#[test]
fn a_kernel_that_refuses_is_quoted() {
    let (world, [a, b]) = changed(|world, [a, _]| {
        world.hosts[a.0].refuses = Some("Operation not supported".to_owned());
    });
    assert_eq!(cause(&world, a, b), Cause::KernelRefused);
    let verdict = explain(&world, a, b).1.verdict;
    assert!(verdict.contains("Operation not supported"), "{verdict}");
}

#[test]
fn two_sites_behind_one_public_address_need_its_hairpin() {
    for hairpin in [false, true] {
        let mut world = World::new(12);
        let carrier = world.net();
        let kind = match hairpin {
            true => NatKind::PORT_RESTRICTED.with_hairpin(),
            false => NatKind::PORT_RESTRICTED,
        };
        world.router(kind, INTERNET, "203.0.113.9", carrier);
        let mut hosts = Vec::new();
        for (number, name) in [(1, "a"), (2, "b")] {
            let inside = world.net();
            let outside = format!("100.64.0.{number}");
            world.router(NatKind::PORT_RESTRICTED, carrier, &outside, inside);
            let ip = format!("192.168.{number}.10");
            hosts.push(world.host(name, number, inside, &ip));
        }
        for host in &hosts {
            world.start(*host);
        }
        world.run(LONG);
        let expected = if hairpin {
            Cause::Direct
        } else {
            Cause::SameNat
        };
        let found = both(&world, [hosts[0], hosts[1]]);
        assert_eq!(found, [expected; 2], "{}", world.story());
    }
}

#[test]
fn a_firewall_between_public_hosts_is_told_by_what_is_heard() {
    let mut world = World::new(3);
    let a = world.site("a", 2, None);
    let b = world.site("b", 1, None);
    world.hosts[b.0].firewall.ignores = Some(world.hosts[a.0].interfaces[0].ip);
    world.start(a);
    world.start(b);
    world.run(LONG);
    // The peer is heard when it tries again.
    let told = world.run_until(2 * LONG, |world| {
        both(world, [a, b]) == [Cause::OneWay, Cause::Silent]
    });
    assert!(told.is_some(), "{}", world.story());
    world.hosts[a.0].firewall.ignores = Some(world.hosts[b.0].interfaces[0].ip);
    world.run(60 * SECOND);
    settle(&mut world, [a, b]);
    assert_eq!(both(&world, [a, b]), [Cause::Silent; 2]);
}

#[test]
fn a_search_for_ports_that_is_switched_off_is_the_first_remedy() {
    for aggressive in [false, true] {
        let mut world = World::new(6);
        let a = world.site("a", 2, Some(NatKind::SYMMETRIC));
        let b = world.site("b", 1, RESTRICTED);
        for host in [a, b] {
            world.hosts[host.0].aggressive_punch = aggressive;
            world.start(host);
        }
        world.run(LONG);
        let expected = match aggressive {
            true => [Cause::Direct; 2],
            false => [Cause::SymmetricHere, Cause::SymmetricAtPeer],
        };
        assert_eq!(both(&world, [a, b]), expected, "{}", world.story());
        if !aggressive {
            let remedies = explain(&world, a, b).1.remedies;
            assert_eq!(remedies.first(), Some(&Remedy::AggressivePunch));
        }
    }
}

#[test]
fn before_everything_was_tried_there_is_no_verdict() {
    let symmetric = Some(NatKind::SYMMETRIC);
    let (mut world, [a, b]) = pair(5, symmetric, symmetric, true);
    world.reboot(a);
    world.run(SECOND);
    assert_eq!(world.state(a, b), State::Punching);
    assert_eq!(cause(&world, a, b), Cause::Searching);
}

/// Returns the latest line of the log on a peer.
fn logged(world: &World, at: HostId, of: HostId) -> (State, String) {
    let peer = world.hosts[of.0].node_key;
    let (_, state, reason) = world.hosts[at.0]
        .said
        .get(&peer)
        .expect("it was logged")
        .clone();
    (state, reason)
}

/// Asserts that `gretun explain`, `gretun peers` and the log give one verdict on a pair, and returns it.
fn one_verdict(world: &World, at: HostId, of: HostId) -> Cause {
    let (_, explanation) = explain(world, at, of);
    let status = world.status(at, of);
    let (state, line) = logged(world, at, of);
    let story = world.story();
    assert_eq!(state, status.state, "{story}");
    match status.reason {
        StateReason::NotConnected { cause, verdict } => {
            assert_eq!(cause, explanation.cause);
            assert_eq!(verdict, explanation.verdict);
            assert_eq!(line, verdict, "{story}");
        }
        reason => {
            assert_eq!(line, reason.to_string());
            if state == State::Punching {
                assert!(
                    explanation.verdict.contains(&line),
                    "{}",
                    explanation.verdict
                );
            } else {
                assert_eq!(explanation.cause, Cause::Direct, "{story}");
            }
        }
    }
    explanation.cause
}

#[test]
fn explain_and_peers_and_the_log_give_one_verdict() {
    type Situation = (&'static str, fn(&mut World, [HostId; 2]), Kind, [Cause; 2]);
    const SYMMETRIC: Kind = Some(NatKind::SYMMETRIC);
    let situations: [Situation; 7] = [
        ("all is well", |_, _| {}, RESTRICTED, [Cause::Direct; 2]),
        (
            "a firewall drops data",
            |world, [_, b]| world.hosts[b.0].firewall.drops_data = true,
            RESTRICTED,
            [Cause::DataDroppedAtPeer, Cause::DataDroppedHere],
        ),
        (
            "UDP is blocked",
            |world, [_, b]| world.hosts[b.0].firewall.drops_udp = true,
            RESTRICTED,
            [Cause::UdpBlockedAtPeer, Cause::UdpBlockedHere],
        ),
        (
            "the kernel refuses",
            |world, hosts| {
                for host in hosts {
                    world.hosts[host.0].refuses = Some("Operation not supported".to_owned());
                }
            },
            RESTRICTED,
            [Cause::KernelRefused; 2],
        ),
        (
            "both NATs are symmetric",
            |_, _| {},
            SYMMETRIC,
            [Cause::SymmetricBoth; 2],
        ),
        (
            "no port search, by the hosts' settings",
            |world, hosts| {
                for host in hosts {
                    world.hosts[host.0].aggressive_punch = false;
                }
            },
            SYMMETRIC,
            [Cause::SymmetricBoth; 2],
        ),
        (
            "STUN is silent",
            |world, _| world.servers_answer = false,
            SYMMETRIC,
            [Cause::UdpBlockedHere; 2],
        ),
    ];
    for (name, change, kind, expected) in situations {
        let mut world = World::new(21);
        let a = world.site("a", 2, kind);
        let b = world.site("b", 1, kind);
        change(&mut world, [a, b]);
        world.start(a);
        world.start(b);
        world.run(2 * SECOND);
        one_verdict(&world, a, b);
        world.run(LONG);
        let found = [one_verdict(&world, a, b), one_verdict(&world, b, a)];
        assert_eq!(found, expected, "{name}\n{}", world.story());
    }
}

#[test]
fn the_log_follows_a_verdict_that_changes_without_the_state() {
    let (mut world, [a, b]) = changed(|world, [_, b]| {
        world.hosts[b.0].firewall.drops_udp = true;
    });
    assert_eq!(one_verdict(&world, b, a), Cause::UdpBlockedHere);
    world.set_coordinator(false);
    // The next try of the peer.
    world.run(LONG);
    assert_eq!(one_verdict(&world, b, a), Cause::NoNetwork);
    world.set_coordinator(true);
    world.run(LONG);
    assert_eq!(one_verdict(&world, b, a), Cause::UdpBlockedHere);
    // A peer that is gone, and then nobody to ask.
    world.stop(a);
    world.set_online(a, false);
    world.run(2 * LONG);
    assert_eq!(logged(&world, b, a).0, State::HaveEndpoints);
    one_verdict(&world, b, a);
}
