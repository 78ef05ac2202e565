//! Address translation for tunnels in nftables: one table of gretun's own with a set of (interface, network) pairs for each IP
//! version, and rules that never change. Adding or removing a pair changes one element.
//!
//! A pair masquerades packets that leave through the tunnel towards the network, and packets that come out of the tunnel and go on
//! to the network. So the option works at either end, wherever hosts have no route back through the tunnel.

use ipnet::IpNet;

/// The name of a tunnel, and a network towards which its traffic is masqueraded.
pub type SnatPair = (String, IpNet);

/// The table; its family is `inet`.
pub const TABLE: &str = "gretun";
/// The chain with the rules.
pub const CHAIN: &str = "tunnels_postrouting";
/// The sets, for IPv4 and IPv6.
pub const SETS: [&str; 2] = ["tunnels_snat4", "tunnels_snat6"];

/// Makes the table with its sets, chain and rules; as one transaction it can be repeated at any time.
pub const SCRIPT: &str = "\
add table inet gretun
add set inet gretun tunnels_snat4 { type ifname . ipv4_addr; flags interval; }
add set inet gretun tunnels_snat6 { type ifname . ipv6_addr; flags interval; }
add chain inet gretun tunnels_postrouting { type nat hook postrouting priority srcnat; policy accept; }
flush chain inet gretun tunnels_postrouting
add rule inet gretun tunnels_postrouting oifname . ip daddr @tunnels_snat4 masquerade
add rule inet gretun tunnels_postrouting iifname . ip daddr @tunnels_snat4 masquerade
add rule inet gretun tunnels_postrouting oifname . ip6 daddr @tunnels_snat6 masquerade
add rule inet gretun tunnels_postrouting iifname . ip6 daddr @tunnels_snat6 masquerade";

/// The command that adds or deletes a pair.
pub fn element(verb: &str, link: &str, network: IpNet) -> String {
    let set = match network {
        IpNet::V4(_) => SETS[0],
        IpNet::V6(_) => SETS[1],
    };
    format!("{verb} element inet {TABLE} {set} {{ \"{link}\" . {network} }}")
}
