//! A peer as seen from outside: its state, and why the pair is connected or not.

pub(in crate::peer) mod explain;
pub(in crate::peer) mod input;
pub(in crate::peer) mod peer_nat;
pub(in crate::peer) mod state;
pub(in crate::peer) mod state_reason;
mod text;
