//! Where the peer can perhaps be reached, and what is known of each place.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::peer::constants::{
    BURST_GAPS, HOLD_DOWN_MAX, HOLD_DOWN_MIN, IDLE_GAP, LOCAL_ADDRESS_MAX_AGE, MAX_ADVERTISED,
    MAX_LEARNED, MOVE_HOLD_DOWN, UPGRADE_SAMPLES,
};
use crate::peer::path::Path;
use crate::proto::address::is_sendable;

/// A smoothed round trip, as in RFC 6298 section 2: each new measurement counts for an eighth.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoundTrip {
    smoothed: Option<Duration>,
    /// The latest measurements, newest first.
    latest: [Option<Duration>; UPGRADE_SAMPLES],
}

impl RoundTrip {
    pub(crate) fn measured(&mut self, sample: Duration) {
        self.latest.rotate_right(1);
        self.latest[0] = Some(sample);
        self.smoothed = Some(match self.smoothed {
            None => sample,
            Some(smoothed) => (smoothed * 7 + sample) / 8,
        });
    }

    /// Discards the latest measurements, which are too old to be compared with another path.
    fn begin_anew(&mut self) {
        self.latest = Default::default();
    }

    pub(crate) fn get(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The latest measurement as it was.
    pub(crate) fn latest(&self) -> Option<Duration> {
        self.latest[0]
    }

    /// The longest of the latest measurements, once there are enough to compare it with another path. Not the smoothed one: at one
    /// measurement in twenty seconds that takes minutes to forget a bad time.
    pub(crate) fn settled(&self) -> Option<Duration> {
        let enough = self.latest.iter().all(Option::is_some);
        self.latest.into_iter().flatten().max().filter(|_| enough)
    }
}

/// The sources of a candidate. It is removed when none is left.
#[derive(Clone, Copy, Debug, Default)]
struct Sources {
    /// The coordinator's record of the peer.
    record: bool,
    /// The peer's latest call.
    called: bool,
    /// A packet of the peer came from there, or a tunnel to there was found at start.
    learned: bool,
}

impl Sources {
    fn any(self) -> bool {
        self.record || self.called || self.learned
    }
}

/// Where a list of advertised candidates comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdvertisedBy {
    /// The coordinator's record.
    Record,
    /// A call-me-maybe from the peer.
    CallMeMaybe,
}

/// A transport address where the peer may be reached (RFC 8445 section 4).
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) remote: SocketAddr,
    sources: Sources,
    /// This host's address and port that the peer's packets from there came to.
    pub(crate) local: Option<SocketAddr>,
    /// When a packet of the peer last came from there.
    pub(crate) heard: Option<Instant>,
    /// When a ping to there, or a nomination, was last answered.
    pub(crate) answered: Option<Instant>,
    /// Whether the answer came from the very port that was pinged. When not, a NAT gives each direction its own
    /// mapping; that works, but only one of them is kept open by traffic.
    pub(crate) replies_from_same_port: bool,
    /// This host's address as the peer saw it in the latest ping that it answered.
    pub(crate) seen_from: Option<IpAddr>,
    pub(crate) round_trip: RoundTrip,
    /// Pings sent there.
    pub(crate) pings: u32,
    /// Pings answered.
    pub(crate) pongs: u32,
    /// How often in a row it did not carry data, or let a nomination go unanswered.
    pub(crate) failures: u32,
    held_down_until: Option<Instant>,
    no_move_until: Option<Instant>,
    next_ping: Option<Instant>,
    /// Index into [`BURST_GAPS`]; at its end the candidate is idle.
    step: usize,
}

impl Candidate {
    fn new(remote: SocketAddr, now: Instant) -> Self {
        Candidate {
            remote,
            sources: Sources::default(),
            local: None,
            heard: None,
            answered: None,
            replies_from_same_port: true,
            seen_from: None,
            round_trip: RoundTrip::default(),
            pings: 0,
            pongs: 0,
            failures: 0,
            held_down_until: None,
            no_move_until: None,
            next_ping: Some(now),
            step: 0,
        }
    }

    /// Where to send from: the address that packets came to, as long as that is fresh; else the route decides. The port
    /// that they came to stays right, for it is the one that the peer's NAT knows.
    pub(crate) fn source(&self, now: Instant, data_port: u16) -> (Option<IpAddr>, u16) {
        let local = self.local.map(|it| it.ip());
        let port = self.local.map_or(data_port, |it| it.port());
        (local.filter(|_| self.is_fresh(now)), port)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.heard
            .is_some_and(|heard| now < heard + LOCAL_ADDRESS_MAX_AGE)
    }

    /// A packet of the peer came to `local`. One port is as good as another, so the first stays while it is in use.
    pub(crate) fn came_to(&mut self, now: Instant, local: SocketAddr) {
        let other_port = |it: SocketAddr| it.ip() == local.ip() && it.port() != local.port();
        if !(self.is_fresh(now) && self.local.is_some_and(other_port)) {
            self.local = Some(local);
        }
        self.heard = Some(now);
    }

