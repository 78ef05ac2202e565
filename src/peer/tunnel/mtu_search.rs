//! The path MTU by probing, as in RFC 8899: pings on the data port, padded to the size in question, that may not be
//! fragmented. One that is answered fits. ICMP is not needed and not believed.
//!
//! A search goes by rounds. The first asks for all well-known sizes at once, so that most paths are known after a single round
//! trip; the others narrow down what is left. A round ends when its largest ping is answered, or when all that are not were
//! sent three times. The pings that are sent together are a *volley*. A lost ping counts only when another one of its volley was
//! answered: then large packets are lost, and not the path. From the second volley of a round on, a ping without padding, the
//! *witness*, goes with it for that. Once the size is known a ping confirms it every few seconds, and larger ones ask for more now and
//! then.

use std::time::{Duration, Instant};

use crate::peer::constants::{
    MTU_CONFIRM_GAP, MTU_PATIENCE_MAX, MTU_PATIENCE_MIN, MTU_RAISE_GAP, MTU_TRIES,
};
use crate::peer::path::Path;
use crate::proto::TxId;

/// Sizes of IP packets that real links carry: IPv6's least (RFC 8200), other tunnels, PPPoE (RFC 2516), Ethernet, jumbo frames.
const WELL_KNOWN: [u16; 5] = [1280, 1400, 1492, 1500, 9000];

/// The size that every path is taken to carry: over IPv4 an inner packet of 576 bytes (RFC 791) and the tunnel's 36.
const LEAST_IPV4: u16 = 612;

/// The size that every IPv6 path must carry (RFC 8200 section 5).
const LEAST_IPV6: u16 = 1280;

/// The largest that is asked for: what the data port's receive buffer holds, above every jumbo frame in use.
const LARGEST: u16 = 9216;

/// The size of a witness: a ping without padding.
pub(crate) const WITNESS: u16 = 0;

/// Witnesses that may still be answered: more than are sent in the slowest round trip.
const MAX_WITNESSES: usize = 8;

/// Sizes that a round of narrowing down asks for.
const POINTS: u16 = 3;

/// The purpose of a round of pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Finding the size.
    Search,
    /// The size is known; nothing is under way until then.
    Rest,
    /// Does the size in use still fit?
    Confirm,
    /// Would a larger one fit by now?
    Raise,
}

/// A size that is asked for.
#[derive(Debug)]
struct Probe {
    size: u16,
    /// The pings of this size.
    pings: Vec<SentPing>,
}

/// A ping, and the number of its volley.
#[derive(Clone, Copy, Debug)]
struct SentPing {
    tx_id: TxId,
    volley: usize,
}

/// The search over one path.
#[derive(Debug)]
pub(crate) struct MtuSearch {
    least: u16,
    /// The MTU of the device that packets leave through: nothing larger is sent.
    bound: u16,
    /// The largest size that got through, or that every path carries.
    good: u16,
    /// The largest size that may get through.
    limit: u16,
    phase: Phase,
    /// The sizes whose pings were not answered, and each larger than what was.
    round: Vec<Probe>,
    /// Number of volleys of this round so far.
    volleys: usize,
    /// The witnesses of this round that were not answered.
    witnesses: Vec<SentPing>,
    /// The volleys of this round of which a ping was answered.
    answered_volleys: Vec<usize>,
    /// Whether a ping was answered since the latest volley was sent.
    shows_life: bool,
    confirm_at: Instant,
    raise_at: Instant,
    settled: Option<u16>,
}

/// The next step of the search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send a ping of each of these sizes, of which one may be [`WITNESS`], and call again after a round trip.
    Send(Vec<u16>),
    /// Nothing until then.
    Sleep(Instant),
}

impl MtuSearch {
    /// A search over `path`, from a device whose MTU is `bound` bytes. `used` is what the tunnel was found with.
    pub(crate) fn new(now: Instant, path: Path, bound: u16, used: Option<u16>) -> Self {
        let least = if path.remote.is_ipv4() {
            LEAST_IPV4
        } else {
            LEAST_IPV6
        };
        let bound = bound.min(LARGEST);
        let mut search = MtuSearch {
            least,
            bound,
            good: least,
            limit: bound,
            phase: Phase::Search,
            round: Vec::new(),
            volleys: 0,
            witnesses: Vec::new(),
            answered_volleys: Vec::new(),
            shows_life: false,
            confirm_at: now,
            raise_at: now,
            settled: used,
        };
        search.restart();
        search
    }

