//! A client against a coordinator that does what it should not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::coordinator::{Event, Handle, Registration, http_client, start};
use crate::proto::api;
use crate::proto::keys::{DiscoPublic, NodeSecret};

/// An HTTP server that answers every request of a path alike, and counts the requests to each path.
struct Fake {
    url: String,
    counts: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Fake {
    /// `answer` returns the head's status and headers, and the body.
    async fn start(answer: fn(&str) -> (&'static str, String)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let counts = Arc::new(Mutex::new(BTreeMap::new()));
        let counted = Arc::clone(&counts);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut request = vec![0; 65536];
                    let length = stream.read(&mut request).await.unwrap_or(0);
                    let request = String::from_utf8_lossy(&request[..length]).into_owned();
                    let Some(path) = request.split(' ').nth(1) else {
                        return;
                    };
                    let path = path.split('?').next().unwrap_or_default();
                    *counted.lock().unwrap().entry(path.to_owned()).or_default() += 1;
                    let (status, body) = answer(path);
                    let length = body.len();
                    let answer = format!(
                        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                    );
                    // The client may have gone away.
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Fake { url, counts }
    }

    fn count(&self, path: &str) -> u32 {
        let counts = self.counts.lock().unwrap();
        counts.get(path).copied().unwrap_or_default()
    }

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
    let fake = Fake::start(|path| match path {
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
    let fake = Fake::start(hasty).await;
    let (_handle, mut events) = fake.client(None);
    assert!(matches!(events.recv().await, Some(Event::Registered(_))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    for path in [api::PATH_PEERS, api::PATH_SIGNAL] {
        let count = fake.count(path);
        assert!((2..=7).contains(&count), "{count} of {path} in a second");
    }
}

/// News without end.
#[tokio::test]
async fn polls_that_bring_news_without_end_have_a_floor() {
    static GENERATION: AtomicU64 = AtomicU64::new(2);
    let fake = Fake::start(|path| match path {
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
    tokio::time::sleep(Duration::from_secs(2)).await;
    let count = fake.count(api::PATH_PEERS);
    assert!((10..=65).contains(&count), "{count} polls in 2 s");
    reading.abort();
}

#[tokio::test]
async fn a_coordinator_that_fails_is_left_alone_for_longer_each_time() {
    let fake = Fake::start(|_| ("500 Internal Server Error", String::new())).await;
    let (_handle, _events) = fake.client(None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let count = fake.count(api::PATH_REGISTER);
    assert!((2..=4).contains(&count), "{count} registrations in 2 s");
}

/// A used or revoked auth key is no reason for haste.
#[tokio::test]
async fn a_refused_auth_key_is_not_sent_without_pause() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth-key");
    std::fs::write(&file, "used\n").unwrap();
    let fake = Fake::start(|_| {
        let body = r#"{"error": "the auth key was used already"}"#;
        ("403 Forbidden", body.to_owned())
    })
    .await;
    let (_handle, _events) = fake.client(Some(&file));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let count = fake.count(api::PATH_REGISTER);
    // The first goes without the key, the next at once with it.
    assert!((3..=5).contains(&count), "{count} registrations in 2 s");
}
