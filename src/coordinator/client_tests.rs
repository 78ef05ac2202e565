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
    for failures in 0..40 {
        let full = (BACKOFF_FIRST * 2u32.saturating_pow(failures.min(10))).min(BACKOFF_MAX);
        let pause = backoff(failures);
        assert!(full / 2 <= pause && pause <= full, "{failures}: {pause:?}");
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
