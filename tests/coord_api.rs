//! The coordinator's API against the real program: registration, signatures, polls, signals, STUN, TLS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may"
)]

mod coord_support;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use coord_support::{Connection, Coord, Node, PATIENCE, nonce, now_ms, request_bytes};
use gretun::proto::api::{PeerList, RegisterResponse, SignalList, SignedHeaders, sign_request};
use gretun::proto::stun::{
    StunMessage, TxId, binding_request, binding_request_change_port, decode,
};

#[test]
fn peers_join_with_keys_and_find_each_other() {
    let coord = Coord::start(&[]);
    let (alice, bob) = (Node::new(coord.api, "alice"), Node::new(coord.api, "Alice"));
    assert_eq!(alice.register(None).refusal().0, 403);
    let key = coord.key(&[]);
    let joined: RegisterResponse = alice.register(Some(&key)).json();
    assert_eq!(
        (joined.name.as_str(), joined.peers.peers.len()),
        ("alice", 0)
    );
    let ips: Vec<String> = joined.tunnel_ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["100.64.0.2", "fd67:7265:7475:6e00::2"]);
    assert_eq!(joined.stun_ports, [coord.stun.port()]);
    assert_eq!(joined.networks.len(), 2);

    let (status, text) = bob.register(Some(&key)).refusal();
    assert_eq!(status, 403);
    assert!(
        text.contains("used already") && text.contains("--reusable"),
        "{text}"
    );
    let joined: RegisterResponse = bob.register(Some(&coord.key(&["--tag", "lab"]))).json();
    assert_eq!(joined.name, "alice-2");
    assert_eq!(joined.peers.peers[0].node_key, alice.public());

    assert_eq!(bob.publish("192.0.2.2:7777").status, 200);
    let seen = alice.peers();
    assert_eq!(seen.peers.len(), 1);
    let peer = &seen.peers[0];
    assert_eq!((peer.name.as_str(), peer.online), ("alice-2", true));
    assert_eq!(
        (peer.node_key, peer.disco_key),
        (bob.public(), bob.disco_key)
    );
    assert_eq!(peer.endpoints[0].addr.to_string(), "192.0.2.2:7777");

    // Coming back needs no key and gives the same.
    let again: RegisterResponse = alice.register(None).json();
    assert_eq!(
        again.tunnel_ips,
        [
            ips[0].parse::<std::net::IpAddr>().unwrap(),
            ips[1].parse().unwrap()
        ]
    );

    let listed = coord.cli(&["peers", "list"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.contains("alice-2") && listed.contains("lab"),
        "{listed}"
    );
    assert!(coord.cli(&["peers", "remove", "alice-2"]).status.success());
    assert!(alice.peers().peers.is_empty());
    assert_eq!(bob.get("/v1/peers").refusal().0, 403);
}

