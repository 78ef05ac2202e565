use super::*;
use crate::applier::desired::tests::desired;

/// Three tunnels, and the sources of them and of a link that is gone.
fn there() -> (Vec<TunnelState>, Links) {
    let mut links = Links::default();
    let mut tunnels = Vec::new();
    for (index, name) in [(1, "gretun0"), (2, "gretun1"), (3, "gretun2")] {
        let mut wanted = desired();
        wanted.inside.name = name.to_owned();
        tunnels.push(wanted.state("alias".to_owned(), 1500));
        links.indices.insert(name.to_owned(), index);
    }
    for name in ["gretun0", "gretun1", "gretun2", "gone0"] {
        let network = "100.64.0.2/32".parse().unwrap();
        links.sources.insert(name.to_owned(), [network].into());
    }
    (tunnels, links)
}

fn removed(ops: &[KernelOp]) -> Vec<String> {
    let name = |op: &KernelOp| match op {
        KernelOp::DeleteLink(tunnel) => Some(tunnel.link.name.clone()),
        KernelOp::DeleteSource { link, .. } => Some(format!("sources of {link}")),
        _ => None,
    };
    ops.iter().filter_map(name).collect()
}

/// Removes all with a kernel that does not give up `kept`; what was removed, and how that ended.
fn remove_all_but(kept: &str) -> (Vec<String>, usize, Result<(), String>) {
    let (tunnels, links) = there();
    let (mut gone, mut plans) = (Vec::new(), 0);
    let result = remove_links(&tunnels.iter().collect::<Vec<_>>(), &links, |ops| {
        plans += 1;
        let these = removed(ops);
        if these.iter().any(|it| it == kept) {
            return Err(format!("{kept}: Device or resource busy"));
        }
        gone.extend(these);
        Ok(())
    });
    gone.sort_unstable();
    (gone, plans, result)
}

#[test]
fn all_links_and_what_a_killed_daemon_left_behind_go_with_one_plan() {
    let (gone, plans, result) = remove_all_but("nothing");
    assert_eq!((plans, result), (1, Ok(())));
    let sources = ["gone0", "gretun0", "gretun1", "gretun2"].map(|it| format!("sources of {it}"));
    assert_eq!(gone[..3], ["gretun0", "gretun1", "gretun2"]);
    assert_eq!(gone[3..], sources);
}

#[test]
fn a_link_that_the_kernel_does_not_give_up_keeps_no_other() {
    for kept in ["gretun0", "gretun1", "gretun2"] {
        let (gone, _, result) = remove_all_but(kept);
        assert_eq!(result, Err(format!("{kept}: Device or resource busy")));
        let links = gone.iter().filter(|it| it.starts_with("gretun"));
        let expected = ["gretun0", "gretun1", "gretun2"];
        assert!(
            links.eq(expected.iter().filter(|it| **it != kept)),
            "{gone:?}"
        );
    }
}

/// Two daemons on one host, and a tunnel that a person made.
#[test]
fn tunnels_of_other_nodes_and_of_others_stay_with_their_ports() {
    let [own, neighbour, peer] = [1, 2, 3].map(|byte| NodePublic::from_bytes([byte; 32]));
    let owner = |node| OwnerAlias::new(node, peer).to_string();
    let overlap = OwnerAlias::new(own, peer).of_overlap().to_string();
    let there = [
        ("gretun0", owner(own), 7777),
        ("gretun0~1", overlap, 20_005),
        ("site0", owner(neighbour), 7778),
        ("theirs", "uplink".to_owned(), 7777),
    ];
    let mut links = Links::default();
    for (name, alias, port) in there {
        let mut wanted = desired();
        wanted.inside.name = name.to_owned();
        wanted.outside.path.port = port;
        links.tunnels.push(ObservedTunnel {
            index: 1,
            state: wanted.state(alias, 1500),
            other_routes: Vec::new(),
            exact: true,
            counters: Default::default(),
        });
    }
    let found = Found::new(own, &links);
    let names = found.tunnels.iter().map(|it| it.link.name.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["gretun0", "gretun0~1"]);
    assert_eq!(found.ports, [7777, 20_005].into());
    assert_eq!(found.ports_of_others, [7777, 7778].into());
}
