//! Capabilities, modules, sysctls, offloads and files.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::command;
use super::{Finding, Level};
use crate::error::UserError as _;
use crate::kernel::host::preflight::{self, Need};
use crate::kernel::{Interface, Kernel};

/// Readable or writable by others than the owner.
const OTHERS: u32 = 0o077;

pub(super) fn capabilities() -> Vec<Finding> {
    [Need::NetAdmin, Need::NetRaw]
        .iter()
        .map(|need| match preflight::check(&[*need]) {
            Ok(()) => Finding::ok("capabilities", format!("{need:?} is there")),
            Err(error) => Finding::new(
                "capabilities",
                Level::Problem,
                error.to_string(),
                "of this command; `gretun up` needs it too",
                error.hint().unwrap_or_default(),
            ),
        })
        .collect()
}

pub(super) fn modules() -> Vec<Finding> {
    let of = |names: &[&'static str], level, without: &str| -> Vec<Finding> {
        names
            .iter()
            .map(|name| match preflight::is_available(name) {
                Ok(()) => Finding::ok("modules", format!("{name} is there")),
                Err(error) => Finding::new(
                    "modules",
                    level,
                    error.to_string(),
                    without,
                    error.hint().unwrap_or_default(),
                ),
            })
            .collect()
    };
    let mut findings = of(
        &["fou", "ip_gre", "nf_tables"],
        Level::Problem,
        "without it there are no tunnels",
    );
    findings.extend(of(
        &["fou6", "ip6_gre"],
        Level::Note,
        "without it there are no tunnels over IPv6",
    ));
    findings
}

/// FOU hands what is no GRE of version 0 to `gre_rcv`; STUN looks like version 1, which is PPTP's.
pub(super) fn pptp() -> Finding {
    if Path::new("/sys/module/pptp").exists() {
        Finding::new(
            "pptp",
            Level::Note,
            "the module pptp is loaded, and is given STUN answers that look like its own packets",
            "/sys/module/pptp",
            "modprobe -r pptp",
        )
    } else {
        Finding::ok("pptp", "the module pptp is not loaded")
    }
}

pub(super) async fn interfaces(kernel: &Kernel) -> Vec<Finding> {
    let interfaces = kernel.interfaces().unwrap_or_default();
    let mut findings = vec![rp_filter(&interfaces, |name| {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    })];
    findings.extend(interfaces.iter().filter_map(|it| offload(&it.name)));
    findings
}

/// Strict reverse path filtering (1) drops what comes in by another interface than answers would leave by; the greater
/// value of `all` and the interface counts (Documentation/networking/ip-sysctl.rst). One interface has no other.
fn rp_filter(interfaces: &[Interface], read: impl Fn(&str) -> Option<u8>) -> Finding {
    const CHECK: &str = "rp-filter";
    let ipv4 = |it: &&Interface| it.addresses.iter().any(std::net::IpAddr::is_ipv4);
    let names: Vec<&str> = interfaces
        .iter()
        .filter(ipv4)
        .map(|it| it.name.as_str())
        .collect();
    let all = read("all").unwrap_or(0);
    let is_strict = |name: &&&str| read(name).unwrap_or(0).max(all) == 1;
    let strict: Vec<&str> = names.iter().filter(is_strict).copied().collect();
    if names.len() < 2 || strict.is_empty() {
        return Finding::ok(
            CHECK,
            "no packet is dropped for coming in by another interface",
        );
    }
    let fix: Vec<String> = ["all"]
        .iter()
        .chain(&strict)
        .map(|name| format!("net.ipv4.conf.{name}.rp_filter=2"))
        .collect();
    Finding::new(
        CHECK,
        Level::Problem,
        "strict reverse path filtering drops packets of peers that come in by another interface than answers leave by",
        format!(
            "rp_filter is 1 on {}, one of {} interfaces",
            strict.join(", "),
            names.len()
        ),
        format!("sysctl -w {}", fix.join(" ")),
    )
}

