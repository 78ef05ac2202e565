//! What a node does in one situation or another.

use super::*;

#[test]
fn a_state_change_says_how_long_and_why() {
    let mut bench = Bench::with_peer(Role::Controlling);
    bench.pass(6 * SECOND);
    let last = bench.outputs.iter().rev().find_map(|it| match it {
        Output::StateChange(it) => Some((it.from, it.to, it.after, it.reason.clone())),
        _ => None,
    });
    let (from, to, after, reason) = last.unwrap();
    assert_eq!((from, to), (State::Punching, State::Unreachable));
    assert_eq!(after, 5 * SECOND);
    let StateReason::NotConnected { cause, verdict } = reason else {
        panic!("{reason}");
    };
    assert_eq!(cause, Cause::UdpBlockedAtPeer, "{verdict}");
    let status = bench.status();
    assert_eq!(status.reason.to_string(), verdict);
    let key = (State::Unreachable, cause.as_str());
    assert_eq!(bench.node.counters().state_changes[&key], 1);
}

#[test]
fn a_ping_is_answered_from_where_it_came_to() {
    let mut bench = Bench::with_peer(Role::Controlled);
    bench.sent();
    bench.ping_from(ELSEWHERE);
    let sent = bench.sent();
    let (tx_id, src) = (PING, addr(ELSEWHERE));
    assert!(sent.contains(&(src, Message::Pong { tx_id, src })));
    let pinged =
        |(to, it): &(SocketAddr, Message)| *to == src && matches!(it, Message::Ping { .. });
    assert!(sent.iter().any(pinged), "a new address is pinged at once");
}

#[test]
fn a_lost_nomination_is_repeated_with_its_number() {
    let mut bench = Bench::with_peer(Role::Controlling);
    bench.ping_from(REMOTE);
    bench.pass(400 * MS);
    let sent = bench.sent();
    let nominations: Vec<&Message> = sent
        .iter()
        .filter_map(|(_, it)| matches!(it, Message::Nominate { .. }).then_some(it))
        .collect();
    assert!(nominations.len() >= 3);
    assert!(nominations.iter().all(|it| *it == nominations[0]));
}

#[test]
fn a_stale_nomination_is_answered_with_the_number_in_force() {
    let mut bench = Bench::with_peer(Role::Controlled);
    bench.nominate(5, REMOTE);
    bench.sent();
    bench.nominate(4, ELSEWHERE);
    assert_eq!(bench.dropped(DropReason::StaleNomination), 1);
    assert_eq!(bench.wanted_path().unwrap().remote, addr(REMOTE));
    let answered = bench.sent().into_iter().find_map(|(_, it)| match it {
        Message::Nominated { seq, .. } => Some(seq),
        _ => None,
    });
    assert_eq!(answered, Some(5));
}

#[test]
fn a_controlling_side_that_started_anew_goes_on_from_the_number_in_force() {
    let mut bench = Bench::with_peer(Role::Controlling);
    bench.ping_from(REMOTE);
    let nominated = bench.sent().into_iter().find_map(|(_, it)| match it {
        Message::Nominate { tx_id, .. } => Some(tx_id),
        _ => None,
    });
    let tx_id = nominated.unwrap();
    bench.receive(REMOTE, &Message::Nominated { seq: 41, tx_id });
    let again = bench.sent().into_iter().find_map(|(_, it)| match it {
        Message::Nominate { seq, .. } => Some(seq),
        _ => None,
    });
    assert_eq!(again, Some(42));
}

#[test]
fn the_same_tunnel_is_asked_for_once() {
    let mut bench = Bench::direct(Role::Controlled);
    bench.outputs.clear();
    bench.nominate(2, REMOTE);
    bench.nominate(3, REMOTE);
    let asked = |it: &Output| matches!(it, Output::SetTunnel { .. });
    assert!(!bench.outputs.iter().any(asked));
    bench.nominate(4, ELSEWHERE);
    assert_eq!(bench.outputs.iter().filter(|it| asked(it)).count(), 1);
}

/// The last request to the kernel: the path, and the one that it receives over besides.
fn last_request(bench: &Bench) -> Option<(Path, Option<SocketAddr>)> {
    let request = |it: &Output| match it {
        Output::SetTunnel { tunnel, .. } => {
            let overlap = tunnel.outside.overlap.map(|it| it.remote);
            Some((tunnel.outside.path, overlap))
        }
        _ => None,
    };
    bench.outputs.iter().rev().find_map(request)
}

