//! Masquerading at either end of a tunnel, with real packets of both versions of IP.

use crate::lab::Host;
use crate::tunnel_cli::good;
use crate::tunnel_lab::is_able;

/// The far end, whose network nobody but its neighbour in the tunnel reaches.
const FAR: &str = "
    for it in all default; do echo 0 > /proc/sys/net/ipv6/conf/$it/accept_dad; done
    ip link add du0 type dummy; ip link set du0 up
    ip addr add 10.88.0.1/24 dev du0; ip -6 addr add fd88::1/64 dev du0 nodad";

/// A router between the tunnel and a LAN.
const ROUTER: &str = "
    for it in all default; do echo 0 > /proc/sys/net/ipv6/conf/$it/accept_dad; done
    ethtool -K lan0 tx off >/dev/null; ip link set lan0 up
    ip addr add 10.77.0.1/24 dev lan0; ip -6 addr add fd77::1/64 dev lan0 nodad
    echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";

/// A host in the LAN. It reaches nothing but the LAN until it is told a route.
const IN_LAN: &str = "
    ethtool -K lan0 tx off >/dev/null; ip link set lan0 up
    ip addr add 10.77.0.2/24 dev lan0; ip -6 addr add fd77::2/64 dev lan0 nodad";

struct Lab {
    far: Host,
    router: Host,
    in_lan: Host,
    _unused: Host,
}

impl Lab {
    fn new() -> Self {
        let (far, router) = Host::pair();
        let (in_lan, unused) = Host::pair();
        far.run(FAR);
        let name = in_lan.name();
        router.run(&format!(
            "ip link add lan0 type veth peer name lan0 netns {name}"
        ));
        router.run(ROUTER);
        in_lan.run(IN_LAN);
        Lab {
            far,
            router,
            in_lan,
            _unused: unused,
        }
    }

    /// Makes both ends of the tunnel, with more options for each.
    fn make(&self, far: &str, router: &str) {
        let ip = |number: u8| format!("10.255.0.{number}/30 --tunnel-ip fd00:255::{number}/64");
        let create = "create t0 --replace --key 5";
        good(
            &self.far,
            &format!("{create} --remote 192.0.2.2 --tunnel-ip {} {far}", ip(1)),
        );
        good(
            &self.router,
            &format!("{create} --remote 192.0.2.1 --tunnel-ip {} {router}", ip(2)),
        );
    }
}

/// Whether one of three echo requests is answered.
fn answers(from: &Host, address: &str) -> bool {
    let ping = format!("ping -q -c 3 -i 0.2 -W 2 {address} >/dev/null && echo yes || echo no");
    from.run(&ping) == "yes\n"
}

#[test]
fn a_lan_that_knows_nothing_of_the_tunnel_answers() {
    if !is_able() {
        return;
    }
    let lab = Lab::new();
    let in_lan = ["10.77.0.2", "fd77::2"];
    let routes = "--route 10.77.0.0/24 --route fd77::/64";
    lab.make(routes, "");
    assert_eq!(in_lan.map(|it| answers(&lab.far, it)), [false; 2]);
    lab.make(routes, "--snat 10.77.0.0/24 --snat fd77::/64");
    assert_eq!(in_lan.map(|it| answers(&lab.far, it)), [true; 2]);
    good(&lab.router, "delete t0");
    assert_eq!(lab.router.run("nft list ruleset"), "");
}

#[test]
fn a_far_end_that_knows_nothing_of_the_lan_answers_it() {
    if !is_able() {
        return;
    }
    let lab = Lab::new();
    lab.in_lan
        .run("ip route add 10.88.0.0/24 via 10.77.0.1; ip -6 route add fd88::/64 via fd77::1");
    let far = ["10.88.0.1", "fd88::1"];
    let routes = "--route 10.88.0.0/24 --route fd88::/64";
    lab.make("", routes);
    assert_eq!(far.map(|it| answers(&lab.in_lan, it)), [false; 2]);
    let snat = format!("{routes} --snat 10.88.0.0/24 --snat fd88::/64");
    lab.make("", &snat);
    assert_eq!(far.map(|it| answers(&lab.in_lan, it)), [true; 2]);
}
