use super::*;

fn offer(step: i16) -> PortOffer {
    PortOffer {
        dependent: true,
        maybe_dependent: false,
        step,
        first_port: 21_000,
        seen: "203.0.113.1:40000".parse().unwrap(),
    }
}

#[test]
fn no_port_is_guessed_twice_and_none_is_well_known() {
    for random in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
        let guesses = TargetPorts::new(offer(0), random);
        let ports: Vec<u16> = (PRESERVED_TARGETS..TargetPorts::COUNT as usize)
            .map(|number| guesses.port(number))
            .collect();
        assert!(ports.iter().all(|it| u32::from(*it) >= TargetPorts::LOWEST));
        let different: std::collections::BTreeSet<u16> = ports.iter().copied().collect();
        assert_eq!(different.len(), ports.len());
    }
}

#[test]
fn ports_in_order_are_guessed_from_the_middle_of_what_comes_next() {
    let ports = |step| -> Vec<u16> {
        let guesses = TargetPorts::new(offer(step), 7);
        (0..PREDICTED_WINDOW).map(|it| guesses.port(it)).collect()
    };
    assert_eq!(ports(1)[..5], [40_128, 40_127, 40_129, 40_126, 40_130]);
    assert_eq!(ports(-2)[..3], [39_744, 39_746, 39_742]);
    let mut window = ports(1);
    window.sort_unstable();
    assert_eq!((window[0], window[255]), (40_000, 40_255));
}

#[test]
fn past_the_last_port_the_prediction_goes_on_with_the_first() {
    let after = |port: u16, step: i16, steps| {
        let seen = SocketAddr::new([203, 0, 113, 1].into(), port);
        predicted(
            &PortOffer {
                seen,
                ..offer(step)
            },
            steps,
        )
    };
    assert_eq!(after(65_535, 1, 1), 1024);
    assert_eq!(after(65_530, 2, 4), 1026);
    assert_eq!(after(1024, -1, 1), 65_535);
    // A NAT that uses the well-known ports: never port 0, which nobody can send to.
    assert_eq!(after(1000, 1, 1), 1001);
    assert_eq!(after(3, -1, 3), 65_535);
}

#[test]
fn who_does_not_know_its_mapping_searches_in_both_roles() {
    let dependent = offer(0);
    let unknown = PortOffer {
        dependent: false,
        maybe_dependent: true,
        ..dependent
    };
    let independent = PortOffer {
        maybe_dependent: false,
        ..unknown
    };
    let in_order = |it: PortOffer| PortOffer { step: 1, ..it };
    for (ours, theirs, fans_out, guesses) in [
        (unknown, unknown, true, true),
        (unknown, independent, true, true),
        (independent, unknown, true, true),
        (independent, independent, false, false),
        (unknown, dependent, false, true),
        (dependent, unknown, true, false),
        (dependent, dependent, false, false),
        (in_order(dependent), in_order(dependent), true, false),
        (in_order(unknown), in_order(dependent), true, true),
        (in_order(dependent), in_order(unknown), true, true),
    ] {
        let plan = AttemptPlan { fans_out, guesses };
        assert_eq!(AttemptPlan::of(&ours, &theirs), plan, "{ours:?} {theirs:?}");
    }
}
