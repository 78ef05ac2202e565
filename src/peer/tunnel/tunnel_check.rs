//! The check of a tunnel by data probes. A tunnel counts only while this side's data pings, sent into the GRE device, come back as data pongs out
//! of it: disco is seen before the host's firewall, data is not.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::{debug, info};

use crate::peer::constants::{
    APPLY_TIMEOUT, LATE_GAP, LATE_PROBES, LOSS_ROUND_TRIPS, LOSS_TIMEOUT, LOSS_TIMEOUT_CALLED,
    LOSS_TIMEOUT_SILENT, MOVE_TIMEOUT, PROBE_GAPS, PROBE_LATE_MAX, PROBE_LATE_MIN, PROBE_MIN_GAP,
    PROVEN_GAP, REVALIDATION_TIMEOUT, STALL, TEST_ROUND_TRIPS, TEST_TIMEOUT, UNCHECKED_TIMEOUT,
    UNPROVEN_GAP,
};
use crate::peer::discovery::candidates::RoundTrip;
use crate::peer::path::switch_reason::SwitchReason;
use crate::peer::timers::Timer;
use crate::peer::tunnel::path_mtu::TunnelMtu;
use crate::peer::{Context, DropReason, Outside, Path, Peer, State, StateReason, TunnelReport};
use crate::proto::TxId;
use crate::proto::disco::Message;

/// How far the check of the tunnel is. Each state holds what is valid in it only.
///
/// ```text
///            applied            answered              late              no answer in time
///   Asked ------------> Testing ---------> Proven ---------> Late ----------------------> Silent
///     |                    |                 ^  ^              |                            |
///     |                    | no answer       |  +--------------+                            |
///     |                    v                 |      answered              answered          |
///     +----------------> Silent              +----------------------------------------------+
///    refused, or no answer     a sign of life, or applied anew: Silent -> Testing
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckState {
    /// The kernel was asked for the tunnel over a path that was nominated.
    Asked,
    /// Probes go out; none was answered yet.
    Testing {
        reason: CheckReason,
        /// Index into [`PROBE_GAPS`].
        step: usize,
    },
    /// The latest probe was answered, or is not late yet.
    Proven {
        /// When the first probe since the last answer was sent.
        unanswered: Option<Instant>,
    },
    /// A probe is late.
    Late {
        /// When the first probe since the last answer was sent.
        unanswered: Instant,
        /// Probes since the first that is late.
        probes: u32,
    },
    /// Probes were not answered in time. They go on, slowly: a lifted firewall needs nothing else.
    Silent {
        /// What the next test is for.
        reason: CheckReason,
        /// Index into [`PROBE_GAPS`]: a tunnel that was found at start gets quick probes at first.
        step: usize,
        /// Whether it is tested as soon as its peer is heard, before any other path is chosen: it was found at start or lost in
        /// silence, and its peer may come back and find it in order.
        awaits_peer: bool,
    },
}

impl CheckState {
    /// As [`CheckState::Silent`], with slow probes.
    fn silent(reason: CheckReason) -> Self {
        CheckState::Silent {
            reason,
            step: PROBE_GAPS.len(),
            awaits_peer: false,
        }
    }

    /// Whether data crossed, and its loss is not certain.
    pub(crate) fn is_in_use(self) -> bool {
        matches!(self, CheckState::Proven { .. } | CheckState::Late { .. })
    }

    /// What a test is for, when one is under way or comes next.
    fn reason(self) -> CheckReason {
        match self {
            CheckState::Testing { reason, .. } | CheckState::Silent { reason, .. } => reason,
            CheckState::Asked | CheckState::Proven { .. } | CheckState::Late { .. } => {
                CheckReason::Nominated
            }
        }
    }

    pub(crate) fn is_silent(self) -> bool {
        matches!(self, CheckState::Silent { .. })
    }
}

/// Why the tunnel is being tested; decides what follows when the test fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckReason {
    /// Its path was nominated.
    Nominated,
    /// It was there before, and its peer, after a silence, is heard again.
    Revalidation,
}

