//! Clients that stall, flood, lie and send garbage, against the real program: each gets what it deserves, and the
//! others are served meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may"
)]

mod coord_support;

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use coord_support::{Connection, Coord, Node, PATIENCE, request_bytes};
use gretun::proto::api::{RegisterResponse, SignalList};

#[test]
fn malformed_and_oversized_requests_are_refused() {
    let coord = Coord::open();
    let large = "x".repeat(20_000);
    for (request, status) in [
        ("\r\n\r\n".to_owned(), 400),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}".to_owned(), 400),
        ("hello\r\n\r\n".to_owned(), 400),
        ("GET /\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
        ("GET / HTTP/1.1\r\nbroken\r\n\r\n".to_owned(), 400),
        (
            "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n".to_owned(),
            400,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            411,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_owned(),
            413,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 16385\r\n\r\n".to_owned(),
            413,
        ),
        (format!("GET /{large} HTTP/1.1\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nA: {large}\r\n\r\n"), 431),
        (
            format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100)),
            431,
        ),
        (large, 400),
    ] {
        let mut connection = Connection::open(coord.api);
        let reply = connection.send(request.as_bytes());
        let start: String = request.chars().take(60).collect();
        assert_eq!(reply.status, status, "{start}");
        assert!(!reply.error().error.is_empty());
        assert!(reply.head.contains("Connection: close"), "{start}");
        assert!(connection.is_closed(), "{start}");
    }
    assert!(coord.metric("gretun_coord_gate_refusals_total{reason=\"malformed\"}") >= 5.0);
}

#[test]
fn noise_ends_in_a_refusal_or_a_close() {
    let coord = Coord::open();
    let mut noise = vec![0; 64 * 1024];
    getrandom::fill(&mut noise).unwrap();
    for chunk in noise.chunks(1000) {
        let mut connection = Connection::open(coord.api);
        for start in [&b""[..], b"POST /v1/register HTTP/1.1\r\n", b"GET "] {
            let _ = connection
                .0
                .write_all(start)
                .and_then(|()| connection.0.write_all(chunk));
        }
        let _ = connection.0.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = connection.0.read_to_end(&mut rest);
        assert!(
            rest.is_empty() || rest.starts_with(b"HTTP/1.1 4") || rest.starts_with(b"HTTP/1.1 5")
        );
    }
    Node::joined(&coord, "alice");
}

