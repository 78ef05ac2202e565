//! systemd-networkd reads what `gretun export --to networkd` writes, and makes the same tunnels.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::Host;
use crate::tunnel_cli::good;
use crate::tunnel_lab::is_able;

const NETWORKD: &str = "/lib/systemd/systemd-networkd";

/// The attributes that must be equal. The others are the owner and the traffic counters.
const COMPARED: [&str; 20] = [
    "name",
    "mode",
    "local",
    "remote",
    "dev",
    "ikey",
    "okey",
    "ttl",
    "tos",
    "pmtudisc",
    "encap",
    "encap_sport",
    "encap_dport",
    "encap_csum",
    "mtu",
    "addresses",
    "peer_addresses",
    "routes",
    "up",
    "has_more",
];

const FILE: &str = r#"
    [tunnels.plain]
    local = "192.0.2.1"
    remote = "198.51.100.1"
    tunnel-ip = ["10.1.0.1/30", "fd01::1/64"]
    route = ["10.11.0.0/16", "fd11::/64"]
    [tunnels.keyed]
    local = "192.0.2.1"
    remote = "198.51.100.1"
    ikey = 1
    okey = 2
    ttl = 32
    tunnel-ip = "10.2.0.1/32"
    peer-ip = "10.2.0.2"
    mtu = 1400
    [tunnels.four]
    mode = "ipip"
    local = "192.0.2.1"
    remote = "198.51.100.2"
    ttl = "inherit"
    pmtudisc = false
    tunnel-ip = "10.3.0.1/31"
    [tunnels.six]
    mode = "sit"
    local = "192.0.2.1"
    remote = "198.51.100.3"
    tunnel-ip = "fd03::1/127"
    [tunnels.tap]
    mode = "gretap"
    local = "192.0.2.1"
    remote = "198.51.100.4"
    key = "0.0.1.0"
    tunnel-ip = "10.4.0.1/24"
    [tunnels.over6]
    local = "2001:db8::1"
    remote = "2001:db8:1::1"
    key = 6
    tunnel-ip = ["10.5.0.1/30", "fd05::1/127"]
    [tunnels.sixsix]
    mode = "ip6ip6"
    local = "2001:db8::1"
    remote = "2001:db8:1::2"
    tunnel-ip = "fd06::1/127"
    [tunnels.lite]
    mode = "ipip6"
    local = "2001:db8::1"
    remote = "2001:db8:1::3"
    tunnel-ip = "10.7.0.1/30"
    [tunnels.foo]
    local = "192.0.2.1"
    remote = "198.51.100.5"
    key = 8
    encap = "fou"
    encap-sport = 5555
    encap-csum = false
    encap-dport = 5556
    tunnel-ip = "10.8.0.1/30"
"#;

/// networkd on one host, with the files of one directory, and nothing of this machine's systemd.
fn networkd(host: &Host, files: &Path, log: &Path) -> Child {
    let script = format!(
        // With /sys read-only it does not wait for udev, as in a container.
        "mount -o remount,ro /sys
         mkdir -p /run/systemd
         mount -t tmpfs tmpfs /run/systemd
         mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
         chown -R systemd-network:systemd-network /run/systemd/netif
         cp -r {} /run/systemd/network
         chmod -R a+rX /run/systemd
         exec env SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console {NETWORKD}",
        files.display()
    );
    Command::new("ip")
        .args(["netns", "exec", host.name(), "sh", "-ec", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(log).unwrap())
        .spawn()
        .unwrap()
}

/// The tunnels of a host, as far as they are compared, one text a property.
fn tunnels(host: &Host) -> Vec<String> {
    let list: Vec<Value> = serde_json::from_str(&good(host, "--json list")).unwrap();
    let mut lines = Vec::new();
    for tunnel in &list {
        for key in COMPARED {
            let mut value = tunnel[key].clone();
            if let Value::Array(items) = &mut value {
                items.sort_by_key(Value::to_string);
            }
            lines.push(format!("{}: {key} = {value}", tunnel["name"]));
        }
    }
    lines.sort();
    lines
}

#[test]
fn networkd_makes_the_tunnels_that_gretun_exports() {
    if !is_able() {
        return;
    }
    assert!(
        Path::new(NETWORKD).exists(),
        "{NETWORKD} is missing: install the package systemd"
    );
    let ((ours, _far), (theirs, _other)) = (Host::pair(), Host::pair());
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("tunnels.toml"), FILE).unwrap();
    good(&ours, &format!("apply {}", path("tunnels.toml").display()));
    let files = path("network");
    let export = format!(
        "export {} --to networkd --dir {}",
        path("tunnels.toml").display(),
        files.display()
    );
    println!("{}", good(&ours, &export));
    let wanted = tunnels(&ours);

    let mut child = networkd(&theirs, &files, &path("log"));
    let deadline = Instant::now() + Duration::from_secs(90);
    let mut got = tunnels(&theirs);
    while got != wanted && Instant::now() < deadline && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(200));
        got = tunnels(&theirs);
    }
    let is_running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    let log = std::fs::read_to_string(path("log")).unwrap();
    let lines: Vec<_> = log.lines().collect();
    let said = &lines[lines.len().saturating_sub(60)..];
    let difference = crate::tunnel_lab::difference(&wanted, &got);
    assert!(
        is_running && difference.is_empty(),
        "networkd (running: {is_running}) made others (- gretun's, + networkd's):\n{}\nit said last:\n{}",
        difference.join("\n"),
        said.join("\n")
    );
}
