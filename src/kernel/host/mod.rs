//! The host around the tunnels: its addresses and interfaces, capabilities and modules, namespaces, the lock, and nftables.

pub(in crate::kernel) mod address;
pub(in crate::kernel) mod interfaces;
pub mod lock;
pub mod netns;
mod nftables;
pub mod preflight;
pub mod process;
