//! How far the machine is with one tunnel.

use std::collections::BTreeSet;
use std::time::Instant;

use super::Applied;
use crate::node::DesiredTunnel;

/// The machine's state of one tunnel. There is none of tunnels that are neither desired nor in the kernel.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The desired state that the kernel last satisfied.
    pub(super) satisfied: Option<DesiredTunnel>,
    /// The failure since.
    pub(super) refused: Option<Refused>,
    /// The last report.
    pub(super) reported: Option<Applied>,
    /// Steps that the kernel refused and that the tunnel does without, so that each is said once.
    pub(super) left_out: BTreeSet<String>,
}

/// A failure and when to try again.
#[derive(Debug)]
pub(super) struct Refused {
    /// `None` where the tunnel was to be removed.
    pub(super) desired: Option<DesiredTunnel>,
    pub(super) error: String,
    pub(super) tries: u32,
    pub(super) not_before: Instant,
}

impl Progress {
    /// The name of the tunnel's link, which is there or was to be made.
    pub(super) fn link_name(&self) -> Option<&str> {
        let refused = self.refused.as_ref().and_then(|it| it.desired.as_ref());
        let desired = self.satisfied.as_ref().or(refused)?;
        Some(&desired.inside.name)
    }

    /// Whether the kernel is as desired; `None` asks for nothing to be there.
    pub(super) fn satisfies(&self, desired: Option<&DesiredTunnel>) -> bool {
        desired.is_some() && self.satisfied.as_ref() == desired
    }

    /// When to try again what failed; `None` where something else is desired now.
    pub(super) fn retry_at(&self, desired: Option<&DesiredTunnel>) -> Option<Instant> {
        let refused = self.refused.as_ref()?;
        (refused.desired.as_ref() == desired).then_some(refused.not_before)
    }
}
