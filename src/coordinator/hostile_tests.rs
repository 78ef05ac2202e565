//! A client against a coordinator that does what it should not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::coordinator::http::{ANSWER_MAX, Requester};
use crate::coordinator::{ClientError, Event, Handle, Registration, http_client, start};
use crate::http_client::tests::FakeServer;
use crate::proto::api;
use crate::proto::keys::{DiscoPublic, NodeSecret};

impl FakeServer {
    /// Starts a client, with an auth key where that is said.
    fn client(&self, auth_key_file: Option<&std::path::Path>) -> (Handle, mpsc::Receiver<Event>) {
        let (events_tx, events) = mpsc::channel(1024);
        let registration = Registration {
            url: self.url.parse().unwrap(),
            node: Arc::new(NodeSecret::from_bytes([7; 32])),
            disco: DiscoPublic::from_bytes([9; 32]),
            name: "alice".to_owned(),
            routes: Vec::new(),
            auth_key_file: auth_key_file.map(Into::into),
        };
        (start(registration, events_tx).unwrap(), events)
    }
}

/// The answers of a coordinator without peers and signals, which holds no long poll.
fn hasty(path: &str) -> (&'static str, String) {
    let peers = r#"{"generation": 1, "peers": []}"#;
    let body = match path {
        api::PATH_REGISTER => format!(
            r#"{{"name": "alice", "tunnel_ips": [], "networks": [], "stun_ports": [], "peers": {peers}}}"#
        ),
        api::PATH_PEERS => peers.to_owned(),
        _ => r#"{"signals": []}"#.to_owned(),
    };
    ("200 OK", body)
}

/// The signed request, an auth key in it, is not sent to where somebody else says.
#[tokio::test]
async fn redirects_are_not_followed() {
    let fake = FakeServer::start(|path| match path {
        "/elsewhere" => ("200 OK", String::new()),
        _ => (
            "307 Temporary Redirect\r\nlocation: /elsewhere",
            String::new(),
        ),
    })
    .await;
    let client = http_client(&fake.url.parse().unwrap()).unwrap();
    let request = client.post(format!("{}{}", fake.url, api::PATH_REGISTER));
    let answer = request.body("secret").send().await.unwrap();
    assert_eq!(answer.status(), 307);
    assert_eq!(fake.count("/elsewhere"), 0);
}

/// A proxy that holds no requests, or another host with the same node key, whose poll ends this one.
#[tokio::test]
async fn polls_that_are_answered_at_once_have_a_floor() {
    let fake = FakeServer::start(hasty).await;
    let begun = Instant::now();
    let (_handle, mut events) = fake.client(None);
    assert!(matches!(events.recv().await, Some(Event::Registered(_))));
    for path in [api::PATH_PEERS, api::PATH_SIGNAL] {
        fake.wait_for(path, 8).await;
    }
    // With seven pauses of 0.2 s.
    assert!(begun.elapsed() >= Duration::from_millis(1400));
}

/// News without end.
#[tokio::test]
async fn polls_that_bring_news_without_end_have_a_floor() {
    static GENERATION: AtomicU64 = AtomicU64::new(2);
    let fake = FakeServer::start(|path| match path {
        api::PATH_PEERS => {
            let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
            let body = format!(r#"{{"generation": {generation}, "peers": []}}"#);
            ("200 OK", body)
        }
        _ => hasty(path),
    })
    .await;
    let (_handle, mut events) = fake.client(None);
    let reading = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let begun = Instant::now();
    // Fifty at once and then a pause of 0.2 s each, or one poll that took as long on a busy machine and fifty more at once.
    fake.wait_for(api::PATH_PEERS, 56).await;
    assert!(begun.elapsed() >= Duration::from_millis(200));
    reading.abort();
}

#[tokio::test]
async fn a_coordinator_that_fails_is_left_alone_for_longer_each_time() {
    let fake = FakeServer::start(|_| ("500 Internal Server Error", String::new())).await;
    let begun = Instant::now();
    let (_handle, _events) = fake.client(None);
    fake.wait_for(api::PATH_REGISTER, 4).await;
    // The pauses are at least half of 0.5, 1 and 2 s.
    assert!(begun.elapsed() >= Duration::from_millis(1750));
}

/// A used or revoked auth key is no reason for haste.
#[tokio::test]
async fn a_refused_auth_key_is_not_sent_without_pause() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth-key");
    std::fs::write(&file, "used\n").unwrap();
    let fake = FakeServer::start(|_| {
        let body = r#"{"error": "the auth key was used already"}"#;
        ("403 Forbidden", body.to_owned())
    })
    .await;
    let begun = Instant::now();
    let (_handle, _events) = fake.client(Some(&file));
    // The first goes without the key, the next at once with it.
    fake.wait_for(api::PATH_REGISTER, 4).await;
    assert!(begun.elapsed() >= Duration::from_millis(750));
}

/// Somebody else's server may answer without end.
#[tokio::test]
async fn no_more_of_an_answer_is_read_than_the_longest_honest_one_has() {
    let fake = FakeServer::start(|_| ("200 OK", " ".repeat(ANSWER_MAX + 1))).await;
    let url = fake.url.parse().unwrap();
    let node = Arc::new(NodeSecret::from_bytes([7; 32]));
    let requester = Requester::new(http_client(&url).unwrap(), &url, node);
    let answer = requester.poll::<serde_json::Value>(api::PATH_PEERS).await;
    assert!(matches!(answer, Err(ClientError::TooLong)), "{answer:?}");
}
