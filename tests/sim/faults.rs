//! Faults while two peers are connected, and how long data is gone.

use std::time::Duration;

use gretun::node::State;
use gretun::proto::DiscoSecret;

use crate::nat::{Filtering, Mapping, NatKind};
use crate::network::{Bursts, INTERNET, RouterId, WIRE};
use crate::world::{HostId, World};

const SECOND: Duration = Duration::from_secs(1);
/// Interval of user data; gaps are measured with this resolution.
const USER_GAP: Duration = Duration::from_millis(10);
/// Longest gap of data if another path exists.
const REPAIR: Duration = Duration::from_secs(3);

/// Two connected hosts behind NATs of their own, with user data flowing.
fn joined(seed: u64, keys: (u8, u8), one: NatKind, other: NatKind) -> (World, HostId, HostId) {
    let mut world = World::new(seed);
    let a = world.site("a", keys.0, Some(one));
    let b = world.site("b", keys.1, Some(other));
    // A pair that a port search would connect counts as broken here.
    for host in &mut world.hosts {
        host.aggressive_punch = false;
    }
    world.start(a);
    world.start(b);
    let took = world.run_until(3 * SECOND, |world| world.joined(a, b));
    assert!(took.is_some(), "not joined\n{}", world.story());
    world.watch_user_data(USER_GAP);
    world.run(5 * SECOND);
    (world, a, b)
}

fn assert_repaired(world: &mut World, a: HostId, b: HostId) {
    world.run(10 * SECOND);
    assert!(world.joined(a, b), "not joined again\n{}", world.story());
    for (from, to) in [(a, b), (b, a)] {
        let data = world.user_data(from, to).expect("user data");
        assert!(
            data.longest_gap < REPAIR && world.user_data_flows(a, b),
            "{data:?}\n{}",
            world.story()
        );
    }
    world.check();
}

const ROLES: [(u8, u8); 2] = [(1, 2), (2, 1)];

fn restricted() -> NatKind {
    NatKind::PORT_RESTRICTED
}

#[test]
fn an_idle_pair_stays_joined_and_quiet() {
    let (mut world, a, b) = joined(1, (1, 2), restricted(), restricted());
    let before = world.hosts[a.0].sent_total;
    world.run(120 * SECOND);
    world.check();
    assert!(world.joined(a, b));
    assert_eq!(world.hosts[a.0].tunnel_changes, 1);
    let a_second = (world.hosts[a.0].sent_total - before) as f64 / 120.0;
    assert!(a_second < 2.75, "{a_second} packets a second");
}

#[test]
fn a_router_that_reboots_costs_less_than_three_seconds() {
    for keys in ROLES {
        for kind in [restricted(), NatKind::LINUX] {
            for router in [RouterId(0), RouterId(1)] {
                // At any time between two probes.
                for phase in [0, 200, 400, 600, 800, 950] {
                    let (mut world, a, b) = joined(2, keys, kind, restricted());
                    world.run(Duration::from_millis(phase));
                    world.reboot_router(router, None);
                    assert_repaired(&mut world, a, b);
                }
            }
        }
    }
}

#[test]
fn a_router_with_a_new_address_costs_less_than_three_seconds() {
    for keys in ROLES {
        for router in [RouterId(0), RouterId(1)] {
            let (mut world, a, b) = joined(3, keys, restricted(), restricted());
            world.reboot_router(router, Some("203.0.113.77"));
            assert_repaired(&mut world, a, b);
        }
    }
}

#[test]
fn both_routers_reboot_at_once() {
    for keys in ROLES {
        let (mut world, a, b) = joined(4, keys, restricted(), restricted());
        world.reboot_router(RouterId(0), None);
        world.reboot_router(RouterId(1), None);
        assert_repaired(&mut world, a, b);
    }
}

#[test]
fn a_host_that_roams_is_back_within_three_seconds() {
    for keys in ROLES {
        let (mut world, a, b) = joined(5, keys, restricted(), restricted());
        let elsewhere = world.net();
        world.router(NatKind::LINUX, INTERNET, "203.0.113.50", elsewhere);
        world.rewire(a, |interfaces| {
            interfaces[0].net = elsewhere;
            interfaces[0].ip = "10.9.9.9".parse().expect("an address");
        });
        assert_repaired(&mut world, a, b);
    }
}

