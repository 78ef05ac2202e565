use super::*;
use crate::proto::api::EndpointKind;

fn at(seconds: u64) -> Now {
    Now {
        unix_ms: 1_700_000_000_000 + seconds * 1000,
        uptime: Duration::from_secs(seconds),
    }
}

fn key(number: u8) -> NodePublic {
    NodePublic::from_bytes([number; 32])
}

fn pools() -> Vec<Pool> {
    vec![
        Pool::v4("10.0.0.0/29".parse().unwrap()).unwrap(),
        Pool::v6("fd00::/64".parse().unwrap()).unwrap(),
    ]
}

fn empty() -> Registry {
    Registry::load(pools(), vec![], 100, at(0)).unwrap().0
}

fn wanted(name: &str, disco: u8) -> RegistrationData {
    RegistrationData {
        name: PeerName::parse(name).unwrap(),
        disco_key: DiscoPublic::from_bytes([disco; 32]),
        endpoints: vec![],
        nat_mapping: NatMapping::Unknown,
        routes: vec![],
        version: "1".to_owned(),
    }
}

/// Plans and puts; the record.
fn join(registry: &mut Registry, number: u8, name: &str) -> NodeRecord {
    let record = registry
        .plan(key(number), wanted(name, number), Terms::default(), at(0))
        .unwrap();
    registry.put(record.clone(), at(0));
    record
}

