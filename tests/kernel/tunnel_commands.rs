//! The commands that a dry run prints do what gretun does: one host is changed by gretun, another one by `sh`, and both
//! have the same devices, addresses, routes, FOU ports and address translation.

use gretun::tunnel::encap::Encap;
use gretun::tunnel::header_fields::InheritOrFixed;
use gretun::tunnel::mode::{Family, Mode};
use gretun::tunnel::op::KernelOp;
use gretun::tunnel::plan;
use gretun::tunnel::spec::TunnelOptions;
use gretun::tunnel::state::TunnelState;
use serde_json::Value;

use crate::lab::in_own_thread;
use crate::tunnel_lab::{Node, difference, is_able, side_by_side, state};

/// Tunnels that use every option, each in another one.
fn first() -> Vec<TunnelState> {
    let mut tunnels = side_by_side(1);
    for (i, tunnel) in tunnels.iter_mut().enumerate() {
        let carries = |family| tunnel.mode.carries(family);
        let networks: Vec<_> = [
            (Family::V4, format!("10.{}.0.0/16", 100 + i)),
            (Family::V6, format!("fd01:{i}::/64")),
        ]
        .into_iter()
        .filter(|(family, _)| carries(*family))
        .map(|(_, network)| network.parse().unwrap())
        .collect();
        tunnel.routes = networks.clone();
        if i % 4 == 0 {
            tunnel.snat = networks;
        }
        tunnel.ttl = [
            InheritOrFixed::TTL,
            InheritOrFixed::Fixed(1),
            InheritOrFixed::Fixed(255),
        ][i % 3];
        tunnel.tos = [
            InheritOrFixed::TOS,
            InheritOrFixed::Inherit,
            InheritOrFixed::Fixed(0x10),
            InheritOrFixed::Fixed(0xb8),
        ][i % 4];
        if i % 5 == 0 {
            tunnel.dev = Some("eth0".to_owned());
            tunnel.alt_name = Some(format!("the.other_name-of-{}", tunnel.name));
        }
        if i % 7 == 0 {
            tunnel.mtu = Some(1300);
        }
        if tunnel.mode.is_gre() && i % 2 == 0 {
            (tunnel.ikey, tunnel.okey) = (Some(7), Some(u32::MAX));
        }
        point_to_point(tunnel);
    }
    states(tunnels)
}

/// Makes the addresses of some tunnels point to point, and so the routes of Ethernet ones lead through a host.
fn point_to_point(tunnel: &mut TunnelOptions) {
    let is_one = matches!(tunnel.mode, Mode::Gretap | Mode::Ip6gretap)
        || matches!(
            (tunnel.mode, tunnel.encap),
            (Mode::Gre | Mode::Ip6ip6, Encap::Fou(_))
        );
    for address in tunnel.addresses.iter_mut().filter(|_| is_one) {
        let far = match address.net.network() {
            std::net::IpAddr::V4(net) => (u32::from(net) + 2).to_be_bytes().into(),
            std::net::IpAddr::V6(net) => (u128::from(net) + 2).to_be_bytes().into(),
        };
        address.net = ipnet::IpNet::from(address.net.addr());
        address.peer = Some(far);
    }
}

/// A second version of the tunnels, each changed in place.
fn second() -> Vec<TunnelState> {
    let mut tunnels = side_by_side(1);
    for (i, tunnel) in tunnels.iter_mut().enumerate() {
        tunnel.ttl = if i % 2 == 0 {
            InheritOrFixed::Fixed(33)
        } else {
            InheritOrFixed::Inherit
        };
        tunnel.tos = if i % 2 == 0 {
            InheritOrFixed::Inherit
        } else {
            InheritOrFixed::Fixed(4)
        };
        // Only IPv4 can be fragmented on its way.
        tunnel.pmtudisc = tunnel.mode.outer() == Family::V6 || i % 2 != 0;
        tunnel.pmtudisc |= tunnel.fragments_with_fixed_ttl();
        tunnel.mtu = Some(1290);
        if let Encap::Fou(udp) | Encap::Gue(udp) = &mut tunnel.encap {
            udp.csum = false;
            udp.sport = udp.dport;
            udp.dport = 7000;
        }
        if tunnel.mode.is_gre() {
            (tunnel.ikey, tunnel.okey) = (None, Some(5));
        }
    }
    states(tunnels)
}

