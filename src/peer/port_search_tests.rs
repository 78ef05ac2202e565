use super::*;

fn offer(step: i16) -> PortOffer {
    PortOffer {
        dependent: true,
        doubtful: false,
        step,
        first_port: 21_000,
        seen: "203.0.113.1:40000".parse().unwrap(),
    }
}

#[test]
fn no_port_is_guessed_twice_and_none_is_well_known() {
    for random in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
        let guesses = Guesses::new(offer(0), random);
        let ports: Vec<u16> = (PRESERVED_GUESSES..Guesses::COUNT as usize)
            .map(|number| guesses.port(number))
            .collect();
        assert!(ports.iter().all(|it| u32::from(*it) >= Guesses::LOWEST));
        let different: std::collections::BTreeSet<u16> = ports.iter().copied().collect();
        assert_eq!(different.len(), ports.len());
    }
}

#[test]
fn ports_in_order_are_guessed_from_the_middle_of_what_comes_next() {
    let ports = |step| -> Vec<u16> {
        let guesses = Guesses::new(offer(step), 7);
        (0..PREDICTED_WINDOW).map(|it| guesses.port(it)).collect()
    };
    assert_eq!(ports(1)[..5], [40_128, 40_127, 40_129, 40_126, 40_130]);
    assert_eq!(ports(-2)[..3], [39_744, 39_746, 39_742]);
    let mut window = ports(1);
    window.sort_unstable();
    assert_eq!((window[0], window[255]), (40_000, 40_255));
}
