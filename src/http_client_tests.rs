//! A server for tests of HTTP clients.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// An HTTP server that answers every request of a path alike, and counts the requests to each path.
pub(crate) struct FakeServer {
    pub(crate) url: String,
    counts: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl FakeServer {
    /// `answer` returns the head's status and headers, and the body.
    pub(crate) async fn start(answer: fn(&str) -> (&'static str, String)) -> Self {
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
        FakeServer { url, counts }
    }

    pub(crate) fn count(&self, path: &str) -> u32 {
        let counts = self.counts.lock().unwrap();
        counts.get(path).copied().unwrap_or_default()
    }

    /// Waits until a path was asked for this many times.
    pub(crate) async fn wait_for(&self, path: &str, count: u32) {
        while self.count(path) < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