fn ips(texts: [&str; 2]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn published(addr: &str) -> EndpointsRequest {
    let endpoint = Endpoint {
        addr: addr.parse().unwrap(),
        kind: EndpointKind::Local,
    };
    EndpointsRequest {
        endpoints: vec![endpoint],
        nat_mapping: NatMapping::Unknown,
    }
}

#[test]
fn addresses_are_handed_out_in_order_and_alike_in_both_families() {
    let mut registry = empty();
    assert_eq!(
        join(&mut registry, 1, "a").tunnel_ips,
        ips(["10.0.0.2", "fd00::2"])
    );
    assert_eq!(
        join(&mut registry, 2, "b").tunnel_ips,
        ips(["10.0.0.3", "fd00::3"])
    );
}

#[test]
fn a_node_keeps_its_addresses_whatever_else_it_changes() {
    let mut registry = empty();
    let first = join(&mut registry, 1, "a");
    join(&mut registry, 2, "b");
    let mut changed = wanted("c", 9);
    changed.endpoints = published("192.0.2.1:7").endpoints;
    let again = registry
        .plan(key(1), changed, Terms::default(), at(5))
        .unwrap();
    assert_eq!(again.tunnel_ips, first.tunnel_ips);
    assert_eq!(
        (again.name.as_str(), again.created_ms),
        ("c", first.created_ms)
    );
}

#[test]
fn names_are_unique_and_stay_as_given() {
    let mut registry = empty();
    join(&mut registry, 1, "a");
    assert_eq!(join(&mut registry, 2, "a").name.as_str(), "a-2");
    assert_eq!(join(&mut registry, 3, "a").name.as_str(), "a-3");
    // Asking for the same again changes nothing, even when a better name is free by now.
    registry.remove(&key(1));
    assert_eq!(join(&mut registry, 2, "a").name.as_str(), "a-2");
    // A name that was given up is free.
    assert_eq!(join(&mut registry, 3, "c").name.as_str(), "c");
    assert_eq!(join(&mut registry, 4, "a-3").name.as_str(), "a-3");
}

#[test]
fn a_full_pool_says_so_and_a_removed_node_makes_room() {
    let mut registry = empty();
    for number in 0..5 {
        join(&mut registry, number, "a");
    }
    let plan = |registry: &Registry| registry.plan(key(9), wanted("a", 9), Terms::default(), at(0));
    assert_eq!(
        plan(&registry),
        Err(ApiError::PoolExhausted {
            network: "10.0.0.0/29".parse().unwrap()
        })
    );
    assert!(registry.remove(&key(2)));
    assert!(!registry.remove(&key(2)));
    assert_eq!(
        plan(&registry).unwrap().tunnel_ips,
        ips(["10.0.0.4", "fd00::4"])
    );
}

#[test]
fn nobody_takes_the_disco_key_of_another() {
    let mut registry = empty();
    join(&mut registry, 1, "a");
    let plan = registry.plan(key(2), wanted("b", 1), Terms::default(), at(0));
    assert_eq!(plan, Err(ApiError::DiscoKeyTaken));
    // Its own it keeps, and when it changes it the old one is free.
    let record = registry
        .plan(key(1), wanted("a", 7), Terms::default(), at(0))
        .unwrap();
    registry.put(record, at(0));
    assert!(
        registry
            .plan(key(2), wanted("b", 1), Terms::default(), at(0))
            .is_ok()
    );
}

#[test]
fn the_generation_rises_with_what_peers_see_and_with_nothing_else() {
    let mut registry = empty();
    let mut before = registry.generation();
    let mut rose = |registry: &Registry| {
        std::mem::replace(&mut before, registry.generation()) < registry.generation()
    };

    let record = join(&mut registry, 1, "a");
    assert!(rose(&registry));
    assert!(!registry.put(record.clone(), at(1)));
    assert!(!registry.touch(&key(1), at(1)));
    assert!(!registry.put(
        NodeRecord {
            version: "2".to_owned(),
            ..record
        },
        at(1)
    ));
    assert!(!rose(&registry));
    assert!(registry.set_endpoints(&key(1), published("192.0.2.1:7")));
    assert!(rose(&registry));
    assert!(!registry.set_endpoints(&key(1), published("192.0.2.1:7")));
    let known_nat = EndpointsRequest {
        nat_mapping: NatMapping::AddressDependent,
        ..published("192.0.2.1:7")
    };
    assert!(registry.set_endpoints(&key(1), known_nat));
    assert!(rose(&registry));
    let record = &registry.peers_of(&key(9)).peers[0];
    assert_eq!(record.nat_mapping, NatMapping::AddressDependent);
    assert!(!registry.mark_offline(at(61)));
    assert!(!rose(&registry));
    assert!(registry.mark_offline(at(62)));
    assert!(rose(&registry));
    assert!(!registry.mark_offline(at(63)));
    assert!(registry.touch(&key(1), at(64)));
    assert!(rose(&registry));
    assert_eq!(registry.count(), (1, 1));
}

#[test]
fn a_node_sees_all_others_and_not_itself() {
    let mut registry = empty();
    join(&mut registry, 1, "a");
    join(&mut registry, 2, "b");
    let list = registry.peers_of(&key(1));
    assert_eq!(list.generation, registry.generation());
    assert_eq!(list.peers.len(), 1);
    assert_eq!(
        (list.peers[0].name.as_str(), list.peers[0].online),
        ("b", true)
    );
    assert_eq!(registry.peers_of(&key(9)).peers.len(), 2);
}

#[test]
fn endpoints_are_to_be_stored_once_per_change() {
    let mut registry = empty();
    let record = join(&mut registry, 1, "a");
    assert!(registry.take_unsaved().is_empty());
    registry.set_endpoints(&key(1), published("192.0.2.1:7"));
    // A registration that changes nothing does not make it forget.
    let current = registry.get(&key(1)).cloned().unwrap();
    registry.put(current.clone(), at(1));
    assert_eq!(registry.take_unsaved(), [current]);
    assert!(registry.take_unsaved().is_empty());
    // An endpoint that was stored does.
    registry.set_endpoints(&key(1), published("192.0.2.1:8"));
    registry.put(record, at(1));
    assert!(registry.take_unsaved().is_empty());
}

#[test]
fn only_ephemeral_nodes_lapse() {
    let mut registry = empty();
    join(&mut registry, 1, "a");
    let terms = Terms {
        ephemeral: true,
        ..Terms::default()
    };
    let record = registry.plan(key(2), wanted("b", 2), terms, at(0)).unwrap();
    registry.put(record, at(0));
    assert!(registry.lapsed(at(600)).is_empty());
    assert_eq!(registry.lapsed(at(601)), [key(2)]);
    registry.touch(&key(2), at(601));
    assert!(registry.lapsed(at(602)).is_empty());
}

#[test]
fn what_was_stored_comes_back_offline_with_its_addresses() {
    let mut registry = empty();
    let records = vec![join(&mut registry, 1, "a"), join(&mut registry, 2, "b")];
    let (loaded, moved) = Registry::load(pools(), records.clone(), 200, at(0)).unwrap();
    assert!(moved.is_empty());
    assert_eq!(loaded.count(), (0, 2));
    assert!(loaded.generation() >= 200);
    assert_eq!(loaded.get(&key(2)), Some(&records[1]));
    // An ephemeral node has time to come back after a restart.
    assert!(loaded.lapsed(at(600)).is_empty());
}

#[test]
fn nodes_outside_changed_pools_move_and_others_stay() {
    let mut registry = empty();
    let records = vec![join(&mut registry, 1, "a"), join(&mut registry, 2, "b")];
    let other_v4 = vec![
        Pool::v4("10.9.0.0/24".parse().unwrap()).unwrap(),
        pools()[1],
    ];
    let (loaded, moved) = Registry::load(other_v4, records.clone(), 200, at(0)).unwrap();
    assert_eq!(moved.len(), 2);
    assert_eq!(
        loaded.get(&key(2)).unwrap().tunnel_ips,
        ips(["10.9.0.3", "fd00::3"])
    );

    let only_v4 = vec![pools()[0]];
    let (loaded, _) = Registry::load(only_v4, records.clone(), 200, at(0)).unwrap();
    assert_eq!(
        loaded.get(&key(2)).unwrap().tunnel_ips,
        records[1].tunnel_ips[..1]
    );

    let too_small = vec![Pool::v4("10.9.0.0/30".parse().unwrap()).unwrap()];
    assert!(matches!(
        Registry::load(too_small, records, 200, at(0)),
        Err(ApiError::PoolExhausted { .. })
    ));
}
