//! The data port shared with the kernel's FOU socket, and probes through tunnels.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gretun::kernel::Kernel;
use gretun::kernel::packet::discovery_socket::DiscoverySocket;
use gretun::kernel::packet::probe_socket::ProbeSocket;
use gretun::kernel::tunnel::fou::Family;
use gretun::proto::TxId;
use gretun::proto::disco::MAGIC;
use gretun::proto::stun;
use tokio::time::timeout;

use crate::lab::{Host, kernel_is_able};

const PORT: u16 = 7777;
const SOON: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_millis(700);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A datagram that looks like disco from outside.
fn disco() -> Vec<u8> {
    [&MAGIC[..], &[7; 100]].concat()
}

async fn probe(probes: &mut ProbeSocket) -> io::Result<(u32, Vec<u8>)> {
    loop {
        if let Some(received) = probes.try_recv()? {
            return Ok(received);
        }
        probes.ready().await?;
    }
}

async fn open_port() -> (Kernel, DiscoverySocket) {
    let kernel = Kernel::open().unwrap();
    for family in [Family::V4, Family::V6] {
        kernel.add_fou(PORT, family).unwrap();
    }
    (kernel, DiscoverySocket::open(PORT).unwrap())
}

/// Runs both hosts at once, since each needs its own thread.
fn both<A: Send, B: Send>(
    first: impl FnOnce() -> A + Send,
    second: impl FnOnce() -> B + Send,
) -> (A, B) {
    std::thread::scope(|scope| {
        let second = scope.spawn(second);
        let first = first();
        (first, second.join().expect("the other host's thread"))
    })
}

#[test]
fn disco_and_stun_share_the_port_with_fou() {
    if !kernel_is_able() {
        return;
    }
    for (from, to) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let (a, b) = Host::pair();
        let request = stun::binding_request(TxId([9; 12]));
        both(
            || {
                a.block_on(|| async {
                    let (_kernel, mut port) = open_port().await;
                    let far = SocketAddr::new(ip(to), PORT);
                    loop {
                        // The other side may still be starting: say it until it answers.
                        port.send(Some(ip(from)), PORT, far, b"neither").unwrap();
                        port.send(None, PORT, far, &disco()).unwrap();
                        if let Ok(answer) = timeout(NEVER, port.recv()).await {
                            let answer = answer.unwrap();
                            assert_eq!(
                                (answer.from, answer.local),
                                (far, SocketAddr::new(ip(from), PORT))
                            );
                            assert_eq!(answer.data, stun::binding_request(TxId([9; 12])));
                            return;
                        }
                    }
                })
            },
            || {
                b.block_on(|| async {
                    let (_kernel, mut port) = open_port().await;
                    let heard = timeout(SOON, port.recv()).await.unwrap().unwrap();
                    assert_eq!(
                        (heard.from, heard.local),
                        (
                            SocketAddr::new(ip(from), PORT),
                            SocketAddr::new(ip(to), PORT)
                        )
                    );
                    assert_eq!(heard.data, disco());
                    port.send(Some(heard.local.ip()), PORT, heard.from, &request)
                        .unwrap();
                })
            },
        );
    }
}

#[test]
fn what_we_send_ourselves_is_not_received() {
    if !kernel_is_able() {
        return;
    }
    let (a, b) = Host::pair();
    let is_received = AtomicBool::new(false);
    both(
        || {
            a.block_on(|| async {
                let (_kernel, mut port) = open_port().await;
                let far = SocketAddr::new(ip("192.0.2.2"), PORT);
                // The other side may still be starting: say it until it was heard there.
                while !is_received.load(Ordering::Relaxed) {
                    port.send(None, PORT, far, &disco()).unwrap();
                    assert!(timeout(NEVER, port.recv()).await.is_err());
                }
                assert_eq!(port.overruns(), 0);
            });
        },
        || {
            b.block_on(|| async {
                let (_kernel, mut port) = open_port().await;
                let heard = timeout(SOON, port.recv()).await;
                is_received.store(true, Ordering::Relaxed);
                assert_eq!(heard.unwrap().unwrap().data, disco());
            });
        },
    );
}

/// The tunnel of one side, made as a person would, and its probe socket.
async fn open_tunnel(host: &Host, own: u8, family: Family) -> (DiscoverySocket, ProbeSocket, u32) {
    let (kernel, port) = open_port().await;
    let far = 3 - own;
    let (link, checksum) = match family {
        Family::V4 => (
            format!("gre local 192.0.2.{own} remote 192.0.2.{far}"),
            "encap-csum",
        ),
        Family::V6 => (
            format!("ip6gre encaplimit none local 2001:db8::{own} remote 2001:db8::{far}"),
            "encap-udp6-csum",
        ),
    };
    host.run(&format!(
        "ip link add gretun0 type {link} key 5 ttl 64 \\
             encap fou encap-sport {PORT} encap-dport {PORT} {checksum}
         ip addr add 100.64.0.{own} peer 100.64.0.{far} dev gretun0; ip link set gretun0 up"
    ));
    let index = kernel.link_index("gretun0").unwrap();
    (port, ProbeSocket::open().unwrap(), index)
}

