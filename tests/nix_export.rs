//! `gretun export --to nix` against Nix itself: what it evaluates to is the tunnels again. `GRETUN_NIX` names nix-instantiate, as
//! `scripts/test` does; without it the test says so loudly and passes.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows functions marked as tests, not their helpers"
)]

mod export_support;
mod skip_support;

use std::process::Command;

use serde_json::Value;

use export_support::gretun;
use skip_support::skip;

/// Every option of a tunnel, in one tunnel or another.
const FILE: &str = r#"
    [tunnels.plain]
    local = "192.0.2.1"
    remote = "198.51.100.1"
    key = "0.0.1.0"
    tunnel-ip = ["10.1.0.1/30", "fd01::1/64"]
    route = ["10.11.0.0/16", "fd11::/64"]
    snat = ["10.12.0.0/16", "fd12::/64"]
    [tunnels."a.b-c_${d}"]
    mode = "gretap"
    local = "192.0.2.1"
    remote = "198.51.100.2"
    ikey = 1
    okey = 4294967295
    encap = "gue"
    encap-sport = 5556
    encap-dport = 5555
    encap-csum = false
    tunnel-ip = "10.2.0.1/32"
    peer-ip = "10.2.0.2"
    mtu = 1400
    [tunnels.four]
    mode = "ipip"
    remote = "198.51.100.3"
    dev = "eth0"
    ttl = "inherit"
    tos = "inherit"
    pmtudisc = false
    [tunnels.six]
    mode = "sit"
    remote = "198.51.100.4"
    ttl = 1
    tos = 184
    encap = "fou"
    encap-dport = 5555
    tunnel-ip = "fd03::1/127"
    [tunnels.over6]
    remote = "2001:db8:1::1"
    [tunnels.tap6]
    mode = "ip6gretap"
    remote = "2001:db8:1::2"
    [tunnels.sixsix]
    mode = "ip6ip6"
    remote = "2001:db8:1::3"
    [tunnels.lite]
    mode = "ipip6"
    remote = "2001:db8:1::4"
"#;

#[test]
fn nix_evaluates_what_is_exported_to_the_same_tunnels() {
    let Some(program) = std::env::var_os("GRETUN_NIX") else {
        skip(&"GRETUN_NIX does not name nix-instantiate");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("tunnels.toml"), FILE).unwrap();
    let exported = gretun(directory.path(), "export tunnels.toml --to nix");
    std::fs::write(path("tunnels.nix"), &exported).unwrap();
    let output = Command::new(program)
        .args(["--eval", "--strict", "--json"])
        .arg(path("tunnels.nix"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{exported}");
    let evaluated: Value = serde_json::from_slice(&output.stdout).unwrap();
    let options = evaluated["services"]["gretun"].to_string();
    std::fs::write(path("evaluated.json"), options).unwrap();
    let [before, after] = ["tunnels.toml", "evaluated.json"]
        .map(|file| gretun(directory.path(), &format!("import {file}")));
    assert_eq!(after, before, "{exported}");
    assert_eq!(
        before.matches("[tunnels.").count(),
        FILE.matches("[tunnels.").count()
    );
}
