//! The sources that links let in.

use super::*;

#[test]
fn a_link_lets_in_its_peer_alone_and_that_before_it_is_there() {
    let mut bench = Bench::new();
    let mut routing = tunnel(1, 1);
    routing.inside.routes = vec!["10.0.0.0/8".parse().unwrap()];
    bench.want([(1, routing.clone())]);
    let first = bench
        .kernel
        .done
        .iter()
        .position(|it| it.starts_with("create"));
    let let_in = bench
        .kernel
        .done
        .iter()
        .rposition(|it| it.starts_with("let in"));
    assert!(let_in < first, "{:?}", bench.kernel.done);
    let expected = networks(&["100.64.0.1/32", "10.0.0.0/8", "fe80::/10"]);
    assert_eq!(bench.kernel.links.sources["gretun1"], expected);
    // Another peer has the network now: two elements change, and the link stays.
    bench.kernel.done.clear();
    routing.inside.routes = vec!["10.0.0.0/9".parse().unwrap()];
    routing.outside.number = 2;
    bench.want([(1, routing.clone())]);
    let expected = networks(&["100.64.0.1/32", "10.0.0.0/9", "fe80::/10"]);
    assert_eq!(bench.kernel.links.sources["gretun1"], expected);
    let steps = [
        "no longer let in 10.0.0.0/8 from gretun1",
        "let in 10.0.0.0/9 from gretun1",
        "remove route 10.0.0.0/8 through gretun1",
        "add route 10.0.0.0/9 through gretun1",
    ];
    assert_eq!(bench.kernel.done, steps);
    bench.want([]);
    assert!(bench.kernel.links.sources.values().all(BTreeSet::is_empty));
}

#[test]
fn links_that_receive_for_a_move_let_in_the_same() {
    let mut bench = Bench::new();
    bench.want([(1, variant(1, 2, 1))]);
    assert_eq!(bench.kernel.names(), ["gretun1", "gretun1~1", "gretun1~2"]);
    let expected = networks(&["100.64.0.1/32", "fe80::/10"]);
    for name in ["gretun1", "gretun1~1", "gretun1~2"] {
        assert_eq!(bench.kernel.links.sources[name], expected, "{name}");
    }
    let mut routing = variant(1, 2, 2);
    routing.inside.routes = vec!["10.0.0.0/8".parse().unwrap()];
    bench.want([(1, routing)]);
    for name in ["gretun1", "gretun1~1", "gretun1~2"] {
        assert_eq!(bench.kernel.links.sources[name].len(), 3, "{name}");
    }
    bench.want([(1, tunnel(1, 3))]);
    assert!(bench.kernel.links.sources["gretun1~1"].is_empty());
}

/// The lowest free name is the next one's: a leaver's, as a rule. [`Kernel::check_sources`] looks at every step.
#[test]
fn a_newcomer_gives_nothing_to_a_link_of_its_name_that_stays() {
    let named = |byte, number| {
        let mut tunnel = tunnel(byte, number);
        tunnel.inside.name = "gretun1".to_owned();
        tunnel
    };
    let mut bench = Bench::new();
    bench.want([(1, tunnel(1, 1)), (3, tunnel(3, 1))]);
    bench.kernel.refuses = vec!["remove link gretun1".to_owned()];
    let reports = bench.want([(2, named(2, 2)), (3, tunnel(3, 1)), (4, tunnel(4, 2))]);
    assert_eq!(
        (done(&reports), failed(&reports)),
        (vec![2], vec![(2, false)])
    );
    bench.later(SECOND);
    assert_eq!(
        bench.kernel.links.sources["gretun1"],
        networks(&["100.64.0.1/32", "fe80::/10"])
    );
    bench.kernel.refuses.clear();
    assert_eq!(done(&bench.later(MAX_RETRY)), [2]);
    assert_eq!(
        bench.kernel.links.sources["gretun1"],
        networks(&["100.64.0.2/32", "fe80::/10"])
    );
    // Somebody gives the link of another peer the name of the next one.
    let renamed = bench.kernel.tunnel("gretun3").unwrap();
    renamed.state.link.name = "gretun5".to_owned();
    let index = bench.kernel.links.indices.remove("gretun3").unwrap();
    bench
        .kernel
        .links
        .indices
        .insert("gretun5".to_owned(), index);
    let all = [
        (2, named(2, 2)),
        (3, tunnel(3, 1)),
        (4, tunnel(4, 2)),
        (5, tunnel(5, 3)),
    ];
    assert_eq!(failed(&bench.want(all)), [(3, false)]);
}

#[test]
fn one_source_that_is_refused_keeps_no_other_tunnel() {
    let mut bench = Bench::new();
    bench.kernel.refuses = vec!["100.64.0.2".to_owned()];
    let reports = bench.want([(1, tunnel(1, 1)), (2, tunnel(2, 2)), (3, tunnel(3, 3))]);
    assert_eq!(
        (done(&reports), failed(&reports)),
        (vec![1, 3], vec![(2, false)])
    );
}

#[test]
fn what_was_let_in_for_a_link_that_never_came_goes_with_its_peer() {
    let mut bench = Bench::new();
    bench.kernel.refuses = vec!["link gretun1".to_owned()];
    assert_eq!(failed(&bench.want([(1, tunnel(1, 1))])).len(), 1);
    bench.want([]);
    bench.links_changed();
    assert!(
        bench
            .kernel
            .links
            .sources
            .get("gretun1")
            .is_none_or(BTreeSet::is_empty)
    );
}

#[test]
fn a_ruleset_that_was_flushed_is_put_back() {
    let mut bench = Bench::new();
    bench.want([(1, tunnel(1, 1)), (2, tunnel(2, 2))]);
    let before = std::mem::take(&mut bench.kernel.links.sources);
    bench.links_changed();
    assert_eq!(bench.kernel.links.sources, before);
}

#[test]
fn an_element_that_was_left_behind_gives_the_next_peer_nothing() {
    let mut bench = Bench::new();
    let left = networks(&["100.64.0.7/32", "10.0.0.0/8"]);
    bench
        .kernel
        .links
        .sources
        .insert("gretun1".to_owned(), left);
    bench.want([(1, tunnel(1, 1))]);
    let expected = networks(&["100.64.0.1/32", "fe80::/10"]);
    assert_eq!(bench.kernel.links.sources["gretun1"], expected);
    // Somebody removes the link, and the peer leaves: what it let in goes too.
    bench.kernel.remove("gretun1");
    bench.want([]);
    bench.links_changed();
    assert!(bench.kernel.links.sources["gretun1"].is_empty());
}
