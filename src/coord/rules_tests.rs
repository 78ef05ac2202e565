use std::time::Duration;

use super::super::enrol::{ENTROPY_LEN, KeyError, KeyPolicy};
use super::super::replay::NotFresh;
use super::super::signals::MAX_WAITING;
use super::*;
use crate::proto::NatMapping;
use crate::proto::api::{EndpointKind, sign_request};
use crate::proto::keys::{DiscoPublic, NodeSecret};

fn at(seconds: u64) -> Now {
    Now {
        unix_ms: 1_700_000_000_000 + seconds * 1000,
        uptime: Duration::from_secs(seconds),
    }
}

fn core(open: bool) -> Core {
    let pool = Pool::v4("10.0.0.0/24".parse().unwrap()).unwrap();
    Core::load(vec![pool], open, Snapshot::default(), at(0))
        .unwrap()
        .0
}

fn node(number: u8) -> NodePublic {
    NodeSecret::from_bytes([number; 32]).public()
}

fn request(number: u8, auth_key: Option<&str>) -> RegisterRequest {
    RegisterRequest {
        name: format!("node{number}"),
        disco_key: DiscoPublic::from_bytes([number; 32]),
        endpoints: vec![],
        nat_mapping: NatMapping::Unknown,
        routes: vec![],
        auth_key: auth_key.map(str::to_owned),
        version: "1".to_owned(),
    }
}

fn join(core: &mut Core, number: u8) {
    let changes = core
        .plan_registration(node(number), request(number, None), at(0))
        .unwrap();
    core.apply(changes, at(0));
}

fn add_key(core: &mut Core, policy: KeyPolicy) -> String {
    let (text, record) = KeyRecord::create(&[7; ENTROPY_LEN], policy, at(0).unix_ms);
    core.apply(vec![Change::PutKey(record)], at(0));
    text
}

fn headers(number: u8, nonce: u8, now: Now) -> SignedHeaders {
    sign_request(
        &NodeSecret::from_bytes([number; 32]),
        "GET",
        "/",
        b"",
        now.unix_ms,
        [nonce; 16],
    )
}

#[test]
fn a_stranger_needs_a_key_and_a_member_does_not() {
    let mut core = core(false);
    let refused = core.plan_registration(node(1), request(1, None), at(0));
    assert_eq!(refused, Err(ApiError::KeyNeeded));
    let key = add_key(
        &mut core,
        KeyPolicy {
            ephemeral: true,
            tags: vec!["ci".to_owned()],
            ..KeyPolicy::default()
        },
    );
    let changes = core
        .plan_registration(node(1), request(1, Some(&key)), at(0))
        .unwrap();
    let [Change::PutNode(record), Change::PutKey(used)] = &changes[..] else {
        panic!("{changes:?}");
    };
    assert_eq!(
        (record.ephemeral, &record.tags[..]),
        (true, &["ci".to_owned()][..])
    );
    assert_eq!(
        (record.enrolled_with.as_ref(), used.uses),
        (Some(&used.id), 1)
    );
    core.apply(changes, at(0));

    // The member comes back with the used key, or none; the next stranger is refused.
    for auth_key in [Some(key.as_str()), None] {
        let changes = core
            .plan_registration(node(1), request(1, auth_key), at(1))
            .unwrap();
        assert!(matches!(&changes[..], [only] if core.is_stored(only)));
    }
    let refused = core.plan_registration(node(2), request(2, Some(&key)), at(1));
    assert_eq!(refused, Err(ApiError::Key(KeyError::Used)));
}

#[test]
fn an_open_coordinator_takes_anybody_and_a_key_s_terms_where_there_is_one() {
    let mut core = core(true);
    assert!(
        core.plan_registration(node(1), request(1, None), at(0))
            .is_ok()
    );
    assert!(
        core.plan_registration(node(1), request(1, Some("nonsense")), at(0))
            .is_ok()
    );
    let key = add_key(&mut core, KeyPolicy::default());
    let changes = core
        .plan_registration(node(1), request(1, Some(&key)), at(0))
        .unwrap();
    assert_eq!(changes.len(), 2);
}

