//! A port that a router grants ([`crate::portmap`]), as far as joining peers goes.

use std::net::SocketAddrV4;

use crate::proto::address::is_public;

/// The port mapping of this host's router, or why there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouterPort {
    /// It is not asked (`--port-mapping=false`).
    #[default]
    Off,
    /// There is none: no router to ask, or it grants none.
    None,
    /// The router forwards every packet that arrives at this external address and port to the data port, whoever the sender is.
    Granted(SocketAddrV4),
}

impl RouterPort {
    /// The port, if there is one.
    pub fn granted(self) -> Option<SocketAddrV4> {
        match self {
            RouterPort::Granted(external) => Some(external),
            RouterPort::Off | RouterPort::None => None,
        }
    }
}

/// Whether everybody on the internet can send to a port that a router granted: not where the router is behind another NAT.
pub(in crate::peer) fn is_open(granted: Option<SocketAddrV4>) -> bool {
    granted.is_some_and(|it| is_public(*it.ip()))
}