#[test]
fn only_a_good_signature_counts() {
    let coord = Coord::open();
    let alice = Node::joined(&coord, "alice");
    let send = |bytes: &[u8]| Connection::open(coord.api).send(bytes).refusal();
    let good = alice.sign("GET", "/v1/peers", b"");

    let (status, text) = send(b"GET /v1/peers HTTP/1.1\r\n\r\n");
    assert_eq!(status, 401);
    assert!(text.contains("x-gretun-node"), "{text}");
    // Signed for another path, query, method or body.
    assert_eq!(send(&request_bytes("GET", "/v1/signal", &good, b"")).0, 401);
    assert_eq!(
        send(&request_bytes("GET", "/v1/peers?since=1", &good, b"")).0,
        401
    );
    assert_eq!(send(&request_bytes("GET", "/v1/peers", &good, b"x")).0, 401);
    // Signed by another.
    let mallory = Node::joined(&coord, "mallory");
    let forged = SignedHeaders {
        node: alice.public(),
        ..mallory.sign("POST", "/v1/endpoints", br#"{"endpoints":[]}"#)
    };
    let (status, text) = send(&request_bytes(
        "POST",
        "/v1/endpoints",
        &forged,
        br#"{"endpoints":[]}"#,
    ));
    assert_eq!(status, 401);
    assert!(text.contains("signature does not match"), "{text}");
    // None of these used the good one up.
    let reply = Connection::open(coord.api).send(&request_bytes("GET", "/v1/peers", &good, b""));
    assert_eq!(reply.status, 200);
    assert!(coord.metric("gretun_coord_refusals_total{reason=\"bad_signature\"}") >= 4.0);
}

#[test]
fn stale_and_repeated_requests_are_refused() {
    let coord = Coord::open();
    let alice = Node::joined(&coord, "alice");
    let at = |ahead_ms: i64| {
        let time = now_ms().checked_add_signed(ahead_ms).unwrap();
        let headers = sign_request(&alice.secret, "GET", "/v1/peers", b"", time, nonce());
        request_bytes("GET", "/v1/peers", &headers, b"")
    };
    for stale in [-70_000, 70_000] {
        let (status, text) = Connection::open(coord.api).send(&at(stale)).refusal();
        assert_eq!(status, 401);
        assert!(text.contains("clock skew"), "{text}");
    }
    let good = at(30_000);
    assert_eq!(Connection::open(coord.api).send(&good).status, 200);
    let (status, text) = Connection::open(coord.api).send(&good).refusal();
    assert_eq!(status, 401);
    assert!(text.contains("seen before"), "{text}");
    // A registration too.
    let bob = Node::new(coord.api, "bob");
    let body = serde_json::to_vec(&bob.registration(None)).unwrap();
    let register = bob.signed("POST", "/v1/register", &body);
    assert_eq!(Connection::open(coord.api).send(&register).status, 200);
    assert_eq!(Connection::open(coord.api).send(&register).status, 401);
}

#[test]
fn a_node_changes_nothing_but_its_own_record() {
    let coord = Coord::open();
    let (alice, bob) = (Node::joined(&coord, "alice"), Node::joined(&coord, "bob"));
    alice.publish("192.0.2.1:1");
    let before = bob.peers().peers;

    // Its name, its disco key, its endpoints: there is no way to name another's record but to sign as the other.
    let mut copy = bob.registration(None);
    copy.name = "alice".to_owned();
    let renamed: RegisterResponse = bob.post("/v1/register", &copy).json();
    assert_eq!(renamed.name, "alice-2");
    copy.disco_key = alice.disco_key;
    let (status, text) = bob.post("/v1/register", &copy).refusal();
    assert_eq!(status, 409);
    assert!(text.contains("disco key"), "{text}");
    bob.publish("198.51.100.1:1");
    let body = format!(r#"{{"endpoints":[],"node_key":"{}"}}"#, alice.public());
    let sent =
        Connection::open(coord.api).send(&bob.signed("POST", "/v1/endpoints", body.as_bytes()));
    assert_eq!(sent.status, 200);
    assert_eq!(bob.peers().peers, before);
}

#[test]
fn strangers_are_told_to_register() {
    let coord = Coord::open();
    let alice = Node::joined(&coord, "alice");
    let stranger = Node::new(coord.api, "stranger");
    for reply in [
        stranger.get("/v1/peers?since=0&wait=5"),
        stranger.get("/v1/signal?wait=5"),
        stranger.publish("192.0.2.1:1"),
        stranger.signal(alice.public(), b"x"),
    ] {
        let (status, text) = reply.refusal();
        assert_eq!(status, 403);
        assert!(text.contains("register first"), "{text}");
    }
}

#[test]
fn requests_that_make_no_sense_get_a_reason() {
    let coord = Coord::open();
    let alice = Node::joined(&coord, "alice");
    let post = |path, body: &[u8]| {
        Connection::open(coord.api)
            .send(&alice.signed("POST", path, body))
            .refusal()
    };
    assert_eq!(post("/v1/endpoints", b"").0, 400);
    assert_eq!(post("/v1/endpoints", b"[").0, 400);
    assert_eq!(
        post(
            "/v1/endpoints",
            b"{\"endpoints\":[{\"addr\":\"x\",\"kind\":\"local\"}]}"
        )
        .0,
        400
    );
    assert_eq!(post("/v1/endpoints", &b"[".repeat(10_000)).0, 400);
    assert_eq!(post("/v1/register", b"{}").0, 400);
    assert_eq!(post("/v1/nothing", b"{}").0, 404);
    assert_eq!(post("/v1/peers", b"{}").0, 405);
    assert_eq!(alice.get("/v1/peers?since=x").refusal().0, 400);
    assert_eq!(alice.get("/v1/peers?wait=-1").refusal().0, 400);
    assert_eq!(alice.get("/metrics").refusal().0, 404);
    let mut odd = alice.registration(None);
    odd.name = "My Host.example.org".to_owned();
    let (status, text) = alice.post("/v1/register", &odd).refusal();
    assert_eq!(status, 400);
    assert!(text.contains("`my-host`"), "{text}");
}

#[test]
fn a_full_pool_is_a_conflict() {
    let coord = Coord::start(&["--open", "--pool=10.0.0.0/30"]);
    Node::joined(&coord, "alice");
    let (status, text) = Node::new(coord.api, "bob").register(None).refusal();
    assert_eq!(status, 409);
    assert!(
        text.contains("10.0.0.0/30") && text.contains("peers remove"),
        "{text}"
    );
}

#[test]
fn a_signal_answers_the_poll_that_waits_for_it_at_once() {
    let coord = Coord::open();
    let (alice, bob) = (Node::joined(&coord, "alice"), Node::joined(&coord, "bob"));
    let mut times = Vec::new();
    let mut alice_connection = Connection::open(coord.api);
    let mut bob_connection = Connection::open(coord.api);
    for round in 0..20_u8 {
        alice_connection.write(&alice.signed("GET", "/v1/signal?wait=30", b""));
        wait_until(|| coord.metric("gretun_coord_parked_requests{kind=\"signal\"}") == 1.0);
        let body = serde_json::to_vec(&gretun::proto::api::SignalRequest::new(
            alice.public(),
            &[round],
        ))
        .unwrap();
        let request = bob.signed("POST", "/v1/signal", &body);
        let sent = Instant::now();
        bob_connection.write(&request);
        let got: SignalList = alice_connection.read().json();
        times.push(sent.elapsed());
        assert_eq!(bob_connection.read().status, 200);
        assert_eq!(got.signals.len(), 1);
        assert_eq!(
            (got.signals[0].from, got.signals[0].envelope()),
            (bob.public(), Some(vec![round]))
        );
    }
    times.sort();
    println!(
        "signal to parked poll: median {:?}, worst {:?}",
        times[10], times[19]
    );
    // A hundredth of this is usual; a poll that waits for a tick or a timeout would need more.
    assert!(times[10] < Duration::from_millis(100), "{times:?}");
}

#[test]
fn news_of_peers_answers_the_polls_that_wait() {
    let coord = Coord::open();
    let (alice, bob) = (Node::joined(&coord, "alice"), Node::joined(&coord, "bob"));
    let generation = alice.peers().generation;
    // Old news comes at once, however long the wait.
    let at_once: PeerList = alice.get("/v1/peers?since=0&wait=30").json();
    assert_eq!(at_once.generation, generation);

    let mut poll = alice.start_get(&format!("/v1/peers?since={generation}&wait=30"));
    wait_until(|| coord.metric("gretun_coord_parked_requests{kind=\"peers\"}") == 1.0);
    bob.publish("192.0.2.2:2");
    let news: PeerList = poll.read().json();
    assert!(news.generation > generation);
    assert_eq!(news.peers[0].endpoints.len(), 1);

    // An unchanged publication is no news.
    let mut poll = alice.start_get(&format!("/v1/peers?since={}&wait=1", news.generation));
    bob.publish("192.0.2.2:2");
    let same: PeerList = poll.read().json();
    assert_eq!(same, news);
}

#[test]
fn a_poll_ends_when_its_wait_does() {
    let coord = Coord::open();
    let alice = Node::joined(&coord, "alice");
    let started = Instant::now();
    let list: SignalList = alice.get("/v1/signal?wait=1").json();
    assert!(list.signals.is_empty());
    assert!(started.elapsed() >= Duration::from_secs(1));
    let list: SignalList = alice.get("/v1/signal").json();
    assert!(list.signals.is_empty());
}

#[test]
fn a_second_poll_takes_the_place_of_the_first() {
    let coord = Coord::open();
    let (alice, bob) = (Node::joined(&coord, "alice"), Node::joined(&coord, "bob"));
    let mut given_up = alice.start_get("/v1/signal?wait=30");
    wait_until(|| coord.metric("gretun_coord_parked_requests{kind=\"signal\"}") == 1.0);
    let mut current = alice.start_get("/v1/signal?wait=30");
    let nothing: SignalList = given_up.read().json();
    assert!(nothing.signals.is_empty());
    bob.signal(alice.public(), b"x");
    let news: SignalList = current.read().json();
    assert_eq!(news.signals.len(), 1);
}

#[test]
fn sixty_four_signals_wait_and_the_oldest_goes() {
    let coord = Coord::open();
    let (alice, bob) = (Node::joined(&coord, "alice"), Node::joined(&coord, "bob"));
    for number in 0..70_u8 {
        assert_eq!(bob.signal(alice.public(), &[number]).status, 200);
    }
    let expected: Vec<Vec<u8>> = (6..70).map(|number| vec![number]).collect();
    assert_eq!(alice.signals(), expected);
    assert!(alice.signals().is_empty());
    assert_eq!(
        coord.metric("gretun_coord_signals_total{outcome=\"dropped_full\"}"),
        6.0
    );

    let nobody = Node::new(coord.api, "nobody");
    assert_eq!(bob.signal(nobody.public(), b"x").refusal().0, 404);
    assert_eq!(bob.signal(alice.public(), b"").refusal().0, 400);
    assert_eq!(bob.signal(alice.public(), &[0; 4000]).refusal().0, 400);
}

#[test]
fn a_node_that_floods_is_told_to_wait_and_others_are_not() {
    let coord = Coord::open();
    let (alice, bob) = (Node::joined(&coord, "alice"), Node::joined(&coord, "bob"));
    let mut connection = Connection::open(coord.api);
    let slowed = (0..2000)
        .map(|_| connection.send(&alice.signed("GET", "/v1/signal", b"")))
        .find(|reply| reply.status != 200)
        .expect("2000 requests in a row");
    assert_eq!(slowed.status, 429);
    assert!(
        slowed.head.contains("Retry-After: 1\r\n"),
        "{}",
        slowed.head
    );
    assert_eq!(bob.get("/v1/signal").status, 200);
}

#[test]
fn stun_tells_the_address_and_drops_junk() {
    let coord = Coord::open();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(coord.stun).unwrap();
    let request = binding_request(TxId([7; 12]));
    let answer_like = gretun::proto::stun::binding_success(TxId([7; 12]), coord.stun);
    for junk in [&b""[..], b"x", &[0; 1400], &request[..19], &answer_like] {
        socket.send(junk).unwrap();
    }
    socket.send(&request).unwrap();
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(
        decode(&buffer[..length]),
        Ok(StunMessage::Success {
            tx_id: TxId([7; 12]),
            mapped: socket.local_addr().unwrap()
        })
    );
    assert_eq!(coord.metric("gretun_coord_stun_answers_total"), 1.0);
    let dropped = |reason| {
        coord.metric(&format!(
            "gretun_coord_stun_drops_total{{reason=\"{reason}\"}}"
        ))
    };
    assert_eq!((dropped("not_stun"), dropped("not_request")), (4.0, 1.0));
}

#[test]
fn stun_answers_from_its_other_port_when_asked_to() {
    // One port of its own is what every coordinator of these tests has.
    let coord = Coord::start(&["--open", "--stun-listen=127.0.0.1:0"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = binding_request_change_port(TxId([7; 12]));
    socket.send_to(&request, coord.stun).unwrap();
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(from.ip(), coord.stun.ip());
    assert_ne!(from.port(), coord.stun.port());
    assert_eq!(
        decode(&buffer[..length]),
        Ok(StunMessage::Success {
            tx_id: TxId([7; 12]),
            mapped: socket.local_addr().unwrap()
        })
    );
    assert!(length <= 32, "{length} bytes for {}", request.len());
}

#[test]
fn stun_without_another_port_says_so() {
    let coord = Coord::open();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = binding_request_change_port(TxId([7; 12]));
    socket.send_to(&request, coord.stun).unwrap();
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer).unwrap();
    let tx_id = TxId([7; 12]);
    let refused = StunMessage::Error { tx_id, code: 420 };
    assert_eq!(decode(&buffer[..length]), Ok(refused));
}

#[test]
fn stun_changes_its_port_only_so_often() {
    // One port of its own is what every coordinator of these tests has.
    let coord = Coord::start(&["--open", "--stun-listen=127.0.0.1:0"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let request = binding_request_change_port(TxId([7; 12]));
    // Paced, so that no buffer overflows, and still far above the rate.
    for sent in 1..=1000 {
        socket.send_to(&request, coord.stun).unwrap();
        if sent % 50 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    let limited = "gretun_coord_stun_drops_total{reason=\"rate_limited\"}";
    let deadline = std::time::Instant::now() + PATIENCE;
    while coord.metric(limited) == 0.0 {
        assert!(std::time::Instant::now() < deadline, "none was dropped");
    }
}

#[test]
fn health_is_told_to_anybody() {
    let coord = Coord::open();
    for addr in [coord.api, coord.metrics] {
        let reply = Connection::open(addr).send(b"GET /healthz HTTP/1.1\r\n\r\n");
        assert_eq!((reply.status, &reply.body[..]), (200, &b"ok\n"[..]));
    }
}

#[test]
fn a_stop_answers_who_waits_and_ends_well() {
    let coord = Coord::open();
    let alice = Node::joined(&coord, "alice");
    let mut poll = alice.start_get("/v1/signal?wait=30");
    wait_until(|| coord.metric("gretun_coord_parked_requests{kind=\"signal\"}") == 1.0);
    let mut idle = Connection::open(coord.api);
    let started = Instant::now();
    coord.terminate();
    let nothing: SignalList = poll.read().json();
    assert!(nothing.signals.is_empty());
    assert!(poll.is_closed() && idle.is_closed());
    let (status, dir) = coord.stop();
    assert!(status.success());
    assert!(started.elapsed() < Duration::from_secs(4));
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    assert_eq!(left, ["coord.redb"]);
}

#[test]
fn tls_is_spoken_when_there_is_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let coord = Coord::start(&[
        "--open",
        "--cert",
        cert.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
    ]);

    // The client that the daemon has.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root = reqwest::Certificate::from_der(made.cert.der()).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([root])
        .build()
        .unwrap();
    let alice = Node::new(coord.api, "alice");
    let body = serde_json::to_vec(&alice.registration(None)).unwrap();
    let mut request = client.post(format!("https://{}/v1/register", coord.api));
    for (name, value) in alice.sign("POST", "/v1/register", &body).pairs() {
        request = request.header(name, value);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let text = runtime.block_on(async {
        request
            .body(body)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    });
    let joined: RegisterResponse = serde_json::from_str(&text).unwrap();
    assert_eq!(joined.name, "alice");

    // Plain HTTP on the TLS port is closed, and disturbs nobody.
    let mut plain = Connection::open(coord.api);
    plain.write(b"GET /healthz HTTP/1.1\r\n\r\n");
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut plain.0, &mut rest);
    assert!(!rest.starts_with(b"HTTP"));
}

fn wait_until(condition: impl Fn() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < give_up, "waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}
