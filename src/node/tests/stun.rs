//! A node waits for STUN servers that may still answer before it searches for ports.

use super::*;
use crate::proto::stun::{self, StunMessage};

pub(super) const SERVERS: [&str; 2] = ["198.51.100.1:3478", "198.51.100.2:3478"];
const PUBLIC: &str = "203.0.113.1:7777";

/// The ping of a port search or the look at the NAT before it, which leave from other ports than the data port.
fn has_searched(bench: &Bench) -> bool {
    let counters = bench.node.counters();
    let searched = |it: &Output| match it {
        Output::Send(Datagram { port, .. }) => *port != 7777,
        Output::ListenOnExtraPorts(listens) => *listens,
        _ => false,
    };
    counters.port_searches > 0 || bench.outputs.iter().any(searched)
}

/// Lets a server answer the latest request that was sent to it.
pub(super) fn answer(bench: &mut Bench, server: &str) {
    let server = addr(server);
    let asked = bench.outputs.iter().rev().find_map(|it| match it {
        Output::Send(Datagram { to, data, .. }) if *to == server => Some(data),
        _ => None,
    });
    let Ok(StunMessage::Request { tx_id, .. }) = stun::decode(asked.unwrap()) else {
        panic!("{server} was asked something else");
    };
    let success = stun::binding_success(tx_id, addr(PUBLIC));
    let own = SocketAddr::new(ip(LOCAL), 7777);
    bench.node.handle_datagram(bench.now, own, server, &success);
    bench.collect();
}

/// A node with a peer that was answered by the first of two servers.
pub(super) fn with_half_an_answer() -> Bench {
    let mut bench = Bench::new(Role::Controlling);
    let servers = SERVERS.map(addr).to_vec();
    bench.node.handle_stun_servers(bench.now, servers);
    bench.collect();
    answer(&mut bench, SERVERS[0]);
    bench.tell(&[REMOTE], true);
    bench
}

/// One answer does not tell how the NAT maps. As long as another may come, it decides whether a search is of use.
#[test]
fn no_port_search_begins_while_a_stun_server_may_still_answer() {
    let mut bench = with_half_an_answer();
    bench.pass(3 * SECOND);
    assert!(!has_searched(&bench), "the second server is still asked");
    answer(&mut bench, SERVERS[1]);
    bench.outputs.clear();
    bench.pass(SECOND / 5);
    assert!(!has_searched(&bench), "the NAT needs none");
}

#[test]
fn a_stun_server_that_stays_silent_stops_no_port_search() {
    let mut bench = with_half_an_answer();
    bench.pass(4 * SECOND);
    assert!(has_searched(&bench));
}
