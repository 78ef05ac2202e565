//! Plans: the order of operations, untouched tunnels, and that every plan can be undone.

use super::*;
use crate::tunnel::file::{FileError, TunnelFile};

const FILE: &str = r#"
    [tunnels.a]
    remote = "192.0.2.2"
    key = 1
    encap = "fou"
    encap-dport = 5555
    tunnel-ip = ["10.0.0.1/30", "fd00::1/64"]
    route = ["10.1.0.0/16", "fd01::/64"]
    snat = "10.1.0.0/16"
    [tunnels.b]
    remote = "192.0.2.2"
    key = 2
    encap = "fou"
    encap-dport = 5555
"#;

fn states(text: &str) -> Vec<TunnelState> {
    let specs = TunnelFile::parse(text).unwrap().specs().unwrap();
    let state = |spec: &crate::tunnel::spec::TunnelSpec| {
        spec.state(spec.mtu_over(1500), "gretun static default".to_owned())
    };
    specs.iter().map(state).collect()
}

/// Carries operations out as the kernel does; refuses impossible ones.
fn carry_out(observed: &mut Observed, ops: &[KernelOp]) {
    fn at<'a>(observed: &'a mut Observed, link: &str) -> &'a mut TunnelState {
        let mut tunnels = observed.tunnels.iter_mut();
        tunnels.find(|tunnel| tunnel.link.name == link).unwrap()
    }
    fn take<T: PartialEq + std::fmt::Debug>(list: &mut Vec<T>, item: &T) {
        let position = list.iter().position(|other| other == item);
        list.remove(position.unwrap_or_else(|| panic!("{item:?} is not there")));
    }
    for op in ops {
        match op {
            KernelOp::AddFou(port) => {
                assert!(!observed.fou_ports.contains(port));
                observed.fou_ports.push(*port);
            }
            KernelOp::DeleteFou(port) => take(&mut observed.fou_ports, port),
            KernelOp::AddLink(link) => {
                assert!(observed.tunnel(&link.name).is_none());
                observed.tunnels.push(TunnelState {
                    link: link.clone(),
                    alt_names: vec![],
                    addresses: vec![],
                    routes: vec![],
                    snat: vec![],
                });
            }
            KernelOp::ChangeLink { from, to } => {
                let tunnel = at(observed, &to.name);
                assert_eq!(tunnel.link, *from);
                tunnel.link = to.clone();
            }
            KernelOp::DeleteLink(tunnel) => {
                observed.tunnels.retain(|t| t.link.name != tunnel.link.name);
            }
            KernelOp::AddAltName { link, name } => at(observed, link).alt_names.push(name.clone()),
            KernelOp::DeleteAltName { link, name } => take(&mut at(observed, link).alt_names, name),
            KernelOp::AddAddress { link, address } => at(observed, link).addresses.push(*address),
            KernelOp::DeleteAddress { link, address } => {
                take(&mut at(observed, link).addresses, address);
            }
            KernelOp::AddRoute { link, route } => at(observed, link).routes.push(*route),
            KernelOp::DeleteRoute { link, route } => take(&mut at(observed, link).routes, route),
            KernelOp::AddSnat { link, network } => at(observed, link).snat.push(*network),
            KernelOp::AddSource { .. } | KernelOp::DeleteSource { .. } => {
                panic!("static tunnels let everything in")
            }
            // The pairs of a link outlive it: they are looked up by name.
            KernelOp::DeleteSnat { link, network } => take(&mut at(observed, link).snat, network),
        }
    }
}

#[test]
fn a_plan_reaches_what_is_wanted_and_then_nothing_is_to_be_done() {
    let wanted = states(FILE);
    let mut observed = Observed::default();
    let ops = apply(&wanted, &observed, "default").unwrap();
    carry_out(&mut observed, &ops);
    assert_eq!(observed.tunnels, wanted);
    assert_eq!(observed.fou_ports.len(), 1, "both tunnels share the port");
    assert_eq!(apply(&wanted, &observed, "default").unwrap(), []);
}

/// Files from each of which one may go to each other one.
fn texts() -> [String; 7] {
    [
        "".to_owned(),
        FILE.to_owned(),
        FILE.replace("key = 1", "ttl = 9\nkey = 3"),
        FILE.replace("10.0.0.1/30", "10.0.0.2/30")
            .replace("10.1.0.0/16", "10.2.0.0/16"),
        FILE.replace("key = 2", "mode = \"gretap\"\nkey = 2"),
        FILE.replace("5555", "6666"),
        FILE.replace("\"fou\"", "\"gue\""),
    ]
}