#[test]
fn a_side_that_is_told_to_move_answers_when_its_kernel_has_moved() {
    let mut bench = Bench::direct(Role::Controlled);
    bench.sent();
    bench.outputs.clear();
    let answers = |bench: &mut Bench| {
        let sent = bench.sent().into_iter();
        sent.filter(|(to, it)| *to == addr(ELSEWHERE) && matches!(it, Message::Nominated { .. }))
            .count()
    };
    bench.nominate(2, ELSEWHERE);
    bench.nominate(2, ELSEWHERE);
    assert_eq!(answers(&mut bench), 0);
    let (path, other) = last_request(&bench).unwrap();
    assert_eq!((path.remote, other), (addr(ELSEWHERE), Some(addr(REMOTE))));
    bench.report_applied(1500);
    assert_eq!(answers(&mut bench), 1);
    bench.nominate(2, ELSEWHERE);
    assert_eq!(answers(&mut bench), 1);
    bench.answer_probes();
    bench.pass(6 * SECOND);
    assert_eq!(last_request(&bench), Some((path, None)), "the move is over");
}

#[test]
fn a_side_that_moves_nominates_when_its_kernel_receives_over_both_paths() {
    for kernel_says_so in [true, false] {
        let mut bench = Bench::direct(Role::Controlling);
        let lan = "10.0.0.2:7777";
        let in_lan = LocalAddress {
            prefix_len: 24,
            ..LocalAddress::from(ip("10.0.0.1"))
        };
        let addresses = vec![in_lan, ip(LOCAL).into()];
        bench.node.handle_local_addresses(bench.now, addresses);
        bench.tell(&[REMOTE, lan], true);
        let pings: Vec<TxId> = bench
            .sent()
            .into_iter()
            .filter_map(|(to, it)| match it {
                Message::Ping { tx_id, .. } if to == addr(lan) => Some(tx_id),
                _ => None,
            })
            .collect();
        bench.outputs.clear();
        let src = addr("10.0.0.1:7777");
        let tx_id = pings[0];
        bench.receive(lan, &Message::Pong { tx_id, src });
        let nominations = |bench: &mut Bench| -> Vec<TxId> {
            let nomination = |(to, it)| match it {
                Message::Nominate { tx_id, .. } if to == addr(lan) => Some(tx_id),
                _ => None,
            };
            bench.sent().into_iter().filter_map(nomination).collect()
        };
        assert_eq!(nominations(&mut bench), []);
        let (path, other) = last_request(&bench).unwrap();
        assert_eq!((path.remote, other), (addr(REMOTE), Some(addr(lan))));
        if kernel_says_so {
            bench.report_applied(1500);
        } else {
            bench.pass(SECOND);
        }
        let sent = nominations(&mut bench);
        assert!(!sent.is_empty());
        let (seq, tx_id) = (2, sent[0]);
        bench.receive(lan, &Message::Nominated { seq, tx_id });
        let (path, other) = last_request(&bench).unwrap();
        assert_eq!((path.remote, other), (addr(lan), Some(addr(REMOTE))));
    }
}

#[test]
fn probes_that_were_lost_before_one_was_answered_are_forgotten() {
    let mut bench = Bench::direct(Role::Controlled);
    bench.pass(1600 * MS);
    // Of several late probes one in the middle is answered, the later ones never are.
    let probes = bench.sent_through_tunnel();
    assert!(probes.len() >= 4);
    let Message::DataPing { tx_id } = probes[1] else {
        panic!("no probe");
    };
    bench.receive_through_tunnel(&Message::DataPong { tx_id });
    bench.pass(2400 * MS);
    assert_eq!(bench.state(), State::Direct);
    bench.pass(200 * MS);
    assert_eq!(bench.state(), State::Punching);
}

#[test]
fn a_peer_that_calls_is_told_of_the_path_that_works() {
    let mut bench = Bench::direct(Role::Controlling);
    bench.sent();
    bench.outputs.clear();
    bench.receive_signal(&Message::CallMeMaybe { endpoints: vec![] });
    let nominated = |(to, it): &(SocketAddr, Message)| {
        *to == addr(REMOTE) && matches!(it, Message::Nominate { .. })
    };
    assert!(bench.sent().iter().any(nominated));
    let asked = |it: &Output| matches!(it, Output::SetTunnel { .. });
    assert!(!bench.outputs.iter().any(asked), "it is there already");
}

#[test]
fn a_removed_peer_loses_its_tunnel_and_its_voice() {
    let mut bench = Bench::direct(Role::Controlling);
    bench.outputs.clear();
    bench.node.handle_peers(bench.now, &[]);
    bench.collect();
    let peer = bench.peer;
    let expected = [Output::RemoveTunnel { peer }, Output::KeepInterfaceNumbers];
    assert_eq!(bench.outputs, expected);
    assert_eq!(bench.node.states().count(), 0);
    bench.ping_from(REMOTE);
    assert_eq!(bench.dropped(DropReason::UnknownSender), 1);
}

