//! Which STUN servers to ask: names turned into addresses, again and again, since addresses change and a host may start
//! before its network does.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::debug;

/// STUN ports of a coordinator that has not told us yet: the defaults of `gretun-coord`.
pub const DEFAULT_PORTS: [u16; 2] = [3478, 3479];

/// How often names are looked up again.
const REFRESH: Duration = Duration::from_secs(300);

/// How soon after a lookup that gave nothing.
const RETRY: Duration = Duration::from_secs(2);

/// `host:port` for each STUN port of the coordinator's host.
pub fn at_host(host: &str, ports: &[u16]) -> Vec<String> {
    ports
        .iter()
        .map(|port| {
            if host.contains(':') {
                format!("[{host}]:{port}")
            } else {
                format!("{host}:{port}")
            }
        })
        .collect()
}

/// All addresses, each once: a name with several addresses is several servers. The names take turns, so that no name with many
/// addresses keeps the others from being asked.
fn in_turn(found_by_name: &[Vec<SocketAddr>]) -> Vec<SocketAddr> {
    let longest = found_by_name.iter().map(Vec::len).max().unwrap_or_default();
    let mut addresses = Vec::new();
    for index in 0..longest {
        for found in found_by_name.iter().filter_map(|it| it.get(index)) {
            if !addresses.contains(found) {
                addresses.push(*found);
            }
        }
    }
    addresses
}

/// Looks up the names in `names` whenever they change, and regularly; sends all addresses found. Ends when nobody
/// listens any more.
pub async fn resolve(
    mut names: watch::Receiver<Vec<String>>,
    found: mpsc::Sender<Vec<SocketAddr>>,
) {
    let mut last = Vec::new();
    loop {
        let wanted = names.borrow_and_update().clone();
        let mut found_by_name = Vec::new();
        for name in &wanted {
            match tokio::net::lookup_host(name).await {
                Ok(some) => found_by_name.push(some.collect()),
                Err(error) => debug!(name, %error, "STUN server cannot be looked up"),
            }
        }
        let addresses = in_turn(&found_by_name);
        let pause = if addresses.is_empty() { RETRY } else { REFRESH };
        if addresses != last {
            last.clone_from(&addresses);
            if found.send(addresses).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = names.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_host_is_bracketed() {
        assert_eq!(at_host("coord.example", &[3478]), ["coord.example:3478"]);
        assert_eq!(
            at_host("2001:db8::1", &[3478, 3479]),
            ["[2001:db8::1]:3478", "[2001:db8::1]:3479"]
        );
    }

    #[test]
    fn a_name_with_several_addresses_is_several_servers() {
        let addr = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (one, two, three) = (addr("192.0.2.1:1"), addr("192.0.2.2:1"), addr("[::1]:1"));
        let other = addr("198.51.100.1:1");
        assert_eq!(
            in_turn(&[vec![one, two, three], vec![other, two]]),
            [one, other, two, three]
        );
        assert_eq!(in_turn(&[]), []);
    }

    #[tokio::test]
    async fn addresses_are_sent_once_and_again_when_names_change() {
        let (names, watched) = watch::channel(vec!["127.0.0.1:1".to_owned()]);
        let (found_tx, mut found) = mpsc::channel(1);
        tokio::spawn(resolve(watched, found_tx));
        assert_eq!(
            found.recv().await.unwrap(),
            ["127.0.0.1:1".parse().unwrap()]
        );
        names
            .send(vec!["127.0.0.1:2".to_owned(), "[::1]:3".to_owned()])
            .unwrap();
        assert_eq!(
            found.recv().await.unwrap(),
            ["127.0.0.1:2".parse().unwrap(), "[::1]:3".parse().unwrap()]
        );
    }
}
