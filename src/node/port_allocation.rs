//! A look at what the NAT gives to new flows: two STUN requests from ports that were not used before, to one server. Regular
//! requests keep their old mappings open, and tell nothing of the next.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng as _;

use crate::peer::{Counters, Datagram, DropReason, EXTRA_PORTS, MAX_STEP, Output, PortAllocation};
use crate::proto::TxId;
use crate::proto::address::is_sendable;
use crate::proto::stun::{self, StunMessage};

/// The latest look.
#[derive(Debug, Default)]
pub(super) struct AllocationSampler {
    flows: Vec<Flow>,
    pub(super) latest: Option<PortAllocation>,
}

#[derive(Debug)]
struct Flow {
    /// The source port.
    port: u16,
    server: SocketAddr,
    tx_id: TxId,
    seen: Option<SocketAddr>,
}

impl AllocationSampler {
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
            out.push_back(Output::Send(Datagram {
                local: None,
                port,
                to: server,
                data: stun::binding_request(tx_id),
            }));
            counters.stun_requests_sent += 1;
            self.flows.push(Flow {
                port,
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
        let (tx_id, mapped) = match stun::decode(data) {
            Ok(StunMessage::Success { tx_id, mapped }) if is_sendable(mapped) => (tx_id, mapped),
            _ => return Err(DropReason::Malformed),
        };
        let asked = |it: &&mut Flow| it.server == from && it.tx_id == tx_id;
        let flow = self.flows.iter_mut().find(asked);
        flow.ok_or(DropReason::Unsolicited)?.seen = Some(mapped);
        let seen: Vec<SocketAddr> = self.flows.iter().filter_map(|it| it.seen).collect();
        let is_kept = |it: &Flow| it.seen.is_some_and(|seen| seen.port() == it.port);
        let are_kept = self.flows.iter().all(is_kept);
        let [first, second] = seen[..] else {
            return Ok(false);
        };
        self.latest = Some(PortAllocation {
            at: now,
            seen: second,
            // A NAT that keeps the source ports shows their own order (RFC 4787 section 4.2.1: port preservation).
            step: if are_kept {
                0
            } else {
                step(first.port(), second.port())
            },
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
    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;

    #[test]
    fn ports_that_the_nat_keeps_are_not_in_order() {
        let server: SocketAddr = "198.51.100.1:3478".parse().unwrap();
        for (kept, expected) in [(true, 0), (false, 1)] {
            let (mut sampler, mut out) = (AllocationSampler::default(), VecDeque::new());
            let mut rng = ChaCha20Rng::from_seed([1; 32]);
            sampler.ask(server, &mut rng, &mut out, &mut Counters::default());
            for output in out {
                let Output::Send(Datagram { port, data, .. }) = output else {
                    panic!("a request");
                };
                let Ok(StunMessage::Request { tx_id, .. }) = stun::decode(&data) else {
                    panic!("a request");
                };
                let public = if kept { port } else { port + 20_000 };
                let seen = SocketAddr::new([203, 0, 113, 1].into(), public);
                let answer = stun::binding_success(tx_id, seen);
                let now = Instant::now();
                sampler.handle_datagram(now, server, &answer).unwrap();
            }
            assert_eq!(sampler.latest.unwrap().step, expected);
        }
    }

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
