//! A port search goes to the address of the peer, and nowhere else.

use super::stun::{SERVERS, answer, with_half_an_answer};
use super::*;
use crate::proto::disco::PortOffer;

/// A member may name any address as its own: a search there would be thousands of packets to somebody else.
#[test]
fn no_port_search_goes_to_an_address_that_is_no_candidate() {
    for (seen, is_searched) in [("198.51.100.66:5000", false), ("192.0.2.2:5000", true)] {
        let mut bench = with_half_an_answer();
        answer(&mut bench, SERVERS[1]);
        let offer = PortOffer {
            dependent: true,
            maybe_dependent: false,
            step: 0,
            first_port: 20_000,
            seen: addr(seen),
        };
        bench.receive_signal(&Message::PortSearch(offer));
        bench.pass(3 * SECOND);
        let is_sent_there = |it: &&Output| matches!(it, Output::Send(datagram) if datagram.to.ip() == addr(seen).ip());
        let sent = bench.outputs.iter().filter(is_sent_there).count();
        assert_eq!(sent > 100, is_searched, "{sent} packets to {seen}");
        assert!(is_searched || sent == 0, "{sent} packets to {seen}");
        let dropped = bench.dropped(DropReason::WrongSource);
        assert_eq!(dropped == 0, is_searched, "{seen}");
    }
}