    /// The device's MTU may have changed; returns whether the search begins again for that.
    pub(crate) fn set_bound(&mut self, bound: u16) -> bool {
        let bound = bound.min(LARGEST);
        let changed = self.bound != bound;
        if changed {
            self.bound = bound;
            self.restart();
        }
        changed
    }

    /// Returns the size that the tunnel's outer packets may have, bytes; `None` while it is not known.
    pub(crate) fn path_mtu(&self) -> Option<u16> {
        self.settled.map(|it| it.min(self.bound))
    }

    /// How long a ping may take: two round trips.
    pub(crate) fn patience(round_trip: Duration) -> Duration {
        (round_trip * 2).clamp(MTU_PATIENCE_MIN, MTU_PATIENCE_MAX)
    }

    /// Goes on.
    pub(crate) fn advance(&mut self, now: Instant) -> Step {
        loop {
            if self.phase == Phase::Rest
                && let Some(until) = self.end_rest(now)
            {
                return Step::Sleep(until);
            }
            let unsent = self.unsent();
            if !unsent.is_empty() {
                return Step::Send(self.volley(unsent));
            }
            self.conclude(now);
        }
    }

    /// Returns the sizes of the next volley. The first of a round needs no witness, for most are answered, and one that is lost is sent again;
    /// that of a raise is the only one. While nothing is answered at all, it is a witness alone.
    fn volley(&mut self, mut sizes: Vec<u16>) -> Vec<u16> {
        self.volleys += 1;
        let is_silent = !std::mem::take(&mut self.shows_life);
        if self.volleys > 2 && is_silent {
            return vec![WITNESS];
        }
        if self.volleys > 1 || self.phase == Phase::Raise {
            sizes.push(WITNESS);
        }
        sizes
    }

    /// Begins the round that is due, or says when one will be.
    fn end_rest(&mut self, now: Instant) -> Option<Instant> {
        let may_grow = self.good < self.bound;
        if now >= self.confirm_at {
            self.begin_round(Phase::Confirm, vec![self.good]);
        } else if may_grow && now >= self.raise_at {
            let larger = self.well_known(self.good + 1);
            self.begin_round(Phase::Raise, larger);
        } else if may_grow {
            return Some(self.confirm_at.min(self.raise_at));
        } else {
            return Some(self.confirm_at);
        }
        None
    }

    /// A ping of this size was sent.
    pub(crate) fn sent(&mut self, size: u16, tx_id: TxId) {
        let ping = SentPing {
            tx_id,
            volley: self.volleys,
        };
        if size == WITNESS {
            if self.witnesses.len() == MAX_WITNESSES {
                self.witnesses.remove(0);
            }
            self.witnesses.push(ping);
        } else if let Some(probe) = self.round.iter_mut().find(|probe| probe.size == size) {
            probe.pings.push(ping);
        }
    }

    /// Whether a ping with this id was sent and waits for its answer.
    pub(crate) fn awaits(&self, tx_id: TxId) -> bool {
        let pings = self.round.iter().flat_map(|it| &it.pings);
        pings.chain(&self.witnesses).any(|it| it.tx_id == tx_id)
    }

    /// A ping was answered. False when it was none of these. An answer that comes after its round, over a path that has become slower
    /// than it was, counts as one in time: the search goes on from it with the next [`MtuSearch::advance`].
    pub(crate) fn answered(&mut self, tx_id: TxId) -> bool {
        let pings = self
            .round
            .iter()
            .flat_map(|probe| probe.pings.iter().map(|ping| (probe.size, ping)));
        let witnesses = self.witnesses.iter().map(|ping| (WITNESS, ping));
        let Some((size, volley)) = pings
            .chain(witnesses)
            .find(|(_, ping)| ping.tx_id == tx_id)
            .map(|(size, ping)| (size, ping.volley))
        else {
            return false;
        };
        self.shows_life = true;
        if !self.answered_volleys.contains(&volley) {
            self.answered_volleys.push(volley);
        }
        self.witnesses.retain(|it| it.tx_id != tx_id);
        if size == WITNESS {
            return true;
        }
        self.good = self.good.max(size);
        self.limit = self.limit.max(size);
        self.round.retain(|probe| probe.size > size);
        if self.phase == Phase::Rest {
            self.phase = Phase::Raise;
        }
        true
    }

