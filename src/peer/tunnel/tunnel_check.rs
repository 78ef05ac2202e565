//! The check of a tunnel by data probes. A tunnel counts only while this side's data pings, sent into the GRE device, come back as data pongs out
//! of it: disco is seen before the host's firewall, data is not.

use std::time::{Duration, Instant};

use tracing::debug;

use crate::peer::constants::{
    APPLY_TIMEOUT, LATE_GAP, LATE_PROBES, LOSS_ROUND_TRIPS, LOSS_TIMEOUT_SILENT, MAX_PROBES,
    MOVE_TIMEOUT, PROBE_GAPS, PROBE_LATE_MAX, PROBE_LATE_MIN, PROBE_MIN_GAP, PROVEN_GAP,
    REVALIDATION_TIMEOUT, STALL, SWITCHES_TIMEOUT, SWITCHES_TIMEOUT_MAX, TEST_ROUND_TRIPS,
    TEST_TIMEOUT, UNCHECKED_TIMEOUT, UNPROVEN_GAP,
};
use crate::peer::path::switch_reason::SwitchReason;
use crate::peer::timers::Timer;
use crate::peer::tunnel::check_state::{CheckReason, CheckState, KernelLink, Tunnel};
use crate::peer::{Context, DropReason, Path, Peer, State, StateReason};
use crate::proto::TxId;
use crate::proto::disco::Message;

impl Peer {
    /// A tunnel found in the kernel at start: it stays as it is, is tested, and counts once data crossed. One with another GRE key than
    /// the pair's was made before a disco key changed: nothing crosses it, and it stays until another is asked for.
    pub(crate) fn handle_adopted(
        &mut self,
        cx: &mut Context<'_>,
        path: Path,
        path_mtu: u16,
        gre_key: u32,
    ) {
        if self.tunnel.is_some() {
            return;
        }
        self.discovery.candidates.adopt(cx.now, path);
        if gre_key == self.shared.gre_key() {
            self.tunnel = Some(Tunnel::adopted(cx.now, path, path_mtu));
        }
        self.begin_search(cx, StateReason::Adopted(path));
        self.send_data_probe(cx);
        self.send_due_pings(cx);
    }

    /// Gives the tunnel its time to prove itself.
    pub(super) fn test(&mut self, cx: &mut Context<'_>, reason: CheckReason) {
        let round_trip = self.round_trip().unwrap_or_default();
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        tunnel.check = CheckState::Testing { reason, step: 0 };
        let timeout = match reason {
            CheckReason::Nominated if self.state.is_connected() => MOVE_TIMEOUT,
            CheckReason::Nominated => TEST_TIMEOUT,
            CheckReason::Revalidation => REVALIDATION_TIMEOUT,
        };
        let deadline = self.check_until(cx.now, timeout + round_trip * TEST_ROUND_TRIPS);
        self.timers.set(Timer::TunnelCheck, deadline);
        self.send_data_probe(cx);
    }

    /// When a check that begins now and may take `patience` ends. While the peer is called direct, path switches that follow each other
    /// do not renew the time: data must cross in between.
    pub(super) fn check_until(&self, now: Instant, patience: Duration) -> Instant {
        let until = now + patience;
        let tunnel = self.tunnel.as_ref().filter(|_| self.state.is_connected());
        let Some(proven_at) = tunnel.and_then(|it| it.proven_at) else {
            return until;
        };
        let round_trip = self.round_trip().unwrap_or_default();
        let patience = SWITCHES_TIMEOUT + round_trip * TEST_ROUND_TRIPS;
        let latest = proven_at + patience.min(SWITCHES_TIMEOUT_MAX);
        until.min(latest.max(now))
    }

    /// A sign of life from a peer whose tunnel is there but was silent: the tunnel is tested before another path is
    /// chosen, so that a peer that only restarted its daemon finds its tunnel untouched.
    pub(crate) fn revalidate(&mut self, cx: &mut Context<'_>) {
        let Some(tunnel) = &self.tunnel else {
            return;
        };
        let awaits_peer = matches!(
            tunnel.check,
            CheckState::Silent {
                awaits_peer: true,
                ..
            }
        );
        if awaits_peer && tunnel.link == KernelLink::Applied {
            self.test(cx, CheckReason::Revalidation);
        }
    }

