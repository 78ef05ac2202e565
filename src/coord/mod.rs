//! The coordinator: registry of peers, enrolment, address allocation and signalling over signed HTTP.
//!
//! The deciding modules are pure and take the time as an argument: [`registry`], [`pool`], [`enrol`], [`signals`],
//! [`replay`], [`token_bucket`], joined in [`rules`]. The acting modules surround them. [`http_front_end`] (TCP, TLS, deadlines, caps)
//! and [`request_permits`] are in front of [`http`] (tiny_http and the API's routes). [`service`] joins rules, [`store`] (redb) and
//! [`long_polls`]; [`stun`], [`admin`] (the local socket behind `keys` and `peers`) and [`metrics`] stand beside. [`server`] puts
//! them together. `cli/coord.rs` and [`config`] are the `gretun-coord` program.

pub mod admin;
pub mod api_error;
pub mod clock;
pub mod config;
pub mod enrol;
pub mod http;
pub mod http_front_end;
pub mod long_polls;
pub mod metrics;
pub mod pool;
pub mod registry;
pub mod replay;
pub mod request_head;
pub mod request_permits;
pub mod rules;
pub mod server;
pub mod server_error;
pub mod service;
pub mod signals;
pub mod state_dir;
pub mod store;
pub mod stun;
pub mod token_bucket;
