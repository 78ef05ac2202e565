//! Tunnels in the kernel: which there are, how a plan becomes netlink messages, and what takes a failed plan back.

pub mod dump;
pub mod fou;
mod link_codec;
pub(in crate::kernel) mod op_messages;
mod redirect;
mod remove;
pub mod transaction;
