//! `apply`: idempotent, in place, its own set only.

use gretun::kernel::Kernel;
use gretun::tunnel::file::TunnelFile;
use gretun::tunnel::op::KernelOp;
use gretun::tunnel::owner::Owner;
use gretun::tunnel::plan::{self, PlanError};
use gretun::tunnel::state::{Observed, TunnelState};

use gretun::tunnel::encap::{Encap, Udp};
use gretun::tunnel::mode::Mode;

use crate::lab::Host;
use crate::tunnel_lab::{is_able, observe, sort};

const FILE: &str = r#"
    set = "test"
    [tunnels.one]
    local = "192.0.2.1"
    remote = "198.51.100.1"
    key = 1
    tunnel-ip = ["10.1.0.1/30", "fd01::1/64"]
    route = ["10.11.0.0/16", "fd11::/64"]
    [tunnels.two]
    local = "192.0.2.1"
    remote = "198.51.100.1"
    key = 2
    ttl = 64
    encap = "fou"
    encap-dport = 5555
    tunnel-ip = "10.2.0.1/32"
    peer-ip = "10.2.0.2"
    snat = "10.12.0.0/16"
    [tunnels.tap]
    mode = "gretap"
    local = "192.0.2.1"
    remote = "198.51.100.2"
    tunnel-ip = "10.3.0.1/24"
    peer-ip = "10.3.0.2"
    route = "10.13.0.0/16"
"#;

fn states(text: &str) -> Vec<TunnelState> {
    let file = TunnelFile::parse(text).unwrap();
    let owner = Owner::Static {
        set: file.set().to_owned(),
    };
    let specs = file.specs().unwrap();
    specs
        .iter()
        .map(|spec| spec.state(spec.mtu_over(1500), owner.to_string()))
        .collect()
}

async fn apply(kernel: &Kernel, wanted: &[TunnelState]) -> Vec<KernelOp> {
    let ops = plan::apply(wanted, &observe(kernel).await, "test").unwrap();
    kernel.execute(&ops).unwrap();
    ops
}

#[test]
fn applying_twice_changes_nothing_and_a_change_touches_only_what_differs() {
    if !is_able() {
        return;
    }
    let (host, _b) = Host::pair();
    host.block_on(|| async {
        let kernel = Kernel::open().unwrap();
        let wanted = states(FILE);
        assert!(!apply(&kernel, &wanted).await.is_empty());
        assert_eq!(apply(&kernel, &wanted).await, []);
        let before = kernel.links().unwrap();

        let changed = states(&FILE.replace("ttl = 64", "ttl = 32"));
        let ops = apply(&kernel, &changed).await;
        assert!(
            matches!(&ops[..], [KernelOp::ChangeLink { to, .. }] if to.name == "two"),
            "{ops:?}"
        );
        let after = kernel.links().unwrap();
        let index =
            |links: &gretun::kernel::tunnel::dump::Links, name| links.tunnel(name).unwrap().index;
        for name in ["one", "two", "tap"] {
            assert_eq!(
                index(&before, name),
                index(&after, name),
                "{name} was made again"
            );
        }

        let fewer = &changed[..1];
        let ops = apply(&kernel, fewer).await;
        assert!(
            ops.iter().any(|op| matches!(op, KernelOp::DeleteFou(_))),
            "{ops:?}"
        );
        assert_eq!(observe(&kernel).await.tunnels, fewer);
        assert_eq!(host.run("nft list ruleset"), "");
    });
}

#[test]
fn a_tunnel_that_somebody_took_down_works_again() {
    if !is_able() {
        return;
    }
    let (host, _b) = Host::pair();
    host.block_on(|| async {
        let kernel = Kernel::open().unwrap();
        let wanted = states(FILE);
        apply(&kernel, &wanted).await;
        let before = observe(&kernel).await;
        let index = kernel.link_index("one").unwrap();
        for name in ["one", "two", "tap"] {
            host.run(&format!("ip link set {name} down"));
        }
        // They come back in another order.
        let sorted = |mut observed: Observed| {
            sort(&mut observed.tunnels);
            observed
        };
        let down = sorted(observe(&kernel).await);
        // A step that fails leaves them down.
        let mut bad = wanted.clone();
        host.run("ip link property add dev lo altname taken");
        bad[0].alt_names = vec!["taken".to_owned()];
        let ops = plan::apply(&bad, &observe(&kernel).await, "test").unwrap();
        let error = kernel.execute(&ops).unwrap_err();
        assert!(error.left.is_empty(), "{error}");
        assert_eq!(sorted(observe(&kernel).await), down);

        apply(&kernel, &wanted).await;
        assert_eq!(sorted(observe(&kernel).await), sorted(before));
        assert_eq!(kernel.link_index("one").unwrap(), index);
        assert_eq!(apply(&kernel, &wanted).await, []);
    });
}

