//! The choice of the path. A kernel tunnel has one remote, so both sides must agree on it: the controlling side chooses and
//! sends `Nominate` over the path; the other side's tunnel follows to where that came from.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::candidates::Candidate;
use super::proof::{Proof, Purpose};
use super::timers::Timer;
use super::tuning::{NOMINATION_GAPS, OVERLAP_PATIENCE, UPGRADE_MARGIN, UPGRADE_SHARE};
use super::{Context, DropReason, Path, Peer};
use crate::proto::TxId;
use crate::proto::disco::Message;

/// A nomination that waits for its answer; only the controlling side has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nomination {
    tx_id: TxId,
    pub(crate) path: Path,
    /// Whether the tunnel works over another path, and so moves only when the peer agreed.
    pub(crate) is_move: bool,
    /// Whether it waits for the kernel, and was not sent.
    waits: bool,
    sent: Instant,
    /// Index into [`NOMINATION_GAPS`].
    step: usize,
}

impl Peer {
    /// Whether a path is being nominated or tested, so that no verdict is due yet.
    pub(crate) fn is_choosing(&self) -> bool {
        let testing = self.tunnel.as_ref().is_some_and(|it| it.is_being_tested());
        self.nomination.is_some() || testing
    }

    /// Nominates the best candidate when there is something to choose: called whenever a candidate shows life.
    pub(crate) fn choose(&mut self, cx: &mut Context<'_>) {
        if !self.controlling {
            return;
        }
        let start = self.search.started;
        let best = self
            .candidates
            .iter()
            .filter(|it| it.heard_since(start) && !it.is_blocked(cx.now))
            .filter_map(|it| Some((it, it.path()?)))
            .max_by_key(|(it, _)| rank(it, start));
        let Some((best, path)) = best else {
            return;
        };
        let nominated = match &self.tunnel {
            None => None,
            Some(tunnel) => match (tunnel.proof, tunnel.purpose) {
                (Proof::Unproven, _) => None,
                (Proof::Pending | Proof::Testing, Purpose::Nominated) => Some(tunnel.path),
                (Proof::Pending | Proof::Testing, Purpose::Grace) => return,
                (Proof::Proven | Proof::Late, _) => return,
            },
        };
        // A ping that came in is reason enough to nominate at once, which saves a round trip; but a candidate that also
        // answered, or one in the LAN, takes its place.
        let nominated = nominated.and_then(|path| self.candidates.get(path.remote));
        if nominated.is_none_or(|it| class(it, start) < class(best, start)) {
            self.nominate(cx, path, false);
        }
    }

    /// A candidate answered while another path is proven: moves to it when it is better by enough.
    pub(crate) fn consider_upgrade(&mut self, cx: &mut Context<'_>, remote: SocketAddr) {
        let Some(current) = self.proven_path() else {
            return;
        };
        if !self.controlling || self.nomination.is_some() || current.remote == remote {
            return;
        }
        let in_use = self.round_trip();
        let Some(candidate) = self.candidates.get_mut(remote) else {
            return;
        };
        let to_lan = candidate.is_lan() && current.via() != super::Via::Lan;
        let to_wan = !candidate.is_lan() && current.via() == super::Via::Lan;
        if to_wan || !candidate.may_be_moved_to(cx.now) {
            return;
        }
        if to_lan || is_faster(candidate.round_trip.settled(), in_use) {
            if let Some(path) = candidate.path() {
                self.nominate(cx, path, true);
            }
        } else if candidate.is_idle() && is_faster(candidate.round_trip.latest(), in_use) {
            candidate.measure_anew(cx.now);
        }
    }

    pub(crate) fn nominate(&mut self, cx: &mut Context<'_>, path: Path, is_move: bool) {
        self.seq = self.seq.saturating_add(1);
        let nomination = Nomination {
            tx_id: cx.tx_id(),
            path,
            is_move,
            waits: is_move && self.overlap.other != Some(path),
            sent: cx.now,
            step: 0,
        };
        if nomination.waits {
            self.begin_overlap(cx.now, path);
            self.ask_kernel(cx);
            self.timers
                .set(Timer::Nomination, cx.now + OVERLAP_PATIENCE);
            self.nomination = Some(nomination);
            return;
        }
        self.send_nomination(cx, nomination);
        if !is_move {
            self.set_tunnel(cx, path, Purpose::Nominated);
        }
    }

    /// Sends the nomination that waits, if one does.
    pub(crate) fn send_waiting_nomination(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(mut nomination) = self.nomination.take_if(|it| it.waits) else {
            return false;
        };
        nomination.waits = false;
        nomination.sent = cx.now;
        self.send_nomination(cx, nomination);
        true
    }

