//! The applier's thread over a real kernel, and what it needs of it: the lock, ports, links of others.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use gretun::applier::machine::{Applied, Config};
use gretun::applier::thread::{self, Handle};
use gretun::kernel::Kernel;
use gretun::kernel::host::lock::Lock;
use gretun::kernel::host::preflight;
use gretun::kernel::tunnel::fou::Family;
use gretun::node::{DesiredTunnel, Inside, Outside, Path};
use gretun::proto::NodePublic;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::lab::{Host, kernel_is_able, run};
use crate::tunnel_cli::{signal, wait_for};

const PORT: u16 = 7777;
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn peer() -> NodePublic {
    NodePublic::from_bytes([2; 32])
}

/// A tunnel from the first host of a pair to the second.
pub fn tunnel(number: u64) -> DesiredTunnel {
    let outside = Outside {
        number,
        path: Path {
            local: "192.0.2.1".parse().unwrap(),
            port: PORT,
            remote: format!("192.0.2.2:{PORT}").parse().unwrap(),
        },
        overlap: None,
        path_mtu: None,
        gre_key: 5,
    };
    let inside = Inside {
        name: "gretun0".to_owned(),
        alt_name: "bob".to_owned(),
        routes: vec!["198.51.100.0/24".parse().unwrap()],
        own_ips: vec!["100.64.0.1".parse().unwrap()],
        peer_ips: vec!["100.64.0.2".parse().unwrap()],
        ..Inside::default()
    };
    DesiredTunnel { outside, inside }
}

pub fn start() -> (Handle, UnboundedReceiver<Applied>) {
    let kernel = Kernel::open().unwrap();
    kernel.add_fou(PORT, Family::V4).unwrap();
    let config = Config {
        own: NodePublic::from_bytes([1; 32]),
        port: PORT,
        families: vec![Family::V4],
    };
    let (reports, reported) = unbounded_channel();
    let handle = thread::start(config, BTreeSet::new(), Box::new(|_| {}), reports).unwrap();
    handle.begin();
    (handle, reported)
}

fn want(applier: &Handle, number: u64) {
    applier.set(peer(), Some(tunnel(number)));
}

async fn next(reports: &mut UnboundedReceiver<Applied>) -> Applied {
    let report = tokio::time::timeout(PATIENCE, reports.recv()).await;
    report.expect("a report in time").expect("the thread lives")
}

