//! Tunnels that have nothing to do with a change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use gretun::tunnel::header_fields::InheritOrFixed;
use gretun::tunnel::mode::Family;
use gretun::tunnel::op::KernelOp;
use gretun::tunnel::plan;
use gretun::tunnel::state::TunnelState;

use crate::lab::in_own_thread;
use crate::traffic::Echo;
use crate::tunnel_lab::{
    Node, add_outer_addresses, inner_net, is_able, side_by_side, state, traces,
};

const SET: &str = "test";

async fn apply(node: &Node, wanted: &[TunnelState]) {
    let ops = plan::apply(wanted, &node.observe().await, SET).unwrap();
    node.execute(&ops).await.unwrap();
    let again = plan::apply(wanted, &node.observe().await, SET).unwrap();
    assert_eq!(again, [], "applying twice changes nothing");
}

#[test]
fn a_change_of_one_tunnel_loses_no_packet_of_another() {
    if !is_able() {
        return;
    }
    in_own_thread(|| async {
        let (a, b) = Node::pair().await;
        let names = ["gre-fou", "ip6gre-gue"];
        for (node, number) in [(&a, 1), (&b, 2)] {
            add_outer_addresses(&node.host, number);
            apply(node, &two(number, names, 64)).await;
        }
        let place = side_by_side(1).iter().position(|t| t.name == names[1]);
        let far = inner_net(Family::V4, 2, u8::try_from(place.unwrap()).unwrap()).addr();
        let mut echo = Echo::new(&a.host, far);
        echo.ping(84).unwrap();
        let index = a.kernel.link_index(names[0]).unwrap();
        let (stop, answered) = (AtomicBool::new(false), AtomicU32::new(0));
        let shared = Arc::new((stop, answered));
        let theirs = shared.clone();
        let pinging = std::thread::spawn(move || {
            while !theirs.0.load(Ordering::Relaxed) {
                echo.ping_once(84).unwrap();
                theirs.1.fetch_add(1, Ordering::Relaxed);
            }
        });
        for ttl in 1..=50 {
            let wanted = two(1, names, ttl);
            let ops = plan::apply(&wanted, &a.observe().await, SET).unwrap();
            assert!(
                matches!(&ops[..], [KernelOp::ChangeLink { to, .. }] if to.name == names[0]),
                "{ops:?}"
            );
            let before = shared.1.load(Ordering::Relaxed);
            a.execute(&ops).await.unwrap();
            // The next change comes when a ping has been answered: on one processor, all might come before the first.
            while shared.1.load(Ordering::Relaxed) == before && !pinging.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        shared.0.store(true, Ordering::Relaxed);
        pinging.join().unwrap();
        assert_eq!(a.kernel.link_index(names[0]).unwrap(), index);
        assert!(traces(&a.host).iter().any(|line| line.contains("ttl 50")));
    });
}

/// Two of the tunnels side by side, the first with this time to live.
fn two(number: u8, names: [&str; 2], ttl: u8) -> Vec<TunnelState> {
    let tunnels = side_by_side(number).into_iter();
    let chosen = tunnels.filter(|tunnel| names.contains(&tunnel.name.as_str()));
    let mut states: Vec<_> = chosen.map(state).collect();
    states[0].link.ttl = InheritOrFixed::Fixed(ttl);
    states
}
