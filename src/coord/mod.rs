//! The coordinator: registry of peers, enrolment, address allocation and blind signal relay over signed HTTP.
//!
//! What decides is pure and takes the time as an argument: [`registry`], [`pool`], [`name`], [`enrol`], [`signals`],
//! [`replay`], [`limit`], joined in [`core`]. What acts surrounds it: [`gate`] (TCP, TLS, deadlines, caps) and
//! [`turnstile`] in front of [`http`] (tiny_http and the API's routes), [`polls`] (requests that wait), [`store`] (redb), [`stun`], [`admin`]
//! (the local socket behind `keys` and `peers`), [`metrics`], put together by [`server`]. [`cli`] and [`config`] are
//! the `gretun-coord` program.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod core;
pub mod enrol;
pub mod gate;
pub mod head;
pub mod http;
pub mod hub;
pub mod limit;
pub mod metrics;
pub mod name;
pub mod polls;
pub mod pool;
pub mod refusal;
pub mod registry;
pub mod replay;
pub mod server;
pub mod server_error;
pub mod signals;
pub mod state_dir;
pub mod store;
pub mod stun;
pub mod turnstile;
