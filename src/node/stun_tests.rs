use rand_chacha::rand_core::SeedableRng as _;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

struct Bench {
    client: StunClient,
    now: Instant,
    locals: Vec<IpAddr>,
    rng: ChaCha20Rng,
    out: VecDeque<Output>,
    counters: Counters,
}

impl Bench {
    fn new(servers: &[&str]) -> Self {
        let mut bench = Bench {
            client: StunClient::default(),
            now: Instant::now(),
            locals: vec!["192.168.1.2".parse().unwrap()],
            rng: ChaCha20Rng::from_seed([1; 32]),
            out: VecDeque::new(),
            counters: Counters::default(),
        };
        let servers = servers.iter().map(|it| addr(it)).collect();
        bench.client.set_servers(bench.now, servers);
        bench
    }

    /// Lets time pass and gives the requests sent, with when.
    fn pass(&mut self, time: Duration) -> Vec<(Duration, SocketAddr, TxId)> {
        let begin = self.now;
        let end = begin + time;
        let mut sent = Vec::new();
        while let Some(at) = self.client.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.client.handle_timeout(
                self.now,
                (&self.locals, 7777),
                &mut self.rng,
                &mut self.out,
                &mut self.counters,
            );
            while let Some(Output::Send(Datagram { to, data, .. })) = self.out.pop_front() {
                let Ok(StunMessage::Request { tx_id, .. }) = stun::decode(&data) else {
                    panic!("no request");
                };
                sent.push((self.now - begin, to, tx_id));
            }
        }
        self.now = end;
        sent
    }

    fn answer(&mut self, from: &str, tx_id: TxId, mapped: &str) -> Result<(), DropReason> {
        let data = stun::binding_success(tx_id, addr(mapped));
        self.client
            .handle_datagram(self.now, addr(from), &data, &mut self.rng)
    }

    /// All servers answer with these addresses.
    fn answered(servers: &[(&str, &str)]) -> Self {
        let addrs: Vec<&str> = servers.iter().map(|(server, _)| *server).collect();
        let mut bench = Bench::new(&addrs);
        for (_, to, tx_id) in bench.pass(MS) {
            let (_, mapped) = servers.iter().find(|(it, _)| addr(it) == to).unwrap();
            bench.answer(&to.to_string(), tx_id, mapped).unwrap();
        }
        bench
    }
}

#[test]
fn an_unanswered_request_is_repeated_quickly_and_then_only_keeps_the_mapping() {
    let mut bench = Bench::new(&["203.0.113.1:3478"]);
    let sent = bench.pass(5000 * MS);
    let times: Vec<u128> = sent.iter().map(|(at, ..)| at.as_millis()).collect();
    assert_eq!(times, [0, 100, 300, 700, 1500, 3100]);
    assert!(sent.iter().all(|(_, _, tx_id)| *tx_id == sent[0].2));
    let later = bench.pass(24_000 * MS);
    assert_ne!(later[0].2, sent[0].2);
    let (at, ..) = later[0];
    assert!((18_000..23_000).contains(&at.as_millis()), "{at:?}");
}

#[test]
fn all_servers_are_asked_at_once_and_rest_once_they_answered() {
    let mut bench = Bench::answered(&[
        ("203.0.113.1:3478", "198.51.100.1:5000"),
        ("203.0.113.1:3479", "198.51.100.1:5000"),
    ]);
    assert_eq!(bench.client.mapped(), [addr("198.51.100.1:5000")]);
    assert_eq!(bench.pass(19_000 * MS), []);
    assert!(bench.pass(6_000 * MS).len() >= 2);
}

#[test]
fn the_nat_is_told_from_the_answers() {
    let two = |one, other| Bench::answered(&[("203.0.113.1:1", one), ("203.0.113.1:2", other)]);
    let cases = [
        (
            two("198.51.100.1:5", "198.51.100.1:5"),
            NatMapping::PortIndependent,
        ),
        (
            two("198.51.100.1:5", "198.51.100.1:6"),
            NatMapping::AddressAndPortDependent,
        ),
        (two("192.168.1.2:5", "192.168.1.2:5"), NatMapping::None),
        (
            Bench::answered(&[("203.0.113.1:1", "198.51.100.1:5")]),
            NatMapping::Unknown,
        ),
        (Bench::new(&["203.0.113.1:1"]), NatMapping::Unknown),
    ];
    for (bench, expected) in cases {
        assert_eq!(bench.client.nat(&bench.locals), expected);
    }
}

