//! Whether the data port is FOU's, free, or somebody else's.

use std::fs;

use super::{Finding, Level, Patient};
use crate::kernel::Kernel;

const CHECK: &str = "port";

pub(super) async fn check(kernel: &Kernel, patient: &Patient) -> Finding {
    let port = patient.port;
    let fou = kernel.fou_ports().unwrap_or_default();
    let is_fou = fou.iter().any(|it| it.port == port);
    let tables = ["/proc/net/udp", "/proc/net/udp6"];
    let inode = tables
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|table| bound(&table, port));
    match (is_fou, inode, patient.daemon.is_some()) {
        (true, _, true) => Finding::ok(
            CHECK,
            format!("UDP port {port} is the kernel's, for tunnels"),
        ),
        (true, _, false) => Finding::ok(
            CHECK,
            format!("UDP port {port} is the kernel's, left by a daemon that ran before"),
        ),
        (false, _, true) => Finding::new(
            CHECK,
            Level::Problem,
            format!("the daemon runs, but UDP port {port} takes no tunnels any more"),
            "the kernel lists no FOU port of this number",
            "systemctl restart gretun-peer",
        ),
        (false, Some(inode), false) => {
            let owner =
                owner(inode).unwrap_or_else(|| "a process that this user may not see".to_owned());
            Finding::new(
                CHECK,
                Level::Problem,
                format!("UDP port {port} is taken by {owner}, so `gretun up` cannot have it"),
                format!("/proc/net/udp, inode {inode}"),
                format!("stop {owner}, or choose another port with --fou-port"),
            )
        }
        (false, None, false) => Finding::ok(CHECK, format!("UDP port {port} is free")),
    }
}

/// The inode of the socket that is bound to `port`, in a table like `/proc/net/udp`.
fn bound(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = fields.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(local, 16).ok()? == port;
        is_it.then(|| fields.get(9)?.parse().ok())?
    })
}

/// Finds the program that has the socket of this inode; returns its name and number.
fn owner(inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let numbers = processes.filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    let holds = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        let mut links = files
            .flatten()
            .filter_map(|it| fs::read_link(it.path()).ok());
        links.any(|it| it.to_string_lossy() == wanted)
    };
    let pid = numbers.into_iter().find(holds)?;
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command_line = String::from_utf8_lossy(&command_line);
    let name = program_name(comm.trim_end(), &command_line);
    Some(format!("{name} (pid {pid})"))
}

/// Returns the name under which a program was started, from `/proc/PID/comm` and `/proc/PID/cmdline`.
///
/// The kernel keeps only 15 bytes of the executed file's name, and nixpkgs wraps NAME in a script or program that executes
/// `.NAME-wrapped`. The first argument has the name whole, but a program may overwrite it with anything, so it counts only
/// where it fits.
fn program_name<'a>(comm: &'a str, command_line: &'a str) -> &'a str {
    const KEPT: usize = 15;
    let started_as = command_line.split('\0').next().unwrap_or_default();
    let name = started_as.rsplit('/').next().unwrap_or_default();
    let executed = [name.to_owned(), format!(".{name}-wrapped")];
    let fits = |file: &String| file.bytes().take(KEPT).eq(comm.bytes());
    if executed.iter().any(fits) {
        name
    } else {
        comm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_port_is_found_with_its_owner() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let table = fs::read_to_string("/proc/net/udp").unwrap();
        let inode = bound(&table, port).unwrap();
        let owner = owner(inode).unwrap();
        let program = std::env::current_exe().unwrap();
        let program = program.file_name().unwrap().to_string_lossy();
        assert_eq!(owner, format!("{program} (pid {})", std::process::id()));
        assert_eq!(bound("", port), None);
        assert_eq!(bound("head\nx y z\n", port), None);
    }

    #[test]
    fn a_program_is_named_as_it_was_started() {
        let cases = [
            ("dnsmasq", "/usr/sbin/dnsmasq\0-k\0", "dnsmasq"),
            // Wrapped programs of NixOS; the second name is cut off.
            (
                ".gretun-wrapped",
                "/nix/store/x-gretun/bin/gretun\0up\0",
                "gretun",
            ),
            (".gretun-coord-w", "gretun-coord\0", "gretun-coord"),
            (
                "systemd-resolve",
                "/usr/lib/systemd/systemd-resolved\0",
                "systemd-resolved",
            ),
            // Overwritten by the program, or a script's interpreter.
            ("nginx", "nginx: worker process\0", "nginx"),
            ("sshd", "sshd: root@pts/0\0", "sshd"),
            (
                "server.py",
                "/usr/bin/python3\0/srv/server.py\0",
                "server.py",
            ),
            ("kworker/0:1", "", "kworker/0:1"),
        ];
        for (comm, command_line, name) in cases {
            assert_eq!(program_name(comm, command_line), name, "{comm}");
        }
    }
}
