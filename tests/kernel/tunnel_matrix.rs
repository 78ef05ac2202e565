//! Every kind of tunnel in every encapsulation, with every IP version inside: made, used to its full MTU, seen, removed.

use std::process::Command;
use std::time::Instant;

use gretun::tunnel::encap::Encap;
use gretun::tunnel::mode::Mode;
use gretun::tunnel::plan;
use gretun::tunnel::state::TunnelState;

use crate::lab::in_own_thread;
use crate::traffic::{Echo, tcp};
use crate::tunnel_lab::{
    Node, difference, encaps, inner, inner_address, is_able, options, state, traces,
};

#[test]
fn every_kind_carries_full_packets_and_leaves_nothing() {
    if !is_able() {
        return;
    }
    in_own_thread(|| async {
        let (a, b) = Node::pair().await;
        let nodes = [&a, &b];
        let before = nodes.map(|node| traces(&node.host));
        println!(
            "{:<10} {:<5} {:<5} {:>5}  {:>6}",
            "mode", "encap", "inner", "MTU", "ms"
        );
        for mode in Mode::ALL {
            for encap in encaps() {
                check(nodes, mode, encap).await;
            }
        }
        for (node, before) in nodes.iter().zip(before) {
            let left = difference(&before, &traces(&node.host));
            assert!(left.is_empty(), "{left:#?}");
        }
    });
}

async fn check(nodes: [&Node; 2], mode: Mode, encap: Encap) {
    let began = Instant::now();
    let mut before = Vec::new();
    let mut wanted = Vec::new();
    for (number, node) in (1..).zip(nodes) {
        before.push(node.remains().await);
        let state = state(options(mode, encap, number));
        let ops = plan::create(&state, &node.observe().await, false).unwrap();
        node.execute(&ops).await.unwrap();
        assert_eq!(node.observe().await.tunnel("t0"), Some(&state));
        wanted.push(state);
    }
    let mtu = wanted[0].link.mtu;
    check_list(nodes[0], &wanted[0]);
    for family in inner(mode) {
        let what = format!("{mode} {} {family}", encap.name());
        let far = inner_address(family, 2);
        let mut echo = Echo::new(&nodes[0].host, far);
        let full = usize::try_from(mtu).unwrap();
        for size in [84, full] {
            echo.ping(size)
                .unwrap_or_else(|error| panic!("{what}: ping of {size} bytes: {error}"));
        }
        let refused = echo.ping(full + 1).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE), "{what}");
        tcp(&nodes[0].host, &nodes[1].host, far)
            .unwrap_or_else(|error| panic!("{what}: TCP: {error}"));
        let spent = began.elapsed().as_millis();
        println!(
            "{:<10} {:<5} {family:<5} {mtu:>5}  {spent:>6}",
            mode.name(),
            encap.name()
        );
    }
    // The device refuses a larger packet whatever its MTU is. With one byte more the packet does not fit into the path.
    for node in nodes {
        node.host.run(&format!("ip link set t0 mtu {}", mtu + 1));
    }
    for family in inner(mode) {
        let mut echo = Echo::new(&nodes[0].host, inner_address(family, 2));
        let answered = echo.ping(usize::try_from(mtu + 1).unwrap());
        assert!(
            answered.is_err(),
            "{mode} {}: the MTU may be larger",
            encap.name()
        );
    }
    for (node, before) in nodes.iter().zip(before) {
        let observed = node.observe().await;
        let tunnel = observed.tunnel("t0").unwrap();
        node.execute(&plan::delete(&[tunnel], &observed).unwrap())
            .await
            .unwrap();
        let left = difference(&before, &node.remains().await);
        assert!(left.is_empty(), "{mode} {}: {left:#?}", encap.name());
    }
}

/// `gretun --json list` says what was made.
fn check_list(node: &Node, tunnel: &TunnelState) {
    let output = Command::new(env!("CARGO_BIN_EXE_gretun"))
        .args(["--json", "list", "--netns", node.host.name()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let [shown] = list.as_array().unwrap().as_slice() else {
        panic!("{list}");
    };
    let link = &tunnel.link;
    let text = |value: Option<std::net::IpAddr>| serde_json::json!(value);
    assert_eq!(shown["name"], *link.name);
    assert_eq!(shown["mode"], link.mode.name());
    assert_eq!(shown["local"], text(link.local));
    assert_eq!(shown["remote"], text(link.remote));
    assert_eq!(shown["ikey"], serde_json::json!(link.ikey));
    assert_eq!(shown["encap"], link.encap.name());
    assert_eq!(shown["mtu"], link.mtu);
    assert_eq!(shown["up"], true);
    assert_eq!(shown["owner"], "static");
    let addresses: Vec<_> = tunnel
        .addresses
        .iter()
        .map(|it| it.net.to_string())
        .collect();
    assert_eq!(shown["addresses"], serde_json::json!(addresses));
}
