//! The choice of the path, and the reason when there is none.

use std::time::Duration;

use gretun::node::{NatMapping, State, Via};

use crate::host::Interface;
use crate::nat::{Filtering, Mapping, NatKind};
use crate::network::{INTERNET, Link, RouterId, WIRE};
use crate::world::{HostId, World};

const SECOND: Duration = Duration::from_secs(1);

/// Two hosts behind one NAT.
fn one_lan(kind: NatKind) -> (World, HostId, HostId, RouterId) {
    let mut world = World::new(7);
    let lan = world.net();
    let router = world.router(kind, INTERNET, "203.0.113.1", lan);
    let a = world.host("a", 1, lan, "192.168.1.10");
    let b = world.host("b", 2, lan, "192.168.1.11");
    (world, a, b, router)
}

fn join(world: &mut World, hosts: &[HostId]) {
    for host in hosts {
        world.start(*host);
        world.run(Duration::from_millis(300));
    }
    let all_joined = |world: &World| {
        let pairs = hosts
            .iter()
            .flat_map(|a| hosts.iter().map(move |b| (*a, *b)));
        pairs
            .filter(|(a, b)| a != b)
            .all(|(a, b)| world.joined(a, b))
    };
    let joined = world.run_until(3 * SECOND, all_joined);
    assert!(joined.is_some(), "not joined\n{}", world.story());
}

/// Gives both hosts another interface, in a network that they share.
fn plug_into_one_lan(world: &mut World, a: HostId, b: HostId) {
    let shared = world.net();
    for (host, ip) in [(a, "10.1.1.1"), (b, "10.1.1.2")] {
        world.rewire(host, |interfaces| {
            interfaces.push(Interface {
                net: shared,
                ip: ip.parse().expect("an address"),
                up: true,
                link: WIRE,
            });
        });
    }
}

#[test]
fn hosts_of_one_lan_use_it() {
    for kind in [
        NatKind::PORT_RESTRICTED,
        NatKind::SYMMETRIC,
        NatKind::LINUX.with_hairpin(),
        NatKind::new(Mapping::Independent, Filtering::Independent).with_hairpin(),
    ] {
        let (mut world, a, b, _) = one_lan(kind);
        join(&mut world, &[a, b]);
        world.run(5 * SECOND);
        for (at, of) in [(a, b), (b, a)] {
            let status = world.status(at, of);
            assert_eq!(status.via, Some(Via::Lan), "{kind:?}\n{}", world.story());
            assert!(status.rtt.expect("measured") < Duration::from_millis(1));
        }
    }
}

#[test]
fn three_hosts_behind_one_address_and_one_outside_all_join() {
    let (mut world, a, b, _) = one_lan(NatKind::PORT_RESTRICTED);
    let lan = world.hosts[a.0].interfaces[0].net;
    let c = world.host("c", 3, lan, "192.168.1.12");
    let d = world.site("d", 4, Some(NatKind::PORT_RESTRICTED));
    join(&mut world, &[a, b, c, d]);
    assert_eq!(world.status(a, c).via, Some(Via::Lan));
    for host in [a, b, c] {
        assert_eq!(world.status(host, d).via, Some(Via::Public));
    }
    world.run(60 * SECOND);
    world.check();
}

#[test]
fn a_router_that_keeps_ports_serves_two_hosts_whatever_their_ports() {
    for port in [7777, 7778] {
        let (mut world, a, b, _) = one_lan(NatKind::LINUX);
        let c = world.site("c", 3, Some(NatKind::PORT_RESTRICTED));
        world.hosts[b.0].port = port;
        join(&mut world, &[a, c]);
        world.start(b);
        world.run(8 * SECOND);
        assert!(world.joined(a, b));
        assert!(world.joined(b, c), "{}", world.story());
    }
}

#[test]
fn a_home_behind_a_carrier_joins() {
    let mut world = World::new(3);
    let carrier = world.net();
    world.router(NatKind::PORT_RESTRICTED, INTERNET, "203.0.113.1", carrier);
    let home = world.net();
    world.router(NatKind::PORT_RESTRICTED, carrier, "100.64.0.9", home);
    let a = world.host("a", 1, home, "192.168.1.10");
    let b = world.site("b", 2, Some(NatKind::PORT_RESTRICTED));
    join(&mut world, &[a, b]);
    // Another customer of the same carrier: reached through the carrier's NAT if it turns packets round.
    let home = world.net();
    world.router(NatKind::PORT_RESTRICTED, carrier, "100.64.0.10", home);
    let c = world.host("c", 3, home, "192.168.1.10");
    world.start(c);
    world.run(8 * SECOND);
    assert_eq!(world.state(a, c), State::Unreachable);
    assert!(world.joined(b, c));
}