#[test]
fn an_adopted_tunnel_of_nobody_is_removed() {
    let mut bench = Bench::new(Role::Controlling);
    let peer = NodePublic::from_bytes([77; 32]);
    bench.node.handle_adopted(bench.now, peer, found(1));
    bench.collect();
    let tunnel = found(1);
    assert!(bench.outputs.contains(&Output::SetTunnel { peer, tunnel }));
    bench.outputs.clear();
    // Nothing was kept from last time: nothing is known of anybody.
    bench.node.handle_kept_peers(bench.now, &[]);
    bench.collect();
    assert!(bench.outputs.is_empty(), "{:?}", bench.outputs);
    bench.tell(&[REMOTE], true);
    assert!(bench.outputs.contains(&Output::RemoveTunnel { peer }));
}

/// A tunnel over [`REMOTE`] as a start finds it.
pub(super) fn found(gre_key: u32) -> DesiredTunnel {
    DesiredTunnel {
        outside: Outside {
            number: 0,
            path: Path {
                local: ip(LOCAL),
                port: 7777,
                remote: addr(REMOTE),
            },
            overlap: None,
            path_mtu: Some(1500),
            gre_key,
        },
        inside: Inside {
            name: "gretun5".to_owned(),
            ..Inside::default()
        },
    }
}

#[test]
fn an_adopted_tunnel_counts_once_data_crossed_it() {
    for role in [Role::Controlling, Role::Controlled] {
        let mut bench = Bench::new(role);
        let found = found(bench.shared.gre_key());
        bench
            .node
            .handle_adopted(bench.now, bench.peer, found.clone());
        bench.tell(&[REMOTE], true);
        assert_eq!(bench.state(), State::Punching);
        bench.answer_probes();
        assert_eq!(bench.state(), State::Direct);
        let asked = bench.outputs.iter().filter_map(|it| match it {
            Output::SetTunnel { tunnel, .. } => Some(tunnel.outside),
            _ => None,
        });
        let asked: Vec<Outside> = asked.collect();
        // As it was found, and once more with the peer's name.
        assert_eq!(asked, [found.outside; 2]);
    }
}

/// The disco key was lost, or the peer's was: nothing crosses a tunnel with the key of before.
#[test]
fn an_adopted_tunnel_with_another_gre_key_is_made_anew() {
    let mut bench = Bench::new(Role::Controlled);
    let key = bench.shared.gre_key();
    bench
        .node
        .handle_adopted(bench.now, bench.peer, found(key ^ 1));
    bench.tell(&[REMOTE], true);
    bench.nominate(1, REMOTE);
    let mut asked = bench.outputs.iter().filter_map(|it| match it {
        Output::SetTunnel { tunnel, .. } => Some(tunnel.outside.gre_key),
        _ => None,
    });
    assert_eq!(asked.next_back(), Some(key));
}

/// The coordinator's list and its signals come over different connections.
#[test]
fn a_signal_that_overtakes_its_sender_s_record_waits_for_it() {
    for (waits, is_kept) in [(SECOND - MS, true), (SECOND, false)] {
        let mut bench = Bench::new(Role::Controlled);
        let endpoints = vec![addr(ELSEWHERE)];
        bench.receive_signal(&Message::CallMeMaybe { endpoints });
        bench.pass(waits);
        bench.tell(&[], true);
        let pinged = bench.sent().iter().any(|(to, _)| *to == addr(ELSEWHERE));
        assert_eq!(pinged, is_kept, "after {waits:?}");
    }
}

#[test]
fn early_signals_are_bounded_and_those_dropped_are_counted() {
    let mut bench = Bench::new(Role::Controlled);
    let sealed = bench.seal(&Message::CallMeMaybe { endpoints: vec![] });
    for sender in 0..200_u8 {
        let sender = NodePublic::from_bytes([sender; 32]);
        bench.node.handle_signal(bench.now, sender, &sealed);
    }
    assert_eq!(bench.dropped(DropReason::UnknownSender), 200 - 64);
}

#[test]
fn whoever_copies_a_disco_key_is_ignored() {
    let mut bench = Bench::direct(Role::Controlling);
    let record = bench.record(&[REMOTE], true);
    let copy = PeerRecord {
        name: "copy".to_owned(),
        node_key: NodePublic::from_bytes([0; 32]),
        ..record.clone()
    };
    bench.node.handle_peers(bench.now, &[copy, record]);
    assert_eq!(bench.node.states().count(), 1);
    assert_eq!(bench.state(), State::Direct);
}

