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
    sent_bytes: u32,
    round_trip: Duration,
    /// Answers on their way, and when they come.
    answers: Vec<(Instant, TxId)>,
}

impl Play {
    fn new(path: Path, bound: u16) -> Self {
        let now = Instant::now();
        Play {
            search: MtuSearch::new(now, path, bound, None),
            now,
            sent: 0,
            largest: 0,
            sent_bytes: 0,
            round_trip: ROUND_TRIP,
            answers: Vec::new(),
        }
    }

    fn run(&mut self, time: Duration, fits: impl Fn(u16, u8) -> bool) {
        let end = self.now + time;
        while self.now < end {
            let patience = MtuSearch::patience(self.round_trip);
            let mut next = match self.search.advance(self.now) {
                Step::Send(sizes) => {
                    for size in sizes {
                        self.sent = self.sent.wrapping_add(1);
                        let tx_id = TxId([self.sent; 12]);
                        self.largest = self.largest.max(size);
                        self.sent_bytes += u32::from(size);
                        self.search.sent(size, tx_id);
                        if fits(size, self.sent) {
                            self.answers.push((self.now + self.round_trip, tx_id));
                        }
                    }
                    self.now + patience
                }
                Step::Sleep(until) => until,
            }
            .min(end);
            let (come, rest) = self.answers.iter().partition(|(at, _)| *at <= next);
            self.answers = rest;
            let come: Vec<(Instant, TxId)> = come;
            for (at, tx_id) in come {
                if self.search.answered(tx_id) && self.search.is_answered() {
                    next = next.min(at);
                }
            }
            self.now = next;
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
    // Two of three are lost, in no order.
    let mut play = Play::new(ipv4(), 1500);
    play.run(Duration::from_secs(20), |size, number| {
        size <= 1492 && (number ^ (number >> 2) ^ (number >> 5)) % 3 == 0
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
    play.sent_bytes = 0;
    play.run(Duration::from_secs(60), |_, _| false);
    assert_eq!(play.found(), Some(1500));
    assert!(play.sent_bytes < 4 * 1500, "witnesses alone go on");
    // The path is back, large packets are not.
    play.run(Duration::from_secs(4), |size, _| size <= 1400);
    assert_eq!(play.found(), Some(1400));
}

/// The first volleys are lost, or those after an answer, for less time than makes the path count as lost.
#[test]
fn a_hole_in_the_path_is_no_size_that_does_not_fit() {
    for before in [0, 60, 100, 240, 4000, 4200] {
        let mut play = Play::new(ipv4(), 1500);
        play.run(Duration::from_millis(before), |_, _| true);
        play.run(Duration::from_millis(600), |_, _| false);
        for _ in 0..200 {
            play.run(Duration::from_millis(50), |_, _| true);
            let found = play.found();
            assert!(
                found.is_none_or(|found| found == 1500),
                "{before}: {found:?}"
            );
        }
        assert_eq!(play.found(), Some(1500));
    }
}

#[test]
fn answers_that_come_later_than_a_ping_may_take_are_enough() {
    for round_trip in [1010, 1050, 1100, 1500, 2500] {
        let mut play = Play::new(ipv4(), 1500);
        play.round_trip = Duration::from_millis(round_trip);
        play.run(Duration::from_secs(30), |size, _| size <= 1400);
        assert_eq!(play.found(), Some(1400), "{round_trip} ms");
    }
}

#[test]
fn a_path_that_is_back_is_searched_anew_and_never_left_with_less() {
    let mut play = Play::new(ipv4(), 1500);
    play.run(Duration::from_secs(5), |size, _| size <= 1350);
    play.search.path_is_back();
    for _ in 0..40 {
        play.run(Duration::from_millis(50), |size, _| size <= 1350);
        assert_eq!(play.found(), Some(1350));
    }
    play.search.path_is_back();
    play.run(Duration::from_secs(4), |size, _| size <= 1480);
    assert_eq!(play.found(), Some(1480));
}

#[test]
fn ipv6_promises_1280() {
    let mut play = Play::new(path("[2001:db8::2]:7777"), 1500);
    play.run(Duration::from_secs(4), |size, _| size == WITNESS);
    assert_eq!(play.found(), Some(1280));
}

#[test]
fn the_device_bounds_the_search_and_a_change_of_it_starts_another() {
    let mut play = Play::new(ipv4(), 1500);
    play.run(Duration::from_secs(1), |_, _| true);
    play.search.set_bound(1400);
    assert_eq!(play.found(), Some(1400));
    play.search.set_bound(9000);
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
    let tx_id = late.unwrap().pings[0].tx_id;
    play.run(Duration::from_secs(1), |size, _| size <= 1280);
    assert_eq!((play.found(), play.search.phase), (Some(1280), Phase::Rest));
    assert!(play.search.answered(tx_id));
    play.run(Duration::from_millis(100), |size, _| size <= 1500);
    assert_eq!(play.found(), Some(1500));
}
