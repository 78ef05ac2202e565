//! Networks behind peers: who carries them, when their carriers leave, die and come back.

use std::time::Duration;

use gretun::node::RouteRefusal;
use ipnet::IpNet;

use crate::nat::NatKind;
use crate::world::{HostId, World};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// How soon another router carries the network of one that died.
const FAILOVER: Duration = Duration::from_secs(3);

fn lan() -> IpNet {
    "10.20.0.0/24".parse().expect("a network")
}

/// A host that accepts routes, and two routers of one network, all joined.
fn with_two_routers(seed: u64) -> (World, HostId, [HostId; 2]) {
    let mut world = World::new(seed);
    let host = world.site("host", 2, Some(NatKind::LINUX));
    let routers = [("one", 1), ("two", 3)].map(|(name, key)| {
        let router = world.site(name, key, Some(NatKind::PORT_RESTRICTED));
        world.hosts[router.0].routes = vec![lan()];
        router
    });
    world.hosts[host.0].network.accept_routes = true;
    for id in world.host_ids() {
        world.start(id);
    }
    let both = |world: &World| routers.iter().all(|it| world.joined(host, *it));
    let took = world.run_until(5 * SECOND, both);
    assert!(took.is_some(), "not joined\n{}", world.story());
    (world, host, routers)
}

/// The routers whose tunnel the network is routed into.
fn carriers(world: &World, host: HostId, routers: [HostId; 2]) -> Vec<HostId> {
    let carries = |router: &HostId| {
        let key = world.hosts[router.0].node_key;
        let inside = world.hosts[host.0].insides.get(&key);
        inside.is_some_and(|it| it.routes == [lan()])
    };
    routers.into_iter().filter(carries).collect()
}

fn carrier(world: &World, host: HostId, routers: [HostId; 2]) -> HostId {
    let carriers = carriers(world, host, routers);
    assert_eq!(carriers.len(), 1, "{}", world.story());
    carriers[0]
}

#[test]
fn the_network_of_a_router_that_leaves_goes_to_the_other_at_once() {
    for seed in 0..4 {
        let (mut world, host, routers) = with_two_routers(seed);
        let before = carrier(&world, host, routers);
        world.expel(before);
        // The coordinator's word travels; nothing else is waited for.
        let moved = |world: &World| {
            let now = carriers(world, host, routers);
            now.len() == 1 && now[0] != before
        };
        let took = world.run_until(200 * MS, moved);
        assert!(took.is_some(), "{}", world.story());
        world.check();
    }
}

#[test]
fn the_network_of_a_router_that_dies_goes_to_the_other_and_stays_there() {
    for seed in 0..4 {
        let (mut world, host, routers) = with_two_routers(seed);
        let before = carrier(&world, host, routers);
        world.rewire(before, |interfaces| interfaces[0].up = false);
        let moved = |world: &World| {
            let now = carriers(world, host, routers);
            now.len() == 1 && now[0] != before
        };
        let took = world.run_until(FAILOVER, moved);
        assert!(took.is_some(), "{}", world.story());
        world.rewire(before, |interfaces| interfaces[0].up = true);
        let back = world.run_until(20 * SECOND, |world| world.joined(host, before));
        assert!(back.is_some(), "{}", world.story());
        world.run(5 * SECOND);
        let after = carrier(&world, host, routers);
        assert_ne!(after, before);
        let key = world.hosts[before.0].node_key;
        let carried_by = world.hosts[after.0].node_key;
        let offers = world.node(host).offered_routes(key);
        assert_eq!(offers[0].refusal, Some(RouteRefusal::CarriedBy(carried_by)));
        world.check();
    }
}

#[test]
fn a_restarted_daemon_leaves_the_network_with_its_carrier() {
    let (mut world, host, routers) = with_two_routers(1);
    let before = carrier(&world, host, routers);
    world.stop(host);
    world.run(SECOND);
    world.start(host);
    for _ in 0..100 {
        world.run(50 * MS);
        assert_eq!(carrier(&world, host, routers), before, "{}", world.story());
    }
}
