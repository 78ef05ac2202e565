//! What each layer of a tunnel costs, in bytes, and the MTU that is left of a path's.

use super::encap::Encap;
use super::mode::{Family, Mode};

/// IPv4 header without options (RFC 791).
const IPV4: u32 = 20;
/// IPv6 header (RFC 8200).
const IPV6: u32 = 40;
/// UDP header (RFC 768).
const UDP: u32 = 8;
/// GUE header, version 0 without options (draft-ietf-intarea-gue).
const GUE: u32 = 4;
/// GRE header (RFC 2784).
const GRE: u32 = 4;
/// Key field of the GRE header (RFC 2890).
const GRE_KEY: u32 = 4;
/// Ethernet header inside `gretap`.
const ETHERNET: u32 = 14;

/// The least MTU that IPv4 promises (RFC 791).
pub const MIN_IPV4: u32 = 576;
/// The least MTU that IPv6 promises (RFC 8200); below, the kernel takes IPv6 off the device.
pub const MIN_IPV6: u32 = 1280;
/// The largest packet of all.
pub const MAX: u32 = 65_535;

/// Bytes that every inner packet gains on the outer path.
pub fn overhead(mode: Mode, encap: Encap, has_key: bool) -> u32 {
    let ip = match mode.outer() {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    };
    let udp = match encap {
        Encap::None => 0,
        Encap::Fou(_) => UDP,
        Encap::Gue(_) => UDP + GUE,
    };
    let gre = if mode.is_gre() { GRE } else { 0 };
    let key = if has_key { GRE_KEY } else { 0 };
    let ethernet = if mode.is_ethernet() { ETHERNET } else { 0 };
    ip + udp + gre + key + ethernet
}

/// The MTU of a tunnel over a path of `path` bytes; a loopback device's path is wider than any outer packet.
pub fn inner(path: u32, mode: Mode, encap: Encap, has_key: bool) -> u32 {
    path.min(MAX)
        .saturating_sub(overhead(mode, encap, has_key))
        .max(MIN_IPV4)
}

/// The MTU to give a device of this kind for a moment, before `mtu`, when the tunnel that it is changes; `None` where nothing of the
/// sort is needed.
///
/// With such a change the kernel sets the MTU of these kinds itself, without a word to IPv6, which keeps to the one before
/// (`ip6_tnl_link_config` in net/ipv6/ip6_tunnel.c, `ipip6_tunnel_bind_dev` in net/ipv6/sit.c). IPv6 is told when the MTU is set
/// to another value than it has. Below 1280 bytes it would take its addresses off the device. IPv4 in turn has to be told before the
/// change: path MTUs that it noted follow the device's only from the value that they have (`nh_update_mtu` in net/ipv4/fib_frontend.c).
pub fn detour(mode: Mode, mtu: u32) -> Option<u32> {
    match mode {
        Mode::Sit | Mode::Ip6ip6 | Mode::Ipip6 if mtu > MIN_IPV6 => Some(mtu - 1),
        Mode::Sit | Mode::Ip6ip6 | Mode::Ipip6 => Some(mtu + 1),
        _ => None,
    }
}
