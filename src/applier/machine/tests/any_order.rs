//! Random events: the kernel comes to the desired state after any of them, in any order.

use proptest::prelude::*;

use super::*;

/// An event.
#[derive(Clone, Debug)]
enum Event {
    /// Peers and the variants of their tunnels; a peer that is not among them is not desired.
    Desire(Vec<(u8, u8)>),
    /// Somebody removes a link.
    Lose(u8),
    Refuse(Option<u8>),
    CannotBeRead(bool),
    Pass(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        proptest::collection::vec((0..4_u8, 0..6_u8), 0..4).prop_map(Event::Desire),
        any::<u8>().prop_map(Event::Lose),
        proptest::option::of(0..4_u8).prop_map(Event::Refuse),
        any::<bool>().prop_map(Event::CannotBeRead),
        (0..3000_u32).prop_map(Event::Pass),
    ]
}

proptest! {
    /// Whatever is desired, lost and refused in whatever order: links of others are never touched, and within one pass after the
    /// kernel takes everything the highest number of each tunnel is reported and nothing else is there.
    #[test]
    fn the_highest_number_is_reported_once_the_kernel_takes_everything(
        events in proptest::collection::vec(event(), 1..30),
    ) {
        let mut bench = Bench::new();
        let mut theirs = tunnel(9, 1).state("somebody's".to_owned(), 1500);
        theirs.link.name = "theirs".to_owned();
        bench.kernel.last_index = 70;
        bench.kernel.add(theirs.clone());
        let mut number = 0;
        let mut latest = BTreeMap::new();
        let mut reported: BTreeMap<NodePublic, u64> = BTreeMap::new();
        let mut take = |reports: Vec<Applied>| for report in reports {
            match report {
                Applied::Done { peer, number, .. } => {
                    reported.insert(peer, number);
                }
                Applied::Failed { peer, .. } | Applied::Removed { peer } => {
                    reported.remove(&peer);
                }
            }
        };
        for event in events {
            match event {
                Event::Desire(tunnels) => {
                    latest.clear();
                    for (byte, kind) in tunnels {
                        number += 1;
                        latest.insert(byte, variant(byte, kind, number));
                    }
                    let all = latest.iter().map(|(byte, it)| (peer(*byte), it.clone()));
                    bench.machine.handle_desired(all.collect());
                }
                Event::Lose(which) => {
                    let names: Vec<String> = bench.kernel.names().iter().map(|it| (*it).to_owned()).collect();
                    let name = &names[usize::from(which) % names.len()];
                    if name != "theirs" {
                        bench.kernel.remove(name);
                        bench.machine.handle_link_change(bench.now);
                    }
                }
                Event::Refuse(byte) => {
                    bench.kernel.refuses = byte.iter().map(|it| format!("gretun{it}")).collect();
                }
                Event::CannotBeRead(cannot) => bench.kernel.cannot_be_read = cannot,
                Event::Pass(millis) => take(bench.later(Duration::from_millis(millis.into()))),
            }
        }
        bench.kernel.refuses.clear();
        bench.kernel.cannot_be_read = false;
        take(bench.later(MAX_RETRY));
        let expected: BTreeMap<NodePublic, u64> =
            latest.iter().map(|(byte, it)| (peer(*byte), it.outside.number)).collect();
        prop_assert_eq!(reported, expected);
        let there = &bench.kernel.links.tunnels;
        prop_assert!(there.iter().any(|it| it.state == theirs && it.index == 70));
        for (byte, wanted) in &latest {
            let alias = OwnerAlias::new(own(), peer(*byte)).to_string();
            let state = wanted.state(alias, 1500);
            prop_assert!(there.iter().any(|it| it.state.link == state.link), "{:?}", wanted);
            let let_in = bench.kernel.links.sources.get(&wanted.inside.name);
            prop_assert_eq!(let_in, Some(&wanted.sources()));
        }
        // A receiving link that was refused is made at the next look at all; then nothing is left to do.
        bench.links_changed();
        bench.kernel.done.clear();
        prop_assert_eq!(bench.links_changed(), []);
        prop_assert_eq!(&bench.kernel.done, &Vec::<String>::new());
        let all = latest.len() + latest.values().map(|it| remotes(it).len()).sum::<usize>();
        prop_assert_eq!(there_are(&bench), all);
    }
}

/// How many links are ours.
fn there_are(bench: &Bench) -> usize {
    bench.kernel.links.tunnels.len() - 1
}
