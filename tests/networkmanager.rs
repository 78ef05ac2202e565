//! Keyfiles against NetworkManager's own reader and writer: `nmcli --offline`, which needs no daemon. `GRETUN_NMCLI` names
//! the program, as `scripts/test` does; without it every test says so loudly and passes.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows functions marked as tests, not their helpers"
)]

mod export_support;
mod skip_support;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use export_support::gretun;
use skip_support::skip;

/// Every kind of tunnel that NetworkManager has, with what its keyfiles can carry.
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
    tos = 4
    tunnel-ip = "10.2.0.1/24"
    mtu = 1400
    [tunnels.four]
    mode = "ipip"
    remote = "198.51.100.2"
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
    [tunnels.tap6]
    mode = "ip6gretap"
    local = "2001:db8::1"
    remote = "2001:db8:1::4"
    dev = "eth0"
    tunnel-ip = "10.9.0.1/24"
    [tunnels.sixsix]
    mode = "ip6ip6"
    local = "2001:db8::1"
    remote = "2001:db8:1::2"
    tos = "inherit"
    tunnel-ip = "fd06::1/127"
    [tunnels.lite]
    mode = "ipip6"
    local = "2001:db8::1"
    remote = "2001:db8:1::3"
    tunnel-ip = "10.7.0.1/30"
"#;

/// Runs nmcli on a keyfile; nothing where there is no nmcli.
fn nmcli(arguments: &[&str], keyfile: &str) -> Option<Output> {
    let Some(program) = std::env::var_os("GRETUN_NMCLI") else {
        skip(&"GRETUN_NMCLI does not name nmcli");
        return None;
    };
    let mut child = Command::new(program)
        .arg("--offline")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A reader that does not want all of it closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(keyfile.as_bytes());
    Some(child.wait_with_output().unwrap())
}

fn text(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn networkmanager_reads_what_is_exported_and_writes_what_means_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    std::fs::write(directory.join("tunnels.toml"), FILE).unwrap();
    gretun(
        directory,
        "export tunnels.toml --to networkmanager --dir ours",
    );
    std::fs::create_dir(directory.join("theirs")).unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(directory.join("ours")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let keyfile = std::fs::read_to_string(directory.join("ours").join(&name)).unwrap();
        let change = ["connection", "modify", "connection.id", "renamed"];
        let Some(output) = nmcli(&change, &keyfile) else {
            return;
        };
        let theirs = text(&output);
        assert!(theirs.contains("id=renamed"), "{theirs}");
        std::fs::write(directory.join("theirs").join(&name), &theirs).unwrap();
        let [before, after] =
            ["ours", "theirs"].map(|side| gretun(directory, &format!("import {side}/{name}")));
        assert_eq!(after, before, "{theirs}");
        // It does look at what it reads.
        let spoiled = keyfile.replace("remote=", "remote=nowhere");
        let output = nmcli(&change, &spoiled).unwrap();
        assert!(!output.status.success(), "{spoiled}");
        count += 1;
    }
    assert_eq!(count, FILE.matches("[tunnels.").count());
}

#[test]
fn what_networkmanager_writes_is_imported() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let modes = [
        "gre",
        "gretap",
        "ipip",
        "sit",
        "ip6gre",
        "ip6gretap",
        "ip6ip6",
        "ipip6",
    ];
    for mode in modes {
        let (remote, local) = if ["gre", "gretap", "ipip", "sit"].contains(&mode) {
            ("198.51.100.7", "192.0.2.1")
        } else {
            ("2001:db8:1::7", "2001:db8::1")
        };
        let is_gre = mode.contains("gre");
        let (method, address) = match mode {
            "sit" | "ip6ip6" => ("ipv6", "fd00::1/127"),
            _ => ("ipv4", "10.255.0.1/30"),
        };
        let mut add = vec!["connection", "add", "type", "ip-tunnel", "ifname", "tun0"];
        add.extend(["mode", mode, "remote", remote, "local", local]);
        add.extend([
            "ip-tunnel.ttl",
            "64",
            "ipv4.method",
            "disabled",
            "ipv6.method",
            "disabled",
        ]);
        if is_gre {
            add.extend(["ip-tunnel.input-key", "42", "ip-tunnel.output-key", "43"]);
        }
        let (methods, addresses) = (format!("{method}.method"), format!("{method}.addresses"));
        add.extend([&methods, "manual", &addresses, address]);
        if matches!(mode, "ip6ip6" | "ipip6") {
            add.extend(["ip-tunnel.flags", "ip6-ign-encap-limit"]);
        }
        let Some(output) = nmcli(&add, "") else {
            return;
        };
        let keyfile = text(&output);
        std::fs::write(directory.join("tun0.nmconnection"), &keyfile).unwrap();
        let file: Value =
            serde_json::from_str(&gretun(directory, "--json import tun0.nmconnection")).unwrap();
        let tunnel = &file["tunnels"]["tun0"];
        assert_eq!(tunnel["mode"], mode, "{keyfile}\n{file}");
        assert_eq!(tunnel["remote"], remote, "{keyfile}\n{file}");
        assert_eq!(tunnel["local"], local, "{keyfile}\n{file}");
        assert_eq!(tunnel["tunnel-ip"][0], address, "{keyfile}\n{file}");
        if is_gre {
            let keys = [&tunnel["ikey"], &tunnel["okey"]].map(ToString::to_string);
            assert_eq!(keys.map(|key| key.replace('"', "")), ["42", "43"], "{file}");
        }
    }
}
