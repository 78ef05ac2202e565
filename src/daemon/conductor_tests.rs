use std::net::Ipv4Addr;

use super::*;
use crate::node::{NodeConfig, Path};
use crate::proto::DiscoSecret;
use crate::proto::api::PeerList;
use crate::proto::stun::{self, StunMessage};

const OWN: [u8; 32] = [1; 32];

fn addresses() -> Vec<LocalAddress> {
    vec![LocalAddress::from(
        "192.168.1.10".parse::<IpAddr>().unwrap(),
    )]
}

/// Where nothing could be sent.
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

/// The host with its addresses, and a route to wherever it is asked for.
fn host() -> HostView {
    HostView {
        addresses: addresses(),
        with_route: vec![FAR],
    }
}

fn conductor(now: Instant) -> Conductor {
    let node = Node::new(NodeConfig {
        node_key: NodePublic::from_bytes(OWN),
        disco: DiscoSecret::from_bytes(OWN),
        port: 7777,
        aggressive_punch: true,
        network: Default::default(),
        interface_numbers: Default::default(),
        seed: [7; 32],
    });
    let settings = Settings {
        stun_host: Some("coord.example".to_owned()),
    };
    let found = Found {
        addresses: addresses(),
        ..Found::default()
    };
    Conductor::new(now, node, settings, found)
}

/// Everything that there is to do.
fn acts(conductor: &mut Conductor) -> Vec<Act> {
    std::iter::from_fn(|| conductor.poll_act()).collect()
}

fn is_read(act: &Act) -> bool {
    matches!(act, Act::ReadHost { .. })
}

fn is_reconnect(act: &Act) -> bool {
    matches!(act, Act::Reconnect)
}

/// A conductor that has looked at its host.
fn settled(now: Instant) -> Conductor {
    let mut conductor = conductor(now);
    conductor.handle_timeout(now);
    assert!(acts(&mut conductor).iter().any(is_read));
    conductor.handle_host(now, Some(host()));
    assert!(!acts(&mut conductor).iter().any(is_reconnect));
    conductor
}

const ROUTES: NetChange = NetChange {
    links: false,
    addresses: false,
    routes: true,
};

const LINKS: NetChange = NetChange {
    links: true,
    ..ROUTES
};

/// How long after a change of this kind the host is looked at.
fn looks_after(conductor: &mut Conductor, now: Instant, change: NetChange) -> Duration {
    conductor.handle_net_change(now, change);
    let (at, reason) = conductor.poll_timeout().unwrap();
    assert_eq!(reason, "host addresses");
    conductor.handle_timeout(at - Duration::from_millis(1));
    assert!(!acts(conductor).iter().any(is_read));
    conductor.handle_timeout(at);
    assert_eq!(acts(conductor).iter().filter(|it| is_read(it)).count(), 1);
    conductor.handle_host(at, Some(host()));
    at - now
}

#[test]
fn changes_of_routes_alone_are_not_urgent_unless_a_packet_lacks_one() {
    let now = Instant::now();
    let mut conductor = settled(now);
    assert_eq!(looks_after(&mut conductor, now, LINKS), CHANGE_SETTLE);
    let now = now + Duration::from_secs(10);
    assert_eq!(looks_after(&mut conductor, now, ROUTES), ROUTES_SETTLE);
    let now = now + Duration::from_secs(10);
    conductor.handle_lack_of_route(FAR);
    assert_eq!(looks_after(&mut conductor, now, ROUTES), CHANGE_SETTLE);
    let now = now + Duration::from_secs(10);
    assert_eq!(looks_after(&mut conductor, now, ROUTES), ROUTES_SETTLE);
}

