use super::*;

#[test]
fn a_client_can_be_had_with_and_without_tls() {
    for url in [
        "http://coordinator.example.org:8443",
        "https://coordinator.example.org",
    ] {
        http_client(&url.parse().unwrap()).unwrap();
    }
}

#[test]
fn pauses_grow_and_stay_within_bounds() {
    for (failures, seconds) in [
        (0, 0.25..=0.5),
        (1, 0.5..=1.0),
        (4, 4.0..=8.0),
        (5, 7.5..=15.0),
        (u32::MAX, 7.5..=15.0),
    ] {
        let pause = backoff(failures).as_secs_f64();
        assert!(seconds.contains(&pause), "{failures}: {pause} s");
    }
}

/// Nobody listens: the loss is reported, attempts go on, and signals do not pile up.
#[tokio::test]
async fn an_unreachable_coordinator_is_an_event() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let (events_tx, mut events) = mpsc::channel(8);
    let node = NodeSecret::from_bytes([7; 32]);
    let peer = node.public();
    let registration = Registration {
        url: url.parse().unwrap(),
        node: Arc::new(node),
        disco: DiscoPublic::from_bytes([9; 32]),
        name: "alice".to_owned(),
        routes: Vec::new(),
        auth_key_file: None,
    };
    let handle = start(registration, events_tx).unwrap();
    for _ in 0..1000 {
        handle.signal(peer, b"sealed");
    }
    assert!(matches!(events.recv().await, Some(Event::Lost)));
    // It goes on trying.
    assert!(matches!(events.recv().await, Some(Event::Lost)));
}