#[test]
fn a_second_interface_takes_over() {
    for keys in ROLES {
        let (mut world, a, b) = joined(6, keys, restricted(), restricted());
        let mobile = world.net();
        world.router(restricted(), INTERNET, "203.0.113.60", mobile);
        world.rewire(a, |interfaces| {
            let mut second = interfaces[0].clone();
            second.net = mobile;
            second.ip = "10.20.0.2".parse().expect("an address");
            second.link = WIRE;
            interfaces.push(second);
        });
        world.run(3 * SECOND);
        assert!(world.joined(a, b));
        world.rewire(a, |interfaces| interfaces[0].up = false);
        assert_repaired(&mut world, a, b);
    }
}

#[test]
fn a_link_that_is_down_and_keeps_its_address_does_not_take_the_port_in_the_next_network() {
    for keys in ROLES {
        for pause in [20, 500, 3000] {
            let (mut world, a, b) = joined(7, keys, NatKind::LINUX, NatKind::LINUX);
            let mobile = world.net();
            world.router(NatKind::LINUX, INTERNET, "203.0.113.60", mobile);
            world.rewire(a, |interfaces| interfaces[0].up = false);
            world.run(Duration::from_millis(pause));
            let mut second = world.hosts[a.0].interfaces[0].clone();
            second.net = mobile;
            second.ip = "10.20.0.2".parse().expect("an address");
            second.up = true;
            world.hosts[a.0].interfaces.push(second);
            // Data is sent before the daemon hears of it.
            world.run(3 * USER_GAP);
            world.tell_locals(a);
            let took = world.run_until(REPAIR, |world| {
                world.joined(a, b) && world.user_data_flows(a, b)
            });
            assert!(took.is_some(), "after {pause} ms\n{}", world.story());
            world.check();
        }
    }
}

#[test]
fn a_host_whose_route_comes_after_its_address_is_back_within_three_seconds() {
    for keys in ROLES {
        for late in [500, 3000, 7000, 14000] {
            let (mut world, a, b) = joined(5, keys, NatKind::LINUX, NatKind::LINUX);
            world.set_route(a, false);
            world.rewire(a, |interfaces| {
                interfaces[0].ip = "192.168.1.77".parse().expect("an address");
            });
            world.run(Duration::from_millis(late));
            world.set_route(a, true);
            let took = world.run_until(3 * SECOND, |world| {
                world.joined(a, b) && world.user_data_flows(a, b)
            });
            assert!(took.is_some(), "late by {late}\n{}", world.story());
            world.check();
        }
    }
}

#[test]
fn a_host_that_gets_another_address_is_back_within_three_seconds() {
    for keys in ROLES {
        for phase in [0, 300, 700] {
            // As DHCP clients do it, or with a pause between that lets the peer speak first: to the old address, which the
            // router still knows.
            for pause in [0, 200, 600, 1000] {
                let (mut world, a, b) = joined(5, keys, NatKind::LINUX, NatKind::LINUX);
                world.run(Duration::from_millis(phase));
                world.rewire(a, |interfaces| interfaces[0].up = false);
                world.run(Duration::from_millis(pause));
                world.rewire(a, |interfaces| {
                    interfaces[0].up = true;
                    interfaces[0].ip = "192.168.1.77".parse().expect("an address");
                });
                assert_repaired(&mut world, a, b);
            }
        }
    }
}

#[test]
fn a_host_that_slept_is_back_within_three_seconds() {
    for keys in ROLES {
        // Within the mapping's life, and long after it.
        for sleep in [5, 60, 300] {
            for phase in [0, 400, 800] {
                let (mut world, a, b) = joined(5, keys, restricted(), restricted());
                world.run(Duration::from_millis(phase));
                world.suspend(a);
                world.run(sleep * SECOND);
                world.resume(a);
                let took = world.run_until(REPAIR, |world| world.user_data_flows(a, b));
                assert!(took.is_some(), "{sleep} s\n{}", world.story());
                world.run(5 * SECOND);
                assert!(world.joined(a, b) && world.user_data_flows(a, b));
                world.check();
            }
        }
    }
}

#[test]
fn a_home_behind_a_carrier_survives_a_rebind_of_either() {
    for keys in ROLES {
        for router in [RouterId(0), RouterId(1)] {
            let mut world = World::new(20);
            let carrier = world.net();
            world.router(restricted(), INTERNET, "203.0.113.1", carrier);
            let home = world.net();
            world.router(restricted(), carrier, "100.64.0.9", home);
            let a = world.host("a", keys.0, home, "192.168.1.10");
            let b = world.site("b", keys.1, Some(restricted()));
            world.start(a);
            world.start(b);
            world.run(3 * SECOND);
            assert!(world.joined(a, b), "{}", world.story());
            world.watch_user_data(USER_GAP);
            world.run(SECOND);
            world.reboot_router(router, None);
            assert_repaired(&mut world, a, b);
        }
    }
}