/// As on a host with an IPv6 address and no IPv6 route, while links come and go: nothing begins anew, and STUN's answer over IPv4 is taken.
#[test]
fn a_destination_that_stays_without_a_route_costs_the_others_nothing() {
    let begin = Instant::now();
    let mut conductor = settled(begin);
    let unreachable: SocketAddr = "198.51.100.9:3478".parse().unwrap();
    let server: SocketAddr = "203.0.113.1:3478".parse().unwrap();
    conductor.handle_stun_servers(begin, vec![unreachable, server]);
    let (mut requests, mut answers) = (0, Vec::new());
    for ms in 0..1000 {
        let now = begin + Duration::from_millis(ms);
        conductor.handle_net_change(now, LINKS);
        conductor.handle_timeout(now);
        for act in acts(&mut conductor) {
            match act {
                Act::Send(it) if it.to == unreachable => conductor.handle_lack_of_route(it.to.ip()),
                Act::Send(it) if it.to == server => {
                    requests += 1;
                    answers.push((now + Duration::from_millis(50), it.data));
                }
                Act::ReadHost { without_route } => {
                    assert!(without_route.is_empty() || without_route == [unreachable.ip()]);
                    let addresses = addresses();
                    let with_route = Vec::new();
                    conductor.handle_host(
                        now,
                        Some(HostView {
                            addresses,
                            with_route,
                        }),
                    );
                }
                _ => {}
            }
        }
        for (_, request) in answers.extract_if(.., |(at, _)| *at <= now) {
            let Ok(StunMessage::Request { tx_id, .. }) = stun::decode(&request) else {
                panic!("a STUN request");
            };
            let mapped = "203.0.113.50:7777".parse().unwrap();
            let answer = stun::binding_success(tx_id, mapped);
            let own = SocketAddr::new(addresses()[0].ip, 7777);
            conductor.handle_datagram(now, 2, own, server, &answer);
        }
    }
    assert_eq!(conductor.node().stun_answers().count(), 1);
    assert!(requests < 5, "{requests}");
}

/// A host with an IPv6 address and no IPv6 route has many that stay without one.
#[test]
fn the_latest_destinations_without_a_route_are_remembered_and_none_makes_haste_for_ever() {
    let now = Instant::now();
    let mut conductor = settled(now);
    for last in 0..100 {
        conductor.handle_lack_of_route(IpAddr::from([192, 0, 2, last]));
    }
    conductor.handle_lack_of_route(FAR);
    conductor.handle_net_change(now, ROUTES);
    conductor.handle_timeout(now + CHANGE_SETTLE);
    let without = acts(&mut conductor).into_iter().find_map(|act| match act {
        Act::ReadHost { without_route } => Some(without_route),
        _ => None,
    });
    let without = without.unwrap();
    assert_eq!(
        (without.len(), without.last()),
        (MAX_WITHOUT_ROUTE, Some(&FAR))
    );
    let none = HostView {
        with_route: Vec::new(),
        ..host()
    };
    let now = now + CHANGE_SETTLE;
    conductor.handle_host(now, Some(none));
    assert_eq!(looks_after(&mut conductor, now, ROUTES), ROUTES_SETTLE);
}

#[test]
fn a_flood_of_changes_neither_puts_off_a_look_nor_has_two_at_a_time() {
    let begin = Instant::now();
    let mut conductor = settled(begin);
    let mut looks = 0;
    let mut answers_at = None;
    for ms in 0..5000 {
        let now = begin + Duration::from_millis(ms);
        conductor.handle_net_change(now, ROUTES);
        conductor.handle_timeout(now);
        for act in acts(&mut conductor) {
            if is_read(&act) {
                assert_eq!(answers_at, None, "two looks at a time");
                answers_at = Some(now + Duration::from_millis(700));
                looks += 1;
            }
        }
        if answers_at.is_some_and(|at| at <= now) {
            answers_at = None;
            conductor.handle_host(now, Some(host()));
        }
    }
    // Half a second, then each as soon as the one before is answered.
    assert!((6..=7).contains(&looks), "{looks}");
}

#[test]
fn addresses_that_cannot_be_read_are_read_again_and_those_known_stay() {
    let now = Instant::now();
    let mut conductor = settled(now);
    conductor.handle_net_change(now, LINKS);
    conductor.handle_timeout(now + CHANGE_SETTLE);
    assert!(acts(&mut conductor).iter().any(is_read));
    let now = now + CHANGE_SETTLE;
    conductor.handle_host(now, None);
    assert!(
        acts(&mut conductor).is_empty(),
        "nothing is known to change"
    );
    assert_eq!(conductor.addresses, addresses());
    conductor.handle_timeout(now + ADDRESSES_RETRY - Duration::from_millis(1));
    assert!(!acts(&mut conductor).iter().any(is_read));
    conductor.handle_timeout(now + ADDRESSES_RETRY);
    assert!(acts(&mut conductor).iter().any(is_read));
    let other = vec![LocalAddress::from(
        "192.168.7.10".parse::<IpAddr>().unwrap(),
    )];
    let other = HostView {
        addresses: other,
        ..HostView::default()
    };
    conductor.handle_host(now, Some(other));
    assert!(acts(&mut conductor).iter().any(is_reconnect));
}

