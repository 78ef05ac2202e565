//! The port search: how often and how fast it connects pairs that nothing else can, and its costs.
//!
//! `GRETUN_SIM_RUNS` sets how often each pair is tried; `-- --nocapture` shows the figures.

use std::time::Duration;

use gretun::node::{EXTRA_PORTS, State};

use crate::dice;
use crate::nat::NatKind;
use crate::schedule::number;
use crate::world::{HostId, World};

const SECOND: Duration = Duration::from_secs(1);

/// Runs of each pair, unless `GRETUN_SIM_RUNS` names another number.
const DEFAULT_RUNS: u64 = 100;

const SYMMETRIC: Option<NatKind> = Some(NatKind::SYMMETRIC);
const SEQUENTIAL: Option<NatKind> = Some(NatKind::SEQUENTIAL);
pub const RESTRICTED: Option<NatKind> = Some(NatKind::PORT_RESTRICTED);

pub fn pair(seed: u64, one: Option<NatKind>, other: Option<NatKind>) -> (World, HostId, HostId) {
    let mut world = World::new(seed);
    let (key_a, key_b) = if seed.is_multiple_of(2) {
        (1, 2)
    } else {
        (2, 1)
    };
    let a = world.site("a", key_a, one);
    let b = world.site("b", key_b, other);
    (world, a, b)
}

pub fn join(seed: u64, one: Option<NatKind>, other: Option<NatKind>) -> (World, HostId, HostId) {
    let (mut world, a, b) = pair(seed, one, other);
    world.start(a);
    world.start(b);
    let joined = world.run_until(5 * SECOND, |world| world.joined(a, b));
    assert!(joined.is_some(), "seed {seed}\n{}", world.story());
    (world, a, b)
}

struct Figures {
    share: f64,
    median: Duration,
    p95: Duration,
}

/// Measures, in many worlds, the time from the start of the second host's daemon until both have verified the path.
fn measure(one: Option<NatKind>, other: Option<NatKind>) -> Figures {
    let runs = number("GRETUN_SIM_RUNS").unwrap_or(DEFAULT_RUNS);
    let mut times = Vec::new();
    for seed in 0..runs {
        let (mut world, a, b) = pair(seed, one, other);
        let (first, second) = if seed % 4 < 2 { (a, b) } else { (b, a) };
        world.start(first);
        let pause = dice::duration(&mut world.rng, 10 * SECOND);
        world.run(pause);
        world.start(second);
        times.extend(world.run_until(3 * SECOND, |world| world.joined(a, b)));
        world.check();
    }
    times.sort_unstable();
    let joined = times.len();
    times.resize(runs as usize, Duration::MAX);
    let figures = Figures {
        share: joined as f64 / runs as f64,
        median: times[times.len() / 2],
        p95: times[times.len() * 95 / 100],
    };
    println!(
        "{one:?} and {other:?}: {joined} of {runs} joined within 3 s, median {:.0?}, 95 % {:.0?}",
        figures.median, figures.p95
    );
    figures
}

#[test]
fn a_symmetric_nat_and_a_port_restricted_one_are_joined_within_three_seconds() {
    let figures = measure(SYMMETRIC, RESTRICTED);
    assert!(figures.share >= 0.99, "{}", figures.share);
    assert!(figures.median < SECOND, "{:?}", figures.median);
}

#[test]
fn ports_in_order_are_foretold() {
    for other in [RESTRICTED, SEQUENTIAL] {
        let figures = measure(SEQUENTIAL, other);
        assert!(figures.share >= 0.99, "{}", figures.share);
        assert!(figures.p95 < SECOND, "{:?}", figures.p95);
    }
}

#[test]
fn two_symmetric_nats_without_order_are_not_joined_and_cost_nothing() {
    let (mut world, a, b) = pair(1, SYMMETRIC, SYMMETRIC);
    world.start(a);
    world.start(b);
    world.run(60 * SECOND);
    for (at, of) in [(a, b), (b, a)] {
        let status = world.status(at, of);
        assert_eq!(status.state, State::Unreachable, "{}", world.story());
        let reason = status.reason.to_string();
        assert!(reason.contains("both NATs are symmetric"), "{reason}");
        assert_eq!(world.node(at).counters().port_search_pings_sent, 0);
    }
}