#[test]
fn answers_count_only_from_who_was_asked_and_once() {
    let server = "203.0.113.1:3478";
    let mut bench = Bench::new(&[server]);
    let (_, _, tx_id) = bench.pass(MS)[0];
    let mapped = "198.51.100.1:5000";
    let other = Err(DropReason::Unsolicited);
    assert_eq!(bench.answer("203.0.113.9:3478", tx_id, mapped), other);
    assert_eq!(bench.answer(server, TxId([0; 12]), mapped), other);
    assert_eq!(bench.client.mapped(), []);
    assert_eq!(bench.answer(server, tx_id, mapped), Ok(()));
    assert_eq!(bench.answer(server, tx_id, mapped), other);
    let request = stun::binding_request(tx_id);
    let handled = bench
        .client
        .handle_datagram(bench.now, addr(server), &request, &mut bench.rng);
    assert_eq!(handled, Err(DropReason::WrongChannel));
}

#[test]
fn a_refresh_asks_at_once_but_not_twice() {
    let mut bench = Bench::answered(&[("203.0.113.1:3478", "198.51.100.1:5000")]);
    bench.pass(2000 * MS);
    bench.client.refresh(bench.now);
    let first = bench.pass(MS);
    assert_eq!(first.len(), 1);
    // The request under way stays valid.
    bench.client.refresh(bench.now);
    assert_eq!(bench.pass(MS), []);
    let answered = bench.answer("203.0.113.1:3478", first[0].2, "198.51.100.1:6000");
    assert_eq!(answered, Ok(()));
    assert_eq!(bench.client.mapped(), [addr("198.51.100.1:6000")]);
    bench.client.refresh(bench.now);
    assert_eq!(bench.pass(MS), []);
}

#[test]
fn after_a_change_of_addresses_what_no_server_confirms_is_given_up() {
    let mut bench = Bench::answered(&[("203.0.113.1:3478", "198.51.100.1:5000")]);
    bench.client.restart(bench.now);
    bench.pass(1000 * MS);
    assert_eq!(bench.client.mapped().len(), 1);
    bench.pass(4000 * MS);
    assert_eq!(bench.client.mapped(), []);
}

#[test]
fn a_silent_server_does_not_void_what_it_said_before() {
    let mut bench = Bench::answered(&[("203.0.113.1:3478", "198.51.100.1:5000")]);
    bench.pass(120_000 * MS);
    assert_eq!(bench.client.mapped().len(), 1);
}

#[test]
fn a_server_of_a_family_without_an_address_waits_for_one() {
    let mut bench = Bench::new(&["[2001:db8::1]:3478"]);
    assert_eq!(bench.pass(1000 * MS), []);
    assert_eq!(bench.client.poll_timeout(), None);
    bench.locals.push("2001:db8::2".parse().unwrap());
    bench.client.restart(bench.now);
    assert_eq!(bench.pass(MS).len(), 1);
}

#[test]
fn servers_that_stay_keep_what_they_said() {
    let mut bench = Bench::answered(&[("203.0.113.1:3478", "198.51.100.1:5000")]);
    let servers = vec![addr("203.0.113.1:3478"), addr("203.0.113.2:3478")];
    bench.client.set_servers(bench.now, servers);
    let sent = bench.pass(MS);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1, addr("203.0.113.2:3478"));
    assert_eq!(bench.client.mapped().len(), 1);
    bench
        .client
        .set_servers(bench.now, vec![addr("203.0.113.2:3478")]);
    assert_eq!(bench.client.mapped(), []);
}

#[test]
fn an_address_that_nobody_can_send_to_is_no_answer() {
    for mapped in [
        "0.0.0.0:7777",
        "203.0.113.1:0",
        "224.0.0.1:7777",
        "255.255.255.255:1",
        "127.0.0.1:1",
        "[::ffff:224.0.0.1]:1",
        "[::ffff:203.0.113.1]:1",
    ] {
        let mut bench = Bench::new(&["198.51.100.1:3478"]);
        let (_, _, tx_id) = bench.pass(Duration::ZERO)[0];
        let answer = bench.answer("198.51.100.1:3478", tx_id, mapped);
        assert_eq!(answer, Err(DropReason::Malformed), "{mapped}");
        assert_eq!(bench.client.mapped(), []);
    }
}