#[test]
fn every_step_back_leads_to_where_it_came_from() {
    let texts = texts();
    for from in &texts {
        for to in &texts {
            let mut observed = Observed::default();
            let ops = apply(&states(from), &observed, "default").unwrap();
            carry_out(&mut observed, &ops);
            let before = observed.clone();
            let ops = apply(&states(to), &observed, "default").unwrap();
            carry_out(&mut observed, &ops);
            assert_eq!(apply(&states(to), &observed, "default").unwrap(), []);
            let back: Vec<_> = ops.iter().rev().flat_map(KernelOp::undo).collect();
            carry_out(&mut observed, &back);
            let sorted = |mut observed: Observed| {
                observed
                    .tunnels
                    .sort_by(|a, b| a.link.name.cmp(&b.link.name));
                for tunnel in &mut observed.tunnels {
                    // The kernel keeps each IP version in a list of its own.
                    tunnel.addresses.sort_by_key(|address| address.net);
                    tunnel.routes.sort_by_key(|route| route.network);
                }
                observed
            };
            assert_eq!(sorted(observed), sorted(before), "{from} -> {to}");
        }
    }
}

/// A process can be killed between any two steps, and the file can be another one when it is started again.
#[test]
fn what_a_killed_process_leaves_is_found_and_put_right() {
    let texts = texts();
    for from in &texts {
        for to in &texts {
            let mut start = Observed::default();
            let ops = apply(&states(from), &start, "default").unwrap();
            carry_out(&mut start, &ops);
            let ops = apply(&states(to), &start, "default").unwrap();
            for done in 0..=ops.len() {
                for next in [to, from, &texts[0]] {
                    let mut observed = start.clone();
                    carry_out(&mut observed, &ops[..done]);
                    let wanted = states(next);
                    let rest = apply(&wanted, &observed, "default").unwrap();
                    carry_out(&mut observed, &rest);
                    assert_eq!(apply(&wanted, &observed, "default").unwrap(), []);
                    let needed: BTreeSet<_> =
                        wanted.iter().filter_map(|t| t.link.listener()).collect();
                    let open: BTreeSet<_> = observed.fou_ports.into_iter().collect();
                    assert_eq!(open, needed, "{from} -> {to} after {done}, then {next}");
                }
            }
        }
    }
}

#[test]
fn a_tunnel_that_is_down_is_taken_up_before_its_routes_are_put_back() {
    let wanted = states(FILE);
    let mut observed = Observed {
        tunnels: wanted.clone(),
        fou_ports: wanted[..1]
            .iter()
            .filter_map(|it| it.link.listener())
            .collect(),
        ..Observed::default()
    };
    // With the device the kernel takes down the routes, and the addresses of IPv6.
    let down = &mut observed.tunnels[0];
    down.link.up = false;
    down.routes.clear();
    down.addresses
        .retain(|address| address.net.addr().is_ipv4());
    let before = observed.clone();
    let ops = apply(&wanted, &observed, "default").unwrap();
    let KernelOp::ChangeLink { from, to } = &ops[0] else {
        panic!("{ops:?}");
    };
    assert!(!from.up && to.up, "{ops:?}");
    assert_eq!(ops[0].to_string(), "change link a: state down -> up");
    let commands = ops[0].commands();
    assert!(commands.last().unwrap().ends_with(" up"), "{commands:?}");
    carry_out(&mut observed, &ops);
    assert_eq!(apply(&wanted, &observed, "default").unwrap(), []);
    let back: Vec<_> = ops.iter().rev().flat_map(KernelOp::undo).collect();
    carry_out(&mut observed, &back);
    assert_eq!(observed, before);
}

#[test]
fn address_translation_of_tunnels_that_somebody_removed_is_tidied() {
    let pair = ("gone".to_owned(), "10.0.0.0/8".parse().unwrap());
    let observed = Observed {
        stray_snat: vec![pair.clone()],
        ..Observed::default()
    };
    let (link, network) = pair;
    let tidy = [KernelOp::DeleteSnat { link, network }];
    let wanted = states(FILE);
    assert_eq!(apply(&[], &observed, "default").unwrap(), tidy);
    assert_eq!(delete(&[], &observed).unwrap(), tidy);
    let ops = create(&wanted[0], &observed, false).unwrap();
    assert_eq!(ops[..1], tidy, "the kernel takes no overlapping networks");
}

