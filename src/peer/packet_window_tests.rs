use super::*;

const MS: Duration = Duration::from_millis(1);

#[test]
fn no_second_holds_more_than_the_cap() {
    let start = Instant::now();
    let mut limiter = PacketWindow::default();
    let mut sent = Vec::new();
    for step in 0..5000 {
        let now = start + step * MS;
        if limiter.take(now, Budget::Other) {
            sent.push(now);
        }
    }
    let most = sent
        .iter()
        .map(|from| {
            let within = |at: &&Instant| *at >= from && **at < *from + WINDOW;
            sent.iter().filter(within).count()
        })
        .max();
    assert_eq!(most, Some(MAX_PACKETS_PER_SECOND));
    assert_eq!(sent.len(), 5 * MAX_PACKETS_PER_SECOND);
}

#[test]
fn pings_leave_room_for_the_rest() {
    let now = Instant::now();
    let mut limiter = PacketWindow::default();
    let take =
        |limiter: &mut PacketWindow, budget| (0..200).filter(|_| limiter.take(now, budget)).count();
    assert_eq!(take(&mut limiter, Budget::Ping), MAX_PINGS_PER_SECOND);
    let rest = MAX_PACKETS_PER_SECOND - MAX_PINGS_PER_SECOND;
    assert_eq!(take(&mut limiter, Budget::Other), rest);
}

#[test]
fn there_is_room_when_it_was_foretold_and_not_before() {
    let start = Instant::now();
    let mut limiter = PacketWindow::default();
    let mut now = start;
    while limiter.take(now, Budget::Ping) {
        now += 3 * MS;
    }
    let room_at = limiter.room_at(now, Budget::Ping);
    assert!(room_at > now);
    assert!(!limiter.take(room_at - MS, Budget::Ping));
    assert!(limiter.take(room_at, Budget::Ping));
}
