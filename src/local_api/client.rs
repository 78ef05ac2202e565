//! A command's end of the local API.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::CLIENT_TIMEOUT;
use super::error::LocalApiError;
use super::view::Request;

/// Asks the daemon on `path`; blocks.
///
/// # Errors
/// When no daemon answers, or it answers with an error.
pub fn ask<T: DeserializeOwned>(path: &Path, request: &Request) -> Result<T, LocalApiError> {
    let at = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => LocalApiError::NoDaemon {
            path: path.to_owned(),
        },
        _ => LocalApiError::Connect {
            path: path.to_owned(),
            source,
        },
    };
    let mut stream = UnixStream::connect(path).map_err(at)?;
    stream.set_read_timeout(Some(CLIENT_TIMEOUT)).map_err(at)?;
    let mut line = serde_json::to_string(request).map_err(|error| at(error.into()))?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(at)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(at)?;
    let answer: Result<T, String> =
        serde_json::from_str(&answer).map_err(|error| LocalApiError::Answer {
            reason: error.to_string(),
        })?;
    answer.map_err(|reason| LocalApiError::Answer { reason })
}
