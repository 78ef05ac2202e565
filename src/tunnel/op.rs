//! One change of the kernel's state, with its undo and the same change as an iproute2 command.

use std::fmt;

use ipnet::IpNet;

use super::commands;
use super::encap::FouPort;
use super::state::{LinkConfig, TunnelAddress, TunnelRoute, TunnelState};

/// A change. Each either happens as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelOp {
    /// Open a FOU port.
    AddFou(FouPort),
    /// Close a FOU port.
    DeleteFou(FouPort),
    /// Make a device, marked and up.
    AddLink(LinkConfig),
    /// Change a device in place.
    ChangeLink {
        /// As it is.
        from: LinkConfig,
        /// As it should be.
        to: LinkConfig,
    },
    /// Remove a device, and with it its addresses and routes.
    DeleteLink(TunnelState),
    /// Add an alternative name.
    AddAltName {
        /// The device.
        link: String,
        /// The name.
        name: String,
    },
    /// Remove an alternative name.
    DeleteAltName {
        /// The device.
        link: String,
        /// The name.
        name: String,
    },
    /// Add an address.
    AddAddress {
        /// The device.
        link: String,
        /// The address.
        address: TunnelAddress,
    },
    /// Remove an address.
    DeleteAddress {
        /// The device.
        link: String,
        /// The address.
        address: TunnelAddress,
    },
    /// Add a route.
    AddRoute {
        /// The device.
        link: String,
        /// The route.
        route: TunnelRoute,
    },
    /// Remove a route.
    DeleteRoute {
        /// The device.
        link: String,
        /// The route.
        route: TunnelRoute,
    },
    /// Masquerade the device's traffic towards a network.
    AddSnat {
        /// The device.
        link: String,
        /// The network.
        network: IpNet,
    },
    /// No longer masquerade it.
    DeleteSnat {
        /// The device.
        link: String,
        /// The network.
        network: IpNet,
    },
    /// Let in what comes out of the tunnel from a network.
    AddSource {
        /// The device.
        link: String,
        /// The network.
        network: IpNet,
    },
    /// No longer let it in.
    DeleteSource {
        /// The device.
        link: String,
        /// The network.
        network: IpNet,
    },
}

/// A stage of a plan: operations of one kind that do not depend on each other and go to the kernel together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// FOU ports.
    Fou,
    /// Making or changing devices.
    Link,
    /// Removing devices.
    Removal,
    /// Names and addresses.
    Address,
    /// Routes.
    Route,
    /// Address translation.
    Snat,
    /// The sources that are let in.
    Source,
}

impl KernelOp {
    /// Returns the operations that undo the change, in the order in which they have to be done.
    pub fn undo(&self) -> Vec<KernelOp> {
        let one = |op| vec![op];
        match self.clone() {
            KernelOp::AddFou(port) => one(KernelOp::DeleteFou(port)),
            KernelOp::DeleteFou(port) => one(KernelOp::AddFou(port)),
            KernelOp::AddLink(link) => one(KernelOp::DeleteLink(TunnelState {
                link,
                alt_names: Vec::new(),
                addresses: Vec::new(),
                routes: Vec::new(),
                snat: Vec::new(),
            })),
            KernelOp::ChangeLink { from, to } => one(KernelOp::ChangeLink { from: to, to: from }),
            KernelOp::DeleteLink(tunnel) => create(&tunnel),
            KernelOp::AddAltName { link, name } => one(KernelOp::DeleteAltName { link, name }),
            KernelOp::DeleteAltName { link, name } => one(KernelOp::AddAltName { link, name }),
            KernelOp::AddAddress { link, address } => {
                one(KernelOp::DeleteAddress { link, address })
            }
            KernelOp::DeleteAddress { link, address } => {
                one(KernelOp::AddAddress { link, address })
            }
            KernelOp::AddRoute { link, route } => one(KernelOp::DeleteRoute { link, route }),
            KernelOp::DeleteRoute { link, route } => one(KernelOp::AddRoute { link, route }),
            KernelOp::AddSnat { link, network } => one(KernelOp::DeleteSnat { link, network }),
            KernelOp::DeleteSnat { link, network } => one(KernelOp::AddSnat { link, network }),
            KernelOp::AddSource { link, network } => one(KernelOp::DeleteSource { link, network }),
            KernelOp::DeleteSource { link, network } => one(KernelOp::AddSource { link, network }),
        }
    }

