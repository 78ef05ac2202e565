//! A kernel that leaves the applier without an answer: what is not to be changed goes on meanwhile, and nothing is claimed that is not so.

use std::time::Duration;

use gretun::node::State;

use crate::nat::NatKind;
use crate::network::RouterId;
use crate::world::{HostId, World};

const SECOND: Duration = Duration::from_secs(1);
const USER_GAP: Duration = Duration::from_millis(50);
/// Longest gap of data where no path changes: the interval, and some.
const UNBROKEN: Duration = Duration::from_millis(120);
/// From the moment when the kernel answers again until a path that was to change carries data: a second for the data probe, three for a
/// path that is searched for meanwhile, and the pause after a path that the kernel did not set up in time.
const REPAIR: Duration = Duration::from_secs(15);

/// Ten hosts behind NATs of their own, every pair connected, with user data flowing.
fn ten(seed: u64) -> (World, Vec<HostId>) {
    let mut world = World::new(seed);
    let hosts: Vec<HostId> = (1..=10)
        .map(|n| world.site(&format!("h{n}"), n, Some(NatKind::LINUX)))
        .collect();
    for host in &hosts {
        world.start(*host);
    }
    let all = |world: &World| pairs(&hosts).all(|(a, b)| world.joined(a, b));
    let took = world.run_until(20 * SECOND, all);
    assert!(took.is_some(), "not joined\n{}", world.story());
    world.run(10 * SECOND);
    world.watch_user_data(USER_GAP);
    world.run(5 * SECOND);
    (world, hosts)
}

fn pairs(hosts: &[HostId]) -> impl Iterator<Item = (HostId, HostId)> {
    let with = |a: &HostId| hosts.iter().map(|b| (*a, *b)).collect::<Vec<_>>();
    hosts.iter().flat_map(with).filter(|(a, b)| a != b)
}

/// One host's applier gets no answer while another host's router restarts with another address, so that their tunnel has to move.
#[test]
fn an_applier_without_an_answer_costs_no_other_path() {
    // A request that takes a second, one that takes as long as its deadline, and a kernel that is silent for a minute.
    for (seed, stall) in [(1, SECOND), (2, 5 * SECOND), (3, 60 * SECOND)] {
        let (mut world, hosts) = ten(seed);
        let (slow, moves) = (hosts[0], hosts[1]);
        world.stall_applier(slow, stall);
        let answers_at = world.now + stall;
        world.reboot_router(RouterId(moves.0), Some("203.0.113.200"));
        while world.now < answers_at {
            world.run(SECOND / 4);
            // No claim without data that crossed both ways.
            world.check();
        }
        let others: Vec<HostId> = hosts.iter().copied().filter(|it| *it != moves).collect();
        for (a, b) in pairs(&others) {
            let data = world.user_data(a, b).expect("user data");
            assert!(
                world.joined(a, b) && data.longest_gap < UNBROKEN,
                "{stall:?}: {a:?} to {b:?}: {data:?}\n{}",
                world.story()
            );
        }
        // The tunnels of the host that moved, but for the one that the kernel does not set up.
        if stall > 4 * SECOND {
            for peer in others.iter().filter(|it| **it != slow) {
                assert!(world.joined(moves, *peer), "{peer:?}\n{}", world.story());
            }
        }
        if stall > 5 * SECOND {
            let state = world.status(slow, moves).state;
            assert_ne!(state, State::Direct, "{}", world.story());
        }
        let repaired = world.run_until(REPAIR, |world| world.joined(slow, moves));
        assert!(repaired.is_some(), "{stall:?}\n{}", world.story());
        world.run(5 * SECOND);
        world.check();
    }
}

/// Every applier gets no answer for a while, one after the other, while no path has to change: nothing is lost and nothing changes.
#[test]
fn appliers_without_an_answer_are_not_noticed_while_nothing_changes() {
    let (mut world, hosts) = ten(4);
    let changes: Vec<u64> = world.hosts.iter().map(|it| it.tunnel_changes).collect();
    for host in &hosts {
        world.stall_applier(*host, 5 * SECOND);
        world.links_changed(*host);
        world.run(2 * SECOND);
        world.check();
    }
    world.run(10 * SECOND);
    for (a, b) in pairs(&hosts) {
        let data = world.user_data(a, b).expect("user data");
        assert!(data.longest_gap < UNBROKEN, "{a:?} to {b:?}: {data:?}");
    }
    let after: Vec<u64> = world.hosts.iter().map(|it| it.tunnel_changes).collect();
    assert_eq!(after, changes);
}
