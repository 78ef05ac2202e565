//! A tunnel while its file is being read.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{FormatError, Setting, Unsupported};
use crate::tunnel::encap::{Encap, Udp};
use crate::tunnel::header_fields::InheritOrFixed;
use crate::tunnel::mode::{Family, Mode};
use crate::tunnel::spec::{Problem, SpecError, TunnelOptions, TunnelSpec};
use crate::tunnel::state::TunnelAddress;

/// Kinds of UDP encapsulation, before the ports are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrap {
    None,
    Fou,
    Gue,
}

/// A tunnel while its file is being read.
#[derive(Clone, Debug)]
pub(super) struct TunnelBuilder {
    /// The place in the file, for errors.
    pub place: String,
    pub options: TunnelOptions,
    pub remote: Option<IpAddr>,
    pub wrap: Wrap,
    pub sport: u16,
    pub dport: Option<u16>,
    pub csum: bool,
    /// Gateways of routes, which are only known to be right once all addresses are.
    gateways: Vec<(IpNet, IpAddr, Unsupported)>,
}

impl TunnelBuilder {
    /// A tunnel with the defaults that the kernel and every program but gretun has: an inherited TTL over IPv4, 64 over
    /// IPv6, and UDP without checksums.
    pub fn new(place: impl Into<String>, name: &str, mode: Mode) -> Self {
        let mut options = TunnelOptions::new(name, mode, Ipv4Addr::UNSPECIFIED.into());
        if mode.outer() == Family::V4 {
            options.ttl = InheritOrFixed::Inherit;
        }
        TunnelBuilder {
            place: place.into(),
            options,
            remote: None,
            wrap: Wrap::None,
            sport: 0,
            dport: None,
            csum: false,
            gateways: Vec::new(),
        }
    }

    /// Adds an address; with a far end the prefix is the far end's.
    pub fn add_address(&mut self, ip: IpNet, peer: Option<IpNet>) {
        let prefix = peer.map_or(ip.prefix_len(), |peer| peer.prefix_len());
        let net = IpNet::new(ip.addr(), prefix).unwrap_or(ip);
        let peer = peer.map(|peer| peer.addr());
        self.options.addresses.push(TunnelAddress { net, peer });
    }

    /// Adds a route; a gateway is the far end's address, or else it is lost.
    pub fn add_route(&mut self, entry: Setting<'_>, net: IpNet, gateway: Option<IpAddr>) {
        self.options.routes.push(net);
        if let Some(gateway) = gateway {
            let why =
                format!("the gateway {gateway} is left out: the tunnel itself leads to {net}");
            self.gateways.push((net, gateway, entry.loss(why)));
        }
    }

    /// The tunnel, if it can be.
    pub fn finish(mut self, unsupported: &mut Vec<Unsupported>) -> Result<TunnelSpec, FormatError> {
        let name = self.options.name.clone();
        let failed = |error| FormatError::Tunnel {
            place: self.place.clone(),
            name: name.clone(),
            error,
        };
        let missing = |key| {
            failed(SpecError {
                key,
                problem: Problem::Missing,
            })
        };
        let far_end = |gateway| {
            let mut addresses = self.options.addresses.iter();
            addresses.any(|address| address.peer == Some(gateway))
        };
        for (net, gateway, loss) in std::mem::take(&mut self.gateways) {
            // On an Ethernet device gretun itself routes through the far end where it knows its address.
            if self.options.mode.is_ethernet() && far_end(gateway) {
                continue;
            }
            let needs = self.options.mode.is_ethernet().then(|| {
                format!("the gateway {gateway} of {net} is lost: give it as peer-ip of an address")
            });
            unsupported.push(Unsupported {
                why: needs.unwrap_or(loss.why),
                ..loss
            });
        }
        self.options.remote = self.remote.ok_or_else(|| missing("remote"))?;
        if self.wrap != Wrap::None {
            let udp = Udp {
                sport: self.sport,
                dport: self.dport.ok_or_else(|| missing("encap-dport"))?,
                csum: self.csum,
            };
            self.options.encap = match self.wrap {
                Wrap::Gue => Encap::Gue(udp),
                _ => Encap::Fou(udp),
            };
        }
        unsupported.extend(Unsupported::of_fragments(&mut self.options, &self.place));
        let place = self.place;
        TunnelSpec::new(self.options).map_err(|error| FormatError::Tunnel { place, name, error })
    }
}
