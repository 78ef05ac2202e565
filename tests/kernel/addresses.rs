//! The host's addresses, and the kinds of links that they are on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gretun::kernel::{Kernel, LinkKind};

use crate::lab::{Host, kernel_is_able};

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