#[test]
fn the_tunnels_of_others_are_left_alone() {
    if !is_able() {
        return;
    }
    let (host, _b) = Host::pair();
    host.run("ip link add theirs type ipip local 192.0.2.1 remote 198.51.100.9");
    host.run("ip link add other0 type bridge");
    host.run("ip link add marked type gre local 192.0.2.1 remote 198.51.100.9 key 9 encap fou encap-sport 5555 encap-dport 1
              ip link set marked alias \"gretun overlay 0 0\"");
    host.block_on(|| async {
        let kernel = Kernel::open().unwrap();
        apply(&kernel, &states(FILE)).await;
        let ops = apply(&kernel, &[]).await;
        assert!(
            !ops.iter().any(|op| matches!(op, KernelOp::DeleteFou(_))),
            "another tunnel uses the port: {ops:?}"
        );
        let left = observe(&kernel).await;
        let names: Vec<_> = left.tunnels.iter().map(|t| t.link.name.as_str()).collect();
        assert_eq!(names, ["theirs", "marked"]);

        let taken = states(&FILE.replace("tunnels.one", "tunnels.theirs"));
        let refused = plan::apply(&taken, &left, "test").unwrap_err();
        assert!(matches!(refused, PlanError::Foreign { .. }), "{refused}");
        let taken = states(&FILE.replace("tunnels.one", "tunnels.other0"));
        let refused = plan::apply(&taken, &left, "test").unwrap_err();
        assert!(matches!(refused, PlanError::NameTaken { .. }), "{refused}");
        let overlay = left.tunnel("marked").unwrap();
        let refused = plan::delete(&[overlay], &left).unwrap_err();
        assert!(matches!(refused, PlanError::Foreign { .. }), "{refused}");
    });
}

/// The tunnel of [`FILE`] named `two`, over the family of `remote`.
fn overlay_like(mode: Mode, local: &str, remote: &str) -> TunnelState {
    let mut state = states(FILE)
        .into_iter()
        .find(|state| state.link.name == "two")
        .expect("it is in the file");
    state.link.mode = mode;
    state.link.local = Some(local.parse().unwrap());
    state.link.remote = Some(remote.parse().unwrap());
    state.link.mtu = 1400;
    state.link.encap = Encap::Fou(Udp {
        sport: 5555,
        dport: 5555,
        csum: true,
    });
    state.snat.clear();
    state
}

#[test]
fn a_change_of_family_keeps_name_and_index_and_is_taken_back_when_it_fails() {
    if !is_able() {
        return;
    }
    let (a, _b) = Host::pair();
    a.block_on(|| async {
        let kernel = Kernel::open().unwrap();
        let v4 = overlay_like(Mode::Gre, "192.0.2.1", "192.0.2.2");
        let v6 = overlay_like(Mode::Ip6gre, "2001:db8::1", "2001:db8::2");
        let ops = plan::overlay(None, Some(&v4), &[]).unwrap();
        kernel.execute(&ops).unwrap();
        let index = kernel.link_index("two").unwrap();
        let kind = || a.run("ip -d link show dev two");
        assert!(kind().contains(" gre remote 192.0.2.2 "), "{}", kind());

        let to_v6 = plan::overlay(Some(&v4), Some(&v6), &[]).unwrap();
        kernel.execute(&to_v6).unwrap();
        assert!(kind().contains(" ip6gre remote 2001:db8::2 "), "{}", kind());
        assert_eq!(kernel.link_index("two").unwrap(), index);
        assert!(
            a.run("ip addr show dev two")
                .contains("10.2.0.1 peer 10.2.0.2/32")
        );

        // The last step cannot be done: another link has the alternative name.
        a.run("ip link property add dev lo altname taken");
        let before = a.run("ip -d link show dev two; ip addr show dev two; ip route show dev two");
        let mut bad = v4.clone();
        bad.alt_names = vec!["taken".to_owned()];
        let back = plan::overlay(Some(&v6), Some(&bad), &[]).unwrap();
        let error = kernel.execute(&back).unwrap_err();
        assert!(
            error.step.contains("taken") && error.left.is_empty(),
            "{error}"
        );
        let after = a.run("ip -d link show dev two; ip addr show dev two; ip route show dev two");
        assert_eq!(lasting(&after), lasting(&before));
        assert_eq!(kernel.link_index("two").unwrap(), index);
    });
}

/// Removes the random attributes of a recreated link: its permanent address, and the link-local address that follows from it.
fn lasting(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.contains(" fe80:"));
    let lines = lines.map(|line| match line.split_once(" permaddr ") {
        Some((before, after)) => {
            format!("{before} {}", after.split_once(' ').map_or("", |it| it.1))
        }
        None => line.replace("state UNKNOWN", ""),
    });
    lines.collect::<Vec<_>>().join("\n")
}