/// A packet whose inner TCP checksum is left to the device leaves with an unfinished outer one, and a NAT that rewrites
/// ports spoils it: ping works, TCP hangs. It happens where the device is virtual and its host does the NAT.
fn offload(name: &str) -> Option<Finding> {
    const CHECK: &str = "checksum-offload";
    let output = command::output("ethtool", &["-k", name]).ok()?;
    let is_on = tx_checksumming(&String::from_utf8_lossy(&output.stdout))?;
    let driver = command::output("ethtool", &["-i", name]).ok()?;
    let driver = String::from_utf8_lossy(&driver.stdout);
    let driver = driver.lines().find_map(|it| it.strip_prefix("driver: "))?;
    let is_virtual = ["virtio_net", "veth"].contains(&driver);
    (is_on && is_virtual).then(|| {
        Finding::new(
            CHECK,
            Level::Note,
            format!("{name} leaves checksums to its host: where that host is the NAT, ping crosses tunnels and TCP hangs"),
            format!("ethtool -k {name}: tx-checksumming: on; driver {driver}"),
            format!("ethtool -K {name} tx off    (only if TCP hangs)"),
        )
    })
}

fn tx_checksumming(features: &str) -> Option<bool> {
    let line = features
        .lines()
        .find_map(|it| it.strip_prefix("tx-checksumming: "))?;
    Some(line.starts_with("on"))
}

/// The keys must be the owner's alone.
pub(super) fn state_dir(path: &Path) -> Vec<Finding> {
    const CHECK: &str = "state-directory";
    let Ok(entries) = fs::read_dir(path) else {
        let missing = !path.exists();
        return vec![if missing {
            Finding::ok(
                CHECK,
                format!("{} will be made at the first start", path.display()),
            )
        } else {
            Finding::new(
                CHECK,
                Level::Problem,
                format!("{} cannot be read", path.display()),
                "by this user; the daemon's user must be able to",
                format!("run as root, or chown {}", path.display()),
            )
        }];
    };
    let open = |file: &fs::DirEntry| {
        let metadata = file.metadata().ok()?;
        let is_key = file.file_name().to_string_lossy().ends_with(".key");
        let mode = metadata.permissions().mode();
        (is_key && mode & OTHERS != 0).then(|| (file.path(), mode & 0o777, metadata.uid()))
    };
    let findings: Vec<Finding> = entries
        .flatten()
        .filter_map(|file| open(&file))
        .map(|(path, mode, uid)| {
            Finding::new(
                CHECK,
                Level::Problem,
                "a private key can be read by others",
                format!("{}: mode {mode:o}, owner {uid}", path.display()),
                format!("chmod 600 {}", path.display()),
            )
        })
        .collect();
    if findings.is_empty() {
        return vec![Finding::ok(CHECK, "the keys are the owner's alone")];
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str) -> Interface {
        Interface {
            name: name.to_owned(),
            mtu: 1500,
            addresses: vec!["192.0.2.1".parse().unwrap()],
        }
    }

    #[test]
    fn strict_rp_filter_matters_with_two_interfaces() {
        let strict = |_: &str| Some(1);
        assert_eq!(rp_filter(&[interface("a")], strict).level, Level::Ok);
        let two = [interface("a"), interface("b")];
        let found = rp_filter(&two, strict);
        assert_eq!(found.level, Level::Problem);
        assert!(found.fix.unwrap().contains("net.ipv4.conf.b.rp_filter=2"));
        // Loose wins, as the kernel takes the greater.
        let loose_all = |name: &str| Some(if name == "all" { 2 } else { 1 });
        assert_eq!(rp_filter(&two, loose_all).level, Level::Ok);
    }

    #[test]
    fn keys_that_others_can_read_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("node.key");
        fs::write(&key, "x").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(state_dir(directory.path())[0].level, Level::Ok);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let found = state_dir(directory.path());
        assert_eq!(found[0].level, Level::Problem);
        assert!(found[0].evidence.contains("mode 640"), "{found:?}");
    }

    #[test]
    fn ethtool_is_read() {
        let text = "Features for eth0:\nrx-checksumming: on\ntx-checksumming: on\n\ttx-checksum-ipv4: off\n";
        assert_eq!(tx_checksumming(text), Some(true));
        assert_eq!(
            tx_checksumming("tx-checksumming: off [fixed]\n"),
            Some(false)
        );
        assert_eq!(tx_checksumming(""), None);
    }
}
