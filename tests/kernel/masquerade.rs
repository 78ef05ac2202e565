//! A LAN behind one end of a tunnel: masquerading at either end, and what a firewall forwards; with real packets of both versions of IP.

use std::path::Path;

use serde_json::Value;

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
    ip addr add 10.20.0.1/24 dev lan0; ip -6 addr add fd00:20::1/64 dev lan0 nodad
    echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";

/// A host in the LAN. It reaches nothing but the LAN until it is told a route.
const IN_LAN: &str = "
    ethtool -K lan0 tx off >/dev/null; ip link set lan0 up
    ip addr add 10.20.0.2/24 dev lan0; ip -6 addr add fd00:20::2/64 dev lan0 nodad";

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
        let create = "create site0 --replace --key 5";
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
    let in_lan = ["10.20.0.2", "fd00:20::2"];
    let routes = "--route 10.20.0.0/24 --route fd00:20::/64";
    lab.make(routes, "");
    assert_eq!(in_lan.map(|it| answers(&lab.far, it)), [false; 2]);
    lab.make(routes, "--snat 10.20.0.0/24 --snat fd00:20::/64");
    assert_eq!(in_lan.map(|it| answers(&lab.far, it)), [true; 2]);
    good(&lab.router, "delete site0");
    assert_eq!(lab.router.run("nft list ruleset"), "");
}

#[test]
fn a_far_end_that_knows_nothing_of_the_lan_answers_it() {
    if !is_able() {
        return;
    }
    let lab = Lab::new();
    lab.in_lan
        .run("ip route add 10.88.0.0/24 via 10.20.0.1; ip -6 route add fd88::/64 via fd00:20::1");
    let far = ["10.88.0.1", "fd88::1"];
    let routes = "--route 10.88.0.0/24 --route fd88::/64";
    lab.make("", routes);
    assert_eq!(far.map(|it| answers(&lab.in_lan, it)), [false; 2]);
    let snat = format!("{routes} --snat 10.88.0.0/24 --snat fd88::/64");
    lab.make("", &snat);
    assert_eq!(far.map(|it| answers(&lab.in_lan, it)), [true; 2]);
}

/// The rules that the NixOS module gives to the firewall of a gateway that advertises the LAN and accepts routes. They are read when the
/// test runs: Nix's checks, whose source lacks the modules, only compile it.
fn forward_rules() -> String {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = repository.join("nixos-tests").join("golden");
    let host = std::fs::read(golden.join("peer-gateway-nftables/host.json")).unwrap();
    let host: Value = serde_json::from_slice(&host).unwrap();
    host["firewall"]["extraForwardRules"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_nixos_gateway_forwards_to_what_it_advertises_and_from_its_lan_into_tunnels() {
    if !is_able() {
        return;
    }
    let lab = Lab::new();
    // Behind the LAN's host is a network that is not advertised.
    lab.in_lan.run(
        "ip addr add 10.21.0.1/32 dev lan0; ip -6 addr add fd00:21::1/128 dev lan0 nodad
         ip route add 10.0.0.0/8 via 10.20.0.1; ip -6 route add fd00::/8 via fd00:20::1",
    );
    lab.router.run(
        "ip route add 10.21.0.0/24 via 10.20.0.2; ip -6 route add fd00:21::/64 via fd00:20::2",
    );
    lab.make(
        "--route 10.20.0.0/15 --route fd00:20::/31",
        "--route 10.88.0.0/24 --route fd88::/64",
    );
    let advertised = ["10.20.0.2", "fd00:20::2"];
    let others = ["10.21.0.1", "fd00:21::1"];
    let far = ["10.88.0.1", "fd88::1"];
    let answered = || {
        [
            advertised.map(|it| answers(&lab.far, it)),
            others.map(|it| answers(&lab.far, it)),
            far.map(|it| answers(&lab.in_lan, it)),
        ]
    };
    assert_eq!(answered(), [[true; 2]; 3], "without a firewall");
    let firewall = |rules: &str| {
        let chain = "type filter hook forward priority 0; policy drop; ct state established accept";
        let table = format!("table inet fw {{ chain forward {{ {chain}\n{rules} }}; }}");
        lab.router.run_script(&format!("nft '{table}'\n"));
    };
    firewall("");
    assert_eq!(answered(), [[false; 2]; 3], "without rules");
    lab.router.run("nft delete table inet fw");
    firewall(&forward_rules());
    assert_eq!(answered(), [[true; 2], [false; 2], [true; 2]]);
}
