//! Static tunnels for tests: every kind and encapsulation between the two hosts of a pair, and what is left of them.

#![allow(dead_code, reason = "shared by tests that come and go")]

use std::net::IpAddr;

use gretun::kernel::Kernel;
use gretun::kernel::preflight::{self, Need};
use gretun::tunnel::encap::{Encap, Udp};
use gretun::tunnel::mode::{Family, Mode};
use gretun::tunnel::owner::Owner;
use gretun::tunnel::spec::{TunnelOptions, TunnelSpec};
use gretun::tunnel::state::{Observed, TunnelAddress, TunnelState};

use crate::lab::{Host, kernel_is_able};

/// The port of both ends.
pub const PORT: u16 = 5555;

/// Whether the kernel can do every kind of tunnel; a skip is loud, and a failure where it is not allowed.
pub fn is_able() -> bool {
    if !kernel_is_able() {
        return false;
    }
    for mode in Mode::ALL {
        if let Err(error) = preflight::check(&[Need::Module(mode.module())]) {
            assert!(
                std::env::var_os("GRETUN_REQUIRE_KERNEL").is_none(),
                "{error}"
            );
            eprintln!("SKIPPED: {error}");
            return false;
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

/// The options as the kernel should have them, over a path of 1500 bytes.
pub fn state(options: TunnelOptions) -> TunnelState {
    let spec = TunnelSpec::new(options).unwrap();
    let owner = Owner::Static {
        set: "test".to_owned(),
    };
    spec.state(spec.mtu_over(1500), owner.to_string())
}

/// What the kernel has.
pub async fn observe(kernel: &Kernel) -> Observed {
    let links = kernel.links().await.unwrap();
    kernel.observe(&links).await.unwrap()
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
