//! Causes that the simulator's hosts, which have IPv4 and one interface, do not come to. The others are in `tests/sim/explain.rs`.

use super::*;

/// A candidate that was pinged and did not answer.
fn tried(remote: &str, has_family: bool) -> Tried {
    Tried {
        remote: remote.parse().unwrap(),
        has_family,
        pings: 5,
        pongs: 0,
        answered: false,
        heard: false,
        round_trip: None,
        latest: None,
    }
}

/// The evidence of two hosts behind symmetric NATs.
fn evidence(tried: Vec<Tried>) -> Evidence {
    Evidence {
        peer: "bob".to_owned(),
        port: 7777,
        state: State::Unreachable,
        searching_because: None,
        coordinator_up: true,
        online: true,
        own_nat: NatMapping::AddressAndPortDependent,
        own_public: vec!["203.0.113.1:7777".parse().unwrap()],
        stun_asked: 2,
        stun_answered: 2,
        udp_came_in: false,
        peer_nat: NatMapping::AddressAndPortDependent,
        peer_public: vec!["203.0.113.2:7777".parse().unwrap()],
        router_port: RouterPort::None,
        peer_mapped: None,
        aggressive: false,
        port_search: None,
        tried,
        tunnel: None,
    }
}

const IPV4: &str = "203.0.113.2:7777";
const IPV6: &str = "[2001:db8::2]:7777";

#[test]
fn hosts_without_a_common_family_are_told_and_one_candidate_of_another_family_is_no_reason() {
    let explained = explain(&evidence(vec![tried(IPV6, false)]));
    assert_eq!(explained.cause, Cause::NoCommonFamily);
    assert_eq!(explained.remedies, [Remedy::Ipv6]);
    let both = evidence(vec![tried(IPV4, true), tried(IPV6, false)]);
    assert_eq!(explain(&both).cause, Cause::SymmetricBoth);
}

#[test]
fn a_peer_that_answers_and_chooses_no_path_is_told() {
    let answered = Tried {
        answered: true,
        ..tried(IPV4, true)
    };
    let explained = explain(&evidence(vec![answered]));
    assert_eq!(explained.cause, Cause::NotNominated);
    assert_eq!(explained.remedies, [Remedy::Doctor(Side::Peer)]);
}

#[test]
fn a_peer_without_addresses_is_told_from_a_coordinator_that_is_away() {
    let mut unknown = evidence(Vec::new());
    unknown.state = State::Unknown;
    assert_eq!(explain(&unknown).cause, Cause::NoEndpoint);
    unknown.coordinator_up = false;
    assert_eq!(explain(&unknown).cause, Cause::NoCoordinator);
}
