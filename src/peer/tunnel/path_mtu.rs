//! The path MTU of the tunnel in use: the search for it, and the size that the kernel's link was asked to have. The peer sends the
//! search's pings and asks the kernel (`kernel_link.rs`).

use std::time::{Duration, Instant};

use tracing::debug;

use crate::peer::path::Path;
use crate::peer::tunnel::check_state::Tunnel;
use crate::peer::tunnel::mtu_search::{MtuSearch, Step};
use crate::proto::TxId;
use crate::proto::disco::PING_LEN;

/// IP and UDP headers.
const HEADERS_IPV4: usize = 28;
const HEADERS_IPV6: usize = 48;

/// The packet sizes that a tunnel's path carries, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct TunnelMtu {
    search: Option<MtuSearch>,
    /// The path MTU that the kernel was asked for; `None` is the first guess.
    pub(super) asked: Option<u16>,
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

    /// Whether a ping of the search with this id waits for its answer.
    fn awaits(&self, tx_id: TxId) -> bool {
        self.search.as_ref().is_some_and(|it| it.awaits(tx_id))
    }

    /// A ping of this size was sent.
    pub(super) fn sent(&mut self, size: u16, tx_id: TxId) {
        if let Some(search) = &mut self.search {
            search.sent(size, tx_id);
        }
    }

    /// Data crosses the path again.
    pub(super) fn path_is_back(&mut self) {
        if let Some(search) = &mut self.search {
            search.path_is_back();
        }
    }

    /// Has the link follow what was found. Returns whether the kernel has to be asked for it.
    fn follow(&mut self, path: Path) -> bool {
        let found = self.search.as_ref().and_then(MtuSearch::path_mtu);
        let is_news = found.is_some() && found != self.asked;
        if is_news {
            debug!(%path, from = ?self.asked, to = ?found, "path MTU");
            self.asked = found;
        }
        is_news
    }
}

/// The next turn of the search, for the peer to carry out.
pub(super) struct Turn {
    /// Whether the kernel's link gets another MTU.
    pub(super) asks_kernel: bool,
    /// The sizes of the pings to send.
    pub(super) sizes: Vec<u16>,
    /// When the turn after it is due; `None` while the tunnel is silent.
    pub(super) next: Option<Instant>,
}

impl Tunnel {
    /// The link is in place, and leaves through a device with this MTU. Returns whether the search begins.
    pub(super) fn set_device_mtu(&mut self, now: Instant, device_mtu: u16) -> bool {
        match &mut self.mtu.search {
            Some(search) => search.set_bound(device_mtu),
            none => {
                *none = Some(MtuSearch::new(now, self.path, device_mtu, self.mtu.asked));
                true
            }
        }
    }

    /// Goes on with the search, if there is one.
    pub(super) fn search_mtu(&mut self, now: Instant, round_trip: Duration) -> Option<Turn> {
        let search = self.mtu.search.as_mut()?;
        let mut turn = Turn {
            asks_kernel: false,
            sizes: Vec::new(),
            next: None,
        };
        if self.check.is_silent() {
            // Goes on when data crosses again.
            return Some(turn);
        }
        let step = search.advance(now);
        turn.asks_kernel = self.mtu.follow(self.path);
        turn.next = Some(now + MtuSearch::patience(round_trip));
        match step {
            Step::Send(sizes) => turn.sizes = sizes,
            Step::Sleep(until) => turn.next = Some(until),
        }
        Some(turn)
    }

    /// Whether a pong with this id over this path answers a ping of the search.
    pub(super) fn is_mtu_pong(&self, path: Path, tx_id: TxId) -> bool {
        self.path.remote.ip() == path.remote.ip() && self.mtu.awaits(tx_id)
    }

    /// An awaited pong came. Returns whether the search has something to go on with.
    pub(super) fn handle_mtu_pong(&mut self, tx_id: TxId) -> bool {
        let search = self.mtu.search.as_mut();
        search.is_some_and(|it| it.answered(tx_id) && it.is_answered())
    }
}

/// Returns the padding of a ping whose IP packet to `path`'s remote has this size.
pub(super) fn padding(path: Path, size: u16) -> usize {
    let headers = if path.remote.is_ipv4() {
        HEADERS_IPV4
    } else {
        HEADERS_IPV6
    };
    usize::from(size).saturating_sub(headers + PING_LEN)
}
