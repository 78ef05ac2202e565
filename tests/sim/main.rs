//! A deterministic simulation of hosts, NATs and the coordinator around the real [`gretun::node::Node`]s.
//!
//! `GRETUN_SIM_SCHEDULES=n` sets how many random schedules there are: the seeds from 0 on. `GRETUN_SIM_MORE=n` adds n seeds from
//! `GRETUN_SIM_FROM` on, so that each commit sees other schedules. `GRETUN_SIM_SEED=n` reruns one seed and shows the
//! nodes' logs in the world's time, with `GRETUN_SIM_TRACE=1` every message.

// All of this is test code, also what is outside of test functions.
#![allow(clippy::expect_used, clippy::panic)]

mod applier;
mod clock;
mod coordinator;
mod cost;
mod dice;
mod driver;
mod host;
mod judge;
mod local_clock;
mod nat;
mod network;
mod oracle;
mod world;

mod explain;
mod faults;
mod grid;
mod hostile;
mod join_time;
mod mtu;
mod paths;
mod port_mapping;
mod port_search;
mod routes;
mod schedule;
mod slow_kernel;
