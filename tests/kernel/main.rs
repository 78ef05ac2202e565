//! Tests against a real kernel: root, FOU and GRE are needed. Where they are missing every test fails, unless
//! `GRETUN_ALLOW_SKIP=1` says that it may be skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy knows functions marked as tests, not their helpers"
)]

mod addresses;
mod applier;
mod discovery_socket;
mod fou;
mod lab;
mod masquerade;
mod networkd;
mod nftables;
mod probe;
mod sources;
mod traffic;
mod tunnel_apply;
mod tunnel_change;
mod tunnel_cli;
mod tunnel_commands;
mod tunnel_kill;
mod tunnel_lab;
mod tunnel_matrix;
mod tunnel_mtu;
mod tunnel_rollback;
