//! Tests what survives a restart and what does not, and the program's own commands: kill -9, damage, keys, settings.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may"
)]

mod coord_support;

use std::net::IpAddr;
use std::process::Output;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use coord_support::{Connection, Coord, Node, cli};
use gretun::proto::api::RegisterResponse;
use serde_json::Value;

/// Kills a coordinator while nodes register as fast as it takes them, many times, and looks for every registration that
/// was acknowledged.
#[test]
fn every_acknowledged_registration_survives_kill_9() {
    const ROUNDS: usize = 25;
    let mut dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(Node, RegisterResponse)> = Vec::new();
    for round in 1.. {
        let coord = Coord::start_in(dir, &["--open", "--pool=10.0.0.0/16"]);
        let api = coord.api;
        let (send, receive) = mpsc::channel();
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let send = send.clone();
                thread::spawn(move || {
                    // Until the connection breaks, which is a panic in the client.
                    loop {
                        let node = Node::new(api, &format!("node{writer}"));
                        let joined = node.register(None).json();
                        let _ = send.send((node, joined));
                    }
                })
            })
            .collect();
        drop(send);
        let mut random = [0; 2];
        getrandom::fill(&mut random).unwrap();
        thread::sleep(Duration::from_micros(u64::from(u16::from_le_bytes(random))));
        dir = coord.kill();
        for writer in writers {
            let _ = writer.join();
        }
        acknowledged.extend(receive);
        // On a loaded machine the kill often comes before any answer.
        let is_enough = round >= ROUNDS && acknowledged.len() > ROUNDS;
        if round % 8 == 1 || is_enough {
            check(&dir, &acknowledged);
        }
        if is_enough {
            let count = acknowledged.len();
            println!("{count} registrations acknowledged over {round} kills");
            break;
        }
        assert!(round < 20 * ROUNDS, "hardly any registration succeeds");
    }

    // They are as good as before: the same name and addresses without a key.
    let coord = Coord::start_in(dir, &["--pool=10.0.0.0/16"]);
    for (node, joined) in acknowledged.iter_mut().rev().take(20) {
        node.api = coord.api;
        let again: RegisterResponse = node.register(None).json();
        assert_eq!(
            (&again.name, &again.tunnel_ips),
            (&joined.name, &joined.tunnel_ips)
        );
    }
}

fn check(dir: &tempfile::TempDir, acknowledged: &[(Node, RegisterResponse)]) {
    let listed = cli(dir.path(), &["--json", "peers", "list"]);
    assert!(listed.status.success(), "{listed:?}");
    let listed: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    let mut addresses = std::collections::BTreeSet::new();
    let mut names = std::collections::BTreeSet::new();
    for peer in &listed {
        assert!(names.insert(peer["name"].as_str().unwrap()));
        assert!(addresses.insert(peer["tunnel_ips"][0].as_str().unwrap()));
    }
    let by_key: std::collections::BTreeMap<&str, &Value> = listed
        .iter()
        .map(|peer| (peer["node_key"].as_str().unwrap(), peer))
        .collect();
    for (node, joined) in acknowledged {
        let kept = by_key
            .get(node.public().to_string().as_str())
            .expect("an acknowledged registration");
        assert_eq!(kept["name"], joined.name.as_str());
        let ips: Vec<IpAddr> = serde_json::from_value(kept["tunnel_ips"].clone()).unwrap();
        assert_eq!(ips, joined.tunnel_ips);
    }
}

#[test]
fn a_one_time_key_is_used_up_across_kill_9() {
    let coord = Coord::start(&[]);
    let key = coord.key(&[]);
    assert_eq!(
        Node::new(coord.api, "alice").register(Some(&key)).status,
        200
    );
    let coord = Coord::start_in(coord.kill(), &[]);
    assert_eq!(Node::new(coord.api, "bob").register(Some(&key)).status, 403);
}

#[test]
fn a_request_is_not_taken_again_by_the_next_run() {
    let coord = Coord::open();
    let alice = Node::joined(&coord, "alice");
    let request = alice.signed("GET", "/v1/peers", b"");
    assert_eq!(Connection::open(coord.api).send(&request).status, 200);
    let coord = Coord::start_in(coord.kill(), &["--open"]);
    let (status, text) = Connection::open(coord.api).send(&request).refusal();
    assert_eq!(status, 401);
    assert!(text.contains("before the coordinator started"), "{text}");
}

#[test]
fn endpoints_and_generations_go_on_after_a_stop() {
    let coord = Coord::open();
    let (mut alice, bob) = (Node::joined(&coord, "alice"), Node::joined(&coord, "bob"));
    bob.publish("192.0.2.2:2");
    let before = alice.peers();
    let (status, dir) = coord.stop();
    assert!(status.success());
    let coord = Coord::start_in(dir, &["--open"]);
    alice.api = coord.api;
    let after = alice.peers();
    assert!(after.generation > before.generation);
    assert_eq!(after.peers[0].endpoints, before.peers[0].endpoints);
    assert!(!after.peers[0].online);
}

/// Endpoints are not stored with each publication, but soon after: a coordinator that was killed knows where nodes are.
#[test]
fn published_endpoints_survive_a_kill_9_that_comes_later() {
    let mut coord = Coord::open();
    let (mut alice, mut bob) = (Node::joined(&coord, "alice"), Node::joined(&coord, "bob"));
    // Longer on a machine that is busy.
    for seconds in [2, 4, 8, 16] {
        assert_eq!(bob.publish("192.0.2.2:2").status, 200);
        thread::sleep(Duration::from_secs(seconds));
        coord = Coord::start_in(coord.kill(), &["--open"]);
        (alice.api, bob.api) = (coord.api, coord.api);
        if !alice.peers().peers[0].endpoints.is_empty() {
            return;
        }
    }
    panic!("they are not stored");
}

