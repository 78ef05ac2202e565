use std::collections::VecDeque;
use std::time::Duration;

use super::super::conductor::{Found, Settings};
use super::*;
use crate::node::{Node, NodeConfig};
use crate::proto::DiscoSecret;
use crate::proto::stun::{self, StunMessage};

/// Sockets in which these packets lie.
#[derive(Default)]
struct Waiting {
    datagrams: VecDeque<Received>,
    probes: VecDeque<(u32, Vec<u8>)>,
}

impl Arrivals for Waiting {
    fn datagram(&mut self) -> Result<Option<Received>, DaemonError> {
        Ok(self.datagrams.pop_front())
    }

    fn probe(&mut self) -> Result<Option<(u32, Vec<u8>)>, DaemonError> {
        Ok(self.probes.pop_front())
    }
}

fn conductor(now: Instant) -> Conductor {
    let node = Node::new(NodeConfig {
        node_key: NodePublic::from_bytes([1; 32]),
        disco: DiscoSecret::from_bytes([1; 32]),
        port: 7777,
        aggressive_punch: true,
        network: Default::default(),
        interface_numbers: Default::default(),
        seed: [7; 32],
    });
    let found = Found {
        addresses: vec!["192.168.1.10".parse::<std::net::IpAddr>().unwrap().into()],
        ..Found::default()
    };
    Conductor::new(now, node, Settings { stun_host: None }, found)
}

/// The requests to a STUN server.
fn requests(conductor: &mut Conductor) -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    while let Some(act) = conductor.poll_act() {
        if let Act::Send(Datagram { data, .. }) = act {
            requests.push(data);
        }
    }
    requests
}

fn answer(request: &[u8], mapped: SocketAddr) -> Vec<u8> {
    match stun::decode(request) {
        Ok(StunMessage::Request { tx_id, .. }) => stun::binding_success(tx_id, mapped),
        other => panic!("{other:?}"),
    }
}

/// After a stall of a second, the answer of the STUN server lies in the socket while the time to ask again is long over.
#[test]
fn what_has_arrived_is_handled_before_time_passes() {
    let begin = Instant::now();
    let after = begin + Duration::from_secs(1);
    let server: SocketAddr = "203.0.113.1:3478".parse().unwrap();
    for is_answered in [false, true] {
        let mut conductor = conductor(begin);
        conductor.handle_stun_servers(begin, vec![server]);
        let [request] = &requests(&mut conductor)[..] else {
            panic!("one server is asked once");
        };
        let mut waiting = Waiting::default();
        if is_answered {
            let seen = "203.0.113.7:40000".parse().unwrap();
            waiting.datagrams.push_back(Received {
                local: "192.168.1.10:7777".parse().unwrap(),
                from: server,
                device: 2,
                data: answer(request, seen),
            });
        }
        catch_up(&mut conductor, &mut waiting, || after).unwrap();
        let again = requests(&mut conductor).len();
        assert_eq!(again, usize::from(!is_answered));
    }
}

/// A flood of packets does not keep time from passing.
#[test]
fn what_arrives_without_end_does_not_stop_the_clock() {
    struct Flood(u32);
    impl Arrivals for Flood {
        fn datagram(&mut self) -> Result<Option<Received>, DaemonError> {
            self.0 += 1;
            Ok(Some(Received {
                local: "192.168.1.10:7777".parse().unwrap(),
                from: "203.0.113.9:9".parse().unwrap(),
                device: 2,
                data: vec![0; 8],
            }))
        }

        fn probe(&mut self) -> Result<Option<(u32, Vec<u8>)>, DaemonError> {
            Ok(Some((9, vec![0; 8])))
        }
    }
    let now = Instant::now();
    let mut conductor = conductor(now);
    let mut flood = Flood(0);
    catch_up(&mut conductor, &mut flood, || now).unwrap();
    assert_eq!(flood.0 as usize, RECEIVE_BATCH);
    let acts = std::iter::from_fn(|| conductor.poll_act());
    assert_eq!(
        acts.filter(|it| matches!(it, Act::ReadHost { .. })).count(),
        1
    );
}
