//! The host's addresses, and the kinds of links that they are on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::pin;

use futures_util::StreamExt as _;
use gretun::kernel::{Kernel, LinkKind, NetChange};

use crate::applier::PATIENCE;
use crate::lab::{Host, kernel_is_able, run};

/// Beside another overlay's link, gretun would take its addresses for those of a LAN and move its tunnel inside.
#[test]
fn links_of_other_overlays_are_told_from_networks() {
    if !kernel_is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    let overlays = [
        ("wg0", "type wireguard"),
        ("vx0", "type vxlan id 7 dstport 4789 dev eth0"),
        ("gnv0", "type geneve id 7 remote 192.0.2.2"),
        ("tap0", "type gretap local 192.0.2.1 remote 192.0.2.2"),
        ("ipip9", "type ipip local 192.0.2.1 remote 192.0.2.2"),
        ("sit9", "type sit local 192.0.2.1 remote 192.0.2.2"),
        ("xf0", "type xfrm dev eth0 if_id 7"),
    ];
    let others = [
        ("br0", "type bridge", LinkKind::Bridge),
        (
            "br1",
            "type bridge; ip link add vx1 type vxlan id 8 dstport 4790 dev eth0; ip link set vx1 master br1",
            LinkKind::Overlay,
        ),
        (
            "br2",
            "type bridge; ip tuntap add dev vnet0 mode tap; ip link set vnet0 master br2",
            LinkKind::Bridge,
        ),
        ("vl1", "link br1 type vlan id 8", LinkKind::Overlay),
        ("du0", "type dummy", LinkKind::Network),
        ("vl0", "link eth0 type vlan id 7", LinkKind::Network),
    ];
    let all = overlays.map(|(name, kind)| (name, kind, LinkKind::Overlay));
    let mut expected = BTreeMap::new();
    for (number, (name, kind, is)) in (1..).zip(all.into_iter().chain(others)) {
        let kind = match kind.strip_prefix("link ") {
            Some(rest) => {
                let (parent, kind) = rest.split_once(' ').unwrap();
                format!("link {parent} name {name} {kind}")
            }
            None => format!("name {name} {kind}"),
        };
        host.run(&format!(
            "ip link add {kind}; ip addr add 10.{number}.0.1/24 dev {name}; ip link set {name} up"
        ));
        expected.insert(IpAddr::from([10, number, 0, 1]), is);
    }
    expected.insert(IpAddr::from([192, 0, 2, 1]), LinkKind::Network);
    let found = host.block_on(|| async { Kernel::open().unwrap().local_addresses().unwrap() });
    let found = found.iter().filter(|it| it.ip.is_ipv4());
    let found: BTreeMap<IpAddr, LinkKind> = found.map(|it| (it.ip, it.link)).collect();
    assert_eq!(found, expected);
}

/// The host of a daemon that runs changes its addresses and its routes, of either version of IP.
#[test]
fn changes_of_addresses_and_of_routes_are_seen_and_told_apart() {
    if !kernel_is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    let addresses: fn(&NetChange) -> bool = |it| it.addresses;
    let routes: fn(&NetChange) -> bool = |it| it.routes;
    for (command, is_seen) in [
        ("ip addr add 198.51.100.9/32 dev eth0", addresses),
        ("ip -6 addr add 2001:db8:9::9/128 dev eth0 nodad", addresses),
        ("ip route add 203.0.113.0/24 via 192.0.2.2", routes),
        ("ip -6 route add 2001:db8:5::/48 dev eth0", routes),
    ] {
        host.block_on(|| async {
            let mut changes = pin!(Kernel::watch().unwrap());
            run(command);
            let seen = async {
                while let Some(change) = changes.next().await {
                    if is_seen(&change) {
                        return;
                    }
                }
            };
            let seen = tokio::time::timeout(PATIENCE, seen).await;
            assert!(seen.is_ok(), "nobody noticed: {command}");
        });
    }
}
