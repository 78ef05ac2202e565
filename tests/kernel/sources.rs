//! The filter of the sources of what comes out of a tunnel, with real packets: the far host is a member that sends what it likes.

use std::time::{Duration, Instant};

use gretun::kernel::Kernel;
use gretun::node::Path;

use crate::applier::{PATIENCE, done, peer, start, tunnel};
use crate::lab::{Host, kernel_is_able, run};

/// The far end of the tunnel, made by hand, with addresses of its own and of others.
const MEMBER: &str = "
    ip fou add port 7777 ipproto 47
    ip link add g type gre local 192.0.2.2 remote 192.0.2.1 key 5 encap fou encap-sport 7777 encap-dport 7777
    ip link set g up
    ip addr add 100.64.0.2 peer 100.64.0.1 dev g
    ip -6 addr add fd00::2 peer fd00::1 dev g nodad
    for ip in 100.64.0.3 198.51.100.9 203.0.113.9; do ip addr add $ip/32 dev lo; done
    for ip in fd00::3 2001:db8:1::9; do ip -6 addr add $ip/128 dev lo nodad; done";

/// How many echo requests of each version of IP the host has taken.
fn taken() -> [u64; 2] {
    let count = |command: &str| run(command).trim().parse().unwrap();
    [
        count("awk '/^Icmp: [0-9]/ { print $10 }' /proc/net/snmp"),
        count("awk '$1 == \"Icmp6InEchos\" { print $2 }' /proc/net/snmp6"),
    ]
}

/// Sends one echo request from each address, and returns how many of them this host took.
fn of_these(far: &Host, sources: &[&str]) -> u64 {
    let before = taken();
    for source in sources {
        let to = if source.contains(':') {
            "fd00::1"
        } else {
            "100.64.0.1"
        };
        far.run(&format!(
            "ping -q -c 1 -W 0.3 -I {source} {to} >/dev/null || true"
        ));
    }
    let after = taken();
    after[0] - before[0] + after[1] - before[1]
}

const OWN: [&str; 2] = ["100.64.0.2", "fd00::2"];
const ROUTED: [&str; 2] = ["198.51.100.9", "2001:db8:1::9"];
const FORGED: [&str; 3] = ["100.64.0.3", "203.0.113.9", "fd00::3"];

#[test]
fn a_member_cannot_send_as_anybody_else() {
    if !kernel_is_able() {
        return;
    }
    let (host, far) = Host::pair();
    far.run(MEMBER);
    host.block_on(|| async {
        let (mut applier, mut reports) = start();
        let kernel = Kernel::open().unwrap();
        let watch = Kernel::watch_nftables().unwrap();
        let watch = applier.link_changes().follow(watch);
        let mut wanted = tunnel(1);
        wanted.inside.routes = vec![
            "198.51.100.0/24".parse().unwrap(),
            "2001:db8:1::/48".parse().unwrap(),
        ];
        wanted.inside.own_ips.push("fd00::1".parse().unwrap());
        wanted.inside.peer_ips.push("fd00::2".parse().unwrap());
        let want = |wanted| {
            applier.set(peer(), Some(wanted));
        };
        want(wanted.clone());
        assert_eq!(done(&mut reports).await, 1);
        assert_eq!(of_these(&far, &OWN), 2);
        assert_eq!(of_these(&far, &ROUTED), 2);
        assert_eq!(of_these(&far, &FORGED), 0);
        let let_in = kernel.sources().unwrap();
        assert_eq!(let_in["gretun0"].len(), 5, "{let_in:?}");

        // While the tunnel moves, what comes in by the links that receive for it is held to the same.
        wanted.outside.number = 2;
        wanted.outside.overlap = Some(Path {
            remote: "192.0.2.9:7777".parse().unwrap(),
            ..wanted.outside.path
        });
        want(wanted.clone());
        assert_eq!(done(&mut reports).await, 2);
        far.run("ip addr add 192.0.2.9/24 dev eth0; ip link change g type gre local 192.0.2.9 remote 192.0.2.1 key 5 encap fou encap-sport 7777 encap-dport 7777");
        assert_eq!(of_these(&far, &OWN), 2);
        assert_eq!(of_these(&far, &FORGED), 0);
        far.run("ip link change g type gre local 192.0.2.2 remote 192.0.2.1 key 5 encap fou encap-sport 7777 encap-dport 7777");

        // A network that is routed elsewhere now.
        wanted.outside.number = 3;
        wanted.outside.overlap = None;
        wanted.inside.routes.clear();
        want(wanted.clone());
        assert_eq!(done(&mut reports).await, 3);
        assert_eq!(of_these(&far, &ROUTED), 0);
        assert_eq!(of_these(&far, &OWN), 2);

        // Somebody flushes the ruleset, or takes the link out of its group.
        for damage in [
            "nft flush ruleset",
            "nft flush chain inet gretun tunnels_prerouting",
            "ip link set gretun0 group default",
        ] {
            run(damage);
            let deadline = Instant::now() + PATIENCE;
            if damage.starts_with("ip") {
                applier.link_changes().notify();
            }
            while kernel.sources().unwrap().is_empty() || of_these(&far, &FORGED) > 0 {
                assert!(Instant::now() < deadline, "nobody noticed: {damage}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(of_these(&far, &OWN), 2, "{damage}");
        }

        // The measure notices: without the filter all of them come in.
        watch.abort();
        applier.stop().await;
        run("nft flush ruleset");
        assert_eq!(of_these(&far, &FORGED), 3);
    });
}
