//! Masquerading in the kernel's nftables. These tests need no tunnels, only root and nf_tables.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use gretun::kernel::Kernel;
use gretun::tunnel::nftables::SetPair;
use gretun::tunnel::op::KernelOp;
use gretun::tunnel::snat::{self, SnatPair};
use gretun::tunnel::sources;

use crate::lab::{Host, skip};
use crate::tunnel_cli::gretun;
use crate::tunnel_lab;

fn is_able() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    skip(&"this is not root")
}

fn pair(link: &str, network: &str) -> SnatPair {
    (link.to_owned(), network.parse().unwrap())
}

fn add((link, network): &SnatPair) -> KernelOp {
    KernelOp::AddSnat {
        link: link.clone(),
        network: *network,
    }
}

fn delete((link, network): &SnatPair) -> KernelOp {
    KernelOp::DeleteSnat {
        link: link.clone(),
        network: *network,
    }
}

fn execute(host: &Host, ops: &[KernelOp]) {
    host.block_on(|| async { Kernel::open().unwrap().execute(ops).unwrap() });
}

fn pairs(host: &Host) -> BTreeSet<SnatPair> {
    host.block_on(|| async { Kernel::open().unwrap().snat_pairs().into_iter().collect() })
}

fn ruleset(host: &Host) -> String {
    host.run("nft -s list ruleset")
}

/// Pairs of both versions of IP, among them single addresses and a network that is no whole number of bytes.
fn some() -> Vec<SnatPair> {
    vec![
        pair("t0", "10.0.0.0/8"),
        pair("t0", "192.0.2.1/32"),
        pair("tunnel-of-15-by", "172.16.0.0/13"),
        pair("t0", "fd00::/9"),
        pair("t1", "2001:db8::1/128"),
    ]
}

/// Makes a table with [`some`] elements by the commands that a person would type.
fn make_with_nft(host: &Host, script: &str, sets: SetPair) {
    for line in script.lines() {
        host.run(&format!("nft \"{line}\""));
    }
    for (link, network) in some() {
        let element = sets.command("add", &link, network).replace('"', "\\\"");
        host.run(&format!("nft \"{element}\""));
    }
}

/// The table over netlink is the one that the commands of `--dry-run` and of `export` make with nft.
#[test]
fn the_table_is_as_nft_makes_it() {
    if !is_able() {
        return;
    }
    let (a, b) = Host::pair();
    let pairs_there: BTreeSet<SnatPair> = some().into_iter().collect();
    let ops: Vec<KernelOp> = some().iter().map(add).collect();
    execute(&a, &ops);
    make_with_nft(&b, snat::SCRIPT, snat::SETS);
    assert_eq!(ruleset(&a), ruleset(&b));
    assert_eq!((pairs(&a), pairs(&b)), (pairs_there.clone(), pairs_there));
    // The one takes up what the other made.
    let gone: Vec<KernelOp> = some().iter().map(delete).collect();
    for host in [&a, &b] {
        execute(host, &gone[..4]);
        assert_eq!(pairs(host), BTreeSet::from([some()[4].clone()]));
        execute(host, &gone);
        assert_eq!(ruleset(host), "");
    }
}

/// The same of the filter of sources.
#[test]
fn the_filter_of_sources_is_as_nft_makes_it() {
    if !is_able() {
        return;
    }
    let (a, b) = Host::pair();
    let op = |(link, network): SnatPair| KernelOp::AddSource { link, network };
    let ops: Vec<KernelOp> = some().into_iter().map(op).collect();
    execute(&a, &ops);
    make_with_nft(&b, sources::SCRIPT, sources::SETS);
    assert_eq!(ruleset(&a), ruleset(&b));
    let gone: Vec<KernelOp> = ops.iter().flat_map(KernelOp::undo).collect();
    for host in [&a, &b] {
        let found = host.block_on(|| async { Kernel::open().unwrap().sources().unwrap() });
        let found: BTreeSet<SnatPair> = found
            .into_iter()
            .flat_map(|(link, networks)| networks.into_iter().map(move |it| (link.clone(), it)))
            .collect();
        assert_eq!(found, some().into_iter().collect());
        execute(host, &gone);
        assert_eq!(ruleset(host), "");
    }
}

#[test]
fn what_others_have_in_the_table_stays() {
    if !is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    host.run(
        "nft add table inet gretun; nft add set inet gretun theirs \"{ type inet_service; }\"",
    );
    host.run("nft add table ip other; nft add chain ip other tunnels_postrouting");
    let before = ruleset(&host);
    execute(&host, &[add(&some()[0])]);
    execute(&host, &[delete(&some()[0])]);
    assert_eq!(ruleset(&host), before);
}

