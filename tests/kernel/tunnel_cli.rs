//! The commands as people run them.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use gretun::kernel::host::lock::Lock;

use crate::lab::Host;
use crate::tunnel_lab::{is_able, traces};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gretun");

pub fn gretun(host: &Host, arguments: &str) -> Command {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", host.name(), PROGRAM])
        .args(arguments.split_whitespace());
    command
}

pub fn output(host: &Host, arguments: &str) -> Output {
    gretun(host, arguments).output().unwrap()
}

pub fn good(host: &Host, arguments: &str) -> String {
    let output = output(host, arguments);
    assert!(
        output.status.success(),
        "{arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs what must fail; gives the exit code and what it said.
pub fn bad(host: &Host, arguments: &str) -> (i32, String) {
    let output = output(host, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), said)
}

pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn has_link(host: &Host, name: &str) -> bool {
    host.run("ip -o link").contains(&format!(" {name}@"))
}

#[test]
fn a_dry_run_changes_nothing() {
    if !is_able() {
        return;
    }
    let (host, _b) = Host::pair();
    let before = traces(&host);
    let text = good(
        &host,
        "create t0 --remote 192.0.2.2 --encap fou --encap-dport 5555 --tunnel-ip 10.0.0.1/30 --snat 10.9.0.0/16 --dry-run",
    );
    assert!(
        text.contains("ip link add name t0 mtu 1468 type gre local 192.0.2.1 remote 192.0.2.2"),
        "{text}"
    );
    assert_eq!(traces(&host), before);
}

#[test]
fn refusals_say_why_and_have_their_exit_codes() {
    if !is_able() {
        return;
    }
    let (host, _b) = Host::pair();
    host.run("ip link add other0 type bridge");
    let before = traces(&host);
    let cases = [
        ("create", 2, "NAME"),
        ("create t0", 2, "--remote: is missing"),
        ("create gre0 --remote 192.0.2.2", 2, "reserved"),
        ("create a/b --remote 192.0.2.2", 2, "--name"),
        ("create sixteen-bytes-ab --remote 192.0.2.2", 2, "15 bytes"),
        ("create t0 --remote 192.0.2.2 --mode vxlan", 2, "--mode"),
        ("create t0 --remote 2001:db8::2 --mode gre", 2, "IPv4"),
        ("create t0 --remote 127.0.0.1", 2, "loopback"),
        (
            "create t0 --remote 192.0.2.2 --local 192.0.2.2",
            2,
            "local end",
        ),
        (
            "create t0 --remote 192.0.2.2 --tunnel-ip 10.0.0.0/30",
            2,
            "network itself",
        ),
        (
            "create t0 --remote 192.0.2.2 --tunnel-ip 10.0.0.3/30",
            2,
            "broadcast",
        ),
        (
            "create t0 --remote 192.0.2.2 --route 10.0.0.1/8",
            2,
            "10.0.0.0/8",
        ),
        ("create t0 --remote 192.0.2.2 --key x", 2, "--key"),
        ("create t0 --remote 192.0.2.2 --ttl 256", 2, "--ttl"),
        ("create t0 --remote 192.0.2.2 --mtu 500", 2, "576"),
        ("create t0 --remote 192.0.2.2 --encap-dport 1", 2, "encap"),
        ("create t0 --remote 192.0.2.2 --encap fou", 2, "encap-dport"),
        (
            "create t0 --remote 192.0.2.2 --mode ipip --key 1",
            2,
            "not for mode ipip",
        ),
        (
            "create t0 --remote 192.0.2.2 --dev none0",
            1,
            "(none0)\nhint: `ip link`",
        ),
        ("create eth0 --remote 192.0.2.2", 2, "network card"),
        (
            "create other0 --remote 192.0.2.2",
            1,
            "another network device",
        ),
        ("delete t0", 1, "no tunnel t0"),
        ("status t0", 1, "no tunnel t0"),
        ("apply /nonexistent", 2, "/nonexistent"),
        ("list --netns nonexistent", 1, "nonexistent"),
    ];
    for (arguments, code, words) in cases {
        let (got, said) = bad(&host, arguments);
        assert_eq!(got, code, "{arguments}: {said}");
        assert!(said.contains(words), "{arguments}: {said}");
        assert!(!said.contains("panicked"), "{arguments}: {said}");
        println!(
            "{arguments}: {got}: {}",
            said.lines().next().unwrap_or_default()
        );
    }
    assert_eq!(traces(&host), before);
    let (code, said) = bad(&host, "--json create t0 --remote nowhere");
    let error: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &error["code"]), (2, &2.into()));

    good(&host, "create t0 --remote 192.0.2.2 --key 1");
    let (code, said) = bad(&host, "create t0 --remote 192.0.2.2 --key 1");
    assert!(code == 1 && said.contains("--replace"), "{said}");
    // The kernel knows received packets by their addresses and key only.
    let (code, said) = bad(&host, "create t1 --remote 192.0.2.2 --key 1");
    assert!(code == 1 && said.contains("create gre link t1"), "{said}");
    // The kernel's own words, and nothing left of the steps before.
    good(&host, "delete t0");
    host.run("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
    let arguments =
        "create t0 --remote 192.0.2.2 --encap fou --encap-dport 5555 --tunnel-ip fd00::1/64";
    let (code, said) = bad(&host, arguments);
    assert!(
        code == 3 && said.contains("IPv6 is disabled on this device") && said.contains("sysctl"),
        "{said}"
    );
    assert_eq!(traces(&host), before);
    host.run("echo 0 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
    // Without the capability the first thing said is what is missing.
    let command = format!(
        "ip netns exec {} setpriv --bounding-set -net_admin --inh-caps -net_admin --reuid 65534 {PROGRAM} create t2 --remote 192.0.2.2",
        host.name()
    );
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("CAP_NET_ADMIN") && said.contains("hint"),
        "{said}"
    );
}

