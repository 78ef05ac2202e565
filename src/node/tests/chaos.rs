//! Anything, in any order.

use proptest::prelude::*;

use super::conduct::found;
use super::*;
use crate::proto::disco::PortOffer;

/// While a peer is called direct, data must have crossed within this: a probe's second, the loss timeout, and a switch of the path whose
/// new tunnel is set up and tested.
const PROOF_AGE: Duration = Duration::from_millis(4500);

/// What a peer, or somebody else, may do at any time.
#[derive(Clone, Debug)]
enum Whatever {
    Bytes(Vec<u8>),
    Signal(Vec<u8>),
    ThroughTunnel(Vec<u8>),
    Message(u8, u8, u32),
    /// For so many times 10 ms data probes are answered at once, and perhaps pings and nominations too. Those of before are lost.
    Answer(u8, bool),
    PortSearch(u8, bool),
    RouteChange,
    RouterPort(bool),
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
        (1..30_u8, any::<bool>()).prop_map(|(times, all)| Whatever::Answer(times, all)),
        (0..4_u8, any::<bool>())
            .prop_map(|(from, dependent)| Whatever::PortSearch(from, dependent)),
        Just(Whatever::RouteChange),
        any::<bool>().prop_map(Whatever::RouterPort),
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
        Whatever::Answer(times, all) => {
            bench.sent_through_tunnel();
            bench.sent();
            for _ in 0..times {
                bench.pass(10 * MS);
                bench.answer_probes();
                if all {
                    answer_discovery(bench);
                }
            }
        }
        Whatever::PortSearch(from, dependent) => {
            let offer = PortOffer {
                dependent,
                maybe_dependent: !dependent,
                step: 1,
                first_port: 20_480,
                seen: addr(&format!("192.0.2.{}:4000", 2 + from)),
            };
            bench.receive_signal(&Message::PortSearch(offer));
        }
        Whatever::RouteChange => bench.node.handle_route_change(bench.now),
        Whatever::RouterPort(is_granted) => {
            let granted = RouterPort::Granted("198.51.100.9:7777".parse().unwrap());
            let port = if is_granted {
                granted
            } else {
                RouterPort::None
            };
            bench.node.handle_router_port(bench.now, port);
        }
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

/// Answers the pings and nominations that were sent, from where they were sent to.
fn answer_discovery(bench: &mut Bench) {
    for (to, message) in bench.sent() {
        let answer = match message {
            Message::Ping { tx_id, .. } => Message::Pong {
                tx_id,
                src: addr("198.51.100.1:1"),
            },
            Message::Nominate { seq, tx_id } => Message::Nominated { seq, tx_id },
            _ => continue,
        };
        bench.receive(&to.to_string(), &answer);
    }
}

proptest! {
    /// Whatever comes in whatever order: no panic, no spinning (checked in `pass`), never direct without a data pong of just now.
    #[test]
    fn nothing_upsets_a_node(
        controlling in any::<bool>(),
        adopts in any::<bool>(),
        steps in proptest::collection::vec(whatever(), 1..60),
    ) {
        let role = if controlling { Role::Controlling } else { Role::Controlled };
        let mut bench = Bench::new(role);
        if adopts {
            let found = found(bench.shared.gre_key());
            bench.node.handle_adopted(bench.now, bench.peer, found);
        }
        bench.tell(&[REMOTE], true);
        let (mut proofs, mut proven_at) = (0, None);
        for what in steps {
            do_whatever(&mut bench, what);
            let pongs = bench.node.counters().data_pongs_received;
            if pongs > proofs {
                (proofs, proven_at) = (pongs, Some(bench.now));
            }
            let is_proven = proven_at.is_some_and(|at| bench.now <= at + PROOF_AGE);
            prop_assert!(is_proven || bench.state() != State::Direct);
        }
    }
}
