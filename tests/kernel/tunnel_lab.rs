//! Static tunnels for tests: every kind and encapsulation between the two hosts of a pair, and what is left of them.

use std::net::IpAddr;

use gretun::kernel::Kernel;
use gretun::kernel::host::preflight::{self, Need};
use gretun::kernel::tunnel::transaction::StepError;
use gretun::tunnel::encap::{Encap, Udp};
use gretun::tunnel::mode::{Family, Mode};
use gretun::tunnel::op::KernelOp;
use gretun::tunnel::owner::Owner;
use gretun::tunnel::spec::{TunnelOptions, TunnelSpec};
use gretun::tunnel::state::{Observed, TunnelAddress, TunnelState};
use ipnet::IpNet;

use crate::lab::{self, Host, kernel_is_able};

/// A host with the netlink sockets that are in it, for tests that drive several hosts from one thread.
#[derive(Debug)]
pub struct Node {
    /// The host.
    pub host: Host,
    /// Its kernel.
    pub kernel: Kernel,
}

impl Node {
    /// Two hosts on one wire. Duplicate addresses are not looked for, which on Ethernet devices takes more than a second.
    pub async fn pair() -> (Node, Node) {
        let (a, b) = Host::pair();
        let nodes = (Node::open(a).await, Node::open(b).await);
        // The next pair is not made from within a namespace, where there is a device of the same name.
        lab::leave();
        nodes
    }

    async fn open(host: Host) -> Node {
        host.enter();
        std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
        let kernel = Kernel::open().unwrap();
        Node { host, kernel }
    }

    /// Carries out a plan here.
    pub async fn execute(&self, ops: &[KernelOp]) -> Result<(), StepError> {
        self.host.enter();
        self.kernel.execute(ops)
    }

    /// Returns gretun's view of this node without address translation, because reading that needs a program.
    pub async fn observe(&self) -> Observed {
        let links = self.kernel.links().unwrap();
        let tunnels = links.tunnels.into_iter();
        Observed {
            tunnels: tunnels.map(|tunnel| tunnel.state).collect(),
            fou_ports: self.kernel.fou_ports().unwrap(),
            other_links: links.others,
            stray_snat: Vec::new(),
        }
    }

    /// Returns gretun's view of this node.
    pub async fn observe_all(&self) -> Observed {
        self.host.enter();
        observe(&self.kernel).await
    }

    /// Reads the links, addresses, routes and FOU ports of this node from the kernel's own tables and without any program:
    /// less than [`traces`], and a thousand times as fast.
    pub async fn remains(&self) -> Vec<String> {
        self.host.enter();
        let mut lines = Vec::new();
        // Counters and reference counts are left out.
        for (table, fields) in [
            ("dev", &[0][..]),
            ("fib_trie", &[0, 1, 2, 3, 4]),
            ("route", &[0, 1, 2, 3, 6, 7]),
            ("if_inet6", &[0, 2, 3, 5]),
            ("ipv6_route", &[0, 1, 4, 5, 8, 9]),
        ] {
            let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
            // The grouping of routes in `fib_trie` depends on earlier routes.
            // A local route of IPv6 comes with its address, but only once nobody else was found to have that.
            let is_local = |line: &str| {
                let flags = line.split_whitespace().nth(8);
                let flags = flags.and_then(|flags| u32::from_str_radix(flags, 16).ok());
                // RTF_LOCAL of include/uapi/linux/ipv6_route.h.
                table == "ipv6_route" && flags.is_some_and(|flags| flags & 0x8000_0000 != 0)
            };
            let entries = text
                .lines()
                .filter(|line| !line.contains("+--") && !is_local(line));
            lines.extend(entries.map(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                let kept: Vec<_> = fields
                    .iter()
                    .filter_map(|&i| words.get(i).copied())
                    .collect();
                format!("{table} {}", kept.join(" "))
            }));
        }
        let ports = self.kernel.fou_ports().unwrap();
        lines.extend(ports.iter().map(ToString::to_string));
        lines
    }
}

/// The port of both ends.
pub const PORT: u16 = 5555;

/// Returns whether the kernel can do every kind of tunnel; see [`lab::skip`].
pub fn is_able() -> bool {
    if !kernel_is_able() {
        return false;
    }
    for mode in Mode::ALL {
        if let Err(error) = preflight::check(&[Need::Module(mode.module())]) {
            return lab::skip(&error);
        }
    }
    true
}

/// All encapsulations.
pub fn encaps() -> [Encap; 3] {
    let udp = Udp {
        sport: 0,
        dport: PORT,
        csum: true,
    };
    [Encap::None, Encap::Fou(udp), Encap::Gue(udp)]
}

/// The IP versions that a mode carries.
pub fn inner(mode: Mode) -> Vec<Family> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| mode.carries(*family))
        .collect()
}

/// The inner address of the host with this number.
pub fn inner_address(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 255, 0, number]),
        Family::V6 => format!("fd00:255::{number}").parse().unwrap(),
    }
}