#[test]
fn connections_are_reused_pipelined_and_closed_as_asked() {
    let coord = Coord::open();
    let alice = Node::joined(&coord, "alice");
    let mut connection = Connection::open(coord.api);
    for _ in 0..3 {
        assert_eq!(
            connection
                .send(&alice.signed("GET", "/v1/peers", b""))
                .status,
            200
        );
    }
    let both = [
        alice.signed("GET", "/v1/peers", b""),
        alice.signed("GET", "/v1/nothing", b""),
    ]
    .concat();
    assert_eq!(connection.send(&both).status, 200);
    assert_eq!(connection.read().status, 404);

    assert_eq!(
        connection
            .send(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
            .status,
        200
    );
    assert!(connection.is_closed());
    let mut old = Connection::open(coord.api);
    assert_eq!(old.send(b"GET /healthz HTTP/1.0\r\n\r\n").status, 200);
    assert!(old.is_closed());
}

#[test]
fn a_client_may_ask_before_it_sends_its_body() {
    let coord = Coord::open();
    let alice = Node::new(coord.api, "alice");
    let body = serde_json::to_vec(&alice.registration(None)).unwrap();
    let request = String::from_utf8(alice.signed("POST", "/v1/register", &body)).unwrap();
    let (head, _) = request.split_once("\r\n\r\n").unwrap();
    let mut connection = Connection::open(coord.api);
    connection.write(format!("{head}\r\nExpect: 100-continue\r\n\r\n").as_bytes());
    assert_eq!(connection.read().status, 100);
    connection.write(&body);
    assert_eq!(connection.read().json::<RegisterResponse>().name, "alice");
}

/// A slow byte at a time, half a body, a TLS handshake, nothing at all, answers never read: three hundred such clients
/// hold their connections while honest ones join, poll and signal.
#[test]
fn clients_that_stall_do_not_stop_others() {
    let coord = Coord::open();
    let greedy = Node::joined(&coord, "greedy");
    let stalls: [&[u8]; 5] = [
        b"",
        b"GET /v1/pe",
        b"POST /v1/register HTTP/1.1\r\nContent-Length: 5000\r\n\r\n{\"name\"",
        b"GET /healthz HTTP/1.1\r\nA: b\r\n",
        b"POST /v1/signal HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    ];
    let mut stalled = Vec::new();
    for stall in stalls.iter().cycle().take(250) {
        let mut connection = Connection::open(coord.api);
        connection.write(stall);
        stalled.push(connection);
    }
    for _ in 0..50 {
        // Waits for an answer that it will never read.
        stalled.push(greedy.start_get("/v1/peers?since=0"));
    }

    let started = Instant::now();
    let (alice, bob) = (Node::joined(&coord, "alice"), Node::joined(&coord, "bob"));
    let mut poll = alice.start_get("/v1/signal?wait=30");
    for _ in 0..20 {
        assert_eq!(bob.peers().peers.len(), 2);
    }
    bob.signal(alice.public(), b"x");
    assert_eq!(poll.read().json::<SignalList>().signals.len(), 1);
    let took = started.elapsed();
    println!(
        "joined, listed and signalled among {} stalled clients in {took:?}",
        stalled.len()
    );
    // Far below any deadline of the front end: nobody waited for a stalled client.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// More polls that wait than there are workers, by far.
#[test]
fn polls_that_wait_cost_no_worker() {
    let coord = Coord::start(&["--open", "--pool=10.0.0.0/16"]);
    let nodes: Vec<Node> = (0..100)
        .map(|number| Node::joined(&coord, &format!("node{number}")))
        .collect();
    let generation = nodes[0].peers().generation;
    let mut polls: Vec<Connection> = nodes
        .iter()
        .flat_map(|node| {
            [
                node.start_get("/v1/signal?wait=30"),
                node.start_get(&format!("/v1/peers?since={generation}&wait=30")),
            ]
        })
        .collect();
    let give_up = Instant::now() + PATIENCE;
    while coord.metric("gretun_coord_parked_requests{kind=\"peers\"}") < 100.0 {
        assert!(Instant::now() < give_up);
    }
    let threads = std::fs::read_dir(format!("/proc/{}/task", coord.pid()))
        .unwrap()
        .count();
    println!("{threads} threads, {} polls", polls.len());
    assert!(threads < 60, "{threads}");

    // One signal to each, and one change for all.
    let sender = Node::joined(&coord, "sender");
    for node in &nodes {
        assert_eq!(sender.signal(node.public(), b"x").status, 200);
    }
    for pair in polls.chunks_mut(2) {
        assert_eq!(pair[0].read().json::<SignalList>().signals.len(), 1);
        assert_eq!(pair[1].read().status, 200);
    }
}

/// Bad signatures in the name of a node, as fast as one connection takes them, from several at once. Others are served, the node too.
#[test]
fn a_flood_of_bad_signatures_stops_nobody() {
    let coord = Coord::open();
    let victim = Node::joined(&coord, "victim");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = || {
            let mut connection = Connection::open(coord.api);
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                // Signed for something else.
                let headers = victim.sign("GET", "/v1/signal", b"");
                let request = request_bytes("GET", "/v1/peers?wait=30", &headers, b"");
                assert_eq!(connection.send(&request).status, 401);
                count += 1;
            }
            count
        };
        let flooders: Vec<_> = (0..4).map(|_| scope.spawn(flood)).collect();
        let mut times = Vec::new();
        for number in 1..=20 {
            let started = Instant::now();
            let node = Node::joined(&coord, &format!("node{number}"));
            assert_eq!(node.peers().peers.len(), number);
            assert_eq!(victim.peers().peers.len(), number);
            times.push(started.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        let refused: Vec<u32> = flooders.into_iter().map(|it| it.join().unwrap()).collect();
        times.sort();
        println!(
            "{refused:?} refused; join and list: median {:?}, worst {:?}",
            times[10], times[19]
        );
        assert!(refused.iter().all(|it| *it > 0));
    });
}
