//! A process that is killed while it changes tunnels.

use std::cell::Cell;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;

use gretun::kernel::tunnel::transaction::{Backend, execute};
use gretun::kernel::{Kernel, KernelError};
use gretun::tunnel::encap::Encap;
use gretun::tunnel::header_fields::InheritOrFixed;
use gretun::tunnel::mode::{Family, Mode};
use gretun::tunnel::op::KernelOp;
use gretun::tunnel::plan;
use gretun::tunnel::state::TunnelState;

use crate::lab::{Host, in_own_thread};
use crate::tunnel_cli::{good, gretun};
use crate::tunnel_lab::{Node, difference, is_able, side_by_side, state, traces};

const SET: &str = "test";

/// The kernel, until the process dies before one of the operations.
struct Killed<'a> {
    kernel: &'a Kernel,
    before: usize,
    seen: Cell<usize>,
}

/// What the process leaves by.
struct Dead;

impl Backend for Killed<'_> {
    fn apply(&self, ops: &[KernelOp]) -> Vec<Result<(), KernelError>> {
        let first = self.seen.get();
        self.seen.set(first + ops.len());
        if self.before >= first + ops.len() {
            return self.kernel.apply(ops);
        }
        for outcome in self.kernel.apply(&ops[..self.before - first]) {
            outcome.unwrap();
        }
        // Not a panic that anybody hears of: the process is gone.
        resume_unwind(Box::new(Dead))
    }
}

/// Carries out so many operations of a plan, and never gets to take one back.
async fn execute_until_killed(node: &Node, ops: &[KernelOp], before: usize) {
    node.host.enter();
    let backend = Killed {
        kernel: &node.kernel,
        before,
        seen: Cell::new(0),
    };
    let ended = catch_unwind(AssertUnwindSafe(|| execute(&backend, ops)));
    let dead = ended.expect_err("the process dies");
    assert!(dead.is::<Dead>(), "a panic of another kind");
}

/// Some tunnels of different kinds, with all that can belong to one.
fn some() -> Vec<TunnelState> {
    let chosen = [
        (Mode::Gre, "fou"),
        (Mode::Gretap, "gue"),
        (Mode::Sit, "none"),
        (Mode::Ip6gre, "fou"),
    ];
    let tunnels = side_by_side(1).into_iter().filter(|tunnel| {
        let kind = (tunnel.mode, tunnel.encap.name());
        chosen.contains(&kind)
    });
    let mut tunnels: Vec<_> = tunnels.collect();
    for (i, tunnel) in tunnels.iter_mut().enumerate() {
        tunnel.alt_name = Some(format!("other-{i}"));
        tunnel.routes = match tunnel.mode.carries(Family::V4) {
            true => vec![format!("10.{}.0.0/16", 100 + i).parse().unwrap()],
            false => vec![format!("fd01:{i}::/64").parse().unwrap()],
        };
    }
    tunnels.into_iter().map(state).collect()
}

/// A second version of the tunnels: one gone, one of another kind, one with other ports and addresses.
fn others() -> Vec<TunnelState> {
    let mut tunnels = some();
    tunnels.retain(|tunnel| tunnel.link.mode != Mode::Sit);
    for tunnel in &mut tunnels {
        match (tunnel.link.mode, &mut tunnel.link.encap) {
            (Mode::Ip6gre, _) => tunnel.link.mode = Mode::Ip6gretap,
            (Mode::Gre, Encap::Fou(udp)) => {
                udp.dport += 1000;
                tunnel.link.ttl = InheritOrFixed::Fixed(9);
                tunnel.addresses[0].net = "10.240.0.1/30".parse().unwrap();
            }
            _ => {}
        }
    }
    tunnels
}

async fn apply(node: &Node, wanted: &[TunnelState]) {
    let ops = plan::apply(wanted, &node.observe().await, SET).unwrap();
    node.execute(&ops).await.unwrap();
    let again = plan::apply(wanted, &node.observe().await, SET).unwrap();
    assert_eq!(again, [], "applying twice changes nothing");
}