#[test]
fn the_order_of_addresses_is_no_difference_and_a_new_one_does_not_touch_the_others() {
    let two = FILE.replace("\"fd00::1/64\"", "\"fd00::1/64\", \"fd00:2::1/64\"");
    let mut observed = Observed::default();
    let ops = apply(&states(FILE), &observed, "default").unwrap();
    carry_out(&mut observed, &ops);
    let ops = apply(&states(&two), &observed, "default").unwrap();
    assert!(matches!(ops[..], [KernelOp::AddAddress { .. }]), "{ops:?}");
    carry_out(&mut observed, &ops);
    observed.tunnels[0].addresses.reverse();
    assert_eq!(apply(&states(&two), &observed, "default").unwrap(), []);
}

#[test]
fn other_sets_and_other_owners_are_left_alone() {
    let mut observed = Observed::default();
    let ops = apply(&states(FILE), &observed, "default").unwrap();
    carry_out(&mut observed, &ops);
    assert_eq!(apply(&[], &observed, "other").unwrap(), []);
    for alias in [
        None,
        Some("uplink"),
        Some("gretun overlay 0 0"),
        Some("gretun static other"),
    ] {
        let mut observed = observed.clone();
        observed.tunnels[0].link.alias = alias.map(str::to_owned);
        let ops = apply(&[], &observed, "default").unwrap();
        let removed: Vec<_> = ops
            .iter()
            .filter(|op| matches!(op, KernelOp::DeleteLink(_) | KernelOp::DeleteFou(_)))
            .collect();
        assert!(
            matches!(removed[..], [KernelOp::DeleteLink(tunnel)] if tunnel.link.name == "b"),
            "{removed:?}: the port is still in use"
        );
        let refused = apply(&states(FILE), &observed, "default").unwrap_err();
        assert!(matches!(refused, PlanError::Foreign { .. }), "{refused}");
    }
}

#[test]
fn a_port_has_one_use() {
    let text = FILE.replacen("\"fou\"", "\"gue\"", 1);
    let refused = TunnelFile::parse(&text).unwrap().specs().unwrap_err();
    assert!(matches!(refused, FileError::PortShared { .. }), "{refused}");

    // The FOU ports of another set are known only from the kernel.
    let mut observed = Observed::default();
    let ops = apply(&states(FILE)[..1], &observed, "default").unwrap();
    carry_out(&mut observed, &ops);
    observed.tunnels[0].link.alias = Some("gretun static other".to_owned());
    let gue = states(&FILE.replace("\"fou\"", "\"gue\""));
    let refused = apply(&gue[1..], &observed, "default").unwrap_err();
    assert!(matches!(refused, PlanError::PortTaken { .. }), "{refused}");
}

#[test]
fn a_port_whose_use_changes_is_closed_first() {
    let mut observed = Observed::default();
    let ops = apply(&states(FILE), &observed, "default").unwrap();
    carry_out(&mut observed, &ops);
    let gue = states(&FILE.replace("\"fou\"", "\"gue\""));
    let ops = apply(&gue, &observed, "default").unwrap();
    let ports: Vec<_> = ops
        .iter()
        .filter(|op| matches!(op, KernelOp::AddFou(_) | KernelOp::DeleteFou(_)))
        .collect();
    assert!(
        matches!(ports[..], [KernelOp::DeleteFou(old), KernelOp::AddFou(new)] if old.port == new.port),
        "{ports:?}"
    );
}

#[test]
fn creating_needs_leave_to_replace() {
    let wanted = &states(FILE)[0];
    let mut observed = Observed::default();
    let ops = create(wanted, &observed, false).unwrap();
    carry_out(&mut observed, &ops);
    assert!(matches!(
        create(wanted, &observed, false),
        Err(PlanError::Exists { .. })
    ));
    assert_eq!(create(wanted, &observed, true).unwrap(), []);
    observed.tunnels[0].link.alias = None;
    assert!(matches!(
        create(wanted, &observed, true),
        Err(PlanError::Foreign { .. })
    ));
}