    /// Ends the hold-down, because the path has another port now than the one that carried no data.
    pub(crate) fn end_hold_down(&mut self) {
        self.held_down_until = None;
    }

    /// The path over this candidate, once a packet from there showed which of this host's addresses it leads to.
    pub(crate) fn path(&self) -> Option<Path> {
        let local = self.local?;
        Some(Path {
            local: local.ip(),
            port: local.port(),
            remote: self.remote,
        })
    }

    pub(crate) fn answered_since(&self, start: Instant) -> bool {
        self.answered.is_some_and(|at| at >= start)
    }

    pub(crate) fn heard_since(&self, start: Instant) -> bool {
        self.heard.is_some_and(|at| at >= start)
    }

    pub(crate) fn is_held_down(&self, now: Instant) -> bool {
        self.held_down_until.is_some_and(|until| now < until)
    }

    /// Keeps the candidate from being nominated for a while that doubles with each failure in a row; it is still pinged.
    pub(crate) fn hold_down(&mut self, now: Instant) {
        let doubled = HOLD_DOWN_MIN * (1 << self.failures.min(4));
        self.held_down_until = Some(now + doubled.min(HOLD_DOWN_MAX));
        self.failures = self.failures.saturating_add(1);
    }

    /// A move to this candidate cost a second of data and failed: no other move to it is tried for an hour, unless there is no path at all.
    pub(crate) fn keep_from_moving(&mut self, now: Instant) {
        self.no_move_until = Some(now + MOVE_HOLD_DOWN);
    }

    /// Whether a path that works may be left for this one.
    pub(crate) fn may_be_moved_to(&self, now: Instant) -> bool {
        !self.is_held_down(now) && self.no_move_until.is_none_or(|until| now >= until)
    }

    /// Data crossed: what failed before is held down no longer.
    pub(crate) fn clear_hold_down(&mut self) {
        self.failures = 0;
        self.held_down_until = None;
        self.no_move_until = None;
    }

    /// Starts a burst of pings at `step` of [`BURST_GAPS`].
    pub(crate) fn burst(&mut self, now: Instant, step: usize) {
        self.step = step;
        self.next_ping = Some(now);
    }

    /// Whether it gets a ping now and then only.
    pub(crate) fn is_idle(&self) -> bool {
        self.step == BURST_GAPS.len()
    }

    /// Measures the round trip anew, at once.
    pub(crate) fn measure_anew(&mut self, now: Instant) {
        self.round_trip.begin_anew();
        self.burst(now, 0);
    }

    /// A ping was sent; `jitter` spreads those of idle candidates.
    pub(crate) fn pinged(&mut self, now: Instant, jitter: Duration) {
        let gap = BURST_GAPS
            .get(self.step)
            .copied()
            .unwrap_or(IDLE_GAP + jitter);
        self.pings = self.pings.saturating_add(1);
        self.step = (self.step + 1).min(BURST_GAPS.len());
        self.next_ping = Some(now + gap);
    }

    /// A ping was answered: once the round trip is settled the rest of the burst is not needed.
    pub(crate) fn pong(&mut self, now: Instant, round_trip: Duration, jitter: Duration) {
        self.answered = Some(now);
        self.pongs = self.pongs.saturating_add(1);
        self.round_trip.measured(round_trip);
        if self.round_trip.settled().is_some() {
            self.step = BURST_GAPS.len();
            self.next_ping = Some(now + IDLE_GAP + jitter);
        }
    }

    /// Puts the next ping off, for want of room.
    pub(crate) fn postpone(&mut self, until: Instant) {
        self.next_ping = Some(until);
    }

    fn is_due(&self, now: Instant) -> bool {
        self.next_ping.is_some_and(|at| at <= now)
    }
}

/// All candidates of a peer, few enough to be searched one by one.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    list: Vec<Candidate>,
}

impl Candidates {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.list.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn get(&self, remote: SocketAddr) -> Option<&Candidate> {
        self.list.iter().find(|it| it.remote == remote)
    }

    pub(crate) fn get_mut(&mut self, remote: SocketAddr) -> Option<&mut Candidate> {
        self.list.iter_mut().find(|it| it.remote == remote)
    }

    /// Takes a whole list of endpoints in place of the earlier one from the same source. Returns whether one is new.
    pub(crate) fn set_advertised(
        &mut self,
        now: Instant,
        by: AdvertisedBy,
        endpoints: impl Iterator<Item = SocketAddr>,
    ) -> bool {
        let known = self.list.len();
        for candidate in &mut self.list {
            *candidate.sources.advertised(by) = false;
        }
        for remote in endpoints.filter(|it| is_sendable(*it)).take(MAX_ADVERTISED) {
            *self.entry(remote, now).sources.advertised(by) = true;
        }
        let added = self.list.len() > known;
        // One that the peer was heard from is worth keeping, whatever the lists say.
        for candidate in &mut self.list {
            candidate.sources.learned |= !candidate.sources.any() && candidate.heard.is_some();
        }
        self.list.retain(|candidate| candidate.sources.any());
        self.forget_excess(None);
        added
    }