#[test]
fn killed_before_any_operation_it_goes_on_where_it_was() {
    if !is_able() {
        return;
    }
    in_own_thread(|| async {
        let (node, _far) = Node::pair().await;
        node.host.run(
            "ip link add theirs type gre local 192.0.2.1 remote 198.51.100.9 key 9 encap fou encap-sport 9999 encap-dport 1
             ip fou add port 9999 ipproto 47; ip addr add 10.250.0.1/30 dev theirs; ip link set theirs up
             ip route add 10.251.0.0/16 dev theirs",
        );
        let nothing = sorted(&node).await;
        let index = node.kernel.link_index("theirs").unwrap();
        let mut deaths = 0;
        for (from, to) in [
            (vec![], some()),
            (some(), others()),
            (others(), some()),
            (some(), vec![]),
        ] {
            apply(&node, &to).await;
            let reached = sorted(&node).await;
            // Run again with the same file; and with an empty one, which finds by the devices what it has to remove.
            let mut nexts = vec![to.clone()];
            if from.is_empty() {
                nexts.push(Vec::new());
            }
            for next in &nexts {
                let expected = if next.is_empty() { &nothing } else { &reached };
                for before in 0.. {
                    apply(&node, &from).await;
                    let ops = plan::apply(&to, &node.observe().await, SET).unwrap();
                    if before >= ops.len() {
                        break;
                    }
                    execute_until_killed(&node, &ops, before).await;
                    apply(&node, next).await;
                    let left = difference(expected, &sorted(&node).await);
                    assert!(left.is_empty(), "{}: {left:#?}", ops[before]);
                    deaths += 1;
                }
            }
            apply(&node, &[]).await;
        }
        println!("{deaths} deaths");
        assert_eq!(node.kernel.link_index("theirs").unwrap(), index);
    });
}

/// Returns the kernel's state without link-local addresses, which are random on Ethernet links.
async fn sorted(node: &Node) -> Vec<String> {
    let mut lines = node.remains().await;
    lines.retain(|line| !line.contains(" fe80"));
    lines.sort();
    lines.dedup();
    lines
}

/// Runs a program that is stopped before and after each of its system calls, and killed at the first stop at which this is so.
fn kill_when(mut command: Command, mut is_time: impl FnMut() -> bool) {
    let ptrace = |request: libc::c_uint, process: libc::pid_t| {
        // SAFETY: none of the requests below reads or writes memory of this process.
        match unsafe { libc::ptrace(request, process, 0, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one system call.
    unsafe { command.pre_exec(move || ptrace(libc::PTRACE_TRACEME, 0)) };
    let mut child = command.spawn().unwrap();
    let process = libc::pid_t::try_from(child.id()).unwrap();
    loop {
        let mut status = 0;
        // SAFETY: the process is a child of this thread that was not waited for, and the pointer is to an integer.
        let waited = unsafe { libc::waitpid(process, &raw mut status, 0) };
        assert_eq!(waited, process, "{}", io::Error::last_os_error());
        assert!(libc::WIFSTOPPED(status), "it ended before: {status:x}");
        if is_time() {
            break;
        }
        ptrace(libc::PTRACE_SYSCALL, process).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn apply_survives_being_killed_at_any_point() {
    if !is_able() {
        return;
    }
    // Far more than are made with one batch of requests.
    const TUNNELS: usize = 400;
    let (host, _b) = Host::pair();
    let before = traces(&host);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tunnels.toml");
    let mut text = String::new();
    for i in 1..=TUNNELS {
        text.push_str(&format!(
            "[tunnels.k{i}]\nremote = \"192.0.2.2\"\nkey = {i}\ntunnel-ip = \"10.{}.{}.1/30\"\nencap = \"fou\"\nencap-dport = 5555\n",
            i / 250,
            i % 250
        ));
    }
    std::fs::write(&path, text).unwrap();
    let empty = directory.path().join("empty.toml");
    std::fs::write(&empty, "").unwrap();
    let apply = format!("apply {}", path.display());
    let mut seen = Vec::new();
    for links in [1, TUNNELS / 2, TUNNELS] {
        kill_when(gretun(&host, &apply), || host.count_links("k") >= links);
        seen.push(host.count_links("k"));
        good(&host, &apply);
        assert!(good(&host, &apply).contains("nothing to change"));
        let list: serde_json::Value = serde_json::from_str(&good(&host, "--json list")).unwrap();
        assert_eq!(list.as_array().unwrap().len(), TUNNELS);
        good(&host, &format!("apply {}", empty.display()));
        assert_eq!(traces(&host), before);
    }
    println!("links at the moment of death: {seen:?}");
    assert!(seen[0] < seen[1] && seen[1] < TUNNELS, "{seen:?}");

    host.run("ip link add half group 1735550324 type gre local 192.0.2.1 remote 192.0.2.2 key 5");
    good(&host, &format!("apply {}", empty.display()));
    assert_eq!(traces(&host), before);
}