/// The applier may be late: what it says of an earlier request is not about the tunnel that is asked for now.
#[test]
fn a_report_on_an_earlier_request_for_the_same_path_is_no_answer() {
    let mut bench = Bench::with_peer(Role::Controlled);
    bench.nominate(1, REMOTE);
    let earlier = bench.request;
    let none = Vec::<IpAddr>::new();
    bench.node.handle_local_addresses(bench.now, none);
    let locals = vec![ip(LOCAL)];
    bench.node.handle_local_addresses(bench.now, locals);
    bench.collect();
    bench.nominate(1, REMOTE);
    assert!(bench.request > earlier);
    assert_eq!(bench.wanted_path().unwrap().remote, addr(REMOTE));
    bench.outputs.clear();
    let (number, error) = (earlier, "no".to_owned());
    bench.report(TunnelReport::Failed { number, error });
    let (number, device_mtu) = (earlier, 1500);
    bench.report(TunnelReport::Applied { number, device_mtu });
    assert_eq!(bench.sent_through_tunnel(), []);
    bench.report_applied(1500);
    assert!(!bench.sent_through_tunnel().is_empty());
}

/// A nomination waits until the kernel receives over both paths; a report on a request before that does not say so.
#[test]
fn a_late_report_does_not_send_a_nomination_that_waits_for_the_kernel() {
    let mut bench = Bench::direct(Role::Controlling);
    let earlier = bench.request;
    let lan = "10.0.0.2:7777";
    let in_lan = LocalAddress {
        prefix_len: 24,
        ..LocalAddress::from(ip("10.0.0.1"))
    };
    let addresses = vec![in_lan, ip(LOCAL).into()];
    bench.node.handle_local_addresses(bench.now, addresses);
    bench.tell(&[REMOTE, lan], true);
    let pings: Vec<TxId> = bench
        .sent()
        .into_iter()
        .filter_map(|(to, it)| match it {
            Message::Ping { tx_id, .. } if to == addr(lan) => Some(tx_id),
            _ => None,
        })
        .collect();
    let (tx_id, src) = (pings[0], addr("10.0.0.1:7777"));
    bench.receive(lan, &Message::Pong { tx_id, src });
    assert!(bench.request > earlier);
    let nominated = |bench: &mut Bench| {
        let mut sent = bench.sent().into_iter();
        sent.any(|(to, it)| to == addr(lan) && matches!(it, Message::Nominate { .. }))
    };
    let (number, device_mtu) = (earlier, 1500);
    bench.report(TunnelReport::Applied { number, device_mtu });
    assert!(!nominated(&mut bench));
    bench.report_applied(1500);
    assert!(nominated(&mut bench));
}

#[test]
fn what_is_reached_from_outside_is_published_first() {
    let mut bench = Bench::new(Role::Controlled);
    let address = |number: u8| LocalAddress {
        link: match number {
            1 | 2 => LinkKind::Overlay,
            3 | 4 => LinkKind::Bridge,
            _ => LinkKind::Network,
        },
        is_published: number != 5,
        ..LocalAddress::from(IpAddr::from([10, 0, number, 1]))
    };
    let mut addresses: Vec<LocalAddress> = (1..=20).map(address).collect();
    addresses.push(ip(LOCAL).into());
    bench.node.handle_local_addresses(bench.now, addresses);
    let granted = "198.51.100.9:7777".parse().unwrap();
    let server = addr("198.51.100.1:3478");
    bench
        .node
        .handle_router_port(bench.now, RouterPort::Granted(granted));
    bench.node.handle_stun_servers(bench.now, vec![server]);
    bench.collect();
    let request = bench.outputs.iter().find_map(|it| match it {
        Output::Send(Datagram { to, data, .. }) if *to == server => {
            crate::proto::stun::decode(data).ok()
        }
        _ => None,
    });
    let Some(crate::proto::stun::StunMessage::Request { tx_id, .. }) = request else {
        panic!("the server is asked");
    };
    let seen = addr("203.0.113.7:5000");
    let answer = crate::proto::stun::binding_success(tx_id, seen);
    bench.datagram("198.51.100.1:3478", &answer);
    let endpoints: Vec<SocketAddr> = bench.node.endpoints().iter().map(|it| it.addr).collect();
    assert_eq!(endpoints.len(), endpoints::MAX_ENDPOINTS);
    assert_eq!(endpoints[..2], [granted.into(), seen]);
    for left_out in ["10.0.1.1:7777", "10.0.3.1:7777", "10.0.5.1:7777"] {
        assert!(!endpoints.contains(&addr(left_out)), "{left_out}");
    }
}

