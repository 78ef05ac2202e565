//! Anything, in any order.

use proptest::prelude::*;

use super::*;

/// What a peer, or somebody else, may do at any time.
#[derive(Clone, Debug)]
enum Whatever {
    Bytes(Vec<u8>),
    Signal(Vec<u8>),
    ThroughTunnel(Vec<u8>),
    Message(u8, u8, u32),
    AnswerProbes,
    Applied,
    Failed,
    Record(Vec<u16>, bool),
    Locals(u8),
    Pass(u16),
}

fn whatever() -> impl Strategy<Value = Whatever> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        bytes().prop_map(Whatever::Bytes),
        bytes().prop_map(Whatever::Signal),
        bytes().prop_map(Whatever::ThroughTunnel),
        (0..7_u8, 0..4_u8, 0..5_u32)
            .prop_map(|(kind, from, seq)| Whatever::Message(kind, from, seq)),
        Just(Whatever::AnswerProbes),
        Just(Whatever::Applied),
        Just(Whatever::Failed),
        (
            proptest::collection::vec(any::<u16>(), 0..30),
            any::<bool>()
        )
            .prop_map(|(ports, online)| Whatever::Record(ports, online)),
        (0..4_u8).prop_map(Whatever::Locals),
        (0..4000_u16).prop_map(Whatever::Pass),
    ]
}

fn do_whatever(bench: &mut Bench, what: Whatever) {
    match what {
        Whatever::Bytes(data) => bench.datagram(ELSEWHERE, &data),
        Whatever::Signal(data) => bench.node.handle_signal(bench.now, bench.peer, &data),
        Whatever::ThroughTunnel(data) => {
            bench.node.handle_data_probe(bench.now, bench.peer, &data);
        }
        Whatever::Message(kind, from, seq) => {
            let from = format!("192.0.2.{}:{}", 2 + from / 2, 7777 + u16::from(from));
            let tx_id = TxId([1; 12]);
            let src = addr(REMOTE);
            let message = match kind {
                0 => return bench.ping_from(&from),
                1 => Message::Pong { tx_id, src },
                2 => Message::Nominate { seq, tx_id },
                3 => Message::Nominated { seq, tx_id },
                4 => Message::CallMeMaybe {
                    endpoints: vec![addr(&from)],
                },
                5 => Message::DataPing { tx_id },
                _ => Message::DataPong { tx_id },
            };
            if kind >= 5 {
                bench.receive_through_tunnel(&message);
            } else {
                bench.receive(&from, &message);
            }
        }
        Whatever::AnswerProbes => bench.answer_probes(),
        Whatever::Applied | Whatever::Failed => {
            if bench.wanted_path().is_some() {
                match what {
                    Whatever::Applied => bench.report_applied(1500),
                    _ => bench.report_failed("no"),
                }
            }
        }
        Whatever::Record(ports, online) => {
            let endpoints: Vec<String> = ports.iter().map(|it| format!("192.0.2.2:{it}")).collect();
            let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
            bench.tell(&endpoints, online);
        }
        Whatever::Locals(count) => {
            let locals = (0..count).map(|it| ip(&format!("192.0.2.{}", 1 + it * 50)));
            bench
                .node
                .handle_local_addresses(bench.now, locals.collect());
        }
        Whatever::Pass(millis) => bench.pass(Duration::from_millis(millis.into())),
    }
    bench.collect();
}

proptest! {
    /// Whatever comes in whatever order: no panic, no spinning (checked in `pass`), never direct without a data pong.
    #[test]
    fn nothing_upsets_a_node(
        controlling in any::<bool>(),
        steps in proptest::collection::vec(whatever(), 1..60),
    ) {
        let role = if controlling { Role::Controlling } else { Role::Controlled };
        let mut bench = Bench::with_peer(role);
        for what in steps {
            do_whatever(&mut bench, what);
            let proofs = bench.node.counters().data_pongs_received;
            prop_assert!(proofs > 0 || bench.state() != State::Direct);
        }
    }
}
