//! Changes of links, addresses and routes, as they happen.

use futures_util::{Stream, StreamExt as _};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;

use super::{Kernel, KernelError};

/// Something about the host's network changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetChange {
    /// A link came, went or changed.
    Link {
        /// Its index.
        index: u32,
    },
    /// An address came or went.
    Address,
    /// A route came or went.
    Route,
}

impl Kernel {
    /// All changes from now on. A burst that overflows the socket may lose some, never the last.
    ///
    /// # Errors
    /// When no netlink socket can be had.
    pub fn watch() -> Result<impl Stream<Item = NetChange> + Send + use<>, KernelError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)
            .map_err(|error| KernelError::netlink("watch the network", error))?;
        tokio::spawn(connection);
        Ok(messages.filter_map(|(message, _)| async move {
            match message.payload {
                NetlinkPayload::InnerMessage(message) => match message {
                    RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                        Some(NetChange::Link {
                            index: link.header.index,
                        })
                    }
                    RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => {
                        Some(NetChange::Address)
                    }
                    RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => {
                        Some(NetChange::Route)
                    }
                    _ => None,
                },
                _ => None,
            }
        }))
    }
}
