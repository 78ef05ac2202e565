//! Proof by data. A tunnel counts only while this side's data pings, sent into the GRE device, come back as data pongs out
//! of it: disco is seen before the host's firewall, data is not.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::debug;

use super::candidates::RoundTrip;
use super::path_mtu::TunnelMtu;
use super::timers::Timer;
use super::tuning::{
    APPLY_TIMEOUT, GRACE_TIMEOUT, LATE_GAP, LATE_PROBES, LOSS_ROUND_TRIPS, LOSS_TIMEOUT,
    LOSS_TIMEOUT_CALLED, MOVE_TIMEOUT, PROBE_GAPS, PROBE_LATE_MAX, PROBE_LATE_MIN, PROBE_MIN_GAP,
    PROVEN_GAP, TEST_ROUND_TRIPS, TEST_TIMEOUT, UNPROVEN_GAP,
};
use super::{Context, DropReason, Outside, Path, Peer, State, TunnelReport};
use crate::proto::TxId;
use crate::proto::disco::Message;

/// How far the tunnel's proof is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// The kernel was asked for the tunnel.
    Pending,
    /// Probes go out; none was answered yet.
    Testing,
    /// The latest probe was answered, or is not late yet.
    Proven,
    /// A probe is late.
    Late,
    /// Probes were not answered in time. They go on, slowly: a lifted firewall needs nothing else.
    Unproven,
}

/// Why the tunnel is being tested; decides what follows when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Its path was nominated.
    Nominated,
    /// It was there before, and its peer, after a silence, is heard again.
    Grace,
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
    /// Whether the kernel has it.
    applied: bool,
    /// Whether the kernel was last asked for it without its local address, for the host had lost that.
    without_local: bool,
    pub(crate) proof: Proof,
    pub(crate) purpose: Purpose,
    /// Data pings in flight, oldest first; some of them may be lost.
    probes: VecDeque<(TxId, Instant)>,
    /// When the first data ping since the last proof was sent.
    unanswered: Option<Instant>,
    /// Index into [`PROBE_GAPS`].
    step: usize,
    /// Data pings since the first that is late.
    late: u32,
    pub(crate) round_trip: RoundTrip,
    /// Data pings sent.
    pub(crate) pings: u32,
    /// Data pings answered.
    pub(crate) pongs: u32,
    /// It was found at start or lost in silence: its peer may come back and find it in order, so it is tested before any
    /// other path is chosen.
    awaits_grace: bool,
    pub(crate) mtu: TunnelMtu,
    /// What the kernel said against it.
    pub(crate) error: Option<String>,
}

/// Data pings remembered: all that can be in flight within a second of quick probing.
const MAX_PROBES: usize = 32;

impl Tunnel {
    fn new(path: Path, purpose: Purpose) -> Self {
        Tunnel {
            path,
            request: None,
            latest_request: 0,
            applied: false,
            without_local: false,
            proof: Proof::Pending,
            purpose,
            probes: VecDeque::new(),
            unanswered: None,
            step: 0,
            late: 0,
            round_trip: RoundTrip::default(),
            pings: 0,
            pongs: 0,
            awaits_grace: false,
            mtu: TunnelMtu::default(),
            error: None,
        }
    }

    /// A tunnel that was found in the kernel: it gets quick probes at first.
    fn adopted(path: Path, path_mtu: u16) -> Self {
        Tunnel {
            mtu: TunnelMtu::found(path_mtu),
            request: Some(0),
            applied: true,
            proof: Proof::Unproven,
            awaits_grace: true,
            ..Tunnel::new(path, Purpose::Grace)
        }
    }

    pub(crate) fn is_being_tested(&self) -> bool {
        matches!(self.proof, Proof::Pending | Proof::Testing)
    }

    /// Whether a data ping waits for its answer.
    pub(crate) fn is_silent(&self) -> bool {
        self.unanswered.is_some()
    }
}