#[test]
fn two_homes_of_one_carrier_join_by_its_hairpin() {
    let mut world = World::new(3);
    let carrier = world.net();
    let kind = NatKind::PORT_RESTRICTED.with_hairpin();
    world.router(kind, INTERNET, "203.0.113.1", carrier);
    let mut hosts = Vec::new();
    for (name, key, outside) in [("a", 1, "100.64.0.9"), ("b", 2, "100.64.0.10")] {
        let home = world.net();
        world.router(NatKind::PORT_RESTRICTED, carrier, outside, home);
        hosts.push(world.host(name, key, home, "192.168.1.10"));
    }
    join(&mut world, &hosts);
    assert_eq!(world.status(hosts[0], hosts[1]).via, Some(Via::Public));
}

#[test]
fn a_path_moves_to_the_lan_when_one_appears_and_loses_nothing() {
    let all = |keys| [[2, 2], [2, 40], [40, 2], [90, 90]].map(|delays| (keys, delays));
    for (keys, delays) in [(1, 2), (2, 1)].into_iter().flat_map(all) {
        let mut world = World::new(11);
        let a = world.site("a", keys.0, Some(NatKind::PORT_RESTRICTED));
        let b = world.site("b", keys.1, Some(NatKind::PORT_RESTRICTED));
        for (host, delay) in [a, b].into_iter().zip(delays) {
            world.hosts[host.0].apply_delay = Duration::from_millis(delay);
        }
        join(&mut world, &[a, b]);
        world.watch_user_data(Duration::from_millis(1));
        world.run(2 * SECOND);
        plug_into_one_lan(&mut world, a, b);
        let to_lan = |world: &World| {
            let via = |at, of| world.status(at, of).via;
            via(a, b) == Some(Via::Lan) && via(b, a) == Some(Via::Lan)
        };
        let took = world.run_until(2 * SECOND, to_lan);
        assert!(took.is_some(), "{}", world.story());
        world.run(7 * SECOND);
        assert!(world.joined(a, b));
        let overlaps = |host: HostId| {
            world.hosts[host.0]
                .tunnels
                .values()
                .any(|it| !it.receiving.is_empty())
        };
        assert!(!overlaps(a) && !overlaps(b), "the move is over");
        for (at, of) in [(a, b), (b, a)] {
            let status = world.status(at, of);
            let remote = status.path.expect("a path").remote.to_string();
            let reason = status.reason.to_string();
            assert!(reason.contains(&remote), "{reason}");
        }
        for (from, to) in [(a, b), (b, a)] {
            let lost = world.lost_user_data(from, to);
            assert_eq!(lost, 0, "{from:?} to {to:?}, kernels slow by {delays:?} ms");
        }
    }
}

#[test]
fn a_lan_that_carries_no_data_is_left_again() {
    for keys in [(1, 2), (2, 1)] {
        let mut world = World::new(15);
        let a = world.site("a", keys.0, Some(NatKind::PORT_RESTRICTED));
        let b = world.site("b", keys.1, Some(NatKind::PORT_RESTRICTED));
        join(&mut world, &[a, b]);
        world.blocked_data.push(("10.1.1.1", "10.1.1.2"));
        world.watch_user_data(Duration::from_millis(10));
        plug_into_one_lan(&mut world, a, b);
        world.run(30 * SECOND);
        assert!(world.joined(a, b), "{}", world.story());
        assert_eq!(world.status(a, b).via, Some(Via::Public));
        let gap = world.user_data(a, b).expect("user data").longest_gap;
        assert!(gap < Duration::from_millis(1500), "{gap:?}");
        // Once is enough.
        let changes = world.hosts[a.0].tunnel_changes;
        world.run(600 * SECOND);
        assert_eq!(
            world.hosts[a.0].tunnel_changes,
            changes,
            "{}",
            world.story()
        );
    }
}