#[test]
fn a_flushed_ruleset_and_lost_rules_are_noticed_and_put_back() {
    if !is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    let ops: Vec<KernelOp> = some().iter().map(add).collect();
    execute(&host, &ops);
    let whole = ruleset(&host);
    for damage in [
        "nft flush ruleset",
        "nft flush chain inet gretun tunnels_postrouting",
        "nft delete rule inet gretun tunnels_postrouting handle $(nft -a list chain inet gretun tunnels_postrouting | sed -n \"s/.*handle \\([0-9]*\\)$/\\1/p\" | tail -1)",
        "nft insert rule inet gretun tunnels_postrouting counter accept",
        "nft delete chain inet gretun tunnels_postrouting",
    ] {
        host.run(damage);
        assert_eq!(pairs(&host), BTreeSet::new(), "{damage}");
        execute(&host, &ops);
        assert_eq!(ruleset(&host), whole, "{damage}");
    }
    host.run("nft flush set inet gretun tunnels_snat4");
    assert_eq!(pairs(&host).len(), 2);
    execute(&host, &ops);
    assert_eq!(ruleset(&host), whole);
}

/// Two thousand five hundred elements are one transaction, far beyond what a socket sends by default.
#[test]
fn a_large_table_is_one_transaction() {
    if !is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    let many: Vec<SnatPair> = (0..2500_u32)
        .map(|n| {
            pair(
                &format!("t{n}"),
                &format!("10.{}.{}.0/24", n / 250, n % 250),
            )
        })
        .collect();
    let ops: Vec<KernelOp> = many.iter().map(add).collect();
    execute(&host, &ops);
    assert_eq!(pairs(&host).len(), many.len());
    let ops: Vec<KernelOp> = many.iter().map(delete).collect();
    execute(&host, &ops);
    assert_eq!(ruleset(&host), "");
}

/// On a host whose firewall changes all the time, a dump and its transaction are seldom of one generation.
#[test]
fn a_firewall_that_changes_all_the_time_does_not_hold_it_up() {
    if !is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    host.run("nft add table ip busy; nft add set ip busy s \"{ type inet_service; }\"");
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            host.enter();
            for _ in 0..25 {
                crate::lab::run(
                    "nft add element ip busy s \"{ 1 }\"; nft delete element ip busy s \"{ 1 }\"",
                );
            }
        });
        while !busy.is_finished() {
            let ops: Vec<KernelOp> = some().iter().map(add).collect();
            execute(&host, &ops);
            assert_eq!(pairs(&host).len(), some().len());
            let ops: Vec<KernelOp> = some().iter().map(delete).collect();
            execute(&host, &ops);
            // nft(8) begins anew whenever the ruleset changes under it, so on one processor it would have no end without a pause.
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

/// The daemon looks again after somebody else's change of the table, and after nobody's of another table.
#[test]
fn changes_of_the_table_are_watched() {
    if !is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    host.block_on(|| async {
        let mut changes = Box::pin(Kernel::watch_nftables().unwrap());
        let kernel = Kernel::open().unwrap();
        for command in ["nft add table ip other", "nft add chain ip other c"] {
            crate::lab::run(command);
        }
        let short = Duration::from_millis(200);
        let none = tokio::time::timeout(short, changes.next()).await;
        assert!(none.is_err(), "a change of another table is none");
        kernel.execute(&[add(&some()[0])]).unwrap();
        assert_eq!(changes.next().await, Some(()));
        for command in [
            "nft delete element inet gretun tunnels_snat4 { t0 . 10.0.0.0/8 }",
            "nft flush chain inet gretun tunnels_postrouting",
            "nft flush ruleset",
        ] {
            crate::lab::run(command);
            let change = tokio::time::timeout(Duration::from_secs(10), changes.next());
            assert_eq!(change.await.expect(command), Some(()));
        }
    });
}

/// An `nft` that never ends holds nobody up: gretun talks to the kernel itself.
#[test]
fn no_program_is_started() {
    if !tunnel_lab::is_able() {
        return;
    }
    let (host, _far) = Host::pair();
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("started");
    let program = directory.path().join("nft");
    let script = format!("#!/bin/sh\ntouch {}\nexec sleep 600\n", mark.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", directory.path().display());
    for arguments in [
        "create t0 --remote 192.0.2.2 --tunnel-ip 10.0.0.1/30 --snat 10.9.0.0/16",
        "list",
        "delete t0",
    ] {
        let status = gretun(&host, arguments).env("PATH", &path).status();
        assert!(status.unwrap().success(), "{arguments}");
        let is_there = pairs(&host) == BTreeSet::from([pair("t0", "10.9.0.0/16")]);
        assert_eq!(is_there, arguments != "delete t0");
    }
    assert!(!mark.exists());
}
