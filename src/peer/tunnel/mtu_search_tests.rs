use super::*;

const ROUND_TRIP: Duration = Duration::from_millis(20);

fn path(remote: &str) -> Path {
    Path {
        local: "192.0.2.1".parse().unwrap(),
        port: 7777,
        remote: remote.parse().unwrap(),
    }
}

fn ipv4() -> Path {
    path("198.51.100.2:7777")
}

/// Plays a search against a path until `end`. `fits` tells of each ping, by its size and number, whether it is answered.
struct Play {
    search: MtuSearch,
    now: Instant,
    sent: u8,
    largest: u16,
}

impl Play {
    fn new(path: Path, bound: u16) -> Self {
        let now = Instant::now();
        Play {
            search: MtuSearch::new(now, path, bound, None),
            now,
            sent: 0,
            largest: 0,
        }
    }

    fn run(&mut self, time: Duration, fits: impl Fn(u16, u8) -> bool) {
        let end = self.now + time;
        while self.now < end {
            let step = self.search.advance(self.now, Some(self.now));
            match step {
                Step::Send(sizes) => {
                    let mut answers = Vec::new();
                    for size in sizes {
                        self.sent = self.sent.wrapping_add(1);
                        let tx_id = TxId([self.sent; 12]);
                        self.largest = self.largest.max(size);
                        self.search.sent(size, tx_id);
                        if fits(size, self.sent) {
                            answers.push(tx_id);
                        }
                    }
                    for tx_id in answers {
                        self.search.answered(self.now + ROUND_TRIP, tx_id);
                    }
                    self.now += if self.search.is_answered() {
                        ROUND_TRIP
                    } else {
                        MtuSearch::patience(ROUND_TRIP)
                    };
                }
                Step::ShowLife => panic!("data crosses all the time"),
                Step::Sleep(until) => self.now = until.min(end),
            }
        }
    }

    fn found(&self) -> Option<u16> {
        self.search.path_mtu()
    }
}

#[test]
fn every_size_is_found_to_the_byte() {
    for bound in [1280, 1500, 9000] {
        for hop in [
            700, 1279, 1280, 1281, 1399, 1400, 1449, 1492, 1499, 1500, 1501, 4000, 9000,
        ] {
            let mut play = Play::new(ipv4(), bound);
            play.run(Duration::from_secs(4), |size, _| size <= hop);
            assert_eq!(
                play.found(),
                Some(hop.min(bound)),
                "hop {hop}, device {bound}"
            );
            assert!(play.largest <= bound);
        }
    }
}

#[test]
fn a_well_known_size_is_in_use_after_one_round_trip_and_never_one_that_does_not_fit() {
    let mut play = Play::new(ipv4(), 1500);
    play.run(ROUND_TRIP * 2, |size, _| size <= 1500);
    assert_eq!(play.found(), Some(1500));
    let mut play = Play::new(ipv4(), 9000);
    for _ in 0..40 {
        play.run(Duration::from_millis(100), |size, _| size <= 1492);
        assert!(play.found().is_none_or(|found| found <= 1492));
    }
    assert_eq!(play.found(), Some(1492));
}

#[test]
fn a_lost_ping_is_not_a_size_that_does_not_fit() {
    // Two of three are lost.
    let mut play = Play::new(ipv4(), 1500);
    play.run(Duration::from_secs(20), |size, number| {
        size <= 1492 && number % 3 == 0
    });
    assert!(
        play.found()
            .is_some_and(|found| (1400..=1492).contains(&found)),
        "{:?}",
        play.found()
    );
}

#[test]
fn a_hop_that_shrinks_and_grows_is_followed() {
    let mut play = Play::new(ipv4(), 9000);
    play.run(Duration::from_secs(5), |_, _| true);
    assert_eq!(play.found(), Some(9000));
    for hop in [1500, 1400, 1333] {
        play.run(MTU_CONFIRM_GAP + Duration::from_secs(1), |size, _| {
            size <= hop
        });
        // The first round has taken the tunnel below the hop; narrowing down goes on.
        assert!(
            play.found().is_some_and(|found| found <= hop),
            "{hop}: {:?}",
            play.found()
        );
        play.run(Duration::from_secs(4), |size, _| size <= hop);
        assert_eq!(play.found(), Some(hop));
    }
    play.run(MTU_RAISE_GAP + Duration::from_secs(4), |size, _| {
        size <= 1492
    });
    assert_eq!(play.found(), Some(1492));
}