/// Waits for the number of a tunnel that is as desired.
pub async fn done(reports: &mut UnboundedReceiver<Applied>) -> u64 {
    match next(reports).await {
        Applied::Done { number, .. } => number,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_request_is_answered_and_nothing_is_made_after_the_end() {
    if !kernel_is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    host.block_on(|| async {
        let (mut applier, mut reports) = start();
        want(&applier, 1);
        assert_eq!(done(&mut reports).await, 1);
        let kernel = Kernel::open().unwrap();
        let index = kernel.link_index("gretun0").unwrap();
        want(&applier, 2);
        assert_eq!(done(&mut reports).await, 2);
        assert_eq!(kernel.link_index("gretun0").unwrap(), index);
        // Somebody removes the link.
        kernel.delete_link(index, "gretun0").unwrap();
        applier.link_changes().notify();
        assert_eq!(done(&mut reports).await, 2);
        applier.stop().await;
        let index = kernel.link_index("gretun0").unwrap();
        kernel.delete_link(index, "gretun0").unwrap();
        applier.link_changes().notify();
        want(&applier, 3);
        assert!(reports.recv().await.is_none(), "the thread has ended");
        assert!(kernel.link_index("gretun0").is_err());
    });
}

/// Docker, a firewall's reload, or NixOS's `networking.nftables.flushRuleset`: what others flush with their own is put back at once.
#[test]
fn masquerading_that_somebody_flushed_is_put_back() {
    if !kernel_is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    host.block_on(|| async {
        let (applier, mut reports) = start();
        let kernel = Kernel::open().unwrap();
        let watch = Kernel::watch_nftables().unwrap();
        let watch = applier.link_changes().follow(watch);
        let network = "203.0.113.0/24".parse().unwrap();
        let mut masquerading = tunnel(1);
        masquerading.inside.snat = vec![network];
        applier.set(peer(), Some(masquerading));
        assert_eq!(done(&mut reports).await, 1);
        let pairs = [("gretun0".to_owned(), network)];
        assert_eq!(kernel.snat_pairs(), pairs);
        for damage in [
            "flush ruleset",
            "flush chain inet gretun tunnels_postrouting",
        ] {
            run(&format!("nft {damage}"));
            assert_eq!(kernel.snat_pairs(), []);
            let deadline = Instant::now() + PATIENCE;
            while kernel.snat_pairs() != pairs {
                assert!(Instant::now() < deadline, "nobody noticed: {damage}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        watch.abort();
    });
}

#[test]
fn a_data_port_that_somebody_closed_is_open_again() {
    if !kernel_is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    host.block_on(|| async {
        let (applier, mut reports) = start();
        want(&applier, 1);
        assert_eq!(done(&mut reports).await, 1);
        let kernel = Kernel::open().unwrap();
        kernel.delete_fou(PORT, Family::V4).unwrap();
        assert_eq!(kernel.fou_ports().unwrap(), []);
        applier.link_changes().notify();
        let deadline = Instant::now() + PATIENCE;
        while kernel.fou_ports().unwrap().is_empty() {
            assert!(Instant::now() < deadline, "the port stays closed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn a_command_that_holds_the_lock_delays_a_tunnel_and_is_named() {
    if !kernel_is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    host.block_on(|| async {
        let lock = Lock::take(PATIENCE).unwrap();
        let (applier, mut reports) = start();
        want(&applier, 1);
        match next(&mut reports).await {
            Applied::Failed { error, .. } => {
                assert!(error.contains("another gretun"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        drop(lock);
        assert_eq!(done(&mut reports).await, 1);
    });
}

#[test]
fn the_kernel_says_itself_what_it_can() {
    if !kernel_is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    host.block_on(|| async {
        let ask = || {
            for name in [
                "fou",
                "ip_gre",
                "ip6_gre",
                "ipip",
                "sit",
                "ip6_tunnel",
                "nf_tables",
            ] {
                assert_eq!(preflight::kernel_has(name), Some(true), "{name}");
            }
            assert_eq!(preflight::kernel_has("fou6"), None);
        };
        // The kernel loads a module that is asked for, and some make a fallback link of their own: `tunl0`, `sit0`.
        ask();
        let before = host.run("ip -o link");
        ask();
        assert_eq!(host.run("ip -o link"), before);
    });
}

/// Runs this on a host where no file tells of modules, as in a container, or on an image without modules: nothing but the kernel itself
/// can tell what was built into it, and of `fou6` it says nothing.
fn without_module_files(host: &Host, run_there: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let hidden = scope.spawn(|| {
            host.enter();
            // SAFETY: only this thread, which ends soon, has other mounts from now on.
            let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) };
            assert_eq!(unshared, 0, "{}", std::io::Error::last_os_error());
            run("mount --make-rprivate /");
            for directory in ["/lib/modules", "/sys/module"] {
                run(&format!("mount -t tmpfs none {directory}"));
            }
            run_there();
        });
        hidden.join().expect("the thread whose modules are hidden");
    });
}

#[test]
fn what_is_in_the_kernel_is_there_also_where_no_file_tells_of_modules() {
    if !kernel_is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    without_module_files(&host, || {
        preflight::check(&preflight::OVERLAY).unwrap();
        let error = preflight::check(&preflight::OVERLAY_IPV6).unwrap_err();
        assert!(error.to_string().contains("fou6"), "{error}");
    });
}

#[test]
fn a_daemon_without_fou6_opens_its_port_over_ipv4_alone() {
    if !kernel_is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    without_module_files(&host, || {
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_gretun"))
            .args([
                "up",
                "--coordinator",
                "http://192.0.2.2:8443",
                "--state-dir",
            ])
            .args([path("state"), "--socket".into(), path("gretun.sock")])
            .spawn()
            .unwrap();
        wait_for("the daemon has started", || {
            UnixStream::connect(path("gretun.sock")).is_ok()
        });
        let ports = Kernel::open().unwrap().fou_ports().unwrap();
        signal(&daemon, libc::SIGKILL);
        daemon.wait().unwrap();
        let ports: Vec<_> = ports.iter().map(|it| (it.port, it.family)).collect();
        assert_eq!(ports, [(PORT, Family::V4)]);
    });
}

#[test]
fn links_of_others_are_no_obstacle() {
    if !kernel_is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    host.run(
        "ip link add br0 type bridge vlan_filtering 1
         ip link add theirs type gretap local 192.0.2.1 remote 192.0.2.9
         ip link set theirs master br0
         ip link add vx0 type vxlan id 7 dstport 4789 dev eth0",
    );
    host.block_on(|| async {
        let links = Kernel::open().unwrap().links().unwrap();
        assert!(links.tunnel("theirs").is_some());
        for other in ["br0", "vx0", "eth0"] {
            assert!(links.others.iter().any(|it| it == other), "{other}");
        }
    });
}
