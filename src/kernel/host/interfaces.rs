//! The host's network interfaces, for people.

use std::net::IpAddr;

use netlink_packet_route::link::LinkAttribute;

use crate::kernel::{Kernel, KernelError};

/// An interface that packets to peers can leave through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The largest packet that it takes, bytes.
    pub mtu: u32,
    /// Its addresses of global scope.
    pub addresses: Vec<IpAddr>,
}

impl Kernel {
    /// The interfaces of [`Kernel::local_addresses`], by index.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn interfaces(&self) -> Result<Vec<Interface>, KernelError> {
        let local = self.local_addresses()?;
        let links = self.list.links()?;
        let interfaces = links.iter().filter_map(|link| {
            let on_it = local.iter().filter(|it| it.device == link.header.index);
            let addresses: Vec<IpAddr> = on_it.map(|it| it.ip).collect();
            let attributes = || link.attributes.iter();
            Some(Interface {
                name: attributes().find_map(|it| match it {
                    LinkAttribute::IfName(name) => Some(name.clone()),
                    _ => None,
                })?,
                mtu: attributes().find_map(|it| match it {
                    LinkAttribute::Mtu(mtu) => Some(*mtu),
                    _ => None,
                })?,
                addresses,
            })
        });
        Ok(interfaces.filter(|it| !it.addresses.is_empty()).collect())
    }
}
