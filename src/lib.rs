//! gretun joins Linux hosts with kernel GRE tunnels.
//!
//! The library has a pure core and a thin shell around it. [`proto`], [`tunnel`], [`portmap`], [`peer`] and [`node`] decide: they
//! read no clock, open no socket and draw no randomness of their own. [`kernel`], [`probe`], [`daemon`] and [`coord`] act.
//! Dependencies point downwards only: `cli` → `daemon` → `node` → `peer` → `proto`, and `cli` → `kernel` → `tunnel`. Between
//! `cli` and `daemon` lies [`local_api`], below both [`coordinator`], the client of a coordinator.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic when nobody reads: cli/out.rs has others"
)]

pub mod applier;
pub mod cli;
pub mod coord;
pub mod coordinator;
pub mod daemon;
pub mod doctor;
pub mod error;
mod http_client;
pub mod kernel;
pub mod local_api;
pub mod netcheck;
pub mod node;
pub mod peer;
pub mod portmap;
pub mod probe;
pub mod proto;
pub mod tunnel;

#[cfg(test)]
mod layers_tests;
