//! Moves without loss. A kernel tunnel receives over one path, and the two sides cannot move at the same instant: what one sends
//! over the old path while the other has moved already, or the other way round, would be lost. So before one of them
//! moves, both kernels receive over both paths, and go on doing so until everything that was under way has come in.

use std::time::Instant;

use crate::peer::constants::OVERLAP_TIME;
use crate::peer::path::Path;
use crate::proto::TxId;

/// The state of a path switch on this side.
#[derive(Debug, Default)]
pub(crate) struct Overlap {
    /// The path that data may come over besides the tunnel's own.
    other: Option<Path>,
    /// A nomination that is answered when the kernel has moved.
    unanswered: Option<(Path, TxId)>,
}

impl Overlap {
    /// The path that data may come over besides the tunnel's own.
    pub(crate) fn other(&self) -> Option<Path> {
        self.other
    }

    /// Has the kernel receive over `other` as well from the next request on. Returns until when.
    pub(crate) fn begin(&mut self, now: Instant, other: Path) -> Instant {
        self.other = Some(other);
        now + OVERLAP_TIME
    }

    /// Nothing is under way on the other path any more. Returns whether the kernel has to be asked to receive over one path only.
    pub(crate) fn end(&mut self) -> bool {
        self.other.take().is_some()
    }

    /// Remembers a nomination over `path` until the kernel has moved there.
    pub(crate) fn answer_when_moved(&mut self, path: Path, tx_id: TxId) {
        self.unanswered = Some((path, tx_id));
    }

    /// Takes the nomination that waited for the kernel to move to `path`.
    pub(crate) fn take_unanswered(&mut self, path: Path) -> Option<TxId> {
        let (_, tx_id) = self.unanswered.take_if(|it| it.0 == path)?;
        Some(tx_id)
    }
}
