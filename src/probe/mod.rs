//! Whether something answers: ICMP echo, TCP handshakes, HTTP requests, one or a series of them; and which address is at
//! the far end of a tunnel. Called by `gretun probe` and `gretun health`.
//!
//! [`icmp`], [`statistics`] and [`far_end`] are pure; the rest sends and waits. A probe that is not answered is a
//! [`Miss`], which is a result and no error: errors are what keeps a probe from being sent at all.

mod echo;
pub mod far_end;
mod http;
pub mod icmp;
mod interface;
mod prober;
mod series;
pub mod statistics;
mod tcp;

pub use http::HttpError;
pub use prober::{Method, Miss, ProbeError, Prober};
pub use series::{Series, run};
pub use statistics::{Condition, Percent, Statistics};
