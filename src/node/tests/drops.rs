//! Input of no use is counted, and nothing else happens.

use super::*;
use crate::peer::{MAX_PROBES, REPLAY_NONCES};

/// Input of no use: what it is, and why it is dropped. Nothing else happens.
#[test]
fn drops() {
    use Role::{Controlled, Controlling};
    let tx_id = TxId([3; 12]);
    let cases: &[(Role, Message, DropReason)] = &[
        (
            Controlling,
            Message::Ping {
                tx_id,
                node_key: NodePublic::from_bytes([66; 32]),
                padding: 0,
            },
            DropReason::WrongIdentity,
        ),
        (
            Controlling,
            Message::Pong {
                tx_id,
                src: addr(REMOTE),
            },
            DropReason::Unsolicited,
        ),
        (
            Controlling,
            Message::Nominate { seq: 1, tx_id },
            DropReason::WrongRole,
        ),
        (
            Controlled,
            Message::Nominated { seq: 1, tx_id },
            DropReason::Unsolicited,
        ),
        (
            Controlled,
            Message::DataPing { tx_id },
            DropReason::WrongChannel,
        ),
        (
            Controlled,
            Message::DataPong { tx_id },
            DropReason::WrongChannel,
        ),
    ];
    for (role, message, reason) in cases {
        let mut bench = Bench::with_peer(*role);
        bench.receive(REMOTE, message);
        assert_eq!(bench.dropped(*reason), 1, "{message:?}");
        assert_eq!(bench.state(), State::Punching);
    }
}

#[test]
fn messages_on_another_channel_are_dropped() {
    let mut bench = Bench::with_tunnel(Role::Controlled);
    let tx_id = TxId([3; 12]);
    let src = addr(REMOTE);
    bench.receive_through_tunnel(&Message::Pong { tx_id, src });
    bench.receive_signal(&Message::Nominate { seq: 9, tx_id });
    bench.receive_signal(&Message::DataPong { tx_id });
    assert_eq!(bench.dropped(DropReason::WrongChannel), 3);
}

#[test]
fn a_replay_is_dropped() {
    let mut bench = Bench::with_peer(Role::Controlled);
    let nominate = bench.seal(&Message::Nominate {
        seq: 1,
        tx_id: TxId([3; 12]),
    });
    bench.datagram(REMOTE, &nominate);
    bench.sent();
    bench.datagram(ELSEWHERE, &nominate);
    assert_eq!(bench.dropped(DropReason::Replay), 1);
    assert_eq!(bench.sent(), []);
    assert_eq!(bench.wanted_path().unwrap().remote, addr(REMOTE));
    bench.node.handle_signal(bench.now, bench.peer, &nominate);
    bench
        .node
        .handle_data_probe(bench.now, bench.peer, &nominate);
    assert_eq!(bench.dropped(DropReason::Replay), 3);
}

/// Somebody who holds answers back keeps no memory of the probes for ever.
#[test]
fn the_answer_to_a_data_probe_of_long_ago_is_dropped() {
    let mut bench = Bench::with_tunnel(Role::Controlled);
    let mut asked = Vec::new();
    while asked.len() <= MAX_PROBES {
        bench.pass(SECOND);
        let sent = bench.sent_through_tunnel().into_iter();
        asked.extend(sent.filter_map(|it| match it {
            Message::DataPing { tx_id, .. } => Some(tx_id),
            _ => None,
        }));
    }
    let remembered = asked.len() - MAX_PROBES;
    for tx_id in &asked[..remembered] {
        bench.receive_through_tunnel(&Message::DataPong { tx_id: *tx_id });
    }
    let dropped = bench.dropped(DropReason::Unsolicited);
    assert_eq!(dropped, remembered as u64);
    let tx_id = asked[remembered];
    bench.receive_through_tunnel(&Message::DataPong { tx_id });
    assert_eq!(bench.dropped(DropReason::Unsolicited), dropped);
    assert_eq!(bench.state(), State::Direct);
}

#[test]
fn a_pong_from_another_address_is_dropped_and_from_another_port_is_not() {
    for (from, dropped) in [("192.0.2.3:7777", 1), ("192.0.2.2:999", 0)] {
        let mut bench = Bench::with_peer(Role::Controlling);
        let ping = bench.sent().into_iter().find_map(|(_, it)| match it {
            Message::Ping { tx_id, .. } => Some(tx_id),
            _ => None,
        });
        let tx_id = ping.unwrap();
        let src = addr("198.51.100.1:1");
        bench.receive(from, &Message::Pong { tx_id, src });
        assert_eq!(bench.dropped(DropReason::WrongSource), dropped, "{from}");
    }
}

