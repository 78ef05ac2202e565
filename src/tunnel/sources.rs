//! The sources of the packets that come out of a tunnel of the overlay: the sets, the chain and the rules of the nftables table that
//! drop every packet whose source is not the peer's own address or in a network that is routed to the peer.
//!
//! The rules are for a device group, and a link is in it before it is up. So a link without elements lets nothing in, and there is
//! no moment in which a new link is open.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::mode::Family;
use super::nftables::{Action, Chain, Element, Hook, Rule, SetPair, Table};
use super::op::KernelOp;

/// The device group of links whose packets' sources are checked: "grov" in ASCII.
pub const GROUP: u32 = 0x6772_6f76;

/// The sources that each link lets in, by the link's name.
pub type Sources = BTreeMap<String, BTreeSet<IpNet>>;

/// The chain with the rules.
const CHAIN: &str = "tunnels_prerouting";

/// The sets, for IPv4 and IPv6.
pub const SETS: SetPair = SetPair {
    v4: "tunnels_sources4",
    v6: "tunnels_sources6",
};

/// Before connection tracking (-200) and before the rules of others that are put in front of it (`raw`, -300).
const BEFORE_RAW: i32 = -350;

/// The commands for [`table`] without its elements; as one transaction they can be repeated at any time.
pub const SCRIPT: &str = "\
add table inet gretun
add set inet gretun tunnels_sources4 { type ifname . ipv4_addr; flags interval; }
add set inet gretun tunnels_sources6 { type ifname . ipv6_addr; flags interval; }
add chain inet gretun tunnels_prerouting { type filter hook prerouting priority -350; policy accept; }
flush chain inet gretun tunnels_prerouting
add rule inet gretun tunnels_prerouting iifgroup 1735552886 iifname . ip saddr != @tunnels_sources4 drop
add rule inet gretun tunnels_prerouting iifgroup 1735552886 iifname . ip6 saddr != @tunnels_sources6 drop";

/// The table that lets in these sources.
pub fn table(elements: impl IntoIterator<Item = Element>) -> Table {
    let rules = [Family::V4, Family::V6].map(|family| Rule {
        family,
        set: SETS.of(family).to_owned(),
        action: Action::DropOtherSources { group: GROUP },
    });
    let chain = Chain {
        hook: Hook::FilterPrerouting,
        priority: BEFORE_RAW,
        rules: rules.to_vec(),
    };
    Table {
        sets: SETS.holding(elements),
        chains: BTreeMap::from([(CHAIN.to_owned(), chain)]),
    }
}

/// The operations after which the link lets in these sources alone.
pub fn change(link: &str, observed: &Sources, desired: &BTreeSet<IpNet>) -> Vec<KernelOp> {
    let nothing = BTreeSet::new();
    let observed = observed.get(link).unwrap_or(&nothing);
    let link = || link.to_owned();
    // Elements that go make room for elements that come: those of one link must not overlap.
    let gone = observed.difference(desired).map(|&network| {
        let link = link();
        KernelOp::DeleteSource { link, network }
    });
    let added = desired.difference(observed).map(|&network| {
        let link = link();
        KernelOp::AddSource { link, network }
    });
    gone.chain(added).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_and_the_model_name_the_same_things() {
        let table = table([]);
        let names = table.sets.keys().chain(table.chains.keys());
        for name in names {
            assert!(SCRIPT.contains(&format!(" {name} ")), "{name}");
        }
        assert_eq!(SCRIPT.matches(&format!("iifgroup {GROUP} ")).count(), 2);
        let chain = &table.chains[CHAIN];
        assert!(SCRIPT.contains(&format!("priority {};", chain.priority)));
    }

    #[test]
    fn a_change_makes_room_before_it_adds() {
        let networks = |all: &[&str]| all.iter().map(|it| it.parse().unwrap()).collect();
        let observed =
            Sources::from([("t0".to_owned(), networks(&["10.0.0.0/8", "192.0.2.1/32"]))]);
        let desired = networks(&["10.0.0.0/9", "192.0.2.1/32"]);
        let steps = change("t0", &observed, &desired);
        let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
        let expected = [
            "no longer let in 10.0.0.0/8 from t0",
            "let in 10.0.0.0/9 from t0",
        ];
        assert_eq!(steps, expected);
        assert_eq!(change("t1", &observed, &BTreeSet::new()), []);
    }
}