#[test]
fn bursts_of_loss_do_not_shake_a_path() {
    let (mut world, a, b) = joined(15, (1, 2), restricted(), restricted());
    world.routers[0].bursts = Some(Bursts::new(2 * SECOND, Duration::from_millis(80)));
    world.run(120 * SECOND);
    assert!(world.joined(a, b), "{}", world.story());
    assert_eq!(world.hosts[a.0].log.len(), 2, "{}", world.story());
}

#[test]
fn packets_that_come_twice_change_nothing() {
    let (mut world, a, _b) = joined(15, (1, 2), restricted(), restricted());
    world.link(RouterId(0)).duplication = 0.5;
    world.run(60 * SECOND);
    assert_eq!(world.hosts[a.0].tunnel_changes, 1);
    assert_eq!(world.hosts[a.0].log.len(), 2, "{}", world.story());
}

#[test]
fn clocks_that_run_apart_change_nothing() {
    let mut world = World::new(21);
    let a = world.site("a", 1, Some(restricted()));
    let b = world.site("b", 2, Some(restricted()));
    let now = world.now;
    // A day's clock error in minutes: far beyond any real clock's.
    world.hosts[a.0].clock.begin(now, 20_000);
    world.start(a);
    world.start(b);
    world.run(3 * SECOND);
    world.watch_user_data(USER_GAP);
    world.run(600 * SECOND);
    world.check();
    assert!(world.joined(a, b));
    assert_eq!(world.hosts[b.0].log.len(), 2, "{}", world.story());
}

#[test]
fn the_other_family_takes_over_within_three_seconds() {
    for keys in ROLES {
        for phase in [0, 300, 600, 900] {
            let mut world = World::new(22);
            let a = world.site("a", keys.0, Some(restricted()));
            let b = world.site("b", keys.1, Some(restricted()));
            // IPv6 is the faster way.
            for (host, ip) in [(a, "2001:db8::1"), (b, "2001:db8::2")] {
                world.rewire(host, |interfaces| {
                    let mut second = interfaces[0].clone();
                    second.net = INTERNET;
                    second.ip = ip.parse().expect("an address");
                    interfaces.push(second);
                });
            }
            world.start(a);
            world.start(b);
            world.run(3 * SECOND);
            let family = |world: &World| {
                let path = world.status(a, b).path;
                path.map(|path| if path.remote.is_ipv6() { 6 } else { 4 })
            };
            assert!(world.joined(a, b) && family(&world) == Some(6));
            world.watch_user_data(USER_GAP);
            world.run(5 * SECOND + Duration::from_millis(phase));
            world.hosts[a.0].interfaces[1].link.loss = 1.0;
            assert_repaired(&mut world, a, b);
            assert_eq!(family(&world), Some(4), "{}", world.story());
            // Back again: the spare path is pinged every 20 s.
            world.hosts[a.0].interfaces[1].link.loss = 0.0;
            world.run(120 * SECOND);
            assert_eq!(family(&world), Some(6), "{}", world.story());
            assert!(world.joined(a, b) && world.user_data_flows(a, b));
        }
    }
}

#[test]
fn a_mapping_that_expires_in_silence_is_made_anew() {
    // Shorter than anything sent regularly but the data probes.
    let kind = NatKind {
        expiry: Duration::from_secs(5),
        ..restricted()
    };
    let (mut world, a, b) = joined(7, (1, 2), kind, kind);
    assert_repaired(&mut world, a, b);
    assert_eq!(world.hosts[a.0].tunnel_changes, 1, "{}", world.story());
}

#[test]
fn a_restarted_daemon_finds_its_tunnel_untouched() {
    for keys in ROLES {
        for pause in [Duration::from_millis(200), 4 * SECOND, 30 * SECOND] {
            let (mut world, a, b) = joined(8, keys, restricted(), restricted());
            world.stop(a);
            world.run(pause);
            world.start(a);
            let took = world.run_until(5 * SECOND, |world| world.joined(a, b));
            assert!(took.is_some(), "{keys:?} {pause:?}\n{}", world.story());
            world.run(10 * SECOND);
            for host in [a, b] {
                assert_eq!(world.hosts[host.0].tunnel_changes, 1, "{}", world.story());
            }
            for (from, to) in [(a, b), (b, a)] {
                let gap = world.user_data(from, to).expect("user data").longest_gap;
                assert!(gap < Duration::from_millis(30), "{gap:?}");
            }
        }
    }
}

