//! A look at what the NAT gives to new flows: two STUN requests from ports that were not used before, to one server. Regular
//! requests keep their old mappings open, and tell nothing of the next.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng as _;

use crate::peer::{Counters, DropReason, EXTRA_PORTS, Fresh, MAX_STEP, Output};
use crate::proto::TxId;
use crate::proto::stun::{self, StunMessage};

/// The latest look.
#[derive(Debug, Default)]
pub(super) struct Observer {
    flows: Vec<Flow>,
    pub(super) latest: Option<Fresh>,
}

#[derive(Debug)]
struct Flow {
    server: SocketAddr,
    tx_id: TxId,
    seen: Option<SocketAddr>,
}

impl Observer {
    /// Asks `server`, from two ports in a row; the request that is sent first opens its mapping first.
    pub(super) fn ask(
        &mut self,
        server: SocketAddr,
        rng: &mut ChaCha20Rng,
        out: &mut VecDeque<Output>,
        counters: &mut Counters,
    ) {
        self.flows.clear();
        let ports = u32::from(EXTRA_PORTS.end - EXTRA_PORTS.start) - 1;
        let first = EXTRA_PORTS.start + (rng.next_u32() % ports) as u16;
        for port in [first, first + 1] {
            let mut tx_id = TxId([0; TxId::LEN]);
            rng.fill_bytes(&mut tx_id.0);
            out.push_back(Output::Send {
                local: None,
                port,
                to: server,
                data: stun::binding_request(tx_id),
            });
            counters.stun_requests_sent += 1;
            self.flows.push(Flow {
                server,
                tx_id,
                seen: None,
            });
        }
    }

    /// An answer at one of the ports. Returns whether the look is complete.
    pub(super) fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &[u8],
    ) -> Result<bool, DropReason> {
        let Ok(StunMessage::Success { tx_id, mapped }) = stun::decode(data) else {
            return Err(DropReason::Malformed);
        };
        let asked = |it: &&mut Flow| it.server == from && it.tx_id == tx_id;
        let flow = self.flows.iter_mut().find(asked);
        flow.ok_or(DropReason::Unsolicited)?.seen = Some(mapped);
        let seen: Vec<SocketAddr> = self.flows.iter().filter_map(|it| it.seen).collect();
        let [first, second] = seen[..] else {
            return Ok(false);
        };
        self.latest = Some(Fresh {
            at: now,
            seen: second,
            step: step(first.port(), second.port()),
        });
        Ok(true)
    }
}

/// What a NAT that gives ports out in order adds each time, judged by two ports in a row. Two: some keep the parity
/// (RFC 4787 section 4.2.2). Anything else that is small is one, and flows of others in between.
fn step(first: u16, second: u16) -> i16 {
    let difference = second.wrapping_sub(first).cast_signed();
    match difference.unsigned_abs() {
        0 => 0,
        2 => difference,
        it if it <= MAX_STEP => difference.signum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_order_are_recognised_both_ways_and_round_the_end() {
        for (first, second, expected) in [
            (40_000, 40_001, 1),
            (40_000, 40_002, 2),
            (40_000, 40_005, 1),
            (40_001, 40_000, -1),
            (65_535, 1, 2),
            (40_000, 51_234, 0),
            (40_000, 40_000, 0),
        ] {
            assert_eq!(step(first, second), expected, "{first} {second}");
        }
    }
}
