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
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("{} (pid {pid})", name.trim()))
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
        assert!(owner.contains(&std::process::id().to_string()), "{owner}");
        assert_eq!(bound("", port), None);
        assert_eq!(bound("head\nx y z\n", port), None);
    }
}
