//! A tunnel, and how far the check of it is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::peer::constants::{LOSS_TIMEOUT, LOSS_TIMEOUT_CALLED, PROBE_GAPS};
use crate::peer::discovery::candidates::RoundTrip;
use crate::peer::path::Path;
use crate::peer::tunnel::path_mtu::TunnelMtu;
use crate::proto::TxId;

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
        /// The reason of the next test.
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
    pub(super) fn silent(reason: CheckReason) -> Self {
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

    /// Returns the reason of the test that is under way or comes next.
    pub(super) fn reason(self) -> CheckReason {
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

/// The tunnel's link in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KernelLink {
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
    /// When the kernel was first asked for this path, or the tunnel was found.
    pub(super) asked_at: Instant,
    /// The first request to the kernel for this path; reports on earlier requests are about another tunnel. 0 for a tunnel
    /// that was found at start, `None` until the kernel is asked.
    pub(super) request: Option<u64>,
    /// The latest request to the kernel.
    pub(super) latest_request: u64,
    pub(super) link: KernelLink,
    pub(crate) check: CheckState,
    /// Data pings in flight, oldest first; some of them may be lost.
    pub(super) probes: VecDeque<(TxId, Instant)>,
    pub(crate) round_trip: RoundTrip,
    /// Data pings sent.
    pub(crate) pings: u32,
    /// Data pings answered.
    pub(crate) pongs: u32,
    pub(crate) mtu: TunnelMtu,
    /// When data last crossed to the peer and back, over this path or the one before it.
    pub(super) proven_at: Option<Instant>,
    /// Whether the peer has called since data last crossed: it looks for a path itself, so a loss is judged sooner.
    pub(super) is_called: bool,
}

impl Tunnel {
    pub(super) fn new(now: Instant, path: Path) -> Self {
        Tunnel {
            path,
            asked_at: now,
            request: None,
            latest_request: 0,
            link: KernelLink::Asked,
            check: CheckState::Asked,
            probes: VecDeque::new(),
            round_trip: RoundTrip::default(),
            pings: 0,
            pongs: 0,
            mtu: TunnelMtu::default(),
            proven_at: None,
            is_called: false,
        }
    }

    /// A tunnel that was found in the kernel: it gets quick probes at first.
    pub(super) fn adopted(now: Instant, path: Path, path_mtu: u16) -> Self {
        Tunnel {
            mtu: TunnelMtu::found(path_mtu),
            request: Some(0),
            link: KernelLink::Applied,
            check: CheckState::Silent {
                reason: CheckReason::Revalidation,
                step: 0,
                awaits_peer: true,
            },
            ..Tunnel::new(now, path)
        }
    }

    pub(crate) fn is_being_tested(&self) -> bool {
        matches!(self.check, CheckState::Asked | CheckState::Testing { .. })
    }

    /// Returns the kernel's error, if it refused the tunnel.
    pub(crate) fn error(&self) -> Option<&String> {
        match &self.link {
            KernelLink::Refused(error) => Some(error),
            KernelLink::Asked | KernelLink::Applied | KernelLink::WithoutLocal => None,
        }
    }

    /// How long data probes may go unanswered.
    pub(super) fn loss_timeout(&self) -> Duration {
        if self.is_called {
            LOSS_TIMEOUT_CALLED
        } else {
            LOSS_TIMEOUT
        }
    }

    /// When the probe was sent that is late, if one is.
    pub(super) fn late_since(&self) -> Option<Instant> {
        match self.check {
            CheckState::Late { unanswered, .. } => Some(unanswered),
            _ => None,
        }
    }
}