#[test]
fn keys_are_made_listed_and_revoked_with_and_without_a_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    let made = cli(
        dir.path(),
        &[
            "keys",
            "create",
            "--reusable",
            "--expires=24h",
            "--tag=ci",
            "--ephemeral",
        ],
    );
    assert!(made.status.success(), "{made:?}");
    let key = text(&made.stdout).trim().to_owned();
    assert!(text(&made.stderr).contains("not shown again"));
    let listed = text(&cli(dir.path(), &["keys", "list"]).stdout);
    assert!(
        listed.contains("reusable, ephemeral")
            && listed.contains("in 23h")
            && listed.contains("ci"),
        "{listed}"
    );
    assert!(!listed.contains(&key));

    // The commands work on the same store while the coordinator runs.
    let coord = Coord::start_in(dir, &[]);
    let alice = Node::new(coord.api, "alice");
    assert_eq!(alice.register(Some(&key)).status, 200);
    let listed: Vec<Value> =
        serde_json::from_slice(&coord.cli(&["--json", "keys", "list"]).stdout).unwrap();
    assert_eq!(
        (&listed[0]["uses"], &listed[0]["state"]),
        (&1.into(), &"valid".into())
    );
    let expired = coord.key(&["--expires=1s"]);
    assert!(coord.cli(&["keys", "revoke", &key]).status.success());
    let (status, text) = Node::new(coord.api, "bob").register(Some(&key)).refusal();
    assert!(status == 403 && text.contains("not known"), "{text}");
    // Registered nodes stay registered.
    assert_eq!(alice.register(None).status, 200);
    thread::sleep(Duration::from_millis(1100));
    let (status, text) = Node::new(coord.api, "bob")
        .register(Some(&expired))
        .refusal();
    assert!(status == 403 && text.contains("expired"), "{text}");
    let gone = coord.cli(&["keys", "revoke", "00000000"]);
    assert_eq!(gone.status.code(), Some(1));
}

#[test]
fn a_damaged_store_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("coord.redb");
    std::fs::write(&path, b"this is no store").unwrap();
    for args in [
        &["--listen=127.0.0.1:0", "--stun-listen=none"][..],
        &["keys", "list"],
    ] {
        let failed = cli(dir.path(), args);
        assert_eq!(failed.status.code(), Some(1), "{failed:?}");
        let error = text(&failed.stderr);
        assert!(
            error.contains("damaged") && error.contains("hint: put a backup in its place"),
            "{error}"
        );
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"this is no store");
}

#[test]
fn what_is_in_use_is_named() {
    let coord = Coord::open();
    let second = coord.cli(&["--listen=127.0.0.1:0", "--stun-listen=none"]);
    assert_fails(&second, 1, "in use by another process");
    let elsewhere = tempfile::tempdir().unwrap();
    let listen = format!("--listen={}", coord.api);
    assert_fails(
        &cli(elsewhere.path(), &[&listen, "--stun-listen=none"]),
        1,
        "ss -ltnp",
    );
    let stun = format!("--stun-listen={}", coord.stun);
    assert_fails(
        &cli(elsewhere.path(), &["--listen=127.0.0.1:0", &stun]),
        1,
        "ss -lunp",
    );
}

#[test]
fn settings_are_checked_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let config = dir.path().join("coord.toml");
    let config_arg = format!("--config={}", config.display());
    let check = |content: &str| {
        std::fs::write(&config, content).unwrap();
        cli(&state, &["--check-config", &config_arg])
    };
    let good =
        check("listen = \"192.0.2.1:1\"\ncert = \"/none\"\nkey = \"/none\"\nstate-dir = \"/none\"");
    assert!(good.status.success(), "{good:?}");
    assert_fails(&check("listne = \"x\""), 2, "unknown field `listne`");
    assert_fails(
        &check("store = \"postgres://u:secret@h/d\""),
        2,
        "there is no store `postgres`",
    );
    assert_fails(&check("pool = \"10.0.0.1/8\""), 2, "write 10.0.0.0/8");
    assert_fails(
        &cli(&state, &["--check-config", "--config=/nonexistent"]),
        2,
        "/nonexistent",
    );
    assert_fails(&cli(&state, &["--listen=nowhere"]), 2, "nowhere");
    assert_fails(&cli(&state, &["--key=k"]), 2, "--cert");
    assert_fails(
        &cli(&state, &["--check-config", "keys", "list"]),
        2,
        "takes no command",
    );
    let long = dir.path().join("x".repeat(100));
    assert_fails(
        &cli(&long, &["--listen=127.0.0.1:0", "--stun-listen=none"]),
        2,
        "too long",
    );
    assert!(!state.exists());
}

#[test]
fn a_bad_certificate_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let pem = dir.path().join("empty.pem");
    std::fs::write(&pem, b"").unwrap();
    let (cert, key) = (
        format!("--cert={}", pem.display()),
        format!("--key={}", pem.display()),
    );
    let failed = cli(
        dir.path(),
        &["--listen=127.0.0.1:0", "--stun-listen=none", &cert, &key],
    );
    assert_fails(&failed, 1, "empty.pem for TLS");
}

fn assert_fails(output: &Output, code: i32, message: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let error = text(&output.stderr);
    assert!(
        error.contains(message) && !error.contains("secret"),
        "{error}"
    );
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
