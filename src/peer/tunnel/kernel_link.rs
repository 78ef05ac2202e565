//! The requests for the kernel's link of a tunnel, the reports on them, and the pings that its MTU follows.

use std::net::IpAddr;

use tracing::{debug, info};

use crate::peer::constants::{APPLY_TIMEOUT, UNCHECKED_TIMEOUT};
use crate::peer::packet_window::Budget;
use crate::peer::path::switch_reason::SwitchReason;
use crate::peer::timers::Timer;
use crate::peer::tunnel::check_state::{CheckReason, CheckState, KernelLink, Tunnel};
use crate::peer::tunnel::path_mtu;
use crate::peer::{Context, Outside, Path, Peer, TunnelReport};
use crate::proto::TxId;
use crate::proto::disco::Message;

impl Peer {
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
                debug!(%path, %reason, "tunnel");
                let mut tunnel = Tunnel::new(cx.now, path);
                if let Some(before) = &self.tunnel {
                    tunnel.mtu = before.mtu.over(before.path, path);
                    tunnel.proven_at = before.proven_at;
                    if before.path != path {
                        info!(from = %before.path, to = %path, %reason, "path switched");
                        *cx.counters.path_switches.entry(reason).or_default() += 1;
                    }
                }
                self.tunnel = Some(tunnel);
                self.timers.clear(Timer::Probe);
                self.timers.clear(Timer::Mtu);
                let patience = match self.state.is_connected() {
                    true => UNCHECKED_TIMEOUT,
                    false => APPLY_TIMEOUT,
                };
                let deadline = self.check_until(cx.now, patience);
                self.timers.set(Timer::TunnelCheck, deadline);
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
            cx.outcome.tunnel = Some(Outside {
                number,
                path,
                overlap: self.overlap.other(),
                path_mtu: tunnel.mtu.asked,
                gre_key: self.shared.gre_key(),
            });
        }
    }

    /// Asks the kernel again for a tunnel that it refused; the controlled side has no other way to try again.
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
                self.device_mtu_known(cx, device_mtu);
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
                        self.discovery.candidates.forget_local(local);
                        self.discovery.search.counts_since = cx.now;
                        self.handle_path_loss(cx);
                    }
                    CheckState::Silent { .. } => {}
                }
            }
        }
        self.send_due_pings(cx);
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
        self.discovery.candidates.forget_extra_ports(cx.host.port);
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

    /// The tunnel is in place, and leaves through a device with this MTU.
    fn device_mtu_known(&mut self, cx: &mut Context<'_>, device_mtu: u16) {
        let tunnel = self.tunnel.as_mut();
        if tunnel.is_some_and(|it| it.set_device_mtu(cx.now, device_mtu)) {
            self.mtu_due(cx);
        }
    }

    /// [`Timer::Mtu`], and whenever the search for the path MTU has something to go on with.
    pub(crate) fn mtu_due(&mut self, cx: &mut Context<'_>) {
        let round_trip = self.round_trip().unwrap_or_default();
        let Some(tunnel) = self.tunnel.as_mut() else {
            return;
        };
        let path = tunnel.path;
        let Some(turn) = tunnel.search_mtu(cx.now, round_trip) else {
            return;
        };
        if turn.asks_kernel {
            self.ask_kernel(cx);
        }
        for size in turn.sizes {
            self.send_mtu_ping(cx, path, size);
        }
        match turn.next {
            Some(at) => self.timers.set(Timer::Mtu, at),
            None => self.timers.clear(Timer::Mtu),
        }
    }

    /// Goes on where the tunnel's silence had stopped the search.
    pub(super) fn resume_mtu_search(&mut self, cx: &mut Context<'_>) {
        if self.timers.get(Timer::Mtu).is_none() {
            self.mtu_due(cx);
        }
    }

    /// Whether a pong with this id over this path answers a ping of the search for the path MTU.
    pub(crate) fn is_mtu_pong(&self, path: Path, tx_id: TxId) -> bool {
        let tunnel = self.tunnel.as_ref();
        tunnel.is_some_and(|it| it.is_mtu_pong(path, tx_id))
    }

    /// Takes a pong that [`Peer::is_mtu_pong`] knows.
    pub(crate) fn handle_mtu_pong(&mut self, cx: &mut Context<'_>, tx_id: TxId) {
        let tunnel = self.tunnel.as_mut();
        if tunnel.is_some_and(|it| it.handle_mtu_pong(tx_id)) {
            self.mtu_due(cx);
        }
    }

    fn send_mtu_ping(&mut self, cx: &mut Context<'_>, path: Path, size: u16) {
        let tx_id = cx.tx_id();
        let source = (Some(path.local), path.port);
        let ping = Message::Ping {
            tx_id,
            node_key: cx.host.node_key,
            padding: path_mtu::padding(path, size),
        };
        if self.send(cx, Budget::Ping, source, path.remote, &ping) {
            cx.counters.pings_sent += 1;
            if let Some(tunnel) = &mut self.tunnel {
                tunnel.mtu.sent(size, tx_id);
            }
        }
    }
}