/// The kernel itself gets some of these wrong.
#[test]
fn a_tunnel_that_is_not_told_its_local_end_carries_packets() {
    if !is_able() {
        return;
    }
    let (a, b) = Host::pair();
    for (mode, outer, far) in [
        ("gre", "192.0.2", "10.0.0.2"),
        ("gre --encap fou --encap-dport 5555", "192.0.2", "10.0.0.2"),
        ("sit --encap gue --encap-dport 5555", "192.0.2", "fd00::2"),
        ("ip6gre", "2001:db8:", "10.0.0.2"),
        (
            "ip6ip6 --encap fou --encap-dport 5555",
            "2001:db8:",
            "fd00::2",
        ),
    ] {
        for (host, number, other) in [(&a, 1, 2), (&b, 2, 1)] {
            let (dot, inner) = match (outer.contains(':'), far.contains(':')) {
                (true, true) => (":", "fd00::"),
                (true, false) => (":", "10.0.0."),
                (false, true) => (".", "fd00::"),
                (false, false) => (".", "10.0.0."),
            };
            let length = if inner.contains(':') { 64 } else { 30 };
            good(
                host,
                &format!(
                    "create t0 --mode {mode} --remote {outer}{dot}{other} --tunnel-ip {inner}{number}/{length}"
                ),
            );
        }
        let said = a.run(&format!("ping -c 1 -w 20 {far} || true"));
        assert!(said.contains(" 1 received"), "{mode}: {said}");
        for host in [&a, &b] {
            good(host, "delete t0");
        }
    }
}