    /// The peer is looking for a path while this side has one: the next probe goes out now. If the path still works, the
    /// peer does not know of it, and the controlling side says so again.
    pub(crate) fn recheck_path(&mut self, cx: &mut Context<'_>) {
        let Some(path) = self.proven_path() else {
            return;
        };
        self.send_data_probe(cx);
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.is_called = true;
        }
        if self.controlling && self.choice.nomination.is_none() {
            self.nominate(cx, path, false, SwitchReason::CalledBack);
        }
    }

    /// [`Timer::Probe`].
    pub(crate) fn probe_due(&mut self, cx: &mut Context<'_>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        if let CheckState::Proven {
            unanswered: Some(first),
        } = tunnel.check
        {
            // A peer that is looking for a path itself is a reason to be quick.
            let called = tunnel.is_called;
            let loss_timeout = tunnel.loss_timeout();
            tunnel.check = CheckState::Late {
                unanswered: first,
                probes: if called { LATE_PROBES - 1 } else { 0 },
            };
            self.discovery.search.counts_since = cx.now;
            let round_trip = self.round_trip().unwrap_or_default();
            let patience = loss_timeout.max(round_trip * LOSS_ROUND_TRIPS);
            // A driver that was stalled comes here late, and the answer may lie in the socket.
            let deadline = (first + patience).max(cx.now + LATE_GAP);
            self.timers.set(Timer::TunnelCheck, deadline);
        }
        self.send_data_probe(cx);
    }

    /// Sends a data ping and arms the next.
    pub(crate) fn send_data_probe(&mut self, cx: &mut Context<'_>) {
        let round_trip = self.round_trip().unwrap_or_default();
        let tunnel = self.tunnel.as_mut();
        let Some(tunnel) = tunnel.filter(|it| it.link == KernelLink::Applied) else {
            return;
        };
        let mut is_alarmed = false;
        let next = match &mut tunnel.check {
            CheckState::Asked => return,
            CheckState::Testing { step, .. } => {
                *step += 1;
                cx.now + PROBE_GAPS[(*step - 1).min(PROBE_GAPS.len() - 1)]
            }
            CheckState::Silent { step, .. } => {
                *step += 1;
                cx.now + PROBE_GAPS.get(*step - 1).copied().unwrap_or(UNPROVEN_GAP)
            }
            // The first probe is late after its own time: those that a calling peer causes meanwhile do not put that off.
            CheckState::Proven { unanswered } => {
                let first = *unanswered.get_or_insert(cx.now);
                let late_at = first + (round_trip * 2).clamp(PROBE_LATE_MIN, PROBE_LATE_MAX);
                late_at.max(cx.now)
            }
            CheckState::Late { probes, .. } => {
                *probes += 1;
                is_alarmed = *probes == LATE_PROBES;
                cx.now + LATE_GAP
            }
        };
        self.timers.set(Timer::Probe, next);
        let tx_id = cx.tx_id();
        if tunnel.probes.len() == MAX_PROBES {
            tunnel.probes.pop_front();
        }
        tunnel.probes.push_back((tx_id, cx.now));
        tunnel.pings = tunnel.pings.saturating_add(1);
        let ping = Message::DataPing { tx_id };
        if self.send_through_tunnel(cx, &ping) {
            cx.counters.data_pings_sent += 1;
        }
        if is_alarmed {
            self.prepare_search(cx);
        }
    }

    /// Answered through the tunnel, as long as the kernel takes it; it also shows that the other side is ready.
    pub(crate) fn handle_data_ping(
        &mut self,
        cx: &mut Context<'_>,
        tx_id: TxId,
    ) -> Result<(), DropReason> {
        self.data_heard = Some(cx.now);
        if !self.send_through_tunnel(cx, &Message::DataPong { tx_id }) {
            return Err(DropReason::RateLimited);
        }
        let Some(tunnel) = &self.tunnel else {
            return Ok(());
        };
        let just_probed = tunnel
            .probes
            .back()
            .is_some_and(|(_, sent)| cx.now < *sent + PROBE_MIN_GAP);
        if !matches!(tunnel.check, CheckState::Proven { .. }) && !just_probed {
            self.send_data_probe(cx);
        }
        Ok(())
    }

    pub(crate) fn handle_data_pong(
        &mut self,
        cx: &mut Context<'_>,
        tx_id: TxId,
    ) -> Result<(), DropReason> {
        let tunnel = self.tunnel.as_mut().ok_or(DropReason::Unsolicited)?;
        let answered = tunnel.probes.iter().position(|(it, _)| *it == tx_id);
        let index = answered.ok_or(DropReason::Unsolicited)?;
        let sent = tunnel.probes.drain(..=index).next_back();
        let (_, sent) = sent.ok_or(DropReason::Unsolicited)?;
        tunnel.round_trip.measured(cx.now - sent);
        tunnel.pongs = tunnel.pongs.saturating_add(1);
        cx.counters.data_pongs_received += 1;
        self.proven(cx, cx.now - sent);
        Ok(())
    }

    /// Data crossed the tunnel in both directions.
    fn proven(&mut self, cx: &mut Context<'_>, round_trip: Duration) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let path = tunnel.path;
        if tunnel.check.is_silent() {
            tunnel.mtu.path_is_back();
        }
        tunnel.check = CheckState::Proven { unanswered: None };
        tunnel.proven_at = Some(cx.now);
        tunnel.is_called = false;
        self.discovery.port_search.succeeded();
        self.timers.set(Timer::Probe, cx.now + PROVEN_GAP);
        for timer in [Timer::TunnelCheck, Timer::Search, Timer::Retry, Timer::Call] {
            self.timers.clear(timer);
        }
        if self
            .choice
            .nomination
            .take_if(|it| it.path == path)
            .is_some()
        {
            self.timers.clear(Timer::Nomination);
        }
        if let Some(candidate) = self.discovery.candidates.get_mut(path.remote) {
            candidate.clear_hold_down();
        }
        self.resume_mtu_search(cx);
        let remote = path.remote;
        let is_told = matches!(&self.reason, StateReason::DataCrossed { remote: told, .. } if *told == remote);
        if !self.state.is_connected() || !is_told {
            let reason = StateReason::DataCrossed { remote, round_trip };
            self.enter(cx, State::Direct, reason);
        }
    }

    /// [`Timer::TunnelCheck`].
    pub(crate) fn tunnel_check_due(&mut self, cx: &mut Context<'_>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        match tunnel.check {
            CheckState::Asked if self.state.is_connected() => {
                let path = tunnel.path;
                let rest = APPLY_TIMEOUT - UNCHECKED_TIMEOUT;
                self.timers.set(Timer::TunnelCheck, cx.now + rest);
                self.enter(cx, State::Punching, StateReason::SwitchPending(path));
            }
            CheckState::Asked => {
                // Less than APPLY_TIMEOUT where path switches follow each other.
                let waited = (cx.now - tunnel.asked_at).as_secs();
                let error = format!("the kernel did not set it up within {waited} s");
                tunnel.link = KernelLink::Refused(error);
                self.test_failed(cx);
            }
            CheckState::Testing { .. } => self.test_failed(cx),
            CheckState::Late { .. } => match self.silent_peer_has_until(cx.now) {
                Some(until) => self.timers.set(Timer::TunnelCheck, until),
                None => self.handle_path_loss(cx),
            },
            CheckState::Proven { .. } | CheckState::Silent { .. } => {}
        }
    }

    /// Until when the path of a peer that is heard over no path at all is not given up: there is no other path to switch to, and the
    /// peer's process may only be stalled. A peer that calls is not.
    fn silent_peer_has_until(&self, now: Instant) -> Option<Instant> {
        let first = self.tunnel.as_ref()?.late_since()?;
        let round_trip = self.round_trip().unwrap_or_default();
        let patience = LOSS_TIMEOUT_SILENT.max(round_trip * LOSS_ROUND_TRIPS);
        let is_called = self.tunnel.as_ref().is_some_and(|it| it.is_called);
        let late = self.discovery.search.counts_since;
        let is_heard = self.discovery.is_heard_since(late);
        let until = first + patience;
        (!is_called && !is_heard && now < until).then_some(until)
    }

    /// The peer is heard while a data probe is late: the path that carries no data is given up soon, but its answer may be right behind.
    pub(crate) fn hasten_loss(&mut self, now: Instant) {
        let Some(tunnel) = &self.tunnel else {
            return;
        };
        let Some(first) = tunnel.late_since() else {
            return;
        };
        let round_trip = self.round_trip().unwrap_or_default();
        let patience = tunnel.loss_timeout().max(round_trip * LOSS_ROUND_TRIPS);
        let soon = (first + patience).max(now + LATE_GAP);
        if self
            .timers
            .get(Timer::TunnelCheck)
            .is_some_and(|at| soon < at)
        {
            self.timers.set(Timer::TunnelCheck, soon);
        }
    }

    /// A driver that comes this late was stalled, and fires timers before it reads what came in meanwhile: nothing is judged before it
    /// had its time to do so.
    pub(crate) fn let_sockets_be_drained(&mut self, now: Instant) {
        let is_late = |(at, _): (Instant, _)| at + STALL <= now;
        let again = self.stalled.is_some_and(|at| now < at + LATE_GAP * 2);
        if again || !self.timers.next().is_some_and(is_late) {
            return;
        }
        self.stalled = Some(now);
        for timer in [Timer::TunnelCheck, Timer::Search] {
            if self.timers.get(timer).is_some_and(|at| at <= now) {
                self.timers.set(timer, now + LATE_GAP);
            }
        }
    }

    /// The path in use carries no data any more.
    pub(super) fn handle_path_loss(&mut self, cx: &mut Context<'_>) {
        let late = self.discovery.search.counts_since;
        let heard = self.discovery.is_heard_since(late);
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let path = tunnel.path;
        tunnel.check = CheckState::Silent {
            reason: CheckReason::Nominated,
            step: PROBE_GAPS.len(),
            awaits_peer: !heard,
        };
        tunnel.is_called = false;
        self.timers.set(Timer::Probe, cx.now + UNPROVEN_GAP);
        self.abandon_nomination();
        if let Some(candidate) = self.discovery.candidates.get_mut(path.remote) {
            candidate.failures += u32::from(heard);
        }
        self.discovery.candidates.forget_extra_ports(cx.host.port);
        self.begin_search_since(cx, late, StateReason::PathLost(path));
        self.choose(cx);
    }

    /// The tunnel did not prove itself in time, or the kernel refused it.
    pub(crate) fn test_failed(&mut self, cx: &mut Context<'_>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let path = tunnel.path;
        debug!(%path, check = ?tunnel.check, link = ?tunnel.link, "not proven");
        let reason = tunnel.check.reason();
        tunnel.check = CheckState::silent(reason);
        self.timers.clear(Timer::TunnelCheck);
        self.timers.set(Timer::Probe, cx.now + UNPROVEN_GAP);
        self.abandon_nomination();
        let was_connected = self.state.is_connected();
        if reason != CheckReason::Revalidation
            && let Some(candidate) = self.discovery.candidates.get_mut(path.remote)
            && !candidate.is_held_down(cx.now)
        {
            candidate.hold_down(cx.now);
            if was_connected {
                candidate.keep_from_moving(cx.now);
            }
        }
        if was_connected {
            self.begin_search(cx, StateReason::SwitchFailed(path));
        }
        self.choose(cx);
        self.conclude_if_ended(cx);
    }

    pub(super) fn abandon_nomination(&mut self) {
        self.choice.nomination = None;
        self.timers.clear(Timer::Nomination);
    }
}