/// What is known of the tunnel's link in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
enum KernelLink {
    /// The kernel was asked for it.
    Asked,
    /// The kernel has it.
    Applied,
    /// The kernel does not take it, in its words.
    Refused(String),
    /// The kernel was asked for it without its local address, for the host has lost that.
    WithoutLocal,
}

/// The peer's kernel tunnel, as asked for.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) path: Path,
    /// The first request to the kernel for this path; reports on earlier requests are about another tunnel. 0 for a tunnel
    /// that was found at start, `None` until the kernel is asked.
    request: Option<u64>,
    /// The latest request to the kernel.
    latest_request: u64,
    link: KernelLink,
    pub(crate) check: CheckState,
    /// Data pings in flight, oldest first; some of them may be lost.
    probes: VecDeque<(TxId, Instant)>,
    pub(crate) round_trip: RoundTrip,
    /// Data pings sent.
    pub(crate) pings: u32,
    /// Data pings answered.
    pub(crate) pongs: u32,
    pub(crate) mtu: TunnelMtu,
}

/// Data pings remembered: all that can be in flight within a second of quick probing.
const MAX_PROBES: usize = 32;

impl Tunnel {
    fn new(path: Path) -> Self {
        Tunnel {
            path,
            request: None,
            latest_request: 0,
            link: KernelLink::Asked,
            check: CheckState::Asked,
            probes: VecDeque::new(),
            round_trip: RoundTrip::default(),
            pings: 0,
            pongs: 0,
            mtu: TunnelMtu::default(),
        }
    }

    /// A tunnel that was found in the kernel: it gets quick probes at first.
    fn adopted(path: Path, path_mtu: u16) -> Self {
        Tunnel {
            mtu: TunnelMtu::found(path_mtu),
            request: Some(0),
            link: KernelLink::Applied,
            check: CheckState::Silent {
                reason: CheckReason::Revalidation,
                step: 0,
                awaits_peer: true,
            },
            ..Tunnel::new(path)
        }
    }

    pub(crate) fn is_being_tested(&self) -> bool {
        matches!(self.check, CheckState::Asked | CheckState::Testing { .. })
    }

    /// What the kernel said against the tunnel.
    pub(crate) fn error(&self) -> Option<&String> {
        match &self.link {
            KernelLink::Refused(error) => Some(error),
            KernelLink::Asked | KernelLink::Applied | KernelLink::WithoutLocal => None,
        }
    }

    /// When the probe was sent that is late, if one is.
    fn late_since(&self) -> Option<Instant> {
        match self.check {
            CheckState::Late { unanswered, .. } => Some(unanswered),
            _ => None,
        }
    }
}

impl Peer {
    /// The path that data crossed lately.
    pub(crate) fn proven_path(&self) -> Option<Path> {
        let tunnel = self.tunnel.as_ref()?;
        matches!(tunnel.check, CheckState::Proven { .. }).then_some(tunnel.path)
    }

