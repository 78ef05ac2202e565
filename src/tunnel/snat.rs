//! Masquerading for tunnels: the sets, the chain and the rules of the nftables table that do it, and the same as `nft` commands.
//!
//! A pair (interface, network) masquerades packets that leave through the tunnel towards the network, and packets that come out of
//! the tunnel and go on to the network. So the option works at either end, wherever hosts have no route back through the tunnel.

use std::collections::BTreeMap;

use super::mode::Family;
use super::nftables::{Action, Chain, Element, Hook, Interface, Rule, SetPair, Table};

/// The name of a tunnel, and a network towards which its traffic is masqueraded.
pub type SnatPair = Element;

/// The chain with the rules.
const CHAIN: &str = "tunnels_postrouting";

/// The sets, for IPv4 and IPv6.
pub const SETS: SetPair = SetPair {
    v4: "tunnels_snat4",
    v6: "tunnels_snat6",
};

/// The priority `srcnat` of nft(8).
const SRCNAT: i32 = 100;

/// The commands for [`table`] without its elements; as one transaction they can be repeated at any time.
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

/// The table that masquerades these pairs.
pub fn table(pairs: impl IntoIterator<Item = SnatPair>) -> Table {
    let rules = [Family::V4, Family::V6].into_iter().flat_map(|family| {
        [Interface::Output, Interface::Input].map(|interface| Rule {
            family,
            set: SETS.of(family).to_owned(),
            action: Action::Masquerade(interface),
        })
    });
    let chain = Chain {
        hook: Hook::NatPostrouting,
        priority: SRCNAT,
        rules: rules.collect(),
    };
    Table {
        sets: SETS.holding(pairs),
        chains: BTreeMap::from([(CHAIN.to_owned(), chain)]),
    }
}
