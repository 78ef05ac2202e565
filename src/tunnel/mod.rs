//! Tunnels: validated specifications, MTU arithmetic, plans and their undo. Pure.

mod commands;
mod diff;
pub mod encap;
pub mod file;
pub mod formats;
pub mod header_fields;
pub mod mode;
pub mod mtu;
pub mod name;
pub mod nftables;
pub mod op;
pub mod owner;
pub mod plan;
pub mod snat;
pub mod sources;
pub mod spec;
pub mod state;
pub mod tunnel_flags;