    /// Whether an overlay tunnel does without this where the kernel refuses it: an alternative name that another link has, a
    /// route that the host has elsewhere, address translation where the kernel lacks `nft_masq`.
    pub fn is_optional(&self) -> bool {
        matches!(
            self,
            KernelOp::AddAltName { .. } | KernelOp::AddRoute { .. } | KernelOp::AddSnat { .. }
        )
    }

    /// Returns the stage of the operation.
    pub fn stage(&self) -> Stage {
        match self {
            KernelOp::AddFou(_) | KernelOp::DeleteFou(_) => Stage::Fou,
            KernelOp::AddLink(_) | KernelOp::ChangeLink { .. } => Stage::Link,
            KernelOp::DeleteLink(_) => Stage::Removal,
            KernelOp::AddAltName { .. }
            | KernelOp::DeleteAltName { .. }
            | KernelOp::AddAddress { .. }
            | KernelOp::DeleteAddress { .. } => Stage::Address,
            KernelOp::AddRoute { .. } | KernelOp::DeleteRoute { .. } => Stage::Route,
            KernelOp::AddSnat { .. } | KernelOp::DeleteSnat { .. } => Stage::Snat,
            KernelOp::AddSource { .. } | KernelOp::DeleteSource { .. } => Stage::Source,
        }
    }

    /// The commands that do the same, one a line.
    pub fn commands(&self) -> Vec<String> {
        commands::of(self)
    }
}

/// The operations that make a tunnel where there is nothing, but for its FOU port and its address translation.
pub(super) fn create(tunnel: &TunnelState) -> Vec<KernelOp> {
    let link = &tunnel.link.name;
    let mut ops = vec![KernelOp::AddLink(tunnel.link.clone())];
    ops.extend(tunnel.alt_names.iter().map(|name| KernelOp::AddAltName {
        link: link.clone(),
        name: name.clone(),
    }));
    ops.extend(
        tunnel
            .addresses
            .iter()
            .map(|&address| KernelOp::AddAddress {
                link: link.clone(),
                address,
            }),
    );
    ops.extend(tunnel.routes.iter().map(|&route| KernelOp::AddRoute {
        link: link.clone(),
        route,
    }));
    ops
}

impl fmt::Display for KernelOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelOp::AddFou(port) => write!(f, "open {port}"),
            KernelOp::DeleteFou(port) => write!(f, "close {port}"),
            KernelOp::AddLink(link) => write!(f, "create {} link {}", link.mode, link.name),
            KernelOp::ChangeLink { from, to } => {
                write!(
                    f,
                    "change link {}: {}",
                    to.name,
                    super::diff::of_links(from, to)
                )
            }
            KernelOp::DeleteLink(tunnel) => write!(f, "remove link {}", tunnel.link.name),
            KernelOp::AddAltName { link, name } => {
                write!(f, "add alternative name {name} to {link}")
            }
            KernelOp::DeleteAltName { link, name } => {
                write!(f, "remove alternative name {name} from {link}")
            }
            KernelOp::AddAddress { link, address } => write!(f, "add address {address} to {link}"),
            KernelOp::DeleteAddress { link, address } => {
                write!(f, "remove address {address} from {link}")
            }
            KernelOp::AddRoute { link, route } => write!(f, "add route {route} through {link}"),
            KernelOp::DeleteRoute { link, route } => {
                write!(f, "remove route {route} through {link}")
            }
            KernelOp::AddSnat { link, network } => {
                write!(f, "masquerade {link} towards {network}")
            }
            KernelOp::DeleteSnat { link, network } => {
                write!(f, "no longer masquerade {link} towards {network}")
            }
            KernelOp::AddSource { link, network } => write!(f, "let in {network} from {link}"),
            KernelOp::DeleteSource { link, network } => {
                write!(f, "no longer let in {network} from {link}")
            }
        }
    }
}