fn states(tunnels: Vec<TunnelOptions>) -> Vec<TunnelState> {
    tunnels.into_iter().map(state).collect()
}

#[test]
fn the_commands_of_a_dry_run_do_the_same() {
    if !is_able() {
        return;
    }
    in_own_thread(|| async {
        let ((ours, _far), (theirs, _farther)) = (Node::pair().await, Node::pair().await);
        for wanted in [first(), second(), Vec::new()] {
            let ops = plan::apply(&wanted, &ours.observe_all().await, "test").unwrap();
            assert!(ops.len() >= wanted.len());
            ours.execute(&ops).await.unwrap();
            let commands: Vec<_> = ops.iter().flat_map(KernelOp::commands).collect();
            println!("{} operations, {} commands", ops.len(), commands.len());
            theirs.host.run_script(&script(&commands));
            let different = difference(&everything(&ours), &everything(&theirs));
            assert!(different.is_empty(), "{different:#?}");
            // gretun takes the tunnels that the commands created for its own.
            let observed = theirs.observe_all().await;
            assert_eq!(plan::apply(&wanted, &observed, "test").unwrap(), []);
        }
    });
}

/// The commands as a script in which neighbouring ones of iproute2 share a process: to start one takes an emulated machine
/// longer than all that it does. In a batch iproute2 reads words and quotes as a shell does.
fn script(commands: &[String]) -> String {
    let program = |command: &String| {
        let mut programs = ["ip -6 ", "ip "].into_iter();
        programs.find(|program| command.starts_with(program))
    };
    let groups = commands.chunk_by(|a, b| program(a) == program(b));
    let script = groups.map(|group| match program(&group[0]) {
        Some(program) => {
            let words = group.iter().map(|command| &command[program.len()..]);
            let lines: Vec<_> = words.collect();
            format!("{program}-batch - <<\\END\n{}\nEND\n", lines.join("\n"))
        }
        None => group.join("\n") + "\n",
    });
    script.collect()
}

/// All that the programs show of a host but interface indices, counters and random hardware addresses.
fn everything(node: &Node) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let shown = node.host.run(
        "for what in \"-d link\" addr \"route show table all\" \"-6 route show table all\"; do ip -j $what; echo; done
         ip fou show | sort; ip -6 fou show | sort; nft list ruleset; cd /proc/sys/net/ipv6/conf; grep . */mtu",
    );
    for line in shown.lines() {
        let Ok(Value::Array(objects)) = serde_json::from_str(line) else {
            // The kernel's order of a set's elements is its own.
            let elements = line.trim().trim_start_matches("elements = {").split(',');
            lines.extend(elements.map(|it| it.trim_matches([' ', '}']).to_owned()));
            continue;
        };
        for mut object in objects {
            let is_ethernet = object["link_type"] == "ether";
            let fields = object.as_object_mut().unwrap();
            for field in ["ifindex", "link_index", "link_netnsid", "permaddr"] {
                fields.remove(field);
            }
            // Link-local addresses are made from random hardware addresses.
            if let Some(Value::Array(addresses)) = fields.get_mut("addr_info") {
                addresses.retain(|address| address["scope"] != "link");
            }
            if is_ethernet {
                fields.remove("address");
            }
            let is_link_local = object["dst"]
                .as_str()
                .is_some_and(|to| to.starts_with("fe80:"));
            if object["ifname"] == "eth0" || object["dev"] == "eth0" || is_link_local {
                continue;
            }
            lines.push(object.to_string());
        }
    }
    lines.sort();
    lines
}