#[test]
fn truncated_and_damaged_envelopes_are_dropped() {
    let mut bench = Bench::with_peer(Role::Controlled);
    let whole = bench.seal(&Message::Nominate {
        seq: 1,
        tx_id: TxId([3; 12]),
    });
    for len in 0..whole.len() {
        bench.datagram(REMOTE, &whole[..len]);
    }
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        bench.datagram(REMOTE, &damaged);
    }
    let drops: u64 = bench.node.counters().drops.values().sum();
    assert_eq!(drops, 2 * whole.len() as u64);
    assert!(bench.wanted_path().is_none());
}

#[test]
fn an_envelope_of_another_peer_is_dropped_on_a_channel_that_says_whose_it_is() {
    let mut bench = Bench::with_tunnel(Role::Controlled);
    let stranger = NodePublic::from_bytes([5; 32]);
    let sealed = bench.seal(&Message::CallMeMaybe { endpoints: vec![] });
    bench.node.handle_signal(bench.now, stranger, &sealed);
    bench.node.handle_data_probe(bench.now, stranger, &sealed);
    assert_eq!(bench.dropped(DropReason::UnknownSender), 2);
}

#[test]
fn a_flood_of_pings_is_answered_within_the_cap() {
    let mut bench = Bench::with_peer(Role::Controlled);
    for count in 0..200_u16 {
        let port = 1000 + count;
        bench.ping_from(&format!("192.0.2.7:{port}"));
    }
    assert_eq!(bench.sent().len(), MAX_PACKETS_PER_SECOND);
    assert!(bench.dropped(DropReason::RateLimited) > 0);
    bench.pass(SECOND);
    assert!(bench.sent().len() <= MAX_PACKETS_PER_SECOND);
}

#[test]
fn many_endpoints_are_pinged_within_the_cap() {
    let mut bench = Bench::new(Role::Controlled);
    let endpoints: Vec<String> = (1..200).map(|it| format!("192.0.2.2:{it}")).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    bench.tell(&endpoints, true);
    bench.pass(999 * MS);
    let sent = bench.sent().len();
    assert!((30..=MAX_PACKETS_PER_SECOND).contains(&sent), "{sent}");
}

/// Somebody on the path recorded a nomination, and sends it from elsewhere when its nonce is forgotten.
#[test]
fn an_old_nomination_moves_no_proven_tunnel_and_teaches_no_address() {
    let mut bench = Bench::direct(Role::Controlled);
    let again = Message::Nominate {
        seq: 1,
        tx_id: TxId([3; 12]),
    };
    let nominate = bench.seal(&again);
    bench.datagram(REMOTE, &nominate);
    for _ in 0..REPLAY_NONCES {
        bench.ping_from(REMOTE);
    }
    bench.pass(SECOND);
    bench.answer_probes();
    bench.sent();
    bench.datagram(ELSEWHERE, &nominate);
    assert_eq!(bench.dropped(DropReason::StaleNomination), 1);
    assert_eq!(bench.wanted_path().unwrap().remote, addr(REMOTE));
    bench.pass(SECOND);
    let to_elsewhere = |sent: Vec<(SocketAddr, Message)>| {
        let elsewhere = addr(ELSEWHERE);
        sent.iter().any(|(to, _)| *to == elsewhere)
    };
    assert!(!to_elsewhere(bench.sent()));
    // A nomination with a higher number is a new one.
    bench.nominate(2, ELSEWHERE);
    assert_eq!(bench.wanted_path().unwrap().remote, addr(ELSEWHERE));
}

#[test]
fn dropped_messages_teach_no_address() {
    let tx_id = TxId([3; 12]);
    for (role, message) in [
        (Role::Controlled, Message::Nominated { seq: 1, tx_id }),
        (
            Role::Controlled,
            Message::Pong {
                tx_id,
                src: addr(REMOTE),
            },
        ),
        (Role::Controlled, Message::DataPong { tx_id }),
        (Role::Controlling, Message::Nominate { seq: 9, tx_id }),
    ] {
        let mut bench = Bench::with_peer(role);
        bench.sent();
        bench.receive(ELSEWHERE, &message);
        bench.pass(SECOND);
        let sent = bench.sent();
        let elsewhere = addr(ELSEWHERE);
        assert!(sent.iter().all(|(to, _)| *to != elsewhere), "{message:?}");
    }
}

/// A path to an address inside the overlay would lead the tunnel through itself.
#[test]
fn a_ping_from_the_peers_address_inside_the_overlay_is_no_path() {
    let mut bench = Bench::with_peer(Role::Controlled);
    bench.sent();
    bench.ping_from("100.64.0.2:7777");
    assert_eq!(bench.dropped(DropReason::ThroughTunnel), 1);
    assert_eq!(bench.sent(), []);
    bench.nominate(1, "100.64.0.2:7777");
    assert_eq!(bench.dropped(DropReason::ThroughTunnel), 2);
    assert_eq!(bench.wanted_path(), None);
}