/// The tunnel `t0` as host 1 or 2 has it.
pub fn options(mode: Mode, encap: Encap, number: u8) -> TunnelOptions {
    let outer = |number: u8| -> IpAddr {
        match mode.outer() {
            Family::V4 => IpAddr::from([192, 0, 2, number]),
            Family::V6 => format!("2001:db8::{number}").parse().unwrap(),
        }
    };
    let mut options = TunnelOptions::new("t0", mode, outer(3 - number));
    options.local = Some(outer(number));
    options.encap = encap;
    if mode.is_gre() {
        (options.ikey, options.okey) = (Some(0xdead_beef), Some(0xdead_beef));
    }
    options.addresses = inner(mode)
        .into_iter()
        .map(|family| TunnelAddress {
            net: match family {
                Family::V4 => format!("10.255.0.{number}/30").parse().unwrap(),
                Family::V6 => format!("fd00:255::{number}/64").parse().unwrap(),
            },
            peer: None,
        })
        .collect();
    options
}

/// One tunnel of every kind and encapsulation side by side, as host 1 or 2 has them. The kernel knows received packets by
/// their addresses and key, so each has outer addresses of its own: [`add_outer_addresses`] puts them up.
pub fn side_by_side(number: u8) -> Vec<TunnelOptions> {
    let kinds = Mode::ALL
        .into_iter()
        .flat_map(|mode| encaps().map(|encap| (mode, encap)));
    let tunnel = |(place, (mode, mut encap)): (u8, (Mode, Encap))| {
        if let Encap::Fou(udp) | Encap::Gue(udp) = &mut encap {
            udp.dport += u16::from(place);
        }
        let mut tunnel = options(mode, encap, number);
        tunnel.name = format!("{mode}-{}", encap.name());
        tunnel.local = Some(outer_address(mode.outer(), number, place));
        tunnel.remote = outer_address(mode.outer(), 3 - number, place);
        for address in &mut tunnel.addresses {
            address.net = inner_net(Family::of_net(address.net), number, place);
        }
        tunnel
    };
    (0..).zip(kinds).map(tunnel).collect()
}

/// The outer address of a host for the tunnel at this place of [`side_by_side`].
fn outer_address(family: Family, number: u8, place: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 0, 2, 100 * number + place]),
        Family::V6 => format!("2001:db8::{number}:{place}").parse().unwrap(),
    }
}

/// The inner address of a host in the tunnel at this place of [`side_by_side`].
pub fn inner_net(family: Family, number: u8, place: u8) -> IpNet {
    match family {
        Family::V4 => format!("10.{place}.0.{number}/30").parse().unwrap(),
        Family::V6 => format!("fd00:{place}::{number}/64").parse().unwrap(),
    }
}

/// Gives host 1 or 2 the outer addresses of [`side_by_side`].
pub fn add_outer_addresses(host: &Host, number: u8) {
    let mut commands = String::new();
    for place in (0..).take(Mode::ALL.len() * encaps().len()) {
        for (family, length) in [(Family::V4, 24), (Family::V6, 64)] {
            let address = outer_address(family, number, place);
            let flag = if family == Family::V6 { " nodad" } else { "" };
            commands.push_str(&format!("addr add {address}/{length} dev eth0{flag}\n"));
        }
    }
    host.run(&format!("ip -batch - <<END\n{commands}END\n"));
}

/// The options as the kernel should have them, over a path of 1500 bytes.
pub fn state(options: TunnelOptions) -> TunnelState {
    let spec = TunnelSpec::new(options).unwrap();
    let owner = Owner::Static {
        set: "test".to_owned(),
    };
    spec.state(spec.mtu_over(1500), owner.to_string())
}

/// The kernel's state.
pub async fn observe(kernel: &Kernel) -> Observed {
    let links = kernel.links().unwrap();
    kernel.observe(&links).unwrap()
}

/// Everything that tunnels can leave behind on a host, line by line; not what belongs to the wire, and not whether
/// duplicate address detection is over, which settle by themselves.
pub fn traces(host: &Host) -> Vec<String> {
    let text = host.run(
        "others() { grep -vE \"( |dev )(eth0|lo)[@: ]\" || true; }
         ip -o -d link | others; ip -o addr | sed \"s/ tentative//\" | others
         ip route show table all | others; ip -6 route show table all | others
         ip fou show; ip -6 fou show 2>/dev/null || true; nft list ruleset",
    );
    text.lines().map(str::to_owned).collect()
}

/// The lines that are not in both.
pub fn difference(a: &[String], b: &[String]) -> Vec<String> {
    let only = |here: &[String], there: &[String], mark: &str| -> Vec<String> {
        here.iter()
            .filter(|line| !there.contains(line))
            .map(|line| format!("{mark} {line}"))
            .collect()
    };
    [only(a, b, "-"), only(b, a, "+")].concat()
}

/// Puts what belongs to each tunnel into an order of its own, for the kernel's may change.
pub fn sort(tunnels: &mut [TunnelState]) {
    for tunnel in tunnels {
        tunnel.addresses.sort_by_key(|address| address.net);
        tunnel.routes.sort_by_key(|route| route.network);
        tunnel.snat.sort();
    }
}