    /// [`Timer::Nomination`]: no answer yet.
    pub(crate) fn repeat_nomination(&mut self, cx: &mut Context<'_>) {
        if self.send_waiting_nomination(cx) {
            return;
        }
        let Some(mut nomination) = self.nomination.take() else {
            return;
        };
        nomination.step += 1;
        if nomination.step < NOMINATION_GAPS.len() {
            self.send_nomination(cx, nomination);
            return;
        }
        if self.proven_path() == Some(nomination.path) {
            return;
        }
        if let Some(candidate) = self.candidates.get_mut(nomination.path.remote) {
            candidate.block(cx.now);
        }
        match self.tunnel_path() {
            // The answers may be what was lost: the peer is called back to the path that works.
            Some(current) if nomination.is_move => self.nominate(cx, current, false),
            _ => self.test_failed(cx),
        }
    }

    fn send_nomination(&mut self, cx: &mut Context<'_>, nomination: Nomination) {
        let message = Message::Nominate {
            seq: self.seq,
            tx_id: nomination.tx_id,
        };
        let remote = nomination.path.remote;
        if self.send_over(cx, nomination.path, &message) {
            cx.counters.nominations_sent += 1;
        }
        let candidate = self.candidates.get(remote);
        let round_trip = candidate.and_then(|it| it.round_trip.get());
        let gap = NOMINATION_GAPS[nomination.step] + round_trip.unwrap_or_default();
        self.timers.set(Timer::Nomination, cx.now + gap);
        self.nomination = Some(nomination);
    }

    /// The controlling side chose the path that this came over.
    pub(crate) fn handle_nominate(
        &mut self,
        cx: &mut Context<'_>,
        path: Path,
        seq: u32,
        tx_id: TxId,
    ) -> Result<(), DropReason> {
        if self.controlling {
            return Err(DropReason::WrongRole);
        }
        let stale = seq < self.seq;
        self.seq = self.seq.max(seq);
        if stale {
            self.answer_nomination(cx, path, tx_id);
            return Err(DropReason::StaleNomination);
        }
        cx.counters.nominations_received += 1;
        if let Some(before) = self.proven_path().filter(|it| *it != path) {
            self.begin_overlap(cx.now, before);
        }
        let repeated = self
            .tunnel
            .as_ref()
            .is_some_and(|it| it.path == path && it.is_being_tested());
        if !repeated {
            self.set_tunnel(cx, path, Purpose::Nominated);
        }
        if self.is_moving_to(path) {
            self.answer_when_moved(path, tx_id);
        } else {
            self.answer_nomination(cx, path, tx_id);
        }
        Ok(())
    }

    /// The other side's tunnel follows the nomination.
    pub(crate) fn handle_nominated(
        &mut self,
        cx: &mut Context<'_>,
        seq: u32,
        tx_id: TxId,
    ) -> Result<(), DropReason> {
        let nomination = self.nomination.take_if(|it| it.tx_id == tx_id);
        let nomination = nomination.ok_or(DropReason::Unsolicited)?;
        self.timers.clear(Timer::Nomination);
        let Nomination { path, is_move, .. } = nomination;
        if let Some(candidate) = self.candidates.get_mut(path.remote) {
            candidate.answered = Some(cx.now);
            if nomination.step == 0 {
                candidate.round_trip.measured(cx.now - nomination.sent);
            }
        }
        if seq > self.seq {
            self.seq = seq;
            self.nominate(cx, path, is_move);
        } else if is_move {
            if let Some(before) = self.tunnel_path() {
                self.begin_overlap(cx.now, before);
            }
            self.set_tunnel(cx, path, Purpose::Nominated);
        }
        Ok(())
    }

    fn tunnel_path(&self) -> Option<Path> {
        self.tunnel.as_ref().map(|tunnel| tunnel.path)
    }
}

/// What makes one candidate take the place of another that is being nominated: an answer, then the LAN.
fn class(candidate: &Candidate, start: Instant) -> (bool, bool) {
    (candidate.answered_since(start), candidate.is_lan())
}

/// Greater is better: an answer, few failures, the LAN, both directions over one mapping, a short round trip.
fn rank(candidate: &Candidate, start: Instant) -> impl Ord + use<> {
    let round_trip = candidate.round_trip.get().unwrap_or(Duration::MAX);
    (
        candidate.answered_since(start),
        Reverse(candidate.failures),
        candidate.is_lan(),
        candidate.symmetric,
        Reverse(round_trip),
    )
}

fn is_faster(candidate: Option<Duration>, current: Option<Duration>) -> bool {
    let (Some(candidate), Some(current)) = (candidate, current) else {
        return false;
    };
    candidate + UPGRADE_MARGIN.max(current / UPGRADE_SHARE) < current
}
