//! Deadlines and limits, in virtual time and from addresses that a test does not have. `tests/coord_hostile.rs` tests the front
//! end of the real program against real clients.

use std::future::Future;

use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::proto::api::MAX_BODY;

fn front_end(max_connections: usize) -> Arc<FrontEnd> {
    let nobody = PathBuf::from("/nonexistent/http.sock");
    FrontEnd::new(
        nobody,
        RequestPermits::new(),
        max_connections,
        Clock::start(),
        Metrics::new().unwrap(),
    )
}

fn from(text: &str) -> SocketAddr {
    format!("{text}:1000").parse().unwrap()
}

/// Serves one end of a pipe; gives the other end, and how it ended.
fn client(buffer: usize) -> (DuplexStream, impl Future<Output = Result<(), Ended>>) {
    let (client, mut server) = duplex(buffer);
    let (_keep, stop) = watch::channel(false);
    let mut connection = Connection {
        admitted: Admitted::new(&front_end(10), from("192.0.2.1")).unwrap(),
        listener: Listener::Api,
        stop,
    };
    let head_by = Instant::now() + HEAD_DEADLINE;
    let served = async move {
        let _keep = _keep;
        connection.requests(&mut server, head_by).await
    };
    (client, served)
}

fn status(ended: Result<(), Ended>) -> u16 {
    match ended {
        Err(Ended::Refused(refused)) => refused.status(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_drips_ends_at_its_deadline() {
    let (mut client, served) = client(1024);
    let started = Instant::now();
    let drip = async {
        loop {
            let _ = client.write_all(b"A").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        ended = served => assert_eq!(status(ended), 408),
        () = drip => {}
    }
    assert_eq!(started.elapsed(), HEAD_DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_ends_at_its_deadline() {
    let (mut client, served) = client(1024);
    let started = Instant::now();
    client
        .write_all(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n1234")
        .await
        .unwrap();
    assert_eq!(status(served.await), 408);
    assert_eq!(started.elapsed(), BODY_DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_is_closed_without_a_word() {
    let (_client, served) = client(1024);
    let started = Instant::now();
    assert!(served.await.is_ok());
    assert_eq!(started.elapsed(), HEAD_DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_taken_is_given_up() {
    let (mut client, served) = client(16);
    // Nobody reads the `100 Continue`, which is longer than the pipe.
    let request = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    let (_, ended) = tokio::join!(client.write_all(request), served);
    assert!(matches!(ended, Err(Ended::NotTaken)), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn no_answer_behind_the_gate_is_told() {
    let (mut client, served) = client(1024);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(status(served.await), 504);
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let (mut slow, served) = client(64 * 1024);
    slow.write_all(&b"A".repeat(MAX_HEAD)).await.unwrap();
    assert_eq!(status(served.await), 431);

    let (mut large, served) = client(1024);
    let head = format!(
        "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
        MAX_BODY + 1
    );
    large.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(status(served.await), 413);
}

#[test]
fn connections_are_limited_per_source_and_in_all() {
    let front_end = front_end(CONNECTIONS_PER_SOURCE + 2);
    let flood: Vec<Admitted> = (0..CONNECTIONS_PER_SOURCE)
        .map(|_| Admitted::new(&front_end, from("192.0.2.1")).unwrap())
        .collect();
    let refused = Admitted::new(&front_end, from("192.0.2.1"));
    assert!(matches!(refused, Err(Refused::TooMany)));
    let _two = [
        Admitted::new(&front_end, from("192.0.2.2")).unwrap(),
        Admitted::new(&front_end, from("[2001:db8::1]")).unwrap(),
    ];
    assert!(Admitted::new(&front_end, from("192.0.2.3")).is_err());
    drop(flood);
    assert!(Admitted::new(&front_end, from("192.0.2.1")).is_ok());
    assert_eq!(front_end.metrics.connections.get(), 2);
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_counts_by_its_own_address() {
    let front_end = front_end(10);
    for (mapped, plain) in [
        ("[::ffff:192.0.2.1]", "192.0.2.1"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
    ] {
        let admitted = Admitted::new(&front_end, from(mapped)).unwrap();
        assert_eq!(admitted.from, from(plain));
        let sources = lock(&front_end.sources);
        assert_eq!(sources[&source_of(from(plain).ip())].connections, 1);
    }
}

#[test]
fn a_64_counts_as_one_source() {
    assert_eq!(
        source_of(from("[2001:db8::1]").ip()),
        source_of(from("[2001:db8::ffff:1]").ip())
    );
    assert_ne!(
        source_of(from("[2001:db8::1]").ip()),
        source_of(from("[2001:db8:0:1::1]").ip())
    );
}

#[test]
fn requests_are_limited_per_source_but_for_loopback() {
    let front_end = front_end(10);
    let _connection = Admitted::new(&front_end, from("192.0.2.1")).unwrap();
    let _other = Admitted::new(&front_end, from("192.0.2.2")).unwrap();
    let _local = Admitted::new(&front_end, from("127.0.0.1")).unwrap();
    let slowed = (0..100_000).find(|_| front_end.spend(from("192.0.2.1").ip()).is_err());
    assert!(
        slowed.is_some_and(|count| f64::from(count) >= SOURCE_RATE.burst - 2.0),
        "{slowed:?}"
    );
    assert!(front_end.spend(from("192.0.2.2").ip()).is_ok());
    assert!((0..10_000).all(|_| front_end.spend(from("127.0.0.1").ip()).is_ok()));
}

#[tokio::test(start_paused = true)]
async fn quiet_sources_are_forgotten() {
    let front_end = front_end(10);
    let _sweep = tokio::spawn(front_end.clone().sweep());
    let connection = Admitted::new(&front_end, from("192.0.2.1")).unwrap();
    tokio::time::sleep(SWEEP * 2).await;
    assert_eq!(lock(&front_end.sources).len(), 1);
    drop(connection);
    // The coordinator's clock is not the runtime's, which is paused.
    std::thread::sleep(Duration::from_millis(10));
    tokio::time::sleep(SWEEP * 2).await;
    assert_eq!(lock(&front_end.sources).len(), 0);
}