    /// A packet of the peer came from `path.remote` to `path.local`. Returns whether the place is new and worth a try: not
    /// so another port of an address that answered since `start`. Two NATs with a mapping per destination would otherwise
    /// teach new ports to each other without end.
    pub(crate) fn heard(&mut self, now: Instant, path: Path, start: Instant) -> bool {
        let known = self.list.len();
        let same_address = |it: &&Candidate| it.remote.ip() == path.remote.ip();
        let mut others = self.list.iter().filter(same_address);
        if self.get(path.remote).is_none() && others.any(|it| it.answered_since(start)) {
            return false;
        }
        let candidate = self.entry(path.remote, now);
        candidate.came_to(now, path.source());
        let added = self.list.len() > known;
        if added {
            self.learn(path.remote);
        }
        added
    }

    /// A tunnel over `path` was found in the kernel.
    pub(crate) fn adopt(&mut self, now: Instant, path: Path) {
        self.entry(path.remote, now).local = Some(path.source());
        self.learn(path.remote);
    }

    /// Forgets which of this host's addresses led where, for those that are gone.
    pub(crate) fn keep_locals(&mut self, locals: &[IpAddr]) {
        self.keep_local_where(|it| locals.contains(&it.ip()));
    }

    /// Forgets what led to this address, for the host may have lost it.
    pub(crate) fn forget_local(&mut self, local: IpAddr) {
        self.keep_local_where(|it| it.ip() != local);
    }

    /// Forgets the search ports that led to candidates, because their mappings may be gone.
    pub(crate) fn forget_extra_ports(&mut self, data_port: u16) {
        self.keep_local_where(|it| it.port() == data_port);
    }

    fn keep_local_where(&mut self, is_kept: impl Fn(&SocketAddr) -> bool) {
        for candidate in &mut self.list {
            candidate.local = candidate.local.filter(&is_kept);
        }
    }

    pub(crate) fn burst(&mut self, now: Instant, step: usize) {
        self.list.iter_mut().for_each(|it| it.burst(now, step));
    }

    /// A ping to each goes out now; the schedule of the others after it stays.
    pub(crate) fn ping_now(&mut self, now: Instant) {
        self.list.iter_mut().for_each(|it| it.postpone(now));
    }

    /// The next candidate of those that `reachable` admits whose ping is due.
    pub(crate) fn due(
        &mut self,
        now: Instant,
        reachable: impl Fn(IpAddr) -> bool,
    ) -> Option<&mut Candidate> {
        self.list
            .iter_mut()
            .find(|it| it.is_due(now) && reachable(it.remote.ip()))
    }

    pub(crate) fn next_ping(&self, reachable: impl Fn(IpAddr) -> bool) -> Option<Instant> {
        self.list
            .iter()
            .filter(|it| reachable(it.remote.ip()))
            .filter_map(|it| it.next_ping)
            .min()
    }

    fn entry(&mut self, remote: SocketAddr, now: Instant) -> &mut Candidate {
        let index = self.list.iter().position(|it| it.remote == remote);
        let index = index.unwrap_or_else(|| {
            self.list.push(Candidate::new(remote, now));
            self.list.len() - 1
        });
        &mut self.list[index]
    }

    fn learn(&mut self, remote: SocketAddr) {
        if let Some(candidate) = self.get_mut(remote) {
            candidate.sources.learned = true;
        }
        self.forget_excess(Some(remote));
    }

    /// Forgets what was only learned beyond the bound, the longest unheard first, but not `keep`.
    fn forget_excess(&mut self, keep: Option<SocketAddr>) {
        while self.list.iter().filter(|it| it.only_learned()).count() > MAX_LEARNED {
            let oldest = self
                .list
                .iter()
                .enumerate()
                .filter(|(_, it)| it.only_learned() && Some(it.remote) != keep)
                .min_by_key(|(_, it)| it.heard)
                .map(|(index, _)| index);
            let Some(oldest) = oldest else { return };
            self.list.remove(oldest);
        }
    }
}

impl Sources {
    fn advertised(&mut self, by: AdvertisedBy) -> &mut bool {
        match by {
            AdvertisedBy::Record => &mut self.record,
            AdvertisedBy::CallMeMaybe => &mut self.called,
        }
    }
}

impl Candidate {
    fn only_learned(&self) -> bool {
        self.sources.learned && !self.sources.record && !self.sources.called
    }
}

#[cfg(test)]
#[path = "candidates_tests.rs"]
mod tests;
