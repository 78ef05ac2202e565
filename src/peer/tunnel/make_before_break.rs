//! Moves without loss. A kernel tunnel receives over one path, and the two sides cannot move at the same instant: what one sends
//! over the old path while the other has moved already, or the other way round, would be lost. So before one of them
//! moves, both kernels receive over both paths, and go on doing so until everything that was under way has come in.

use std::time::Instant;

use crate::peer::constants::OVERLAP_TIME;
use crate::peer::timers::Timer;
use crate::peer::tunnel::check_state::CheckState;
use crate::peer::{Context, Path, Peer};
use crate::proto::TxId;
use crate::proto::disco::Message;

/// The state of a path switch on this side.
#[derive(Debug, Default)]
pub(crate) struct Overlap {
    /// The path that data may come over besides the tunnel's own.
    pub(crate) other: Option<Path>,
    /// A nomination that is answered when the kernel has moved.
    unanswered: Option<(Path, TxId)>,
}

impl Peer {
    /// Has the kernel receive over `other` as well from the next request on.
    pub(crate) fn begin_overlap(&mut self, now: Instant, other: Path) {
        self.overlap.other = Some(other);
        self.timers.set(Timer::Overlap, now + OVERLAP_TIME);
    }

    /// [`Timer::Overlap`]: nothing is under way on the other path any more.
    pub(crate) fn end_overlap(&mut self, cx: &mut Context<'_>) {
        if self.overlap.other.take().is_some() {
            self.ask_kernel(cx);
        }
    }

    /// Whether the kernel is about to move to `path`: the answer to its nomination has to wait, for it makes the other side send there.
    pub(crate) fn is_moving_to(&self, path: Path) -> bool {
        let tunnel = self.tunnel.as_ref().filter(|it| it.path == path);
        self.overlap.other.is_some() && tunnel.is_some_and(|it| it.check == CheckState::Asked)
    }

    /// Answers a nomination over `path` as soon as the kernel has moved there.
    pub(crate) fn answer_when_moved(&mut self, path: Path, tx_id: TxId) {
        self.overlap.unanswered = Some((path, tx_id));
    }

    /// The kernel has done what it was asked for.
    pub(crate) fn kernel_is_ready(&mut self, cx: &mut Context<'_>, path: Path) {
        self.send_waiting_nomination(cx);
        let unanswered = self.overlap.unanswered.take_if(|it| it.0 == path);
        if let Some((path, tx_id)) = unanswered {
            self.answer_nomination(cx, path, tx_id);
        }
    }

    /// Says that the nomination in force is followed; its number is in the answer, so that a controlling side that started anew goes
    /// on from there.
    pub(crate) fn answer_nomination(&mut self, cx: &mut Context<'_>, path: Path, tx_id: TxId) {
        let seq = self.choice.seq;
        self.send_over(cx, path, &Message::Nominated { seq, tx_id });
    }
}
