use proptest::prelude::*;

use super::*;

fn of(round_trips: &[Option<u64>]) -> Statistics {
    let mut statistics = Statistics::default();
    for round_trip in round_trips {
        statistics.add(round_trip.map(Duration::from_micros));
    }
    statistics
}

#[test]
fn a_series_is_summed_up() {
    let statistics = of(&[Some(1_000), None, Some(4_000), Some(2_500)]);
    assert_eq!((statistics.sent, statistics.answered), (4, 3));
    assert_eq!(statistics.loss_percent(), 25.0);
    let round_trips = statistics.round_trips().unwrap();
    assert_eq!(round_trips.map(millis), [1.0, 2.5, 4.0]);
    assert_eq!(statistics.condition(), Condition::Lossy);
}

#[test]
fn nothing_sent_is_no_success() {
    let none = Statistics::default();
    assert_eq!(none.loss_percent(), 0.0);
    assert_eq!(none.round_trips(), None);
    assert!(!none.meets("1".parse().unwrap()));
}

#[test]
fn a_threshold_is_met_exactly_at_its_share() {
    let two_of_three = of(&[Some(1), None, Some(1)]);
    assert!(two_of_three.meets("66".parse().unwrap()));
    assert!(!two_of_three.meets("67".parse().unwrap()));
    assert!(!two_of_three.meets(Percent::ALL));
    assert!(of(&[Some(1), Some(2)]).meets(Percent::ALL));
    assert!(!of(&[None]).meets("1%".parse().unwrap()));
}

#[test]
fn a_threshold_is_one_to_a_hundred() {
    for bad in ["0", "101", "-1", "", "%", "5.5", "fifty", "256", "1%%"] {
        assert!(bad.parse::<Percent>().is_err(), "{bad}");
    }
    assert_eq!("80%".parse::<Percent>().unwrap().to_string(), "80%");
}

#[test]
fn milliseconds_have_one_decimal() {
    let shown = |micros| millis(Duration::from_micros(micros)).to_string();
    assert_eq!(
        [shown(49), shown(50), shown(1_249), shown(20_000)],
        ["0", "0.1", "1.2", "20"]
    );
}

proptest! {
    #[test]
    fn the_order_of_results_changes_nothing(mut results in prop::collection::vec(prop::option::of(0_u64..1 << 40), 1..50)) {
        let forward = of(&results);
        results.reverse();
        prop_assert_eq!(&of(&results), &forward);
        let loss = forward.loss_percent();
        prop_assert!((0.0..=100.0).contains(&loss));
        if let Some([least, mean, most]) = forward.round_trips() {
            prop_assert!(least <= mean && mean <= most);
        }
        prop_assert_eq!(forward.condition() == Condition::Up, forward.meets(Percent::ALL));
        prop_assert_eq!(forward.condition() == Condition::Down, loss == 100.0);
    }

    #[test]
    fn a_higher_threshold_is_never_easier(sent in 1_usize..60, answered in 0_usize..60, low in 1_u8..=100, high in 1_u8..=100) {
        let results: Vec<_> = (0..sent).map(|i| (i < answered).then_some(1)).collect();
        let statistics = of(&results);
        prop_assume!(low <= high);
        prop_assert!(!statistics.meets(Percent(high)) || statistics.meets(Percent(low)));
    }
}
