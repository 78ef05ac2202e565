//! Two hosts on one wire: network namespaces joined by a veth pair.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use gretun::kernel::preflight;

/// Whether the kernel can do what the tests need; a skip is loud, and a failure where it is not allowed.
pub fn kernel_is_able() -> bool {
    let needs = [&preflight::OVERLAY[..], &preflight::OVERLAY_IPV6[..]].concat();
    match preflight::check(&needs) {
        Ok(()) => true,
        Err(error) => {
            assert!(
                std::env::var_os("GRETUN_REQUIRE_KERNEL").is_none(),
                "GRETUN_REQUIRE_KERNEL is set, and {error}"
            );
            eprintln!("SKIPPED: {error}");
            false
        }
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
                "ethtool -K eth0 tx off >/dev/null; ip addr add 192.0.2.{number}/24 dev eth0
                 ip addr add 2001:db8::{number}/64 dev eth0 nodad; ip link set lo up; ip link set eth0 up"
            ));
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

    /// Runs a future on this host, in a thread of its own.
    pub fn block_on<F: Future>(&self, make: impl FnOnce() -> F + Send) -> F::Output
    where
        F::Output: Send,
    {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime.expect("a runtime").block_on(make())
            });
            thread.join().expect("the test's thread")
        })
    }

    fn enter(&self) {
        let namespace = File::open(format!("/run/netns/{}", self.name)).expect("the namespace");
        // SAFETY: the descriptor is open; only this thread changes its namespace.
        let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(entered, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        run(&format!("ip netns del {}", self.name));
    }
}
