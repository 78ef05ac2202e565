//! The peer's kernel tunnel: how it should be, the check that data crosses it, its MTU, and moves without loss.

pub(in crate::peer) mod check_state;
pub(in crate::peer) mod desired;
mod kernel_link;
pub(in crate::peer) mod make_before_break;
mod mtu_search;
pub(in crate::peer) mod path_mtu;
pub(in crate::peer) mod tunnel_check;
