//! Netlink: the socket, dumps, requests that change something, and notifications.

pub(in crate::kernel) mod dump;
pub(in crate::kernel) mod request;
pub(in crate::kernel) mod socket;
pub(in crate::kernel) mod watch;