impl Peer {
    /// The path that data crossed lately.
    pub(crate) fn proven_path(&self) -> Option<Path> {
        let tunnel = self.tunnel.as_ref()?;
        (tunnel.proof == Proof::Proven).then_some(tunnel.path)
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
        self.begin_search(cx, format!("testing the tunnel found over {path}"));
        self.probe(cx);
        self.send_due_pings(cx);
    }

    /// Points the kernel tunnel at `path`, unless it is there, and has it proven.
    pub(crate) fn set_tunnel(&mut self, cx: &mut Context<'_>, path: Path, purpose: Purpose) {
        match &mut self.tunnel {
            Some(tunnel) if tunnel.path == path && tunnel.applied => {
                // One in use is under its own, shorter deadline.
                if !matches!(tunnel.proof, Proof::Proven | Proof::Late) {
                    tunnel.purpose = purpose;
                    self.test(cx);
                }
            }
            _ => {
                debug!(peer = %self.name, %path, ?purpose, "tunnel");
                let mut tunnel = Tunnel::new(path, purpose);
                if let Some(before) = &self.tunnel {
                    tunnel.mtu = before.mtu.over(before.path, path);
                }
                self.tunnel = Some(tunnel);
                self.timers.clear(Timer::Probe);
                self.timers.clear(Timer::Mtu);
                self.timers.set(Timer::Proof, cx.now + APPLY_TIMEOUT);
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
            if tunnel.request.is_none() || tunnel.without_local != without_local {
                tunnel.request = Some(number);
            }
            tunnel.latest_request = number;
            tunnel.without_local = without_local;
            let path = if tunnel.without_local {
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
        let refused = self.tunnel.as_ref().filter(|it| it.error.is_some());
        let refused = refused.filter(|it| cx.host.locals.contains(&it.path.local));
        if let Some(path) = refused.map(|it| it.path) {
            self.set_tunnel(cx, path, Purpose::Nominated);
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
            tunnel.proof = Proof::Unproven;
            self.timers.clear(Timer::Proof);
        }
        if tunnel.without_local || tunnel.request.is_none_or(|first| number < first) {
            return;
        }
        match report {
            TunnelReport::Applied { device_mtu, .. } => {
                // Better late than never: it may be long after its time was up.
                let untested =
                    matches!(tunnel.proof, Proof::Pending | Proof::Unproven) && has_local;
                let path = tunnel.path;
                let is_latest = number >= tunnel.latest_request;
                tunnel.applied = true;
                tunnel.error = None;
                if untested {
                    self.test(cx);
                }
                self.search_mtu(cx, device_mtu);
                if is_latest {
                    self.kernel_is_ready(cx, path);
                }
            }
            TunnelReport::Failed { error, .. } => {
                tunnel.applied = false;
                tunnel.probes.clear();
                tunnel.error = Some(error);
                match tunnel.proof {
                    Proof::Pending | Proof::Testing => self.test_failed(cx),
                    // The host's network is changing. What data crossed a moment ago is not to blame; but packets from an address
                    // that is gone would take the port that the new one needs in the next network's NAT.
                    Proof::Proven | Proof::Late => {
                        let local = tunnel.path.local;
                        self.candidates.forget_local(local);
                        self.search.started = cx.now;
                        self.lost(cx);
                    }
                    Proof::Unproven => {}
                }
            }
        }
        self.send_due_pings(cx);
    }

    /// Gives the tunnel its time to prove itself.
    fn test(&mut self, cx: &mut Context<'_>) {
        let round_trip = self.round_trip().unwrap_or_default();
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        tunnel.proof = Proof::Testing;
        tunnel.step = 0;
        let timeout = match tunnel.purpose {
            Purpose::Nominated if self.state == State::Direct => MOVE_TIMEOUT,
            Purpose::Nominated => TEST_TIMEOUT,
            Purpose::Grace => GRACE_TIMEOUT,
        };
        let deadline = cx.now + timeout + round_trip * TEST_ROUND_TRIPS;
        self.timers.set(Timer::Proof, deadline);
        self.probe(cx);
    }

    /// A sign of life from a peer whose tunnel is there but was silent: the tunnel is tested before another path is
    /// chosen, so that a peer that only restarted its daemon finds its tunnel untouched.
    pub(crate) fn give_grace(&mut self, cx: &mut Context<'_>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        if tunnel.applied && tunnel.proof == Proof::Unproven && tunnel.awaits_grace {
            tunnel.awaits_grace = false;
            tunnel.purpose = Purpose::Grace;
            self.test(cx);
        }
    }

    /// The peer is looking for a path while this side has one: the next probe goes out now. If the path still works, the
    /// peer does not know of it, and the controlling side says so again.
    pub(crate) fn doubt(&mut self, cx: &mut Context<'_>) {
        let Some(path) = self.proven_path() else {
            return;
        };
        self.probe(cx);
        self.loss_timeout = LOSS_TIMEOUT_CALLED;
        if self.controlling && self.nomination.is_none() {
            self.nominate(cx, path, false);
        }
    }

    /// [`Timer::Probe`].
    pub(crate) fn probe_due(&mut self, cx: &mut Context<'_>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        if let (Proof::Proven, Some(first)) = (tunnel.proof, tunnel.unanswered) {
            tunnel.proof = Proof::Late;
            // A peer that is looking for a path itself is a reason to be quick.
            let called = self.loss_timeout == LOSS_TIMEOUT_CALLED;
            tunnel.late = if called { LATE_PROBES - 1 } else { 0 };
            self.search.started = cx.now;
            let round_trip = self.round_trip().unwrap_or_default();
            let patience = self.loss_timeout.max(round_trip * LOSS_ROUND_TRIPS);
            self.timers.set(Timer::Proof, first + patience);
        }
        self.probe(cx);
    }

    /// Sends a data ping and arms the next.
    pub(crate) fn probe(&mut self, cx: &mut Context<'_>) {
        let round_trip = self.round_trip().unwrap_or_default();
        let Some(tunnel) = self.tunnel.as_mut().filter(|it| it.applied) else {
            return;
        };
        let gap = match tunnel.proof {
            Proof::Pending => return,
            Proof::Testing | Proof::Unproven => {
                let slowest = match tunnel.proof {
                    Proof::Testing => PROBE_GAPS[PROBE_GAPS.len() - 1],
                    _ => UNPROVEN_GAP,
                };
                tunnel.step += 1;
                PROBE_GAPS.get(tunnel.step - 1).copied().unwrap_or(slowest)
            }
            Proof::Proven => (round_trip * 2).clamp(PROBE_LATE_MIN, PROBE_LATE_MAX),
            Proof::Late => LATE_GAP,
        };
        self.timers.set(Timer::Probe, cx.now + gap);
        let tx_id = cx.tx_id();
        if tunnel.probes.len() == MAX_PROBES {
            tunnel.probes.pop_front();
        }
        tunnel.probes.push_back((tx_id, cx.now));
        tunnel.unanswered.get_or_insert(cx.now);
        tunnel.pings = tunnel.pings.saturating_add(1);
        let alarmed = tunnel.proof == Proof::Late && {
            tunnel.late += 1;
            tunnel.late == LATE_PROBES
        };
        let ping = Message::DataPing { tx_id, padding: 0 };
        if self.send_through_tunnel(cx, &ping) {
            cx.counters.data_pings_sent += 1;
        }
        if alarmed {
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
        if tunnel.proof != Proof::Proven && !just_probed {
            self.probe(cx);
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
        tunnel.proof = Proof::Proven;
        tunnel.unanswered = None;
        tunnel.awaits_grace = false;
        tunnel.error = None;
        self.loss_timeout = LOSS_TIMEOUT;
        self.port_search.succeeded();
        self.timers.set(Timer::Probe, cx.now + PROVEN_GAP);
        for timer in [Timer::Proof, Timer::Search, Timer::Retry, Timer::Call] {
            self.timers.clear(timer);
        }
        if self.nomination.take_if(|it| it.path == path).is_some() {
            self.timers.clear(Timer::Nomination);
        }
        if let Some(candidate) = self.candidates.get_mut(path.remote) {
            candidate.forgive();
        }
        self.resume_mtu_search(cx);
        if self.state != State::Direct {
            let took = round_trip.as_secs_f64() * 1e3;
            let remote = path.remote;
            let reason =
                format!("data crossed the tunnel to {remote} and back, the last in {took:.1} ms");
            self.enter(cx, State::Direct, reason);
        }
    }

    /// [`Timer::Proof`].
    pub(crate) fn proof_due(&mut self, cx: &mut Context<'_>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        match tunnel.proof {
            Proof::Pending => {
                let waited = APPLY_TIMEOUT.as_secs();
                tunnel.error = Some(format!("the kernel did not set it up within {waited} s"));
                self.test_failed(cx);
            }
            Proof::Testing => self.test_failed(cx),
            Proof::Late => self.lost(cx),
            Proof::Proven | Proof::Unproven => {}
        }
    }

    /// The path in use carries no data any more.
    fn lost(&mut self, cx: &mut Context<'_>) {
        let late = self.search.started;
        let heard = self.candidates.iter().any(|it| it.heard_since(late));
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let path = tunnel.path;
        tunnel.proof = Proof::Unproven;
        tunnel.step = PROBE_GAPS.len();
        tunnel.awaits_grace = !heard;
        self.timers.set(Timer::Probe, cx.now + UNPROVEN_GAP);
        self.abandon_nomination();
        if let Some(candidate) = self.candidates.get_mut(path.remote) {
            candidate.failures += u32::from(heard);
        }
        self.loss_timeout = LOSS_TIMEOUT;
        self.candidates.forget_extra_ports(cx.host.port);
        let reason = format!("no answer came through the tunnel over {path} any more");
        self.begin_search_since(cx, late, reason);
        self.choose(cx);
    }

    /// The tunnel did not prove itself in time, or the kernel refused it.
    pub(crate) fn test_failed(&mut self, cx: &mut Context<'_>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let (path, purpose) = (tunnel.path, tunnel.purpose);
        debug!(peer = %self.name, %path, ?purpose, error = ?tunnel.error, "not proven");
        tunnel.proof = Proof::Unproven;
        tunnel.step = PROBE_GAPS.len();
        self.timers.clear(Timer::Proof);
        self.timers.set(Timer::Probe, cx.now + UNPROVEN_GAP);
        self.abandon_nomination();
        let moved = self.state == State::Direct;
        if purpose != Purpose::Grace
            && let Some(candidate) = self.candidates.get_mut(path.remote)
            && !candidate.is_blocked(cx.now)
        {
            candidate.block(cx.now);
            if moved {
                candidate.keep_from_moving(cx.now);
            }
        }
        if moved {
            let reason = format!("no data crossed the tunnel after it moved to {path}");
            self.begin_search(cx, reason);
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
        tunnel.unanswered = None;
        tunnel.proof = Proof::Unproven;
        tunnel.applied = false;
        tunnel.awaits_grace = false;
        // What the kernel said of it says nothing of the paths that are left.
        tunnel.error = None;
        self.timers.clear(Timer::Probe);
        self.timers.clear(Timer::Proof);
        self.abandon_nomination();
        self.candidates.forget_extra_ports(cx.host.port);
        self.ask_kernel(cx);
        Some(local)
    }

    /// The host may have the tunnel's address again that it had lost: then the tunnel is as it was, and gets its chance.
    pub(crate) fn take_back_local(&mut self, cx: &mut Context<'_>) {
        if let Some(tunnel) = self.tunnel.as_mut().filter(|it| it.without_local) {
            tunnel.purpose = Purpose::Grace;
            self.ask_kernel(cx);
        }
    }

    fn abandon_nomination(&mut self) {
        self.nomination = None;
        self.timers.clear(Timer::Nomination);
    }
}