    /// The round trip of data, else of disco over the tunnel's path.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        let tunnel = self.tunnel.as_ref()?;
        let disco = || self.candidates.get(tunnel.path.remote)?.round_trip.get();
        tunnel.round_trip.get().or_else(disco)
    }

    /// A tunnel found in the kernel at start: it stays as it is, is tested, and counts once data crossed.
    pub(crate) fn handle_adopted(&mut self, cx: &mut Context<'_>, path: Path, path_mtu: u16) {
        if self.tunnel.is_some() {
            return;
        }
        self.candidates.adopt(cx.now, path);
        self.tunnel = Some(Tunnel::adopted(path, path_mtu));
        self.begin_search(cx, StateReason::Adopted(path));
        self.send_data_probe(cx);
        self.send_due_pings(cx);
    }

    /// Points the kernel tunnel at `path`, unless it is there, and has it proven.
    pub(crate) fn set_tunnel(&mut self, cx: &mut Context<'_>, path: Path, reason: SwitchReason) {
        match &mut self.tunnel {
            Some(tunnel) if tunnel.path == path && tunnel.link == KernelLink::Applied => {
                // One in use is under its own, shorter deadline.
                if !tunnel.check.is_in_use() {
                    self.test(cx, CheckReason::Nominated);
                }
            }
            _ => {
                debug!(peer = %self.name, %path, %reason, "tunnel");
                let mut tunnel = Tunnel::new(path);
                if let Some(before) = &self.tunnel {
                    tunnel.mtu = before.mtu.over(before.path, path);
                    if before.path != path {
                        info!(peer = %self.name, from = %before.path, to = %path, %reason, "path switched");
                        *cx.counters.path_switches.entry(reason).or_default() += 1;
                    }
                }
                self.tunnel = Some(tunnel);
                self.timers.clear(Timer::Probe);
                self.timers.clear(Timer::Mtu);
                let patience = match self.state.is_proven() {
                    true => UNCHECKED_TIMEOUT,
                    false => APPLY_TIMEOUT,
                };
                self.timers.set(Timer::TunnelCheck, cx.now + patience);
                self.ask_kernel(cx);
            }
        }
    }

    /// Tells the kernel how the tunnel should be. As long as this host has lost the path's address, packets must not leave from it:
    /// they would take the port in the NAT of the next network that the new address needs.
    pub(crate) fn ask_kernel(&mut self, cx: &mut Context<'_>) {
        if let Some(tunnel) = &mut self.tunnel {
            let number = cx.request_number();
            let without_local = !cx.host.locals.contains(&tunnel.path.local);
            let was_without_local = tunnel.link == KernelLink::WithoutLocal;
            if tunnel.request.is_none() || was_without_local != without_local {
                tunnel.request = Some(number);
            }
            tunnel.latest_request = number;
            if without_local {
                tunnel.link = KernelLink::WithoutLocal;
            } else if was_without_local {
                tunnel.link = KernelLink::Asked;
            }
            let path = if without_local {
                tunnel.path.without_local()
            } else {
                tunnel.path
            };
            *cx.tunnel = Some(Outside {
                number,
                path,
                overlap: self.overlap.other,
                path_mtu: tunnel.mtu.asked,
                gre_key: self.shared.gre_key(),
            });
        }
    }

    /// What the kernel refused it may grant now; the side that does not choose has no other way to try again.
    pub(crate) fn ask_kernel_again(&mut self, cx: &mut Context<'_>) {
        let refused = self.tunnel.as_ref().filter(|it| it.error().is_some());
        let refused = refused.filter(|it| cx.host.locals.contains(&it.path.local));
        if let Some(path) = refused.map(|it| it.path) {
            self.set_tunnel(cx, path, SwitchReason::PathSearch);
        }
    }

    /// Takes a report on the tunnel in the kernel. Reports on a path that is no longer asked for say nothing, and reports on a
    /// path from an address that the host has lost say nothing about the peer.
    pub(crate) fn handle_tunnel(&mut self, cx: &mut Context<'_>, report: TunnelReport) {
        let (TunnelReport::Applied { number, .. } | TunnelReport::Failed { number, .. }) = report;
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let has_local = cx.host.locals.contains(&tunnel.path.local);
        if !has_local && tunnel.is_being_tested() {
            tunnel.check = CheckState::silent(tunnel.check.reason());
            self.timers.clear(Timer::TunnelCheck);
        }
        if tunnel.link == KernelLink::WithoutLocal
            || tunnel.request.is_none_or(|first| number < first)
        {
            return;
        }
        match report {
            TunnelReport::Applied { device_mtu, .. } => {
                // Better late than never: it may be long after its time was up.
                let untested = match tunnel.check {
                    CheckState::Asked => Some(CheckReason::Nominated),
                    CheckState::Silent { reason, .. } => Some(reason),
                    _ => None,
                };
                let path = tunnel.path;
                let is_latest = number >= tunnel.latest_request;
                tunnel.link = KernelLink::Applied;
                if let Some(reason) = untested.filter(|_| has_local) {
                    self.test(cx, reason);
                }
                self.search_mtu(cx, device_mtu);
                if is_latest {
                    self.kernel_is_ready(cx, path);
                }
            }
            TunnelReport::Failed { error, .. } => {
                tunnel.link = KernelLink::Refused(error);
                tunnel.probes.clear();
                match tunnel.check {
                    CheckState::Asked | CheckState::Testing { .. } => self.test_failed(cx),
                    // The host's network is changing. What data crossed a moment ago is not to blame; but packets from an address
                    // that is gone would take the port that the new one needs in the next network's NAT.
                    CheckState::Proven { .. } | CheckState::Late { .. } => {
                        let local = tunnel.path.local;
                        self.candidates.forget_local(local);
                        self.search.started = cx.now;
                        self.handle_path_loss(cx);
                    }
                    CheckState::Silent { .. } => {}
                }
            }
        }
        self.send_due_pings(cx);
    }

    /// Gives the tunnel its time to prove itself.
    fn test(&mut self, cx: &mut Context<'_>, reason: CheckReason) {
        let round_trip = self.round_trip().unwrap_or_default();
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        tunnel.check = CheckState::Testing { reason, step: 0 };
        let timeout = match reason {
            CheckReason::Nominated if self.state.is_proven() => MOVE_TIMEOUT,
            CheckReason::Nominated => TEST_TIMEOUT,
            CheckReason::Revalidation => REVALIDATION_TIMEOUT,
        };
        let deadline = cx.now + timeout + round_trip * TEST_ROUND_TRIPS;
        self.timers.set(Timer::TunnelCheck, deadline);
        self.send_data_probe(cx);
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
        self.loss_timeout = LOSS_TIMEOUT_CALLED;
        if self.controlling && self.nomination.is_none() {
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
            let called = self.loss_timeout == LOSS_TIMEOUT_CALLED;
            tunnel.check = CheckState::Late {
                unanswered: first,
                probes: if called { LATE_PROBES - 1 } else { 0 },
            };
            self.search.started = cx.now;
            let round_trip = self.round_trip().unwrap_or_default();
            let patience = self.loss_timeout.max(round_trip * LOSS_ROUND_TRIPS);
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
        let gap = match &mut tunnel.check {
            CheckState::Asked => return,
            CheckState::Testing { step, .. } => {
                *step += 1;
                PROBE_GAPS[(*step - 1).min(PROBE_GAPS.len() - 1)]
            }
            CheckState::Silent { step, .. } => {
                *step += 1;
                PROBE_GAPS.get(*step - 1).copied().unwrap_or(UNPROVEN_GAP)
            }
            CheckState::Proven { unanswered } => {
                unanswered.get_or_insert(cx.now);
                (round_trip * 2).clamp(PROBE_LATE_MIN, PROBE_LATE_MAX)
            }
            CheckState::Late { probes, .. } => {
                *probes += 1;
                is_alarmed = *probes == LATE_PROBES;
                LATE_GAP
            }
        };
        self.timers.set(Timer::Probe, cx.now + gap);
        let tx_id = cx.tx_id();
        if tunnel.probes.len() == MAX_PROBES {
            tunnel.probes.pop_front();
        }
        tunnel.probes.push_back((tx_id, cx.now));
        tunnel.pings = tunnel.pings.saturating_add(1);
        let ping = Message::DataPing { tx_id, padding: 0 };
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
        tunnel.check = CheckState::Proven { unanswered: None };
        self.loss_timeout = LOSS_TIMEOUT;
        self.port_search.succeeded();
        self.timers.set(Timer::Probe, cx.now + PROVEN_GAP);
        for timer in [Timer::TunnelCheck, Timer::Search, Timer::Retry, Timer::Call] {
            self.timers.clear(timer);
        }
        if self.nomination.take_if(|it| it.path == path).is_some() {
            self.timers.clear(Timer::Nomination);
        }
        if let Some(candidate) = self.candidates.get_mut(path.remote) {
            candidate.forgive();
        }
        self.resume_mtu_search(cx);
        if !self.state.is_proven() {
            let remote = path.remote;
            let reason = StateReason::DataCrossed { remote, round_trip };
            self.enter(cx, State::Direct, reason);
        }
    }

    /// [`Timer::TunnelCheck`].
    pub(crate) fn proof_due(&mut self, cx: &mut Context<'_>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        match tunnel.check {
            CheckState::Asked if self.state.is_proven() => {
                let path = tunnel.path;
                let rest = APPLY_TIMEOUT - UNCHECKED_TIMEOUT;
                self.timers.set(Timer::TunnelCheck, cx.now + rest);
                self.enter(cx, State::Punching, StateReason::SwitchPending(path));
            }
            CheckState::Asked => {
                let waited = APPLY_TIMEOUT.as_secs();
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
        let is_called = self.loss_timeout == LOSS_TIMEOUT_CALLED;
        let late = self.search.started;
        let is_heard = self.candidates.iter().any(|it| it.heard_since(late));
        let until = first + patience;
        (!is_called && !is_heard && now < until).then_some(until)
    }

    /// The peer is heard while a data probe is late: the path that carries no data is given up soon, but its answer may be right behind.
    pub(crate) fn hasten_loss(&mut self, now: Instant) {
        let Some(first) = self.tunnel.as_ref().and_then(Tunnel::late_since) else {
            return;
        };
        let round_trip = self.round_trip().unwrap_or_default();
        let patience = self.loss_timeout.max(round_trip * LOSS_ROUND_TRIPS);
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
    fn handle_path_loss(&mut self, cx: &mut Context<'_>) {
        let late = self.search.started;
        let heard = self.candidates.iter().any(|it| it.heard_since(late));
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let path = tunnel.path;
        tunnel.check = CheckState::Silent {
            reason: CheckReason::Nominated,
            step: PROBE_GAPS.len(),
            awaits_peer: !heard,
        };
        self.timers.set(Timer::Probe, cx.now + UNPROVEN_GAP);
        self.abandon_nomination();
        if let Some(candidate) = self.candidates.get_mut(path.remote) {
            candidate.failures += u32::from(heard);
        }
        self.loss_timeout = LOSS_TIMEOUT;
        self.candidates.forget_extra_ports(cx.host.port);
        self.begin_search_since(cx, late, StateReason::PathLost(path));
        self.choose(cx);
    }

    /// The tunnel did not prove itself in time, or the kernel refused it.
    pub(crate) fn test_failed(&mut self, cx: &mut Context<'_>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let path = tunnel.path;
        debug!(peer = %self.name, %path, check = ?tunnel.check, link = ?tunnel.link, "not proven");
        let reason = tunnel.check.reason();
        tunnel.check = CheckState::silent(reason);
        self.timers.clear(Timer::TunnelCheck);
        self.timers.set(Timer::Probe, cx.now + UNPROVEN_GAP);
        self.abandon_nomination();
        let moved = self.state.is_proven();
        if reason != CheckReason::Revalidation
            && let Some(candidate) = self.candidates.get_mut(path.remote)
            && !candidate.is_blocked(cx.now)
        {
            candidate.block(cx.now);
            if moved {
                candidate.keep_from_moving(cx.now);
            }
        }
        if moved {
            self.begin_search(cx, StateReason::SwitchFailed(path));
        }
        self.choose(cx);
        self.conclude_if_ended(cx);
    }

    /// The host's address that the tunnel uses is gone: nothing crosses it now. The kernel keeps the link, for the address may come
    /// back, but sends no more from it. Returns that address.
    pub(crate) fn abandon_lost_local(&mut self, cx: &mut Context<'_>) -> Option<IpAddr> {
        let tunnel = self.tunnel.as_mut()?;
        let local = tunnel.path.local;
        if cx.host.locals.contains(&local) {
            return None;
        }
        tunnel.probes.clear();
        tunnel.check = CheckState::silent(CheckReason::Revalidation);
        self.timers.clear(Timer::Probe);
        self.timers.clear(Timer::TunnelCheck);
        self.abandon_nomination();
        self.candidates.forget_extra_ports(cx.host.port);
        self.ask_kernel(cx);
        Some(local)
    }

    /// The host may have the tunnel's address again that it had lost: then the tunnel is as it was, and gets its chance.
    pub(crate) fn take_back_local(&mut self, cx: &mut Context<'_>) {
        let tunnel = self.tunnel.as_ref();
        if tunnel.is_some_and(|it| it.link == KernelLink::WithoutLocal) {
            self.ask_kernel(cx);
        }
    }

    fn abandon_nomination(&mut self) {
        self.nomination = None;
        self.timers.clear(Timer::Nomination);
    }
}
