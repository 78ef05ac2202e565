//! The choice of the path. A kernel tunnel has one remote, so both sides must agree on it: the controlling side chooses and
//! sends `Nominate` over the path; the other side's tunnel follows to where that came from.

use std::cmp::{Ordering, Reverse};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::peer::constants::{NOMINATION_GAPS, OVERLAP_PATIENCE, UPGRADE_MARGIN, UPGRADE_SHARE};
use crate::peer::discovery::candidates::Candidate;
use crate::peer::path::switch_reason::SwitchReason;
use crate::peer::timers::Timer;
use crate::peer::tunnel::check_state::{CheckReason, CheckState, Tunnel};
use crate::peer::{Context, DropReason, Host, Path, Peer, Via};
use crate::proto::TxId;
use crate::proto::disco::Message;

/// A nomination that waits for its answer; only the controlling side has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nomination {
    pub(crate) tx_id: TxId,
    pub(crate) path: Path,
    reason: SwitchReason,
    /// Whether the tunnel works over another path, and so moves only when the peer agreed.
    pub(crate) is_move: bool,
    progress: Progress,
}

/// How far a nomination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It is sent as soon as the kernel receives over both paths.
    AwaitsKernel,
    /// It was sent, and is repeated until it is answered.
    Sent {
        /// When it was sent first.
        at: Instant,
        /// Index into [`NOMINATION_GAPS`].
        step: usize,
    },
}

/// The choice of the path, as far as the two sides have agreed on it.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    /// The number of the latest nomination: sent by this side when controlling, else in force here.
    pub(crate) seq: u32,
    pub(crate) nomination: Option<Nomination>,
}

impl Peer {
    /// Whether a path is being nominated or tested, so that no verdict is due yet.
    pub(crate) fn is_choosing(&self) -> bool {
        let testing = self.tunnel.as_ref().is_some_and(|it| it.is_being_tested());
        self.choice.nomination.is_some() || testing
    }

    /// Nominates the best candidate when there is something to choose: called whenever a candidate shows life.
    pub(crate) fn choose(&mut self, cx: &mut Context<'_>) {
        if !self.controlling {
            return;
        }
        let start = self.discovery.search.counts_since;
        let lately = self.discovery.answers_count_since(cx.now);
        let best = self
            .discovery
            .candidates
            .iter()
            .filter(|it| it.heard_since(start) && !it.is_held_down(cx.now))
            .filter_map(|it| Some((it, it.path()?)))
            .max_by_key(|(it, _)| (it.answered_since(lately), rank(cx.host, it, start)));
        let Some((best, path)) = best else {
            return;
        };
        let nominated = match &self.tunnel {
            None => None,
            Some(tunnel) => match tunnel.check {
                CheckState::Silent { .. } => None,
                CheckState::Asked
                | CheckState::Testing {
                    reason: CheckReason::Nominated,
                    ..
                } => Some(tunnel.path),
                CheckState::Testing {
                    reason: CheckReason::Revalidation,
                    ..
                }
                | CheckState::Proven { .. }
                | CheckState::Late { .. } => return,
            },
        };
        // A ping that came in is reason enough to nominate at once, which saves a round trip; but a candidate that also
        // answered, or one in the LAN, takes its place.
        let nominated = nominated.and_then(|path| self.discovery.candidates.get(path.remote));
        let class = |it: &Candidate| preemption_class(cx.host, it, start);
        if nominated.is_none_or(|it| class(it) < class(best)) {
            self.nominate(cx, path, false, SwitchReason::PathSearch);
        }
    }

    /// A candidate answered while another path is proven: moves to it when it is better by enough.
    pub(crate) fn consider_upgrade(&mut self, cx: &mut Context<'_>, remote: SocketAddr) {
        let Some(current) = self.proven_path() else {
            return;
        };
        if !self.controlling || self.choice.nomination.is_some() || current.remote == remote {
            return;
        }
        let in_use = self.round_trip();
        let via_in_use = cx
            .host
            .via_in_use(current, self.discovery.candidates.get(current.remote));
        let Some(candidate) = self.discovery.candidates.get_mut(remote) else {
            return;
        };
        let Some(path) = candidate
            .path()
            .filter(|_| candidate.may_be_moved_to(cx.now))
        else {
            return;
        };
        match cx.host.via(candidate).cmp(&via_in_use) {
            Ordering::Greater => {}
            Ordering::Less => self.nominate(cx, path, true, SwitchReason::CheaperPath),
            // The packets take the same way, whatever their ports: a shorter round trip is noise, such as that of a busy moment.
            Ordering::Equal if path.has_addresses_of(current) => {}
            Ordering::Equal if is_faster(candidate.round_trip.settled(), in_use) => {
                self.nominate(cx, path, true, SwitchReason::ShorterRoundTrip);
            }
            Ordering::Equal => {
                if candidate.is_idle() && is_faster(candidate.round_trip.latest(), in_use) {
                    candidate.measure_anew(cx.now);
                }
            }
        }
    }