#[test]
fn what_cannot_be_sent_to_or_is_too_much_is_refused() {
    let mut core = core(true);
    join(&mut core, 1);
    let endpoint = |text: &str| Endpoint {
        addr: text.parse().unwrap(),
        kind: EndpointKind::Local,
    };
    let published = |endpoints| EndpointsRequest {
        endpoints,
        nat_mapping: NatMapping::Unknown,
    };
    for bad in [
        "0.0.0.0:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "192.0.2.1:0",
        "[::]:1",
        "[ff02::1]:1",
        "[::ffff:224.0.0.1]:1",
    ] {
        let addr = bad.parse().unwrap();
        let refused = core.set_endpoints(
            &node(1),
            published(vec![endpoint("192.0.2.1:1"), endpoint(bad)]),
        );
        assert_eq!(refused, Err(ApiError::Endpoint { addr }));
    }
    let many = published(vec![endpoint("192.0.2.1:1"); MAX_ENDPOINTS + 1]);
    assert_eq!(
        core.set_endpoints(&node(1), many),
        Err(ApiError::TooManyEndpoints {
            count: MAX_ENDPOINTS + 1
        })
    );
    let mut unreachable = request(1, None);
    unreachable.endpoints = vec![endpoint("192.0.2.1:1"), endpoint("224.0.0.1:1")];
    let refused = core.plan_registration(node(1), unreachable, at(0));
    assert!(matches!(refused, Err(ApiError::Endpoint { .. })));
    let mut crowded = request(1, None);
    crowded.endpoints = vec![endpoint("192.0.2.1:1"); MAX_ENDPOINTS + 1];
    let refused = core.plan_registration(node(1), crowded, at(0));
    assert!(matches!(refused, Err(ApiError::TooManyEndpoints { .. })));
    let mut generous = request(1, None);
    generous.routes = vec!["10.0.0.0/8".parse().unwrap(); MAX_ROUTES + 1];
    let refused = core.plan_registration(node(1), generous, at(0));
    let count = MAX_ROUTES + 1;
    assert_eq!(refused, Err(ApiError::TooManyRoutes { count }));
    let mut long = request(1, None);
    long.version = "v".repeat(MAX_VERSION + 1);
    assert!(matches!(
        core.plan_registration(node(1), long, at(0)),
        Err(ApiError::FieldTooLong {
            field: "version",
            ..
        })
    ));
    let mut odd = request(1, None);
    odd.name = "a b".to_owned();
    assert!(matches!(
        core.plan_registration(node(1), odd, at(0)),
        Err(ApiError::Name(_))
    ));
}

#[test]
fn a_nonce_counts_once() {
    let mut core = core(true);
    join(&mut core, 1);
    assert_eq!(core.admit(&headers(1, 1, at(1)), at(1)), Ok(false));
    let repeated = ApiError::NotFresh(NotFresh::Repeated);
    assert_eq!(
        core.admit(&headers(1, 1, at(1)), at(2)),
        Err(repeated.clone())
    );
    // A stranger is not remembered before it is registered.
    let stranger = headers(2, 1, at(1));
    assert_eq!(core.admit(&stranger, at(1)), Err(ApiError::NotRegistered));
    assert_eq!(core.check_fresh(&stranger, at(1)), Ok(()));
    core.remember(&stranger, at(1));
    assert_eq!(core.check_fresh(&stranger, at(1)), Err(repeated));
}