#[test]
fn a_much_faster_path_is_taken_in_time() {
    let mut world = World::new(12);
    let a = world.host("a", 2, INTERNET, "203.0.113.1");
    let b = world.host("b", 1, INTERNET, "203.0.113.2");
    world.hosts[b.0].interfaces[0].link = Link::millis(100);
    join(&mut world, &[a, b]);
    world.rewire(b, |interfaces| {
        let mut fast = interfaces[0].clone();
        fast.ip = "203.0.113.3".parse().expect("an address");
        fast.link = Link::millis(5);
        interfaces.push(fast);
    });
    let fast = |world: &World| {
        let path = world.status(a, b).path;
        path.is_some_and(|path| path.remote.to_string() == "203.0.113.3:7777")
    };
    let took = world.run_until(90 * SECOND, fast);
    assert!(took.is_some(), "{}", world.story());
    world.run(2 * SECOND);
    assert!(world.joined(a, b), "{}", world.story());
}

/// Gives both hosts another interface in a network that they share, which may be another overlay's.
fn add_links(world: &mut World, hosts: [(HostId, &str); 2], link: Link) {
    let shared = world.net();
    for (host, ip) in hosts {
        world.rewire(host, |interfaces| {
            interfaces.push(Interface {
                net: shared,
                ip: ip.parse().expect("an address"),
                up: true,
                link,
            });
        });
    }
}

#[test]
fn a_slow_vpn_between_two_sites_is_no_lan() {
    for keys in [(1, 2), (2, 1)] {
        for vpn_first in [false, true] {
            let mut world = World::new(18);
            let a = world.site("a", keys.0, Some(NatKind::PORT_RESTRICTED));
            let b = world.site("b", keys.1, Some(NatKind::PORT_RESTRICTED));
            for router in 0..2 {
                world.link(RouterId(router)).latency = Duration::from_micros(2_500);
            }
            // The sites' networks, routed to each other.
            let ends = [(a, "10.1.1.1"), (b, "10.1.2.1")];
            let vpn = Link::millis(25);
            if vpn_first {
                add_links(&mut world, ends, vpn);
            }
            join(&mut world, &[a, b]);
            if !vpn_first {
                add_links(&mut world, ends, vpn);
            }
            world.run(60 * SECOND);
            for (at, of) in [(a, b), (b, a)] {
                let status = world.status(at, of);
                assert_eq!(status.via, Some(Via::Public), "{}", world.story());
                let rtt = status.rtt.expect("measured");
                assert!(
                    rtt < Duration::from_millis(20),
                    "{rtt:?}\n{}",
                    world.story()
                );
            }
        }
    }
}

#[test]
fn another_overlays_link_is_used_only_when_nothing_else_joins() {
    for keys in [(1, 2), (2, 1)] {
        let mut world = World::new(19);
        let a = world.site("a", keys.0, Some(NatKind::PORT_RESTRICTED));
        let b = world.site("b", keys.1, Some(NatKind::PORT_RESTRICTED));
        // Quicker than the way through the internet, as it looks from inside.
        let wireguard = Link {
            is_overlay: true,
            ..Link::micros(50)
        };
        add_links(&mut world, [(a, "10.9.0.1"), (b, "10.9.0.2")], wireguard);
        join(&mut world, &[a, b]);
        world.run(30 * SECOND);
        let is_inside = |world: &World| {
            let path = world.status(a, b).path.expect("a path");
            path.remote.ip().to_string().starts_with("10.9.")
        };
        assert!(!is_inside(&world), "{}", world.story());
        // The internet between the sites drops everything.
        for router in 0..2 {
            world.link(RouterId(router)).loss = 1.0;
        }
        world.run(20 * SECOND);
        assert!(world.joined(a, b) && is_inside(&world), "{}", world.story());
        assert_eq!(world.status(a, b).via, Some(Via::Overlay));
        for router in 0..2 {
            world.link(RouterId(router)).loss = 0.0;
        }
        world.run(60 * SECOND);
        assert!(
            world.joined(a, b) && !is_inside(&world),
            "{}",
            world.story()
        );
    }
}

