//! Runs the search for the path MTU over the tunnel in use, and has the tunnel follow what it finds.

use tracing::debug;

use crate::peer::packet_window::Budget;
use crate::peer::timers::Timer;
use crate::peer::tunnel::check_state::CheckState;
use crate::peer::tunnel::mtu_search::{MtuSearch, Step};
use crate::peer::{Context, Path, Peer};
use crate::proto::TxId;
use crate::proto::disco::{Message, PING_LEN};

/// IP and UDP headers.
const HEADERS_IPV4: usize = 28;
const HEADERS_IPV6: usize = 48;

/// The packet sizes that a tunnel's path carries, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct TunnelMtu {
    search: Option<MtuSearch>,
    /// The path MTU that the kernel was asked for; `None` is the first guess.
    pub(crate) asked: Option<u16>,
}

impl TunnelMtu {
    /// Of a tunnel that was found in the kernel, made for outer packets of this size.
    pub(crate) fn found(path_mtu: u16) -> Self {
        TunnelMtu {
            asked: Some(path_mtu),
            ..TunnelMtu::default()
        }
    }

    /// Returns the knowledge of the next path: the same where only the peer's port differs, else nothing.
    pub(crate) fn over(&self, this: Path, next: Path) -> Self {
        TunnelMtu {
            asked: self.asked.filter(|_| this.has_addresses_of(next)),
            ..TunnelMtu::default()
        }
    }
}

impl Peer {
    /// The tunnel is in place, and leaves through a device with this MTU.
    pub(crate) fn search_mtu(&mut self, cx: &mut Context<'_>, device_mtu: u16) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let begins = match &mut tunnel.mtu.search {
            Some(search) => search.set_bound(cx.now, device_mtu),
            none => {
                let used = tunnel.mtu.asked;
                *none = Some(MtuSearch::new(cx.now, tunnel.path, device_mtu, used));
                true
            }
        };
        if begins {
            self.mtu_due(cx);
        }
    }

    /// [`Timer::Mtu`], and whenever the search has something to go on with.
    pub(crate) fn mtu_due(&mut self, cx: &mut Context<'_>) {
        let patience = MtuSearch::patience(self.round_trip().unwrap_or_default());
        let Some(tunnel) = self.tunnel.as_mut() else {
            return;
        };
        let (path, check) = (tunnel.path, tunnel.check);
        let Some(search) = &mut tunnel.mtu.search else {
            return;
        };
        if check.is_silent() {
            // Goes on when data crosses again.
            return self.timers.clear(Timer::Mtu);
        }
        let step = search.advance(cx.now, tunnel.proven_at);
        self.follow_mtu(cx);
        match step {
            Step::Send(sizes) => {
                for size in sizes {
                    self.send_mtu_ping(cx, path, size);
                }
                self.timers.set(Timer::Mtu, cx.now + patience);
            }
            Step::ShowLife => {
                self.timers.set(Timer::Mtu, cx.now + patience);
                if check == (CheckState::Proven { unanswered: None }) {
                    self.send_data_probe(cx);
                }
            }
            Step::Sleep(until) => self.timers.set(Timer::Mtu, until),
        }
    }

    /// Goes on where the tunnel's silence had stopped the search.
    pub(crate) fn resume_mtu_search(&mut self, cx: &mut Context<'_>) {
        if self.timers.get(Timer::Mtu).is_none() {
            self.mtu_due(cx);
        }
    }

    /// Whether a pong with this id over this path answers a ping of the search.
    pub(crate) fn is_mtu_pong(&self, path: Path, tx_id: TxId) -> bool {
        let tunnel = self.tunnel.as_ref();
        let tunnel = tunnel.filter(|it| it.path.remote.ip() == path.remote.ip());
        tunnel
            .and_then(|it| it.mtu.search.as_ref())
            .is_some_and(|it| it.awaits(tx_id))
    }

    /// Whether this pong answers a ping of the search.
    pub(crate) fn handle_mtu_pong(
        &mut self,
        cx: &mut Context<'_>,
        path: Path,
        tx_id: TxId,
    ) -> bool {
        let tunnel = self.tunnel.as_mut();
        let tunnel = tunnel.filter(|it| it.path.remote.ip() == path.remote.ip());
        let Some(search) = tunnel.and_then(|it| it.mtu.search.as_mut()) else {
            return false;
        };
        if !search.answered(cx.now, tx_id) {
            return false;
        }
        if search.is_answered() {
            self.mtu_due(cx);
        }
        true
    }

    fn send_mtu_ping(&mut self, cx: &mut Context<'_>, path: Path, size: u16) {
        let headers = if path.remote.is_ipv4() {
            HEADERS_IPV4
        } else {
            HEADERS_IPV6
        };
        let tx_id = cx.tx_id();
        let source = (Some(path.local), path.port);
        let ping = Message::Ping {
            tx_id,
            node_key: cx.host.node_key,
            padding: usize::from(size).saturating_sub(headers + PING_LEN),
        };
        if self.send(cx, Budget::Ping, source, path.remote, &ping) {
            cx.counters.pings_sent += 1;
            let tunnel = self.tunnel.as_mut();
            if let Some(search) = tunnel.and_then(|it| it.mtu.search.as_mut()) {
                search.sent(size, tx_id);
            }
        }
    }

    /// Has the kernel's link follow what was found.
    fn follow_mtu(&mut self, cx: &mut Context<'_>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let found = tunnel.mtu.search.as_ref().and_then(MtuSearch::path_mtu);
        if found.is_none() || found == tunnel.mtu.asked {
            return;
        }
        debug!(path = %tunnel.path, from = ?tunnel.mtu.asked, to = ?found, "path MTU");
        tunnel.mtu.asked = found;
        self.ask_kernel(cx);
    }
}
