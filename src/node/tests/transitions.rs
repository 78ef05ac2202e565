//! Every transition of a peer, as a table.

use super::*;

/// What it is, how the peer came to where it is, what happens, and where it is then.
type Case = (&'static str, fn() -> Bench, fn(&mut Bench), State);

#[test]
fn transitions() {
    use Role::{Controlled, Controlling};
    let cases: &[Case] = &[
        (
            "a record without endpoints",
            || Bench::new(Controlling),
            |it| it.tell(&[], true),
            State::Unknown,
        ),
        (
            "endpoints that nobody can send to",
            || Bench::new(Controlling),
            |it| {
                it.tell(
                    &["127.0.0.1:1", "0.0.0.0:1", "192.0.2.2:0", "224.0.0.1:5"],
                    true,
                )
            },
            State::Unknown,
        ),
        (
            "an offline peer with endpoints",
            || Bench::new(Controlling),
            |it| it.tell(&[REMOTE], false),
            State::HaveEndpoints,
        ),
        (
            "an online peer with endpoints",
            || Bench::new(Controlling),
            |it| it.tell(&[REMOTE], true),
            State::Punching,
        ),
        (
            "an offline peer that is heard",
            || {
                let mut bench = Bench::new(Controlling);
                bench.tell(&[REMOTE], false);
                bench
            },
            |it| it.ping_from(ELSEWHERE),
            State::Punching,
        ),
        (
            "an offline peer that calls",
            || {
                let mut bench = Bench::new(Controlling);
                bench.tell(&[REMOTE], false);
                bench
            },
            |it| it.receive_signal(&Message::CallMeMaybe { endpoints: vec![] }),
            State::Punching,
        ),
        (
            "a peer without endpoints that calls with one",
            || {
                let mut bench = Bench::new(Controlling);
                bench.tell(&[], true);
                bench
            },
            |it| {
                let endpoints = vec![addr(REMOTE)];
                it.receive_signal(&Message::CallMeMaybe { endpoints });
            },
            State::Punching,
        ),
        (
            "nobody answers",
            || Bench::with_peer(Controlling),
            |it| it.pass(6 * SECOND),
            State::Unreachable,
        ),
        (
            "an offline peer does not answer",
            || {
                let mut bench = Bench::with_peer(Controlling);
                bench.tell(&[REMOTE], false);
                bench
            },
            |it| it.pass(6 * SECOND),
            State::HaveEndpoints,
        ),
        (
            "an unreachable peer gets another endpoint",
            || {
                let mut bench = Bench::with_peer(Controlling);
                bench.pass(6 * SECOND);
                bench
            },
            |it| it.tell(&[REMOTE, ELSEWHERE], true),
            State::Punching,
        ),
        (
            "a pong alone",
            || Bench::with_peer(Controlled),
            |it| {
                for (to, message) in it.sent() {
                    if let Message::Ping { tx_id, .. } = message {
                        let src = addr("198.51.100.1:1");
                        it.receive(&to.to_string(), &Message::Pong { tx_id, src });
                    }
                }
                assert_eq!(it.node.counters().pongs_received, 1);
            },
            State::Punching,
        ),
        (
            "an applied tunnel alone",
            || Bench::with_peer(Controlling),
            |it| *it = Bench::with_tunnel(Controlling),
            State::Punching,
        ),
        (
            "a data pong, controlling",
            || Bench::with_tunnel(Controlling),
            Bench::answer_probes,
            State::Direct,
        ),
        (
            "a data pong, controlled",
            || Bench::with_tunnel(Controlled),
            Bench::answer_probes,
            State::Direct,
        ),
        (
            "only the peer's data crosses",
            || Bench::with_tunnel(Controlled),
            |it| {
                let tx_id = TxId([9; 12]);
                it.receive_through_tunnel(&Message::DataPing { tx_id });
            },
            State::Punching,
        ),
        (
            "a data pong to nothing",
            || Bench::with_tunnel(Controlled),
            |it| {
                let tx_id = TxId([9; 12]);
                it.receive_through_tunnel(&Message::DataPong { tx_id });
            },
            State::Punching,
        ),
        (
            "data pongs cease, for a moment",
            || Bench::direct(Controlling),
            |it| it.pass(1700 * MS),
            State::Direct,
        ),
        (
            "data pongs cease, and nothing is heard: the peer may stand still",
            || Bench::direct(Controlling),
            |it| it.pass(2400 * MS),
            State::Direct,
        ),
        (
            "data pongs cease for longer than a peer stands still",
            || Bench::direct(Controlling),
            |it| it.pass(2600 * MS),
            State::Punching,
        ),
        (
            "data pongs cease while disco is heard",
            || Bench::direct(Controlled),
            |it| {
                it.pass(1500 * MS);
                it.ping_from(REMOTE);
                it.pass(400 * MS);
            },
            State::Punching,
        ),
        (
            "data pongs cease after a call",
            || Bench::direct(Controlled),
            |it| {
                it.receive_signal(&Message::CallMeMaybe { endpoints: vec![] });
                it.pass(400 * MS);
            },
            State::Punching,
        ),
        (
            "a proven peer goes offline, by the coordinator",
            || Bench::direct(Controlling),
            |it| it.tell(&[REMOTE], false),
            State::Direct,
        ),
        (
            "a proven peer's endpoints vanish",
            || Bench::direct(Controlling),
            |it| it.tell(&[], true),
            State::Direct,
        ),
        (
            "the address of the tunnel goes",
            || Bench::direct(Controlling),
            |it| {
                let locals = vec![ip("192.0.2.3")];
                it.node.handle_local_addresses(it.now, locals);
                it.collect();
            },
            State::Punching,
        ),
        (
            "another address comes",
            || Bench::direct(Controlling),
            |it| {
                let locals = vec![ip(LOCAL), ip("192.0.2.3")];
                it.node.handle_local_addresses(it.now, locals);
                it.collect();
            },
            State::Direct,
        ),
        (
            "the kernel refuses the tunnel",
            || {
                let mut bench = Bench::with_peer(Controlling);
                bench.ping_from(REMOTE);
                bench
            },
            |it| {
                it.wanted_path().unwrap();
                it.report_failed("no");
                it.pass(6 * SECOND);
                let reason = it.status().reason.to_string();
                assert!(reason.contains("does not take the tunnel: no"), "{reason}");
            },
            State::Unreachable,
        ),
        (
            "the address of the tunnel comes back, and the peer's tunnel is as it was",
            || {
                let mut bench = Bench::direct(Controlled);
                let none = Vec::<IpAddr>::new();
                bench.node.handle_local_addresses(bench.now, none);
                bench.pass(SECOND);
                assert!(bench.wanted_path().unwrap().local.is_unspecified());
                bench
                    .node
                    .handle_local_addresses(bench.now, vec![ip(LOCAL)]);
                bench.collect();
                bench
            },
            |it| {
                let path = it.wanted_path().unwrap();
                assert_eq!(path.local, ip(LOCAL));
                it.report_applied(1500);
                it.pass(3 * SECOND);
                it.answer_probes();
            },
            State::Direct,
        ),
        (
            "the kernel grants what it refused",
            || {
                let mut bench = Bench::with_peer(Controlled);
                bench.nominate(1, REMOTE);
                bench.wanted_path().unwrap();
                bench.report_failed("no");
                bench.outputs.clear();
                bench.pass(15 * SECOND);
                bench
            },
            |it| {
                let asked = |it: &Output| matches!(it, Output::SetTunnel { .. });
                assert!(it.outputs.iter().any(asked));
                it.wanted_path().unwrap();
                it.report_applied(1500);
                it.answer_probes();
            },
            State::Direct,
        ),
        (
            "the kernel says nothing",
            || {
                let mut bench = Bench::with_peer(Controlled);
                bench.nominate(1, REMOTE);
                bench
            },
            |it| it.pass(6 * SECOND),
            State::Unreachable,
        ),
    ];
    for (name, begin, step, expected) in cases {
        let mut bench = begin();
        step(&mut bench);
        assert_eq!(
            bench.state(),
            *expected,
            "{name}: {}",
            bench.status().reason
        );
    }
}
