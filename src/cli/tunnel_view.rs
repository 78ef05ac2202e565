//! A tunnel as `list` and `status` show it. The names of the JSON keys are stable.

use std::net::IpAddr;

use serde::Serialize;

use crate::kernel::tunnel::dump::{Counters, ObservedTunnel};
use crate::tunnel::header_fields::InheritOrFixed;
use crate::tunnel::owner::Owner;

/// A tunnel for people and scripts.
#[derive(Debug, Serialize)]
pub(super) struct TunnelView {
    pub name: String,
    pub alt_names: Vec<String>,
    pub mode: &'static str,
    pub local: Option<IpAddr>,
    pub remote: Option<IpAddr>,
    pub dev: Option<String>,
    pub ikey: Option<u32>,
    pub okey: Option<u32>,
    pub ttl: InheritOrFixed,
    pub tos: InheritOrFixed,
    pub pmtudisc: bool,
    pub encap: &'static str,
    pub encap_sport: Option<u16>,
    pub encap_dport: Option<u16>,
    pub encap_csum: Option<bool>,
    pub mtu: u32,
    /// Addresses with their prefix lengths; a point-to-point address has its far end in `peer_addresses`.
    pub addresses: Vec<String>,
    pub peer_addresses: Vec<IpAddr>,
    pub routes: Vec<String>,
    pub up: bool,
    #[serde(flatten)]
    pub counters: Counters,
    /// `overlay`, `static`, `foreground` or `other`.
    pub owner: &'static str,
    pub alias: Option<String>,
    /// Whether the tunnel has properties that gretun does not show.
    pub has_more: bool,
}

impl TunnelView {
    pub(super) fn new(tunnel: &ObservedTunnel) -> Self {
        let state = &tunnel.state;
        let link = &state.link;
        let udp = link.encap.udp();
        TunnelView {
            name: link.name.clone(),
            alt_names: state.alt_names.clone(),
            mode: link.mode.name(),
            local: link.local,
            remote: link.remote,
            dev: link.dev.clone(),
            ikey: link.ikey,
            okey: link.okey,
            ttl: link.ttl,
            tos: link.tos,
            pmtudisc: link.pmtudisc,
            encap: link.encap.name(),
            encap_sport: udp.map(|udp| udp.sport),
            encap_dport: udp.map(|udp| udp.dport),
            encap_csum: udp.map(|udp| udp.csum),
            mtu: link.mtu,
            addresses: state
                .addresses
                .iter()
                .map(|address| address.net.to_string())
                .collect(),
            peer_addresses: state
                .addresses
                .iter()
                .filter_map(|address| address.peer)
                .collect(),
            routes: state
                .routes
                .iter()
                .chain(&tunnel.other_routes)
                .map(|route| route.network.to_string())
                .collect(),
            up: tunnel.state.link.up,
            counters: tunnel.counters,
            owner: Owner::of_alias(link.alias.as_deref()).word(),
            alias: link.alias.clone(),
            has_more: !tunnel.exact,
        }
    }

    /// `42`, or `1/2` for receiving and sending.
    pub(super) fn key(&self) -> String {
        let key = |key: Option<u32>| key.map_or("-".to_owned(), |key| key.to_string());
        if self.ikey == self.okey {
            key(self.ikey)
        } else {
            format!("{}/{}", key(self.ikey), key(self.okey))
        }
    }

    /// `fou 7777:5555`.
    pub(super) fn encap(&self) -> String {
        match (self.encap_sport, self.encap_dport) {
            (Some(0), Some(dport)) => format!("{} auto:{dport}", self.encap),
            (Some(sport), Some(dport)) => format!("{} {sport}:{dport}", self.encap),
            _ => "-".to_owned(),
        }
    }

    pub(super) fn state(&self) -> &'static str {
        if self.up { "up" } else { "down" }
    }
}