/// Works through `--netns`, from a namespace without any tunnel.
#[test]
fn tunnels_of_other_programs_are_shown_in_any_namespace() {
    if !is_able() {
        return;
    }
    let (host, _b) = Host::pair();
    host.run(
        "ip tunnel add theirs mode gre local 192.0.2.1 remote 192.0.2.2 ikey 7 okey 8 ttl 9
         ip addr add 10.0.0.1 peer 10.0.0.2/32 dev theirs; ip link set theirs up mtu 1400
         ip route add 10.9.0.0/16 dev theirs metric 5",
    );
    let shown = |arguments: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(arguments.split(' '));
        let output = command.args(["--netns", host.name()]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let json =
        |arguments: &str| -> serde_json::Value { serde_json::from_str(&shown(arguments)).unwrap() };
    let status = json("--json status theirs");
    assert_eq!(json("--json list"), serde_json::json!([status]));
    for (key, value) in [
        ("mode", "gre".into()),
        ("local", "192.0.2.1".into()),
        ("remote", "192.0.2.2".into()),
        ("ikey", 7.into()),
        ("okey", 8.into()),
        ("ttl", 9.into()),
        ("mtu", 1400.into()),
        ("encap", "none".into()),
        ("peer_addresses", serde_json::json!(["10.0.0.2"])),
        ("routes", serde_json::json!(["10.9.0.0/16"])),
        ("up", true.into()),
        ("owner", "other".into()),
    ] {
        assert_eq!(status[key], value, "{key}: {status}");
    }
    let table = shown("list");
    let row = table.lines().last().unwrap_or_default();
    assert!(
        row.starts_with("theirs ") && row.contains(" 7/8 "),
        "{table}"
    );
    assert!(shown("status theirs").contains("readable on the path"));
    let file = shown("import --live");
    assert!(file.contains("[tunnels.theirs]"), "{file}");
    shown("delete theirs");
    assert_eq!(json("--json list"), serde_json::json!([]));
}

fn background(host: &Host, arguments: &str) -> Child {
    gretun(host, arguments)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

pub fn signal(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).unwrap();
    // SAFETY: the child has not been waited for, so its number is its own. `ip netns exec` has become the program.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

#[test]
fn a_foreground_tunnel_goes_with_its_process() {
    if !is_able() {
        return;
    }
    let (host, _b) = Host::pair();
    let before = traces(&host);
    let arguments = "create fg0 --foreground --remote 192.0.2.2 --encap fou --encap-dport 5555 --snat 10.9.0.0/16";
    let mut child = background(&host, arguments);
    wait_for("the tunnel is made", || has_link(&host, "fg0"));
    // Another one does not take it for stale.
    good(&host, "create other --remote 192.0.2.2 --key 7");
    assert!(has_link(&host, "fg0"));
    good(&host, "delete other");
    signal(&child, libc::SIGTERM);
    assert!(child.wait().unwrap().success());
    assert_eq!(traces(&host), before);

    let mut child = background(&host, arguments);
    wait_for("the tunnel is made", || has_link(&host, "fg0"));
    signal(&child, libc::SIGKILL);
    child.wait().unwrap();
    assert!(has_link(&host, "fg0"));
    good(&host, "create other --remote 192.0.2.2 --key 7");
    assert!(!has_link(&host, "fg0"), "the next start removes it");
    good(&host, "delete other");
    assert_eq!(traces(&host), before);
}

/// Without the lock each would remove the other's half-made links as leftovers.
#[test]
fn a_command_waits_for_another_that_changes_tunnels() {
    if !is_able() {
        return;
    }
    let (host, _b) = Host::pair();
    let lock = host.block_on(|| async { Lock::take(Duration::from_secs(30)).unwrap() });
    let mut child = gretun(&host, "create t0 --remote 192.0.2.2")
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < until {
        assert!(!has_link(&host, "t0"), "it did not wait");
        assert!(child.try_wait().unwrap().is_none(), "it did not wait");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(lock);
    assert!(child.wait().unwrap().success());
    assert!(has_link(&host, "t0"));
}

#[test]
fn what_is_left_of_a_device_that_somebody_removed_is_tidied() {
    if !is_able() {
        return;
    }
    let (host, _b) = Host::pair();
    let before = traces(&host);
    let create = "create t0 --remote 192.0.2.2 --snat";
    good(&host, &format!("{create} 10.9.0.0/16"));
    host.run("ip link del t0");
    // The kernel would not take a network that overlaps with the one that is there.
    good(&host, &format!("{create} 10.9.1.0/24"));
    let ruleset = host.run("nft list ruleset");
    assert!(
        ruleset.contains("10.9.1.0/24") && !ruleset.contains("10.9.0.0/16"),
        "{ruleset}"
    );
    host.run("ip link del t0");
    let said = good(&host, "delete t0");
    assert!(said.contains("no longer masquerade t0"), "{said}");
    assert_eq!(traces(&host), before);
    let (code, said) = bad(&host, "delete t0");
    assert!(code == 1 && said.contains("no tunnel t0"), "{said}");
}