#[test]
fn no_search_where_the_ordinary_means_suffice() {
    let kinds = [None, RESTRICTED, Some(NatKind::LINUX)];
    for (seed, other) in kinds.into_iter().enumerate() {
        let (mut world, a, b) = join(seed as u64, RESTRICTED, other);
        world.run(30 * SECOND);
        for host in [a, b] {
            assert_eq!(world.node(host).counters().port_search_pings_sent, 0);
        }
    }
}

#[test]
fn two_hosts_without_a_nat_are_not_searched_however_late_they_answer() {
    let (mut world, a, b) = pair(1, None, None);
    let ignore = |world: &mut World, ignores: bool| {
        for (at, of) in [(a, b), (b, a)] {
            let ip = world.hosts[of.0].interfaces[0].ip;
            world.hosts[at.0].firewall.ignores = ignores.then_some(ip);
        }
    };
    ignore(&mut world, true);
    world.start(a);
    world.start(b);
    world.run(3 * SECOND);
    ignore(&mut world, false);
    let joined = world.run_until(15 * SECOND, |world| world.joined(a, b));
    assert!(joined.is_some(), "{}", world.story());
    for host in [a, b] {
        assert_eq!(world.node(host).counters().port_search_pings_sent, 0);
    }
}

#[test]
fn either_side_can_decline() {
    for declining in [0, 1] {
        let (mut world, a, b) = pair(2, SYMMETRIC, RESTRICTED);
        let who = [a, b][declining];
        world.hosts[who.0].aggressive_punch = false;
        world.start(a);
        world.start(b);
        world.run(20 * SECOND);
        for host in [a, b] {
            assert_eq!(world.node(host).counters().port_search_pings_sent, 0);
        }
        let reason = world.status(a, b).reason.to_string();
        let why = ["--aggressive-punch is off", "takes no part"][declining];
        assert!(reason.contains(why), "{reason}");
    }
}

#[test]
fn the_path_has_a_port_of_its_own_and_is_kept_open() {
    for seed in 0..4 {
        let (mut world, a, b) = join(seed, SYMMETRIC, RESTRICTED);
        let path = world.status(a, b).path.expect("a path");
        assert!(EXTRA_PORTS.contains(&path.port), "{path}");
        world.watch_user_data(Duration::from_millis(50));
        world.run(600 * SECOND);
        world.check();
        assert!(world.joined(a, b), "{}", world.story());
        assert_eq!(world.status(a, b).path, Some(path));
        let gap = world.user_data(a, b).expect("user data").longest_gap;
        assert!(gap < Duration::from_millis(200), "{gap:?}");
    }
}

#[test]
fn a_restart_finds_the_tunnel_and_leaves_it() {
    for seed in 0..4 {
        let (mut world, a, b) = join(seed, SYMMETRIC, RESTRICTED);
        world.run(5 * SECOND);
        let path = world.status(a, b).path;
        for host in [a, b] {
            let changes = world.hosts[host.0].tunnel_changes;
            world.stop(host);
            world.run(SECOND);
            world.start(host);
            let joined = world.run_until(3 * SECOND, |world| world.joined(a, b));
            assert!(joined.is_some(), "{}", world.story());
            world.run(10 * SECOND);
            assert_eq!(
                world.hosts[host.0].tunnel_changes,
                changes,
                "{}",
                world.story()
            );
            assert_eq!(world.status(a, b).path, path);
        }
    }
}

#[test]
fn a_router_that_reboots_is_searched_again() {
    for (seed, router) in [(1, 0), (2, 0), (1, 1), (2, 1)] {
        let (mut world, a, b) = join(seed, SYMMETRIC, RESTRICTED);
        world.run(5 * SECOND);
        world.reboot_router(crate::network::RouterId(router), None);
        let lost = world.run_until(3 * SECOND, |world| !world.joined(a, b));
        assert!(lost.is_some());
        let joined = world.run_until(6 * SECOND, |world| world.joined(a, b));
        assert!(joined.is_some(), "{}", world.story());
    }
}

#[test]
fn peers_of_one_symmetric_nat_share_the_cap() {
    let mut world = World::new(3);
    let a = world.site("a", 1, SYMMETRIC);
    let others: Vec<HostId> = (2..6)
        .map(|key| world.site(&format!("b{key}"), key, RESTRICTED))
        .collect();
    for host in others.iter().chain([&a]) {
        world.start(*host);
    }
    // The judge counts every packet on the way.
    let all = |world: &World| others.iter().all(|it| world.joined(a, *it));
    let joined = world.run_until(20 * SECOND, all);
    assert!(joined.is_some(), "{}", world.story());
}
