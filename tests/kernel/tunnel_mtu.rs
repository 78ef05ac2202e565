//! The MTU that gretun works out from the path is the largest that works.

use std::process::Command;

use gretun::tunnel::formats::toml::file;
use gretun::tunnel::mode::Family;
use gretun::tunnel::mtu;
use gretun::tunnel::spec::{TunnelOptions, TunnelSpec};
use serde_json::Value;

use crate::lab::{Host, in_own_thread};
use crate::traffic::{Echo, tcp};
use crate::tunnel_lab::{
    Node, add_outer_addresses, difference, inner, inner_net, is_able, side_by_side, traces,
};

fn gretun(host: &Host, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_gretun"))
        .args(arguments)
        .args(["--netns", host.name()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// `gretun apply` of these tunnels, none of which says its MTU.
fn apply(host: &Host, tunnels: &[TunnelOptions]) {
    let specs: Vec<_> = tunnels
        .iter()
        .map(|tunnel| TunnelSpec::new(tunnel.clone()).unwrap())
        .collect();
    let (file, unsupported) = file(&specs);
    assert!(unsupported.is_empty(), "{unsupported:?}");
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    std::fs::write(&path, toml::to_string(&file).unwrap()).unwrap();
    gretun(host, &["apply", path.to_str().unwrap()]);
}

/// Every tunnel has what the path leaves; gives the MTUs in the order of the tunnels.
fn check_mtus(host: &Host, tunnels: &[TunnelOptions], path: u32) -> Vec<u32> {
    let list: Vec<Value> = serde_json::from_str(&gretun(host, &["--json", "list"])).unwrap();
    assert_eq!(list.len(), tunnels.len());
    let mtu = |tunnel: &TunnelOptions| {
        let shown = list.iter().find(|shown| shown["name"] == *tunnel.name);
        let mtu = path - mtu::overhead(tunnel.mode, tunnel.encap, tunnel.okey.is_some());
        assert_eq!(shown.unwrap()["mtu"], mtu, "{} over {path}", tunnel.name);
        mtu
    };
    tunnels.iter().map(mtu).collect()
}

#[test]
fn the_automatic_mtu_is_the_largest_that_works() {
    if !is_able() {
        return;
    }
    in_own_thread(|| async {
        let (a, b) = Node::pair().await;
        let before = [&a, &b].map(|node| traces(&node.host));
        for (node, number) in [(&a, 1), (&b, 2)] {
            add_outer_addresses(&node.host, number);
        }
        let mut tunnels = side_by_side(1);
        // Changed in place from one to the next: wider and narrower, bound to the device and free.
        for (path, bound) in [(1492, false), (9000, true), (1500, false)] {
            for (node, number) in [(&a, 1), (&b, 2)] {
                node.host.run(&format!("ip link set eth0 mtu {path}"));
                let mut tunnels = side_by_side(number);
                if bound {
                    tunnels
                        .iter_mut()
                        .for_each(|t| t.dev = Some("eth0".to_owned()));
                }
                apply(&node.host, &tunnels);
                check_mtus(&node.host, &tunnels, path);
            }
            for (place, tunnel) in (0..).zip(&tunnels) {
                let mtu = path - mtu::overhead(tunnel.mode, tunnel.encap, tunnel.okey.is_some());
                check_traffic(&a, &b, tunnel, place, mtu, path == 1492);
            }
            println!(
                "{path} bytes, {}: {} tunnels",
                if bound { "bound" } else { "by route" },
                tunnels.len()
            );
        }

        // The MTU of a route is the path's, where it is less than the device's.
        a.host.run(
            "ip route change 192.0.2.0/24 dev eth0 src 192.0.2.1 mtu 1400
             ip -6 route change 2001:db8::/64 dev eth0 metric 256 mtu 1400",
        );
        tunnels.retain(|tunnel| ["gre-none", "ip6gre-none"].contains(&tunnel.name.as_str()));
        apply(&a.host, &tunnels);
        check_mtus(&a.host, &tunnels, 1400);

        for (node, before) in [&a, &b].into_iter().zip(before) {
            apply(&node.host, &[]);
            let left = difference(&before, &traces(&node.host));
            assert!(left.is_empty(), "{left:#?}");
        }
    });
}

/// A packet of exactly the MTU passes, one byte more does not; and TCP, which has only the MTU to go by.
fn check_traffic(a: &Node, b: &Node, tunnel: &TunnelOptions, place: u8, mtu: u32, with_tcp: bool) {
    for family in inner(tunnel.mode) {
        let what = format!("{} {family} {mtu}", tunnel.name);
        let far = inner_net(family, 2, place).addr();
        let mut echo = Echo::new(&a.host, far);
        let full = usize::try_from(mtu).unwrap();
        echo.ping(full)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let refused = echo.ping(full + 1).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE), "{what}");
        // One IP version is enough: their packets are as large.
        if with_tcp && family == *inner(tunnel.mode).first().unwrap_or(&Family::V4) {
            tcp(&a.host, &b.host, far).unwrap_or_else(|error| panic!("{what}: TCP: {error}"));
        }
    }
}