/// A packet from a private address in the host's own network is no proof of a LAN: somebody there may forward what the peer sends.
#[test]
fn a_private_address_behind_which_the_peer_sees_another_source_is_no_lan() {
    const NEIGHBOUR: &str = "192.168.1.66:7777";
    for (seen_from, is_lan) in [("203.0.113.50:9999", false), ("192.168.1.2:7777", true)] {
        let mut bench = Bench::direct(Role::Controlling);
        let in_lan = LocalAddress {
            prefix_len: 24,
            ..LocalAddress::from(ip("192.168.1.2"))
        };
        let addresses = vec![in_lan, ip(LOCAL).into()];
        bench.node.handle_local_addresses(bench.now, addresses);
        bench.collect();
        bench.sent();
        bench.ping_from(NEIGHBOUR);
        let pings: Vec<TxId> = bench
            .sent()
            .into_iter()
            .filter(|(to, _)| *to == addr(NEIGHBOUR))
            .filter_map(|(_, it)| match it {
                Message::Ping { tx_id, .. } => Some(tx_id),
                _ => None,
            })
            .collect();
        let src = addr(seen_from);
        bench.receive(
            NEIGHBOUR,
            &Message::Pong {
                tx_id: pings[0],
                src,
            },
        );
        let moves = bench.outputs.iter().any(|it| match it {
            Output::SetTunnel { tunnel, .. } => {
                let overlap = tunnel.outside.overlap;
                overlap.is_some_and(|it| it.remote == addr(NEIGHBOUR))
            }
            _ => false,
        });
        assert_eq!(moves, is_lan, "{seen_from}");
    }
}

/// Returns whether a node leaves a path whose data probes take 300 ms for `other`, whose pings take 10 ms.
fn leaves_a_slow_path_for(other: &str) -> bool {
    let mut bench = Bench::direct(Role::Controlling);
    bench.tell(&[REMOTE, other], true);
    let mut answers = Vec::new();
    for _ in 0..3000 {
        bench.pass(10 * MS);
        for message in bench.sent_through_tunnel() {
            if let Message::DataPing { tx_id } = message {
                answers.push((bench.now + 290 * MS, tx_id));
            }
        }
        let due = |it: &mut (Instant, TxId)| it.0 <= bench.now;
        let due: Vec<_> = answers.extract_if(.., due).collect();
        for (_, tx_id) in due {
            bench.receive_through_tunnel(&Message::DataPong { tx_id });
        }
        for (to, message) in bench.sent() {
            if let Message::Ping { tx_id, .. } = message
                && to == addr(other)
            {
                let src = addr("198.51.100.1:1");
                bench.receive(other, &Message::Pong { tx_id, src });
            }
        }
        bench.report_applied(1500);
        assert_eq!(bench.state(), State::Direct, "the path in use works");
        let overlaps = |it: &Output| matches!(it, Output::SetTunnel { tunnel, .. } if tunnel.outside.overlap.is_some());
        if bench.outputs.iter().any(overlaps) {
            return true;
        }
    }
    false
}

/// The packets take the same way whatever their ports, so a shorter round trip is noise, such as that of a busy moment.
#[test]
fn a_tunnel_does_not_move_between_ports_of_the_same_addresses() {
    assert!(leaves_a_slow_path_for("192.0.2.3:7777"));
    assert!(!leaves_a_slow_path_for("192.0.2.2:7778"));
}

/// Each call has a probe sent at once, which must not put off the verdict on the probe before.
#[test]
fn a_peer_that_calls_again_and_again_is_not_called_direct_for_that() {
    let mut bench = Bench::direct(Role::Controlled);
    let endpoints = vec![addr(REMOTE)];
    for _ in 0..60 {
        bench.pass(MS * 50);
        bench.receive_signal(&Message::CallMeMaybe {
            endpoints: endpoints.clone(),
        });
    }
    assert_eq!(bench.state(), State::Punching);
}

/// The controlling side goes from one path to the next, and the kernel sets none of them up in time.
#[test]
fn switches_that_follow_each_other_do_not_keep_a_peer_direct() {
    let mut bench = Bench::direct(Role::Controlled);
    for seq in 2..8 {
        let path = format!("192.0.2.{}:7777", 100 + seq);
        bench.ping_from(&path);
        bench.nominate(seq, &path);
        bench.pass(SECOND);
    }
    assert_eq!(bench.state(), State::Punching);
}
