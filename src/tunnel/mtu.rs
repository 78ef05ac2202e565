//! The overhead of each layer of a tunnel, in bytes, and the MTU that a path's MTU leaves inside.

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

/// Returns the intermediate MTU to set before `mtu` when the tunnel parameters of a `sit` or `ip6tnl` link change; `None` for other
/// kinds.
///
/// Such a change makes the kernel set the MTU of these kinds itself, without notifying IPv6 (`ip6_tnl_link_config` in
/// net/ipv6/ip6_tunnel.c, `ipip6_tunnel_bind_dev` in net/ipv6/sit.c). The kernel notifies IPv6 only when the MTU changes to a
/// different value, hence the intermediate one. It does not cross below 1280 bytes, where IPv6 would lose its addresses. IPv4 has to
/// be notified before the change, because a cached path MTU follows the link's MTU only if the two were equal (`nh_update_mtu` in
/// net/ipv4/fib_frontend.c).
pub fn detour(mode: Mode, mtu: u32) -> Option<u32> {
    match mode {
        Mode::Sit | Mode::Ip6ip6 | Mode::Ipip6 if mtu > MIN_IPV6 => Some(mtu - 1),
        Mode::Sit | Mode::Ip6ip6 | Mode::Ipip6 => Some(mtu + 1),
        _ => None,
    }
}