#[test]
fn a_probe_crosses_the_tunnel_both_ways() {
    if !kernel_is_able() {
        return;
    }
    for (family, mtu) in [(Family::V4, 1464), (Family::V6, 1444)] {
        probe_crosses(family, mtu);
    }
}

fn probe_crosses(family: Family, mtu: usize) {
    let (a, b) = Host::pair();
    // As large as the tunnel's MTU allows.
    let question = vec![1; mtu];
    both(
        || {
            a.block_on(|| async {
                let (_port, mut probes, index) = open_tunnel(&a, 1, family).await;
                loop {
                    probes.send(index, &question).unwrap();
                    if let Ok(answer) = timeout(NEVER, probe(&mut probes)).await {
                        assert_eq!(answer.unwrap(), (index, b"answer".to_vec()));
                        return;
                    }
                }
            });
            assert!(
                a.run(&format!(
                    "ping -c 3 -i 0.2 -W 5 -M do -s {} 100.64.0.2",
                    mtu - 28
                ))
                .contains(" 0% packet loss")
            );
        },
        || {
            b.block_on(|| async {
                let (_port, mut probes, index) = open_tunnel(&b, 2, family).await;
                let (device, heard) = timeout(SOON, probe(&mut probes)).await.unwrap().unwrap();
                assert_eq!((device, heard.len()), (index, mtu));
                probes.send(index, b"answer").unwrap();
            });
        },
    );
}

#[test]
fn a_firewall_that_drops_data_lets_disco_be_seen_but_no_probe() {
    if !kernel_is_able() {
        return;
    }
    let (a, b) = Host::pair();
    b.run(
        "nft add table inet fw; nft add chain inet fw input \"{ type filter hook input priority 0; }\"
         nft add rule inet fw input udp dport 7777 drop",
    );
    both(
        || {
            a.block_on(|| async {
                let (mut port, probes, index) = open_tunnel(&a, 1, Family::V4).await;
                let far = SocketAddr::new(ip("192.0.2.2"), PORT);
                while timeout(NEVER, port.recv()).await.is_err() {
                    port.send(None, PORT, far, &disco()).unwrap();
                    probes.send(index, b"probe").unwrap();
                }
            });
        },
        || {
            b.block_on(|| async {
                let (mut port, mut probes, _index) = open_tunnel(&b, 2, Family::V4).await;
                let heard = timeout(SOON, port.recv()).await.unwrap().unwrap();
                assert!(
                    timeout(NEVER * 3, probe(&mut probes)).await.is_err(),
                    "data crossed the firewall"
                );
                b.run("nft delete table inet fw");
                let (_, data) = timeout(SOON, probe(&mut probes)).await.unwrap().unwrap();
                assert_eq!(data, b"probe");
                port.send(None, PORT, heard.from, &disco()).unwrap();
            });
        },
    );
}

#[test]
fn a_learned_path_mtu_stops_no_datagram() {
    if !kernel_is_able() {
        return;
    }
    for (from, to, family) in [
        ("192.0.2.1", "192.0.2.2", "-4"),
        ("2001:db8::1", "2001:db8::2", "-6"),
    ] {
        let (a, b) = Host::pair();
        // As after an ICMP message that says 1280.
        a.run(&format!("ip {family} route replace {to} dev eth0 mtu 1280"));
        let whole = [&MAGIC[..], &[7; 1400]].concat();
        both(
            || {
                a.block_on(|| async {
                    let (kernel, mut port) = open_port().await;
                    let far = SocketAddr::new(ip(to), PORT);
                    assert_eq!(kernel.route_to(ip(from), ip(to)).unwrap().mtu, 1280);
                    loop {
                        port.send(Some(ip(from)), PORT, far, &whole).unwrap();
                        if timeout(NEVER, port.recv()).await.is_ok() {
                            break;
                        }
                    }
                    let error = port
                        .send(Some(ip(from)), PORT, far, &[7; 1600])
                        .unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
                });
            },
            || {
                b.block_on(|| async {
                    let (_kernel, mut port) = open_port().await;
                    let heard = timeout(SOON, port.recv()).await.unwrap().unwrap();
                    assert_eq!(heard.data.len(), MAGIC.len() + 1400);
                    port.send(Some(heard.local.ip()), PORT, heard.from, &disco())
                        .unwrap();
                });
            },
        );
    }
}