    /// The path was lost and is back: packets may take another way now, whose size has to be found.
    pub(crate) fn path_is_back(&mut self) {
        if self.phase != Phase::Search {
            self.restart();
        }
    }

    /// Whether every ping of the round was answered, so that there is nothing to wait for.
    pub(crate) fn is_answered(&self) -> bool {
        self.phase != Phase::Rest && self.round.is_empty()
    }

    /// Begins again. The size in use is among the first that are asked for, so that a path which carries it still is not left with less.
    fn restart(&mut self) {
        self.good = self.least.min(self.bound);
        self.limit = self.bound;
        let mut sizes = self.well_known(self.least);
        sizes.extend(self.settled.filter(|it| *it < self.bound));
        sizes.sort_unstable();
        sizes.dedup();
        self.begin_round(Phase::Search, sizes);
    }

    fn begin_round(&mut self, phase: Phase, sizes: Vec<u16>) {
        self.phase = phase;
        self.volleys = 0;
        self.witnesses.clear();
        self.answered_volleys.clear();
        self.shows_life = false;
        self.round = sizes
            .into_iter()
            .map(|size| Probe {
                size,
                pings: Vec::new(),
            })
            .collect();
    }

    /// The well-known sizes from `from` up to the bound, and the bound.
    fn well_known(&self, from: u16) -> Vec<u16> {
        let mut sizes: Vec<u16> = WELL_KNOWN
            .into_iter()
            .filter(|size| *size >= from && *size < self.bound)
            .collect();
        sizes.push(self.bound);
        sizes
    }

    /// The sizes whose pings are to be sent, for the first time or again.
    fn unsent(&self) -> Vec<u16> {
        let tries = match self.phase {
            // A lost ping costs nothing here: the next try comes.
            Phase::Raise => 1,
            Phase::Search | Phase::Confirm | Phase::Rest => MTU_TRIES,
        };
        self.round
            .iter()
            .filter(|probe| self.lost(probe) < tries)
            .map(|probe| probe.size)
            .collect()
    }

    /// How many pings of this size were lost while the path worked.
    fn lost(&self, probe: &Probe) -> usize {
        let counts = |ping: &&SentPing| self.answered_volleys.contains(&ping.volley);
        probe.pings.iter().filter(counts).count()
    }

    /// The round is over: what is still in it did not get through.
    fn conclude(&mut self, now: Instant) {
        let refused = self.round.iter().map(|probe| probe.size).min();
        match self.phase {
            Phase::Confirm if refused.is_some() => return self.restart(),
            Phase::Confirm => return self.rest(now),
            Phase::Raise if self.settled.is_some_and(|settled| self.good <= settled) => {
                self.raise_at = now + MTU_RAISE_GAP;
                return self.rest(now);
            }
            _ => {}
        }
        if let Some(refused) = refused {
            self.limit = refused - 1;
        }
        if self.settled.is_none_or(|settled| self.good < settled) {
            self.settled = Some(self.good);
        }
        let span = self.limit.saturating_sub(self.good);
        if span == 0 {
            self.settled = Some(self.good);
            self.raise_at = now + MTU_RAISE_GAP;
            return self.rest(now);
        }
        let mut sizes: Vec<u16> = (1..=POINTS)
            .map(|point| {
                self.good + (u32::from(span) * u32::from(point)).div_ceil(u32::from(POINTS)) as u16
            })
            .collect();
        sizes.dedup();
        self.begin_round(Phase::Search, sizes);
    }

    fn rest(&mut self, now: Instant) {
        // The pings of the round may still be answered.
        self.phase = Phase::Rest;
        self.confirm_at = now + MTU_CONFIRM_GAP;
    }
}

#[cfg(test)]
#[path = "mtu_search_tests.rs"]
mod tests;
