//! The daemon's end of the local API: a Unix socket on which each client asks once.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use super::CLIENT_TIMEOUT;
use super::error::LocalApiError;
use super::view::Request;

/// The mode of the socket: the daemon's owner and group may connect.
const SOCKET_MODE: u32 = 0o660;

/// The longest request line, in bytes.
const REQUEST_MAX: u64 = 4096;

/// A request with the place for its answer.
#[derive(Debug)]
pub struct Query {
    /// The request.
    pub request: Request,
    /// The channel for the answer. Dropping it tells the client that the daemon is stopping.
    pub answer: oneshot::Sender<Result<serde_json::Value, String>>,
}

/// The listening socket; its file goes away with it.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
}

impl Server {
    /// Listens on `path` and passes queries on. The socket of a daemon that was killed is replaced. A socket on which a
    /// daemon still answers is not, and nothing else is.
    ///
    /// # Errors
    /// When the socket cannot be made, something else is at its path, or another daemon answers on it.
    pub fn start(path: &Path, queries: mpsc::Sender<Query>) -> Result<Self, LocalApiError> {
        let at = |source| LocalApiError::Listen {
            path: path.to_owned(),
            source,
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(at)?;
        }
        if BlockingStream::connect(path).is_ok() {
            return Err(LocalApiError::Taken {
                path: path.to_owned(),
            });
        }
        let is_other = |it: fs::Metadata| !it.file_type().is_socket();
        if fs::symlink_metadata(path).is_ok_and(is_other) {
            return Err(LocalApiError::NotASocket {
                path: path.to_owned(),
            });
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(at)?;
        fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(at)?;
        tokio::spawn(accept(listener, queries));
        Ok(Server {
            path: path.to_owned(),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing can be done about a socket file that somebody else removed already.
        let _ = fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, queries: mpsc::Sender<Query>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let queries = queries.clone();
                tokio::spawn(async move {
                    match tokio::time::timeout(CLIENT_TIMEOUT, serve(stream, queries)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!(%error, "local API client dropped"),
                        Err(_) => debug!("local API client dropped: too slow"),
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: it passes.
                debug!(%error, "local API cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, queries: mpsc::Sender<Query>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(REQUEST_MAX))
        .read_line(&mut line)
        .await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            let asked = queries.send(Query { request, answer }).await.is_ok();
            match answered.await {
                Ok(answer) if asked => answer,
                _ => Err("the daemon is stopping".to_owned()),
            }
        }
        Err(error) => Err(format!("bad request: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    write.write_all(&text).await
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
