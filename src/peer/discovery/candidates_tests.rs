use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn from(remote: &str) -> Path {
    Path {
        local: "192.0.2.1".parse().unwrap(),
        port: 7777,
        remote: addr(remote),
    }
}

fn advertise(
    candidates: &mut Candidates,
    now: Instant,
    by: AdvertisedBy,
    endpoints: &[&str],
) -> bool {
    candidates.set_advertised(now, by, endpoints.iter().map(|it| addr(it)))
}

fn remotes(candidates: &Candidates) -> Vec<String> {
    candidates.iter().map(|it| it.remote.to_string()).collect()
}

#[test]
fn a_candidate_stays_as_long_as_somebody_says_so() {
    let now = Instant::now();
    let mut candidates = Candidates::default();
    let (one, two) = ("192.0.2.2:1", "192.0.2.2:2");
    assert!(advertise(
        &mut candidates,
        now,
        AdvertisedBy::Record,
        &[one]
    ));
    assert!(advertise(
        &mut candidates,
        now,
        AdvertisedBy::CallMeMaybe,
        &[one, two]
    ));
    assert!(!advertise(&mut candidates, now, AdvertisedBy::Record, &[]));
    assert_eq!(remotes(&candidates), [one, two]);
    assert!(!advertise(
        &mut candidates,
        now,
        AdvertisedBy::CallMeMaybe,
        &[two]
    ));
    assert_eq!(remotes(&candidates), [two]);
    // It was heard from: that keeps it.
    candidates.heard(now, from(two), now);
    advertise(&mut candidates, now, AdvertisedBy::CallMeMaybe, &[]);
    assert_eq!(remotes(&candidates), [two]);
}

#[test]
fn only_so_many_are_taken_and_learned() {
    let now = Instant::now();
    let mut candidates = Candidates::default();
    let many: Vec<String> = (1..100).map(|it| format!("192.0.2.2:{it}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    advertise(&mut candidates, now, AdvertisedBy::Record, &many);
    assert_eq!(candidates.iter().count(), MAX_ADVERTISED);
    for host in 10..100 {
        candidates.heard(now + host * SECOND, from(&format!("192.0.2.{host}:1")), now);
    }
    assert_eq!(candidates.iter().count(), MAX_ADVERTISED + MAX_LEARNED);
    assert!(candidates.get(addr("192.0.2.99:1")).is_some(), "the latest");
}

#[test]
fn useless_addresses_are_not_taken() {
    let mut candidates = Candidates::default();
    let useless = [
        "0.0.0.0:1",
        "127.0.0.1:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "192.0.2.2:0",
        "[::]:1",
        "[::1]:1",
        "[ff02::1]:1",
        "[fe80::1]:1",
    ];
    assert!(!advertise(
        &mut candidates,
        Instant::now(),
        AdvertisedBy::Record,
        &useless
    ));
    assert!(candidates.is_empty());
}

#[test]
fn ports_of_an_address_that_answers_are_not_learned() {
    let start = Instant::now();
    let now = start + SECOND;
    let mut candidates = Candidates::default();
    advertise(
        &mut candidates,
        start,
        AdvertisedBy::Record,
        &["192.0.2.2:1"],
    );
    assert!(candidates.heard(now, from("192.0.2.2:2"), start));
    let answering = candidates.get_mut(addr("192.0.2.2:1")).unwrap();
    answering.pong(now, SECOND, Duration::ZERO);
    assert!(!candidates.heard(now, from("192.0.2.2:3"), start));
    assert!(candidates.heard(now, from("192.0.2.9:3"), start));
    // An answer of before the search says nothing.
    assert!(candidates.heard(now, from("192.0.2.2:4"), now + SECOND));
}

#[test]
fn a_failure_holds_down_for_longer_each_time_and_data_clears_it() {
    let now = Instant::now();
    let mut candidate = Candidate::new(addr("192.0.2.2:1"), now);
    for seconds in [5, 10, 20, 40, 60, 60] {
        candidate.hold_down(now);
        assert!(
            candidate.is_held_down(now + (seconds - 1) * SECOND),
            "{seconds}"
        );
        assert!(!candidate.is_held_down(now + seconds * SECOND), "{seconds}");
    }
    candidate.clear_hold_down();
    assert!(!candidate.is_held_down(now));
    assert_eq!(candidate.failures, 0);
}

#[test]
fn a_burst_is_quick_at_first_and_ends_idle() {
    let start = Instant::now();
    let mut candidate = Candidate::new(addr("192.0.2.2:1"), start);
    let mut times = Vec::new();
    while let Some(at) = candidate.next_ping.filter(|at| *at < start + 40 * SECOND) {
        times.push((at - start).as_millis());
        candidate.pinged(at, Duration::ZERO);
    }
    let expected = [
        0, 50, 100, 200, 300, 500, 900, 1700, 2700, 3700, 4700, 24_700,
    ];
    assert_eq!(times, expected);
}

#[test]
fn the_route_chooses_the_source_unless_the_peer_was_just_heard() {
    let now = Instant::now();
    let mut candidates = Candidates::default();
    candidates.heard(now, from("192.0.2.2:1"), now);
    let candidate = candidates.get(addr("192.0.2.2:1")).unwrap();
    let local = from("192.0.2.2:1").local;
    assert_eq!(candidate.source(now, 1), (Some(local), 7777));
    assert_eq!(
        candidate.source(now + LOCAL_ADDRESS_MAX_AGE, 1),
        (None, 7777)
    );
    candidates.keep_locals(&[]);
    let candidate = candidates.get(addr("192.0.2.2:1")).unwrap();
    assert_eq!(candidate.source(now, 1), (None, 1));
}

#[test]
fn the_round_trip_is_smoothed_and_settles() {
    let mut round_trip = RoundTrip::default();
    assert_eq!(round_trip.get(), None);
    round_trip.measured(Duration::from_millis(80));
    round_trip.measured(Duration::from_millis(160));
    assert_eq!(round_trip.get(), Some(Duration::from_millis(90)));
    assert_eq!(round_trip.settled(), None);
    round_trip.measured(Duration::from_millis(90));
    assert_eq!(round_trip.get(), Some(Duration::from_millis(90)));
    assert_eq!(round_trip.settled(), Some(Duration::from_millis(160)));
    // A bad time is forgotten after three measurements, or at once.
    round_trip.measured(Duration::from_millis(40));
    round_trip.measured(Duration::from_millis(30));
    assert_eq!(round_trip.settled(), Some(Duration::from_millis(90)));
    round_trip.begin_anew();
    assert_eq!(round_trip.settled(), None);
}