    pub(crate) fn nominate(
        &mut self,
        cx: &mut Context<'_>,
        path: Path,
        is_move: bool,
        reason: SwitchReason,
    ) {
        self.choice.seq = self.choice.seq.saturating_add(1);
        let awaits_kernel = is_move && self.overlap.other() != Some(path);
        let nomination = Nomination {
            tx_id: cx.tx_id(),
            path,
            reason,
            is_move,
            progress: Progress::AwaitsKernel,
        };
        if awaits_kernel {
            self.begin_overlap(cx.now, path);
            self.ask_kernel(cx);
            self.timers
                .set(Timer::Nomination, cx.now + OVERLAP_PATIENCE);
            self.choice.nomination = Some(nomination);
            return;
        }
        self.send_nomination(cx, nomination, cx.now, 0);
        if !is_move {
            self.set_tunnel(cx, path, reason);
        }
    }

    /// Sends the nomination that waits, if one does.
    fn send_waiting_nomination(&mut self, cx: &mut Context<'_>) -> bool {
        let awaits_kernel = |it: &mut Nomination| it.progress == Progress::AwaitsKernel;
        let Some(nomination) = self.choice.nomination.take_if(awaits_kernel) else {
            return false;
        };
        self.send_nomination(cx, nomination, cx.now, 0);
        true
    }

    /// [`Timer::Nomination`]: no answer yet.
    pub(crate) fn repeat_nomination(&mut self, cx: &mut Context<'_>) {
        if self.send_waiting_nomination(cx) {
            return;
        }
        let Some(nomination) = self.choice.nomination.take() else {
            return;
        };
        if let Progress::Sent { at, step } = nomination.progress
            && step + 1 < NOMINATION_GAPS.len()
        {
            self.send_nomination(cx, nomination, at, step + 1);
            return;
        }
        if self.proven_path() == Some(nomination.path) {
            return;
        }
        if let Some(candidate) = self.discovery.candidates.get_mut(nomination.path.remote) {
            candidate.hold_down(cx.now);
        }
        match self.tunnel_path() {
            // The answers may be what was lost: the peer is called back to the path that works.
            Some(current) if nomination.is_move => {
                self.nominate(cx, current, false, SwitchReason::CalledBack);
            }
            _ => self.test_failed(cx),
        }
    }

    /// Sends a nomination that was first sent at `at`, for the time of number `step`.
    fn send_nomination(
        &mut self,
        cx: &mut Context<'_>,
        nomination: Nomination,
        at: Instant,
        step: usize,
    ) {
        let message = Message::Nominate {
            seq: self.choice.seq,
            tx_id: nomination.tx_id,
        };
        let remote = nomination.path.remote;
        if self.send_over(cx, nomination.path, &message) {
            cx.counters.nominations_sent += 1;
        }
        let candidate = self.discovery.candidates.get(remote);
        let round_trip = candidate.and_then(|it| it.round_trip.get());
        let gap = NOMINATION_GAPS[step] + round_trip.unwrap_or_default();
        self.timers.set(Timer::Nomination, cx.now + gap);
        self.choice.nomination = Some(Nomination {
            progress: Progress::Sent { at, step },
            ..nomination
        });
    }

    /// Refuses nominations that are older than the one in force. Its very number may come again over another path only as long as no
    /// data has crossed the tunnel: a proven tunnel never follows a nomination that somebody has recorded.
    pub(crate) fn judge_nomination(&self, path: Path, seq: u32) -> Result<(), DropReason> {
        if self.controlling {
            return Err(DropReason::WrongRole);
        }
        let is_in_force = |it: &Tunnel| it.path != path && it.check.is_in_use();
        let is_repeated = seq == self.choice.seq && self.tunnel.as_ref().is_some_and(is_in_force);
        if seq < self.choice.seq || is_repeated {
            return Err(DropReason::StaleNomination);
        }
        Ok(())
    }