#[test]
fn silence_alone_is_no_verdict() {
    let mut play = Play::new(ipv4(), 1500);
    play.run(Duration::from_secs(1), |_, _| true);
    let alive_at = play.now;
    play.now += MTU_CONFIRM_GAP;
    for number in 0..20 {
        match play.search.advance(play.now, Some(alive_at)) {
            Step::Send(sizes) => play.search.sent(sizes[0], TxId([number; 12])),
            Step::ShowLife => {}
            Step::Sleep(_) => panic!("nothing was answered"),
        }
        play.now += MtuSearch::patience(ROUND_TRIP);
    }
    assert_eq!(play.found(), Some(1500));
    // Data crosses again, large packets do not.
    play.run(Duration::from_secs(4), |size, _| size <= 1400);
    assert_eq!(play.found(), Some(1400));
}

#[test]
fn pings_of_before_the_path_worked_are_no_verdict() {
    let mut play = Play::new(ipv4(), 1500);
    for number in 0..20 {
        if let Step::Send(sizes) = play.search.advance(play.now, None) {
            for size in sizes {
                play.search.sent(size, TxId([number; 12]));
            }
        }
        play.now += MtuSearch::patience(ROUND_TRIP);
    }
    play.search.path_works(play.now, true);
    for _ in 0..20 {
        play.run(ROUND_TRIP, |_, _| true);
        assert!(play.found().is_none_or(|found| found == 1500));
    }
    assert_eq!(play.found(), Some(1500));
}

#[test]
fn after_an_outage_the_size_is_searched_anew() {
    let mut play = Play::new(ipv4(), 1500);
    play.run(Duration::from_secs(5), |size, _| size <= 1400);
    for (was_lost, expected) in [(false, 1400), (true, 1480)] {
        play.search.path_works(play.now, was_lost);
        play.run(Duration::from_secs(4), |size, _| size <= 1480);
        assert_eq!(play.found(), Some(expected));
    }
}

#[test]
fn ipv6_promises_1280() {
    let mut play = Play::new(path("[2001:db8::2]:7777"), 1500);
    play.run(Duration::from_secs(4), |_, _| false);
    assert_eq!(play.found(), Some(1280));
}

#[test]
fn the_device_bounds_the_search_and_a_change_of_it_starts_another() {
    let mut play = Play::new(ipv4(), 1500);
    play.run(Duration::from_secs(1), |_, _| true);
    play.search.set_bound(play.now, 1400);
    assert_eq!(play.found(), Some(1400));
    play.search.set_bound(play.now, 9000);
    play.run(Duration::from_secs(1), |_, _| true);
    assert_eq!(play.found(), Some(9000));
}

/// The path was quick when its round trip was measured and is slow now: answers come when their round is over.
#[test]
fn an_answer_that_comes_late_lets_the_tunnel_grow() {
    let mut play = Play::new(ipv4(), 1500);
    play.run(Duration::from_secs(5), |size, _| size <= 1280);
    assert_eq!(play.found(), Some(1280));
    // The next try of larger sizes: nothing comes in time.
    while play.search.phase != Phase::Raise {
        play.run(Duration::from_millis(1), |size, _| size <= 1280);
    }
    let late = play.search.round.iter().find(|it| it.size == 1500);
    let tx_id = *late.unwrap().tx_ids.first().unwrap();
    play.run(Duration::from_secs(1), |size, _| size <= 1280);
    assert_eq!((play.found(), play.search.phase), (Some(1280), Phase::Rest));
    assert!(play.search.answered(play.now, tx_id));
    play.run(Duration::from_millis(100), |size, _| size <= 1500);
    assert_eq!(play.found(), Some(1500));
}
