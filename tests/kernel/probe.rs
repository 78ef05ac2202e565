//! `gretun probe` and `gretun health` through real tunnels between two hosts.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::lab::Host;
use crate::tunnel_cli::{bad, good, gretun, output, signal, wait_for};
use crate::tunnel_lab::is_able;

/// Two hosts connected by the tunnel `t0`, with both versions of IP in it.
fn joined() -> (Host, Host) {
    let (a, b) = Host::pair();
    for (host, own, far) in [(&a, 1, 2), (&b, 2, 1)] {
        let create = format!(
            "create t0 --remote 192.0.2.{far} --key 7 --tunnel-ip 10.255.0.{own}/30 --tunnel-ip fd00:255::{}/127",
            own - 1
        );
        good(host, &create);
    }
    (a, b)
}

/// Serves HTTP on a host as long as the test runs: the path is the status.
fn serve(host: &Host, address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    let listener = host.block_on(|| async move { TcpListener::bind(address).unwrap() });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 1024];
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => request.extend(&buffer[..length]),
                }
            }
            let text = String::from_utf8_lossy(&request);
            if let Some(path) = text.split(' ').nth(1) {
                let status = path.trim_start_matches('/');
                let answer = format!(
                    "HTTP/1.1 {status} x\r\nLocation: /500\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

const QUICK: &str = "--count 2 --interval 20ms --timeout 5s";

#[test]
fn echo_is_answered_through_the_tunnel_or_the_far_end_is_missed() {
    if !is_able() {
        return;
    }
    let (a, b) = joined();
    for target in ["10.255.0.2", "fd00:255::1"] {
        let text = good(&a, &format!("probe {target} {QUICK} --interface t0"));
        assert!(text.contains("2 of 2 answered, 0% lost"), "{text}");
        let got = json(&good(
            &a,
            &format!("--json probe --target {target} {QUICK}"),
        ));
        assert_eq!((&got["sent"], &got["answered"]), (&2.into(), &2.into()));
        assert_eq!(
            (&got["met"], &got["method"]),
            (&true.into(), &"icmp".into())
        );
        assert!(got["rtt_avg_ms"].as_f64().unwrap() >= 0.0, "{got}");
    }
    // Half of the requests are dropped: exactly that share meets the threshold.
    b.run("nft add table inet half; nft \"add chain inet half in { type filter hook input priority 0; }\"
           nft add rule inet half in icmp type echo-request numgen inc mod 2 0 drop");
    let lossy = "probe 10.255.0.2 --count 4 --interval 0 --timeout 700ms";
    let text = good(&a, &format!("{lossy} --threshold 50"));
    assert!(text.contains("2 of 4 answered, 50% lost"), "{text}");
    let (code, said) = bad(&a, &format!("{lossy} --threshold 51%"));
    assert!(code == 1 && said.contains("51% wanted"), "{code}: {said}");
    b.run("ip link del t0");
    let gone = output(
        &a,
        "--json probe 10.255.0.2 --count 2 --interval 0 --timeout 300ms",
    );
    assert_eq!(gone.status.code(), Some(1));
    let got = json(&String::from_utf8(gone.stdout).unwrap());
    assert_eq!(
        (&got["answered"], &got["loss_percent"]),
        (&0.into(), &100.0.into())
    );
    assert_eq!(
        (&got["rtt_avg_ms"], &got["met"]),
        (&Value::Null, &false.into())
    );
    assert_eq!(got["misses"].as_array().unwrap().len(), 2, "{got}");
    let (code, said) = bad(&a, &format!("probe 10.9.9.9 {QUICK}"));
    assert!(code == 1 && said.contains("unreachable"), "{code}: {said}");
    let (code, said) = bad(&a, &format!("probe 10.255.0.2 {QUICK} --interface none0"));
    assert!(code == 1 && said.contains("none0"), "{code}: {said}");
}

#[test]
fn anyone_may_ping_where_the_kernel_lets_them_and_else_is_told_what_is_missing() {
    if !is_able() {
        return;
    }
    let (a, _b) = joined();
    let nobody = |arguments: &str| {
        format!(
            "setpriv --reuid 65534 --regid 65534 --clear-groups {} {arguments} 2>&1",
            env!("CARGO_BIN_EXE_gretun")
        )
    };
    let probe = nobody(&format!("probe 10.255.0.2 {QUICK}"));
    a.run("echo 1 0 > /proc/sys/net/ipv4/ping_group_range");
    let said = a.run(&format!("{probe} || echo code $?"));
    assert!(said.contains("code 3\n"), "{said}");
    assert!(
        said.contains("CAP_NET_RAW") && said.contains("ping_group_range"),
        "{said}"
    );
    let said = a.run(&format!("{} || echo code $?", nobody("health")));
    assert!(said.contains("code 3\n"), "{said}");
    a.run("echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range");
    a.run(&probe);
    a.run(&nobody(&format!(
        "probe fd00:255::1 {QUICK} --interface t0"
    )));
}

#[test]
fn tcp_and_http_are_asked_through_the_tunnel() {
    if !is_able() {
        return;
    }
    let (a, b) = joined();
    serve(&b, "10.255.0.2:8080");
    serve(&b, "[fd00:255::1]:8080");
    for target in ["10.255.0.2", "fd00:255::1"] {
        let text = good(
            &a,
            &format!("probe {target} --tcp 8080 {QUICK} --interface t0"),
        );
        assert!(text.contains("port 8080: 2 of 2 answered"), "{text}");
        let (code, said) = bad(&a, &format!("probe {target} --tcp 9 {QUICK}"));
        assert!(code == 1 && said.contains("connection refused"), "{said}");
    }
    for url in [
        "http://10.255.0.2:8080/204",
        "http://[fd00:255::1]:8080/302",
    ] {
        let got = json(&good(
            &a,
            &format!("--json probe --http {url} {QUICK} --interface t0"),
        ));
        assert_eq!(
            (&got["answered"], &got["method"]),
            (&2.into(), &"http".into())
        );
    }
    // The address is asked whatever the name in the URL means elsewhere.
    good(
        &a,
        &format!("probe 10.255.0.2 --http http://www.example.org:8080/200 {QUICK}"),
    );
    for status in [404, 503] {
        let (code, said) = bad(
            &a,
            &format!("probe --http http://10.255.0.2:8080/{status} {QUICK}"),
        );
        assert!(
            code == 1 && said.contains(&format!("HTTP status {status}")),
            "{said}"
        );
    }
    b.run("ip link del t0");
    let (code, said) = bad(&a, "probe 10.255.0.2 --tcp 8080 --count 1 --timeout 300ms");
    assert!(
        code == 1 && said.contains("no answer within 300ms"),
        "{said}"
    );
    let (code, said) = bad(
        &a,
        "probe --http http://10.255.0.2:8080/ --count 1 --timeout 300ms",
    );
    assert!(
        code == 1 && said.contains("no answer within 300ms"),
        "{said}"
    );
}

#[test]
fn health_tells_which_tunnels_are_up() {
    if !is_able() {
        return;
    }
    let (a, b) = joined();
    let once = "health --count 2 --interval 20ms --timeout 2s";
    let text = good(&a, once);
    assert_eq!(text.matches(" up ").count(), 2, "{text}");
    good(
        &a,
        "create wide --remote 192.0.2.2 --key 8 --tunnel-ip 10.254.0.1/24",
    );
    let text = good(&a, once);
    assert!(text.contains("nothing to probe"), "{text}");
    // A tunnel to a host that has no other end of it.
    good(
        &a,
        "create lost --remote 192.0.2.2 --key 9 --tunnel-ip 10.253.0.1/32 --peer-ip 10.253.0.2",
    );
    let done = output(&a, &format!("--json {once}"));
    assert_eq!(done.status.code(), Some(1));
    let rows = json(&String::from_utf8(done.stdout).unwrap());
    let states: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["name"].as_str().unwrap(), row["state"].as_str()))
        .collect();
    assert_eq!(
        states,
        [
            ("lost", Some("down")),
            ("t0", Some("up")),
            ("t0", Some("up")),
            ("wide", None)
        ]
    );
    assert_eq!(rows[0]["loss_percent"], 100.0);
    assert!(rows[1]["rtt_avg_ms"].is_f64(), "{rows}");
    // Only what is asked for counts.
    good(&a, &format!("{once} t0 wide"));
    good(&a, &format!("{once} --name t0"));
    a.run("ip link set t0 down");
    let (code, said) = bad(&a, &format!("{once} --name t0"));
    assert!(code == 1 && said.contains("down: t0"), "{said}");
    a.run("ip link set t0 up");
    drop(b);
}

#[test]
fn a_watch_prints_rounds_and_ends_with_the_last_ones_code() {
    if !is_able() {
        return;
    }
    let (a, b) = joined();
    let watch = "health --watch --count 1 --timeout 1s --pause 50ms";
    let mut child = gretun(&a, watch).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = |words: &str| {
        let found = lines
            .by_ref()
            .take(200)
            .any(|line| line.unwrap().contains(words));
        assert!(found, "no line with {words:?}");
    };
    next("10.255.0.2  up");
    next("10.255.0.2  up");
    b.run("ip link set t0 down");
    next("10.255.0.2  down");
    // The round with the second far end of the same tunnel is over before the next one begins.
    next("10.255.0.2  down");
    signal(&child, libc::SIGINT);
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(1));

    // On a terminal the table is drawn over the last one.
    let file = tempfile::NamedTempFile::new().unwrap();
    let program = env!("CARGO_BIN_EXE_gretun");
    let mut child = std::process::Command::new("ip")
        .args(["netns", "exec", a.name(), "script", "-qfec"])
        .arg(format!("{program} {watch}"))
        .arg(file.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the table is drawn again", || {
        let drawn = String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned();
        drawn.matches("\x1b[H\x1b[2J").count() >= 2 && drawn.contains("FAR END")
    });
    signal(&child, libc::SIGTERM);
    child.wait().unwrap();
}