/// Gives both hosts IPv6 as well, over interfaces of their own.
fn add_ipv6(world: &mut World, hosts: [HostId; 2], link: Link) {
    for (host, ip) in hosts.into_iter().zip(["2001:db8::1", "2001:db8::2"]) {
        let second = Interface {
            net: INTERNET,
            ip: ip.parse().expect("an address"),
            up: true,
            link,
        };
        world.rewire(host, |interfaces| interfaces.push(second));
    }
}

#[test]
fn a_path_that_was_slow_at_first_is_taken_when_it_is_fast() {
    for keys in [(1, 2), (2, 1)] {
        let mut world = World::new(17);
        let a = world.site("a", keys.0, Some(NatKind::PORT_RESTRICTED));
        let b = world.site("b", keys.1, Some(NatKind::PORT_RESTRICTED));
        add_ipv6(&mut world, [a, b], Link::millis(300));
        join(&mut world, &[a, b]);
        world.run(60 * SECOND);
        assert!(world.status(a, b).path.expect("a path").remote.is_ipv4());
        for host in [a, b] {
            world.hosts[host.0].interfaces[1].link = Link::millis(1);
        }
        world.watch_user_data(Duration::from_millis(1));
        let fast = |world: &World| {
            let path = world.status(a, b).path;
            path.is_some_and(|path| path.remote.is_ipv6())
        };
        let took = world.run_until(25 * SECOND, fast);
        assert!(took.is_some(), "{}", world.story());
        world.run(2 * SECOND);
        assert!(world.joined(a, b), "{}", world.story());
        for (from, to) in [(a, b), (b, a)] {
            // Packets that are under way while one side has switched and the other has not.
            let gap = world.user_data(from, to).expect("user data").longest_gap;
            assert!(gap < Duration::from_millis(10), "{gap:?}");
        }
    }
}

#[test]
fn data_that_a_firewall_drops_is_never_called_direct() {
    for (keys, at_a) in [
        ((1, 2), true),
        ((1, 2), false),
        ((2, 1), true),
        ((2, 1), false),
    ] {
        let mut world = World::new(5);
        let a = world.site("a", keys.0, Some(NatKind::PORT_RESTRICTED));
        let b = world.site("b", keys.1, Some(NatKind::PORT_RESTRICTED));
        let firewalled = if at_a { a } else { b };
        world.hosts[firewalled.0].firewall.drops_data = true;
        world.start(a);
        world.start(b);
        let direct = |world: &World| {
            world.state(a, b) == State::Direct || world.state(b, a) == State::Direct
        };
        assert_eq!(
            world.run_until(60 * SECOND, direct),
            None,
            "{}",
            world.story()
        );
        for (at, of) in [(a, b), (b, a)] {
            let status = world.status(at, of);
            assert_eq!(status.state, State::Unreachable);
            let reason = status.reason.to_string();
            let is_named = reason.contains("answers disco")
                && reason.contains("UDP")
                && reason.contains("port 7777");
            assert!(is_named, "{reason}");
        }
        // Once the firewall lets it pass, nothing else is needed.
        world.hosts[firewalled.0].firewall.drops_data = false;
        let took = world.run_until(3 * SECOND, |world| world.joined(a, b));
        assert!(took.is_some(), "{}", world.story());
    }
}

#[test]
fn a_firewall_raised_later_ends_direct_with_the_reason() {
    let mut world = World::new(6);
    let a = world.site("a", 1, Some(NatKind::PORT_RESTRICTED));
    let b = world.site("b", 2, None);
    join(&mut world, &[a, b]);
    world.hosts[b.0].firewall.drops_data = true;
    let lost =
        |world: &World| world.state(a, b) != State::Direct && world.state(b, a) != State::Direct;
    assert!(
        world.run_until(3 * SECOND, lost).is_some(),
        "{}",
        world.story()
    );
    world.run(20 * SECOND);
    for (at, of) in [(a, b), (b, a)] {
        let status = world.status(at, of);
        assert_eq!(status.state, State::Unreachable, "{}", world.story());
        let reason = status.reason.to_string();
        assert!(reason.contains("answers disco"), "{reason}");
    }
}

