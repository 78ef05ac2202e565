//! TCP handshakes.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;

/// Connects and closes; gives the time that the handshake took.
pub async fn handshake(target: SocketAddr, interface: Option<&str>) -> io::Result<Duration> {
    let socket = match target {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(name) = interface {
        socket.bind_device(Some(name.as_bytes()))?;
    }
    let began = Instant::now();
    socket.connect(target).await?;
    Ok(began.elapsed())
}
