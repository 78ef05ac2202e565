//! Two hosts on one wire: network namespaces connected by a veth pair.

use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use gretun::kernel::host::preflight;

#[path = "../skip_support/mod.rs"]
mod skip_support;

pub use skip_support::skip;

/// Returns whether the kernel can do what the tests need; see [`skip`].
pub fn kernel_is_able() -> bool {
    let needs = [&preflight::OVERLAY[..], &preflight::OVERLAY_IPV6[..]].concat();
    match preflight::check(&needs) {
        Ok(()) => true,
        Err(error) => skip(&error),
    }
}

/// Runs a program that must succeed; gives its output.
pub fn run(command: &str) -> String {
    let output = Command::new("sh")
        .args(["-ec", command])
        .output()
        .expect("sh runs");
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("output is text")
}

/// Runs a future in a thread of its own, which may move between namespaces.
pub fn in_own_thread<F: Future>(make: impl FnOnce() -> F + Send) -> F::Output
where
    F::Output: Send,
{
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async { make().await })
        });
        thread.join().expect("the test's thread")
    })
}

/// A network namespace with one interface `eth0`; gone when dropped.
#[derive(Debug)]
pub struct Host {
    name: String,
}

impl Host {
    /// Two hosts on one wire: 192.0.2.1 and .2, 2001:db8::1 and ::2.
    pub fn pair() -> (Host, Host) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!(
            "gt{}x{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let [a, b] = ["a", "b"].map(|side| Host {
            name: format!("{id}{side}"),
        });
        run(&format!(
            "ip netns add {} && ip netns add {}",
            a.name, b.name
        ));
        run(&format!(
            "ip link add eth0 netns {} type veth peer name eth0 netns {}",
            a.name, b.name
        ));
        for (host, number) in [(&a, 1), (&b, 2)] {
            host.run(&format!(
                "ethtool -K eth0 tx off >/dev/null; echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 192.0.2.{number}/24 dev eth0
                 ip addr add 2001:db8::{number}/64 dev eth0 nodad; ip link set lo up; ip link set eth0 up"
            ));
        }
        // The kernel gives a link its link-local address some time after it is up on both sides; what looks for changes must not see it.
        for host in [&a, &b] {
            host.run("until ip -6 addr show dev eth0 scope link -tentative | grep -q fe80; do sleep 0.05; done");
        }
        (a, b)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a program on this host.
    pub fn run(&self, command: &str) -> String {
        run(&format!("ip netns exec {} sh -ec '{command}'", self.name))
    }

    /// Counts the links with this prefix, without starting a program, so that links are seen while they are being created.
    pub fn count_links(&self, prefix: &str) -> usize {
        std::thread::scope(|scope| {
            let count = scope.spawn(|| {
                self.enter();
                let table =
                    std::fs::read_to_string("/proc/thread-self/net/dev").expect("the table");
                let names = table.lines().map(str::trim_start);
                names.filter(|name| name.starts_with(prefix)).count()
            });
            count.join().expect("the thread that counts")
        })
    }

    /// Runs a script on this host, which is too long for an argument.
    pub fn run_script(&self, script: &str) {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(script.as_bytes())
            .expect("the file takes it");
        let path = file.path().display();
        run(&format!("ip netns exec {} sh -e {path}", self.name));
    }

    /// Runs a future on this host, in a thread of its own.
    pub fn block_on<F: Future>(&self, make: impl FnOnce() -> F + Send) -> F::Output
    where
        F::Output: Send,
    {
        in_own_thread(|| {
            self.enter();
            make()
        })
    }

    /// Moves this thread to the host: sockets opened and programs started from here on are there.
    pub fn enter(&self) {
        set_namespace(&format!("/run/netns/{}", self.name));
    }
}

/// Moves this thread back to where the process is.
pub fn leave() {
    set_namespace("/proc/self/ns/net");
}

fn set_namespace(path: &str) {
    let namespace = File::open(path).expect("the namespace");
    // SAFETY: the descriptor is open; only this thread changes its namespace.
    let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(entered, 0, "{}", std::io::Error::last_os_error());
}

impl Drop for Host {
    fn drop(&mut self) {
        run(&format!("ip netns del {}", self.name));
    }
}