#[test]
fn a_route_that_comes_back_connects_to_a_coordinator_that_was_lost_alone() {
    let mut now = Instant::now();
    let mut conductor = settled(now);
    for is_up in [false, true] {
        let event = if is_up {
            Event::Registered(registered())
        } else {
            Event::Lost
        };
        conductor.handle_coordinator(now, event);
        acts(&mut conductor);
        conductor.handle_lack_of_route(FAR);
        conductor.handle_net_change(now, ROUTES);
        now += CHANGE_SETTLE;
        conductor.handle_timeout(now);
        conductor.handle_host(now, Some(host()));
        let reconnects = acts(&mut conductor).iter().any(is_reconnect);
        assert_eq!(reconnects, !is_up);
    }
}

fn registered() -> RegisterResponse {
    RegisterResponse {
        name: "alice".to_owned(),
        tunnel_ips: vec!["10.77.0.1".parse().unwrap()],
        networks: vec!["10.77.0.0/16".parse().unwrap()],
        stun_ports: vec![3478, 4000],
        peers: PeerList {
            generation: 1,
            peers: Vec::new(),
        },
    }
}

#[test]
fn what_the_coordinator_says_is_kept_and_its_stun_servers_are_asked() {
    let now = Instant::now();
    let mut conductor = conductor(now);
    let asked = |conductor: &mut Conductor| {
        let mut names = Vec::new();
        let mut kept = None;
        for act in acts(conductor) {
            match act {
                Act::LookUpStunServers(servers) => names.push(servers),
                Act::Write(Content::Network(network)) => kept = Some(network),
                _ => {}
            }
        }
        (names, kept)
    };
    let (names, kept) = asked(&mut conductor);
    assert_eq!(names, [["coord.example:3478", "coord.example:3479"]]);
    assert!(kept.is_none(), "an empty network is no news");
    conductor.handle_coordinator(now, Event::Registered(registered()));
    assert!(conductor.is_coordinator_up());
    let (names, kept) = asked(&mut conductor);
    assert_eq!(names, [["coord.example:3478", "coord.example:4000"]]);
    assert_eq!(kept.unwrap().tunnel_ips, registered().tunnel_ips);
    conductor.handle_coordinator(now, Event::Registered(registered()));
    assert_eq!(asked(&mut conductor).0, [[""; 2]; 0], "they are the same");
}

#[test]
fn packets_by_unknown_links_and_through_tunnels_are_dropped_and_counted() {
    let now = Instant::now();
    let mut conductor = conductor(now);
    let peer = NodePublic::from_bytes([2; 32]);
    let drops = |conductor: &Conductor, reason| conductor.node().counters().dropped(reason);
    conductor.handle_probe(now, 5, b"probe");
    assert_eq!(drops(&conductor, DropReason::NoTunnel), 1);
    let done = |index| Applied::Done {
        peer,
        number: 1,
        path: Path {
            local: "192.168.1.10".parse().unwrap(),
            port: 7777,
            remote: "203.0.113.2:7777".parse().unwrap(),
        },
        link: Link {
            index,
            name: "gretun0".to_owned(),
            mtu: 1464,
            device_mtu: 1500,
        },
    };
    let local = "192.168.1.10:7777".parse().unwrap();
    let from = "10.77.0.2:7777".parse().unwrap();
    let through_tunnel = |conductor: &mut Conductor, device| {
        let before = drops(conductor, DropReason::ThroughTunnel);
        conductor.handle_datagram(now, device, local, from, b"disco");
        drops(conductor, DropReason::ThroughTunnel) - before
    };
    assert_eq!(through_tunnel(&mut conductor, 5), 0);
    conductor.handle_applied(now, done(5));
    assert_eq!(through_tunnel(&mut conductor, 5), 1);
    // Another kind of link, made anew: the number of the old one may be anybody's.
    conductor.handle_applied(now, done(6));
    assert_eq!(through_tunnel(&mut conductor, 5), 0);
    assert_eq!(through_tunnel(&mut conductor, 6), 1);
    conductor.handle_applied(now, Applied::Removed { peer });
    assert_eq!(through_tunnel(&mut conductor, 6), 0);
    assert!(conductor.link(peer).is_none());
}
