//! The judge: what must hold at every step, from what really crossed the kernels' tunnels.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gretun::node::{MAX_PACKETS_PER_SECOND, MAX_SEARCH_PACKETS_PER_SECOND, State};
use gretun::proto::NodePublic;

use crate::world::{HostId, World};

/// User data is said to flow while the last came within this: more than its gap and any latency.
const USER_DATA_AGE: Duration = Duration::from_millis(800);

/// While a peer is called direct, data must have crossed both ways within this: the probe's second, the loss timeout,
/// and room for long round trips.
const PROOF_AGE: Duration = Duration::from_millis(4_500);

/// The fate of user data in one direction.
#[derive(Clone, Copy, Debug)]
pub struct UserData {
    pub last: Instant,
    pub longest_gap: Duration,
    pub received: u64,
}

impl World {
    pub fn user_data(&self, from: HostId, to: HostId) -> Option<UserData> {
        self.user.get(&(from, to)).copied()
    }

    /// Returns whether user data crossed both ways just now.
    pub fn user_data_flows(&self, one: HostId, other: HostId) -> bool {
        let recent = |from, to| {
            self.user_data(from, to)
                .is_some_and(|it| self.now < it.last + USER_DATA_AGE)
        };
        recent(one, other) && recent(other, one)
    }

    /// Everything that was said about states, for a failure's message.
    pub fn story(&self) -> String {
        let mut lines: Vec<(Instant, String)> = self
            .hosts
            .iter()
            .flat_map(|host| {
                let name = host.name.clone();
                let line = move |(at, line): &(Instant, String)| (*at, format!("{name}: {line}"));
                host.log.iter().map(line)
            })
            .collect();
        lines.sort();
        lines
            .iter()
            .map(|(at, line)| format!("  {:>10.1?} {line}\n", *at - self.start))
            .collect()
    }

    /// `direct` is only ever claimed when data has just crossed both kernels' tunnels, as they are set now.
    pub fn check_claim(&self, id: HostId, peer: NodePublic) {
        let tunnel = self.hosts[id.0].tunnels.get(&peer);
        let since = tunnel.expect("a tunnel that is called direct").since;
        self.check_crossed(id, peer, since);
    }

    pub fn check_crossed(&self, id: HostId, peer: NodePublic, since: Instant) {
        let of = self.host_of(peer);
        let crossed = |from, to| self.crossed.get(&(from, to)).is_some_and(|at| *at >= since);
        assert!(
            crossed(id, of) && crossed(of, id),
            "seed {}: {id:?} calls {of:?} direct, but no data crossed both ways\n{}",
            self.seed,
            self.story()
        );
    }

    /// Checks the invariant of all times: while `direct` is claimed, data crosses both ways again and again. (Over which path
    /// is another matter: a tunnel that moves is called direct while the new path is tested.)
    pub fn check(&self) {
        for id in self.host_ids() {
            let host = &self.hosts[id.0];
            let Some(daemon) = &host.daemon else {
                continue;
            };
            if !host.clock.is_awake_for(PROOF_AGE, self.now) {
                continue;
            }
            for (peer, state) in daemon.node().states() {
                if state == State::Direct {
                    self.check_crossed(id, peer, self.now - PROOF_AGE);
                }
            }
        }
    }

    /// Never more than the cap, times the number of peers, in any second; and never more pings of port searches than their
    /// cap, which is one for all peers.
    pub fn count_packets(&mut self, id: HostId, sent: usize) {
        let now = self.now;
        let host = &mut self.hosts[id.0];
        let peers = host.kept.peers.len().max(1);
        let total = host
            .daemon
            .as_ref()
            .map(|it| it.node().counters().port_search_pings_sent);
        let searched = total.unwrap_or_default() - host.search_pings;
        host.search_pings += searched;
        let searched = searched as usize;
        host.sent_total += (sent - searched) as u64;
        let rest = in_last_second(&mut host.sent, now, sent - searched);
        let searched = in_last_second(&mut host.searched, now, searched);
        assert!(
            rest <= peers * MAX_PACKETS_PER_SECOND && searched <= MAX_SEARCH_PACKETS_PER_SECOND,
            "seed {}: {id:?} sent {rest} packets and {searched} of port searches in a second",
            self.seed
        );
    }
}

fn in_last_second(sent: &mut VecDeque<Instant>, now: Instant, more: usize) -> usize {
    sent.extend(std::iter::repeat_n(now, more));
    while sent
        .front()
        .is_some_and(|at| *at + Duration::from_secs(1) <= now)
    {
        sent.pop_front();
    }
    sent.len()
}