#[test]
fn a_peer_that_comes_back_finds_its_tunnel_untouched_though_another_path_answers_first() {
    for seed in 0..10 {
        let mut world = World::new(seed);
        let a = world.host("a", 2, INTERNET, "203.0.113.1");
        let b = world.host("b", 1, INTERNET, "203.0.113.2");
        world.rewire(b, |interfaces| {
            let mut second = interfaces[0].clone();
            second.ip = "203.0.113.3".parse().expect("an address");
            interfaces[0].link.jitter = Duration::from_millis(5);
            second.link.jitter = Duration::from_millis(5);
            interfaces.push(second);
        });
        world.start(a);
        world.start(b);
        world.run(5 * SECOND);
        assert!(world.joined(a, b));
        let changes = world.hosts[a.0].tunnel_changes;
        world.stop(b);
        world.run(5 * SECOND);
        assert_ne!(world.state(a, b), State::Direct);
        world.start(b);
        world.run(SECOND);
        assert!(world.joined(a, b));
        assert_eq!(
            world.hosts[a.0].tunnel_changes,
            changes,
            "{}",
            world.story()
        );
    }
}

#[test]
fn both_daemons_restart_without_a_coordinator() {
    let (mut world, a, b) = joined(9, (1, 2), restricted(), restricted());
    world.set_coordinator(false);
    world.servers_answer = false;
    world.stop(a);
    world.stop(b);
    world.run(10 * SECOND);
    world.start(a);
    world.run(2 * SECOND);
    world.start(b);
    let took = world.run_until(5 * SECOND, |world| world.joined(a, b));
    assert!(took.is_some(), "{}", world.story());
    assert_eq!(world.hosts[a.0].tunnel_changes, 1);
    assert_eq!(world.hosts[b.0].tunnel_changes, 1);
}

#[test]
fn a_stale_tunnel_found_at_start_is_replaced() {
    for keys in ROLES {
        let (mut world, a, b) = joined(10, keys, restricted(), restricted());
        world.stop(a);
        world.run(2 * SECOND);
        world.reboot_router(RouterId(0), Some("203.0.113.88"));
        world.reboot_router(RouterId(1), None);
        world.start(a);
        let took = world.run_until(REPAIR, |world| world.joined(a, b));
        assert!(took.is_some(), "{}", world.story());
    }
}

#[test]
fn a_rebooted_host_is_back_quickly() {
    for keys in ROLES {
        let (mut world, a, b) = joined(11, keys, restricted(), restricted());
        world.stop(a);
        world.run(60 * SECOND);
        assert_ne!(world.state(b, a), State::Direct);
        world.reboot_router(RouterId(0), None);
        world.reboot(a);
        let took = world.run_until(SECOND, |world| world.joined(a, b));
        assert!(took.is_some(), "{}", world.story());
    }
}

#[test]
fn a_host_that_reboots_in_no_time_is_noticed_by_its_call() {
    for keys in ROLES {
        let (mut world, a, b) = joined(12, keys, restricted(), restricted());
        world.reboot(a);
        let took = world.run_until(2 * SECOND, |world| world.user_data_flows(a, b));
        assert!(took.is_some(), "{}", world.story());
        assert_repaired(&mut world, a, b);
    }
}

#[test]
fn nothing_happens_when_the_coordinator_goes() {
    let (mut world, a, b) = joined(13, (1, 2), restricted(), restricted());
    world.set_coordinator(false);
    world.servers_answer = false;
    world.run(180 * SECOND);
    world.check();
    assert!(world.joined(a, b));
    let gap = world.user_data(a, b).expect("user data").longest_gap;
    assert!(gap < Duration::from_millis(30), "{gap:?}");
    world.set_coordinator(true);
    world.servers_answer = true;
    assert_repaired(&mut world, a, b);
    assert_eq!(world.hosts[a.0].tunnel_changes, 1);
}

#[test]
fn a_long_partition_heals_without_a_coordinator() {
    for keys in ROLES {
        let (mut world, a, b) = joined(14, keys, restricted(), restricted());
        world.set_coordinator(false);
        world.link(RouterId(0)).loss = 1.0;
        world.run(90 * SECOND);
        assert_eq!(world.state(a, b), State::Unreachable, "{}", world.story());
        world.link(RouterId(0)).loss = 0.0;
        // The next tries of both sides, at most 20 s apart.
        let took = world.run_until(25 * SECOND, |world| world.joined(a, b));
        assert!(took.is_some(), "{}", world.story());
    }
}

#[test]
fn random_loss_does_not_shake_a_path() {
    let (mut world, a, b) = joined(15, (1, 2), restricted(), restricted());
    world.link(RouterId(0)).loss = 0.05;
    world.run(120 * SECOND);
    assert!(world.joined(a, b), "{}", world.story());
    assert_eq!(world.hosts[a.0].log.len(), 2, "{}", world.story());
}