#[test]
fn data_blocked_in_the_lan_goes_round_by_the_public_path() {
    // The LAN drops data (not disco) between the hosts, the router turns packets round.
    let kind = NatKind::PORT_RESTRICTED.with_hairpin();
    let (mut world, a, b, _) = one_lan(kind);
    world.blocked_data.push(("192.168.1.10", "192.168.1.11"));
    world.start(a);
    world.start(b);
    let joined = world.run_until(10 * SECOND, |world| world.joined(a, b));
    assert!(joined.is_some(), "{}", world.story());
    assert_eq!(world.status(a, b).via, Some(Via::Public));
}

#[test]
fn a_kernel_that_refuses_is_quoted() {
    for refusing in [0, 1] {
        let mut world = World::new(8);
        let a = world.site("a", 1, None);
        let b = world.site("b", 2, None);
        let at = [a, b][refusing];
        world.hosts[at.0].refuses = Some("Operation not supported".to_owned());
        world.start(a);
        world.start(b);
        world.run(20 * SECOND);
        let of = [b, a][refusing];
        let status = world.status(at, of);
        assert_eq!(status.state, State::Unreachable);
        let reason = status.reason.to_string();
        assert!(reason.contains("Operation not supported"), "{reason}");
        world.hosts[at.0].refuses = None;
        let joined = world.run_until(90 * SECOND, |world| world.joined(a, b));
        assert!(joined.is_some(), "{}", world.story());
    }
}

#[test]
fn a_slow_kernel_joins_all_the_same() {
    for keys in [(1, 2), (2, 1)] {
        for slow in [0, 1] {
            let mut world = World::new(9);
            let a = world.site("a", keys.0, Some(NatKind::PORT_RESTRICTED));
            let b = world.site("b", keys.1, Some(NatKind::PORT_RESTRICTED));
            world.hosts[[a, b][slow].0].apply_delay = Duration::from_millis(800);
            join(&mut world, &[a, b]);
        }
    }
}

#[test]
fn silent_stun_servers_stop_only_those_that_need_them() {
    let mut world = World::new(10);
    world.servers_answer = false;
    let a = world.site("a", 1, Some(NatKind::PORT_RESTRICTED));
    let b = world.site("b", 2, None);
    let c = world.site("c", 3, Some(NatKind::PORT_RESTRICTED));
    join(&mut world, &[a, b]);
    world.start(c);
    world.run(10 * SECOND);
    assert!(world.joined(b, c), "{}", world.story());
    assert_eq!(world.state(a, c), State::Unreachable);
    assert_eq!(world.node(a).nat_mapping(), NatMapping::Unknown);
    world.servers_answer = true;
    let joined = world.run_until(60 * SECOND, |world| world.joined(a, c));
    assert!(joined.is_some(), "{}", world.story());
}

#[test]
fn the_mapping_is_recognised() {
    let mut world = World::new(13);
    let cases = [
        (None, NatMapping::None),
        (Some(NatKind::PORT_RESTRICTED), NatMapping::PortIndependent),
        (Some(NatKind::LINUX), NatMapping::PortIndependent),
        (
            Some(NatKind::SYMMETRIC),
            NatMapping::AddressAndPortDependent,
        ),
    ];
    for (kind, mapping) in cases {
        let host = world.site("host", 1, kind);
        world.start(host);
        world.run(SECOND);
        assert_eq!(world.node(host).nat_mapping(), mapping, "{kind:?}");
    }
}

#[test]
fn ipv6_joins_what_ipv4_cannot() {
    let mut world = World::new(16);
    let a = world.site("a", 1, Some(NatKind::SYMMETRIC));
    let b = world.site("b", 2, Some(NatKind::SYMMETRIC));
    add_ipv6(&mut world, [a, b], Link::millis(5));
    join(&mut world, &[a, b]);
    let path = world.status(a, b).path.expect("a path");
    assert_eq!(path.to_string(), "[2001:db8::1]:7777 -> [2001:db8::2]:7777");
}

#[test]
fn a_verdict_names_what_was_tried() {
    let mut world = World::new(14);
    let a = world.site("a", 1, Some(NatKind::SYMMETRIC));
    let b = world.site("b", 2, Some(NatKind::SYMMETRIC));
    world.start(a);
    world.start(b);
    world.run(8 * SECOND);
    let reason = world.status(a, b).reason.to_string();
    let begins = reason.starts_with("b is unreachable: no answer from ");
    assert!(begins && reason.contains("203.0.113.2:"), "{reason}");
    assert!(reason.contains("both NATs are symmetric"), "{reason}");
}