/// Nonces are kept as long as their requests could be sent again, or the coordinator would grow for ever.
#[test]
fn time_takes_nonces_away() {
    let mut core = core(true);
    join(&mut core, 1);
    assert_eq!(core.admit(&headers(1, 1, at(1)), at(1)), Ok(false));
    core.tick(at(50));
    let again = headers(1, 1, at(50));
    let repeated = Err(ApiError::NotFresh(NotFresh::Repeated));
    assert_eq!(core.check_fresh(&again, at(50)), repeated);
    core.tick(at(200));
    assert_eq!(core.check_fresh(&headers(1, 1, at(200)), at(200)), Ok(()));
}

#[test]
fn a_node_that_floods_is_slowed_down_and_others_are_not() {
    let mut core = core(true);
    join(&mut core, 1);
    join(&mut core, 2);
    let secret = NodeSecret::from_bytes([1; 32]);
    let mut accepted = 0_u32;
    let refusal = loop {
        let mut nonce = [0; 16];
        nonce[..4].copy_from_slice(&accepted.to_be_bytes());
        let headers = sign_request(&secret, "GET", "/", b"", at(1).unix_ms, nonce);
        match core.admit(&headers, at(1)) {
            Ok(_) => accepted += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(f64::from(accepted), NODE_RATE.burst);
    assert!(matches!(refusal, ApiError::TooFast { .. }));
    assert_eq!(core.check_fresh(&headers(2, 1, at(1)), at(1)), Ok(()));
    assert_eq!(core.check_fresh(&headers(1, 255, at(2)), at(2)), Ok(()));
    core.tick(at(60));
    assert!(core.rates.is_empty());
}

#[test]
fn signals_need_a_recipient_and_an_envelope() {
    let mut core = core(true);
    join(&mut core, 1);
    join(&mut core, 2);
    let signal = |sealed: &str, to| SignalRequest {
        to: node(to),
        sealed: sealed.to_owned(),
    };
    for bad in [
        "",
        "no base64",
        &data_encoding::BASE64.encode(&[0; MAX_SEALED + 1]),
    ] {
        assert_eq!(
            core.push_signal(node(1), signal(bad, 2), at(0)),
            Err(ApiError::Sealed)
        );
    }
    assert_eq!(
        core.push_signal(node(1), signal("AAAA", 9), at(0)),
        Err(ApiError::NoRecipient { to: node(9) })
    );
    for _ in 0..MAX_WAITING {
        assert_eq!(core.push_signal(node(1), signal("AAAA", 2), at(0)), Ok(0));
    }
    assert_eq!(core.push_signal(node(1), signal("BBBB", 2), at(0)), Ok(1));
    let taken = core.take_signals(&node(2), at(0));
    assert_eq!(taken.len(), MAX_WAITING);
    assert!(taken.iter().all(|signal| signal.from == node(1)));
}

#[test]
fn a_removed_node_leaves_nothing() {
    let mut core = core(true);
    join(&mut core, 1);
    let signal = SignalRequest::new(node(1), b"x");
    core.push_signal(node(1), signal, at(0)).unwrap();
    assert!(core.apply(vec![Change::RemoveNode(node(1))], at(0)));
    assert!(core.take_signals(&node(1), at(0)).is_empty());
    assert_eq!(
        core.admit(&headers(1, 1, at(0)), at(0)),
        Err(ApiError::NotRegistered)
    );
}

#[test]
fn time_takes_nodes_offline_and_ephemeral_ones_away() {
    let mut core = core(false);
    let key = add_key(
        &mut core,
        KeyPolicy {
            ephemeral: true,
            ..KeyPolicy::default()
        },
    );
    let changes = core
        .plan_registration(node(1), request(1, Some(&key)), at(0))
        .unwrap();
    core.apply(changes, at(0));
    assert_eq!(core.tick(at(60)), Ticked::default());
    assert!(core.tick(at(61)).peers_changed);
    assert_eq!(core.admit(&headers(1, 1, at(62)), at(62)), Ok(true));
    assert!(core.tick(at(200)).peers_changed);
    assert_eq!(core.tick(at(663)).lapsed, [Change::RemoveNode(node(1))]);
}