#[test]
fn a_peer_with_a_new_disco_key_joins_again() {
    for keys in ROLES {
        let (mut world, a, b) = joined(16, keys, restricted(), restricted());
        world.stop(a);
        world.hosts[a.0].disco = DiscoSecret::from_bytes([99; 32]);
        world.hosts[a.0].kept.peers.clear();
        world.reboot(a);
        let took = world.run_until(REPAIR, |world| world.joined(a, b));
        assert!(took.is_some(), "{}", world.story());
    }
}

#[test]
fn an_expelled_peer_loses_its_tunnel() {
    let (mut world, a, b) = joined(17, (1, 2), restricted(), restricted());
    world.watch_user_data(USER_GAP);
    world.run(SECOND);
    world.expel(b);
    world.run(SECOND);
    assert!(world.hosts[a.0].tunnels.is_empty());
    assert_eq!(world.node(a).states().count(), 0);
    // Whatever the one that was expelled sends over the tunnel that it still has.
    let crossed = |world: &World| world.user_data(b, a).expect("user data").received;
    let before = crossed(&world);
    world.run(30 * SECOND);
    assert_eq!(crossed(&world), before);
    let daemon = world.hosts[b.0].daemon.as_ref();
    let is_up = daemon.expect("the daemon runs").is_coordinator_up();
    assert!(!is_up, "the coordinator answers it no more");
    assert_eq!(world.state(b, a), State::Unreachable, "{}", world.story());
}

#[test]
fn an_offline_peer_is_waited_for() {
    let (mut world, a, b) = joined(18, (1, 2), restricted(), restricted());
    world.stop(b);
    world.run(60 * SECOND);
    world.set_online(b, false);
    world.run(30 * SECOND);
    assert_eq!(world.state(a, b), State::HaveEndpoints, "{}", world.story());
    let before = world.hosts[a.0].sent_total;
    world.run(60 * SECOND);
    let a_second = (world.hosts[a.0].sent_total - before) as f64 / 60.0;
    assert!(a_second < 1.0, "{a_second} packets a second");
    world.start(b);
    let took = world.run_until(2 * SECOND, |world| world.joined(a, b));
    assert!(took.is_some(), "{}", world.story());
}

#[test]
fn an_asymmetric_pair_survives_a_reboot_of_either_router() {
    // Each direction has a mapping of its own here.
    let open = |mapping| NatKind::new(mapping, Filtering::Independent);
    for keys in ROLES {
        for router in [RouterId(0), RouterId(1)] {
            let one = open(Mapping::AddressPort);
            let (mut world, a, b) = joined(19, keys, one, one);
            world.reboot_router(router, None);
            assert_repaired(&mut world, a, b);
        }
    }
}

/// Ten hosts, all joined with each other; each daemon in turn stands still for a second, its timers firing before its sockets are read.
#[test]
fn a_daemon_that_stands_still_for_a_second_loses_no_path() {
    let mut world = World::new(21);
    let kinds = [None, Some(restricted()), Some(NatKind::LINUX)];
    let hosts: Vec<HostId> = (1..=10)
        .map(|key| {
            world.site(
                &format!("h{key}"),
                key,
                kinds[usize::from(key) % kinds.len()],
            )
        })
        .collect();
    for host in &hosts {
        world.start(*host);
    }
    let pairs = || {
        let with = |a: &HostId| hosts.iter().map(|b| (*a, *b)).collect::<Vec<_>>();
        hosts.iter().flat_map(with).filter(|(a, b)| a != b)
    };
    let all = |world: &World| pairs().all(|(a, b)| world.joined(a, b));
    let took = world.run_until(20 * SECOND, all);
    assert!(took.is_some(), "not joined\n{}", world.story());
    world.run(10 * SECOND);
    let before = world.now;
    let changes: Vec<u64> = world.hosts.iter().map(|it| it.tunnel_changes).collect();
    for (round, host) in hosts.iter().cycle().take(20).enumerate() {
        world.run(Duration::from_millis(1000 + 73 * round as u64));
        world.stall(*host, SECOND);
    }
    world.run(5 * SECOND);
    for host in &world.hosts {
        let lost = host.log.iter().find(|(at, _)| *at > before);
        assert_eq!(lost, None, "{}\n{}", host.name, world.story());
    }
    let after: Vec<u64> = world.hosts.iter().map(|it| it.tunnel_changes).collect();
    assert_eq!(after, changes);
    world.check();
}
