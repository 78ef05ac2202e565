//! The packets that a peer costs: during a path search, and when it is connected and idle.

use std::fmt::Write as _;
use std::time::Duration;

use crate::nat::NatKind;
use crate::oracle::Seen;
use crate::world::{HostId, World};

const SECOND: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(10);
const TWO: Seen = Seen::FromTwoPorts;
const ONE: Seen = Seen::FromOneServer;
const DOCUMENTATION: &str = include_str!("../../docs/NAT_TRAVERSAL.md");

/// The most packets until a pair is connected without a port search, whatever the documentation says.
const MOST_UNTIL_JOINED: u64 = 30;
/// The same with a port search, which takes 250 guesses on average.
const MOST_UNTIL_FOUND: u64 = 400;
/// The most packets in a second to a peer that is connected.
const MOST_IDLE: u64 = 3;

/// Packets that the host has sent to its peer, those of port searches included.
fn sent(world: &World, host: HostId) -> u64 {
    world.hosts[host.0].sent_total + world.node(host).counters().port_search_pings_sent
}

/// The more of both hosts.
fn worst<T: Ord>(hosts: [HostId; 2], figure: impl Fn(HostId) -> T) -> T {
    hosts.into_iter().map(figure).max().expect("two hosts")
}

/// One line of the documentation's table: packets until both have proven the path, in the busiest second, and in a second when idle.
fn row(name: &str, seen: Seen, one: Option<NatKind>, other: Option<NatKind>) -> String {
    let mut world = World::new(1);
    if seen == Seen::FromOneServer {
        world.servers.truncate(1);
    }
    let hosts = [world.site("a", 2, one), world.site("b", 1, other)];
    let [a, b] = hosts;
    world.start(a);
    world.run(SECOND);
    world.start(b);
    let (mut joined, mut busiest) = (None, 0);
    for _ in 0..3000 {
        world.run(STEP);
        let in_last_second =
            |it: HostId| world.hosts[it.0].sent.len() + world.hosts[it.0].searched.len();
        busiest = busiest.max(worst(hosts, in_last_second));
        if joined.is_none() && world.joined(a, b) {
            joined = Some(worst(hosts, |it| sent(&world, it)));
        }
    }
    let before = hosts.map(|it| sent(&world, it));
    world.run(120 * SECOND);
    let idle = worst(hosts, |it| sent(&world, it) - before[it.0]);
    if let Some(joined) = joined {
        let searched = hosts.map(|it| world.node(it).counters().port_searches);
        let most = if searched == [0; 2] {
            MOST_UNTIL_JOINED
        } else {
            MOST_UNTIL_FOUND
        };
        assert!(joined <= most, "{name}: {joined} packets until joined");
        assert!(idle <= MOST_IDLE * 120, "{name}: {idle} packets in 120 s");
    }
    let joined = joined.map_or("not joined".to_owned(), |it| it.to_string());
    format!(
        "| {name} | {joined} | {busiest} | {:.1} |",
        idle as f64 / 120.0
    )
}

#[test]
fn a_peer_costs_as_many_packets_as_documented() {
    let restricted = Some(NatKind::PORT_RESTRICTED);
    let symmetric = Some(NatKind::SYMMETRIC);
    let mut table = String::new();
    for (name, seen, one, other) in [
        ("no NAT, port-restricted", TWO, None, restricted),
        ("both port-restricted", TWO, restricted, restricted),
        ("symmetric, port-restricted", TWO, symmetric, restricted),
        ("both symmetric", TWO, symmetric, symmetric),
        (
            "symmetric, port-restricted, one STUN server",
            ONE,
            symmetric,
            restricted,
        ),
        ("both symmetric, one STUN server", ONE, symmetric, symmetric),
    ] {
        writeln!(table, "{}", row(name, seen, one, other)).expect("a string takes it");
    }
    assert!(
        DOCUMENTATION.contains(&table),
        "docs/NAT_TRAVERSAL.md should say:\n{table}"
    );
}

#[test]
fn a_pair_of_easy_nats_costs_no_more_with_one_stun_server_than_with_two() {
    let kinds = [None, Some(NatKind::LINUX), Some(NatKind::PORT_RESTRICTED)];
    for one in kinds {
        for other in kinds {
            assert_eq!(row("", ONE, one, other), row("", TWO, one, other));
        }
    }
}
