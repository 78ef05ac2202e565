//! The path MTU: what the tunnels are set to, and how long too large packets vanish.

use std::time::Duration;

use crate::nat::NatKind;
use crate::network::RouterId;
use crate::world::{HostId, World};

const SECOND: Duration = Duration::from_secs(1);
/// Larger sizes are tried 30 s after the last search has ended, and a search takes some seconds where sizes get lost.
const RAISE: Duration = Duration::from_secs(35);
/// A hop that shrinks without a word: the confirmation's gap, three tries, and a round of the search.
const FOLLOW: Duration = Duration::from_secs(5);

/// Returns the MTU of the tunnel from one host to the other.
fn path_mtu(world: &World, from: HostId, to: HostId) -> u16 {
    let peer = world.hosts[to.0].node_key;
    world.hosts[from.0].tunnels[&peer].path_mtu
}

fn both(world: &World, a: HostId, b: HostId) -> (u16, u16) {
    (path_mtu(world, a, b), path_mtu(world, b, a))
}

/// Two connected hosts whose interfaces have this MTU, with a hop of another MTU between them and with user data flowing.
fn joined(keys: (u8, u8), device: u16, hop: u16) -> (World, HostId, HostId) {
    let mut world = World::new(41);
    let kind = Some(NatKind::PORT_RESTRICTED);
    let a = world.site("a", keys.0, kind);
    let b = world.site("b", keys.1, kind);
    for host in [a, b] {
        world.hosts[host.0].interfaces[0].link.mtu = device;
    }
    set_hop(&mut world, hop);
    world.start(a);
    world.start(b);
    let took = world.run_until(3 * SECOND, |world| world.joined(a, b));
    assert!(took.is_some(), "not joined\n{}", world.story());
    world.watch_user_data(Duration::from_millis(10));
    (world, a, b)
}

fn set_hop(world: &mut World, hop: u16) {
    world.wire_mtu = 9000;
    world.link(RouterId(0)).mtu = hop;
    world.link(RouterId(1)).mtu = 9000;
}

#[test]
fn tunnels_get_what_fits_to_the_byte() {
    for keys in [(1, 2), (2, 1)] {
        for device in [1500, 9000] {
            for hop in [1280, 1400, 1447, 1492, 1500, 4000, 9000] {
                let (mut world, a, b) = joined(keys, device, hop);
                world.run(5 * SECOND);
                let fits = hop.min(device);
                assert_eq!(both(&world, a, b), (fits, fits), "{}", world.story());
                assert!(world.user_data_flows(a, b));
                assert_eq!(world.hosts[a.0].tunnel_changes, 1);
            }
        }
    }
}

#[test]
fn a_hop_that_shrinks_later_is_followed_in_seconds() {
    let (mut world, a, b) = joined((1, 2), 9000, 9000);
    world.run(5 * SECOND);
    for hop in [1500, 1492, 1400, 1333, 1280] {
        set_hop(&mut world, hop);
        let crosses = |world: &World| {
            let (there, back) = both(world, a, b);
            there <= hop && back <= hop && world.user_data_flows(a, b)
        };
        // Data that came before the change still counts as flowing for a moment.
        world.run(SECOND);
        let took = world.run_until(FOLLOW, crosses);
        assert!(
            took.is_some(),
            "{hop}: {:?}\n{}",
            both(&world, a, b),
            world.story()
        );
        world.run(5 * SECOND);
        assert_eq!(both(&world, a, b), (hop, hop));
        assert!(world.joined(a, b));
    }
    let gap = world.user_data(a, b).expect("user data").longest_gap;
    assert!(gap < FOLLOW, "{gap:?}");
}

#[test]
fn a_hop_that_grows_is_used_with_the_next_try_of_larger_sizes() {
    let (mut world, a, b) = joined((1, 2), 9000, 1280);
    world.run(5 * SECOND);
    for hop in [1400, 1500, 9000] {
        set_hop(&mut world, hop);
        let used = world.run_until(RAISE, |world| both(world, a, b) == (hop, hop));
        assert!(used.is_some(), "{hop}\n{}", world.story());
    }
    let gap = world.user_data(a, b).expect("user data").longest_gap;
    assert!(gap < SECOND, "growth interrupts nothing: {gap:?}");
}

#[test]
fn another_path_is_searched_anew() {
    let (mut world, a, b) = joined((1, 2), 9000, 1400);
    world.run(5 * SECOND);
    assert_eq!(both(&world, a, b), (1400, 1400));
    world.reboot_router(RouterId(0), Some("203.0.113.90"));
    set_hop(&mut world, 1480);
    world.run(12 * SECOND);
    assert!(world.joined(a, b), "{}", world.story());
    assert_eq!(both(&world, a, b), (1480, 1480), "{}", world.story());
}

#[test]
fn random_loss_shrinks_nothing_for_long() {
    let (mut world, a, b) = joined((1, 2), 1500, 1492);
    world.run(5 * SECOND);
    world.link(RouterId(0)).loss = 0.05;
    world.run(300 * SECOND);
    world.link(RouterId(0)).loss = 0.0;
    world.run(60 * SECOND);
    assert!(world.joined(a, b), "{}", world.story());
    assert_eq!(both(&world, a, b), (1492, 1492));
}

#[test]
fn a_restarted_daemon_keeps_the_mtu_that_it_finds() {
    let (mut world, a, b) = joined((1, 2), 1500, 1400);
    world.run(5 * SECOND);
    world.stop(a);
    world.run(2 * SECOND);
    world.start(a);
    for _ in 0..100 {
        world.run(Duration::from_millis(100));
        assert_eq!(path_mtu(&world, a, b), 1400, "{}", world.story());
    }
    assert!(world.joined(a, b));
}