    /// The controlling side chose the path that this came over.
    pub(crate) fn handle_nominate(
        &mut self,
        cx: &mut Context<'_>,
        path: Path,
        seq: u32,
        tx_id: TxId,
    ) -> Result<(), DropReason> {
        self.choice.seq = seq;
        cx.counters.nominations_received += 1;
        if let Some(before) = self.proven_path().filter(|it| *it != path) {
            self.begin_overlap(cx.now, before);
        }
        let repeated = self
            .tunnel
            .as_ref()
            .is_some_and(|it| it.path == path && it.is_being_tested());
        if !repeated {
            let reason = SwitchReason::ChosenByPeer;
            self.set_tunnel(cx, path, reason);
        }
        if self.is_moving_to(path) {
            self.overlap.answer_when_moved(path, tx_id);
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
        let nomination = self.choice.nomination.take_if(|it| it.tx_id == tx_id);
        let nomination = nomination.ok_or(DropReason::Unsolicited)?;
        self.timers.clear(Timer::Nomination);
        let Nomination {
            path,
            is_move,
            reason,
            ..
        } = nomination;
        if let Some(candidate) = self.discovery.candidates.get_mut(path.remote) {
            candidate.answered = Some(cx.now);
            if let Progress::Sent { at, step: 0 } = nomination.progress {
                candidate.round_trip.measured(cx.now - at);
            }
        }
        if seq > self.choice.seq {
            self.choice.seq = seq;
            self.nominate(cx, path, is_move, reason);
        } else if is_move {
            if let Some(before) = self.tunnel_path() {
                self.begin_overlap(cx.now, before);
            }
            self.set_tunnel(cx, path, reason);
        }
        Ok(())
    }

    /// Has the kernel receive over `other` as well from the next request on, for some time.
    fn begin_overlap(&mut self, now: Instant, other: Path) {
        let until = self.overlap.begin(now, other);
        self.timers.set(Timer::Overlap, until);
    }

    /// [`Timer::Overlap`].
    pub(crate) fn end_overlap(&mut self, cx: &mut Context<'_>) {
        if self.overlap.end() {
            self.ask_kernel(cx);
        }
    }

    /// Whether the kernel is about to move to `path`: the answer to its nomination has to wait, for it makes the other side send there.
    fn is_moving_to(&self, path: Path) -> bool {
        let tunnel = self.tunnel.as_ref().filter(|it| it.path == path);
        self.overlap.other().is_some() && tunnel.is_some_and(|it| it.check == CheckState::Asked)
    }

    /// The kernel has done what it was asked for.
    pub(crate) fn kernel_is_ready(&mut self, cx: &mut Context<'_>, path: Path) {
        self.send_waiting_nomination(cx);
        if let Some(tx_id) = self.overlap.take_unanswered(path) {
            self.answer_nomination(cx, path, tx_id);
        }
    }

    /// Says that the nomination in force is followed; its number is in the answer, so that a controlling side that started anew goes
    /// on from there.
    pub(crate) fn answer_nomination(&mut self, cx: &mut Context<'_>, path: Path, tx_id: TxId) {
        let seq = self.choice.seq;
        self.send_over(cx, path, &Message::Nominated { seq, tx_id });
    }

    fn tunnel_path(&self) -> Option<Path> {
        self.tunnel.as_ref().map(|tunnel| tunnel.path)
    }
}

/// Returns the rank by which a candidate takes the place of another that is being nominated: an answer, then a lower cost.
fn preemption_class(host: &Host, candidate: &Candidate, start: Instant) -> (bool, Reverse<Via>) {
    (
        candidate.answered_since(start),
        Reverse(host.via(candidate)),
    )
}

/// Ranks candidates of which all have answered lately, or none. Greater is better: an answer, few failures, a low cost, both directions over
/// one mapping, a short round trip.
fn rank(host: &Host, candidate: &Candidate, start: Instant) -> impl Ord + use<> {
    let round_trip = candidate.round_trip.get().unwrap_or(Duration::MAX);
    (
        candidate.answered_since(start),
        Reverse(candidate.failures),
        Reverse(host.via(candidate)),
        candidate.replies_from_same_port,
        Reverse(round_trip),
    )
}

fn is_faster(candidate: Option<Duration>, current: Option<Duration>) -> bool {
    let (Some(candidate), Some(current)) = (candidate, current) else {
        return false;
    };
    candidate + UPGRADE_MARGIN.max(current / UPGRADE_SHARE) < current
}
