//! Checks what everything else needs: capabilities and kernel modules. So the first thing that a person reads
//! is what is missing and how to get it, not an errno.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::sys::protocols::NETLINK_GENERIC;

use crate::kernel::host::nftables;
use crate::kernel::netlink::request::RequestSocket;
use crate::kernel::netlink::socket::KernelSocket;
use crate::kernel::tunnel::fou::family_id;
use crate::kernel::tunnel::op_messages::ADD;
use caps::{CapSet, Capability};
use thiserror::Error;
use tracing::debug;

use crate::error::{Kind, UserError};

/// Something that a command cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Change links, addresses, routes and FOU ports.
    NetAdmin,
    /// Open raw and packet sockets.
    NetRaw,
    /// A kernel module, by its name with underscores.
    Module(&'static str),
}

/// Needs of GRE over FOU over IPv4, whose packets are let in only from known sources.
pub const OVERLAY: [Need; 5] = [
    Need::NetAdmin,
    Need::NetRaw,
    Need::Module("fou"),
    Need::Module("ip_gre"),
    Need::Module("nf_tables"),
];

/// Additional needs of GRE over FOU over IPv6.
pub const OVERLAY_IPV6: [Need; 2] = [Need::Module("fou6"), Need::Module("ip6_gre")];

/// Checks the needs in their order; tries to load modules that are missing.
///
/// # Errors
/// Names the first need that is not met.
pub fn check(needs: &[Need]) -> Result<(), PreflightError> {
    needs.iter().try_for_each(|need| match need {
        Need::NetAdmin => capability(Capability::CAP_NET_ADMIN),
        Need::NetRaw => capability(Capability::CAP_NET_RAW),
        Need::Module(name) => module(name),
    })
}

fn capability(capability: Capability) -> Result<(), PreflightError> {
    match caps::has_cap(None, CapSet::Effective, capability) {
        Ok(true) => Ok(()),
        Ok(false) => Err(PreflightError::Capability { capability }),
        // The kernel's answer to the operation itself is the better judge then.
        Err(error) => {
            debug!(%error, "capabilities cannot be read");
            Ok(())
        }
    }
}

/// Whether a module is loaded or could be. Loads nothing where modprobe can tell.
///
/// # Errors
/// When it is not there.
pub fn is_available(name: &'static str) -> Result<(), PreflightError> {
    modprobe(name, &["--dry-run"])
}

fn module(name: &'static str) -> Result<(), PreflightError> {
    modprobe(name, &[])
}

fn modprobe(name: &'static str, options: &[&str]) -> Result<(), PreflightError> {
    if is_loaded(name) {
        return Ok(());
    }
    // A module that was built into the kernel may be in neither place that tells of modules.
    if options.is_empty() && kernel_has(name) == Some(true) {
        return Ok(());
    }
    let said = match Command::new("modprobe")
        .args(options)
        .arg(name)
        .stdin(Stdio::null())
        .output()
    {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("modprobe: {error}"),
    };
    // Whoever only wants to know asks the kernel last, because that may load the module.
    if !options.is_empty() && kernel_has(name) == Some(true) {
        return Ok(());
    }
    Err(PreflightError::Module { name, said })
}

/// Whether a module is loaded or built in: both have a directory in sysfs, a built-in one only if it has parameters,
/// so the list of built-in ones is read too.
fn is_loaded(name: &str) -> bool {
    Path::new("/sys/module").join(name).exists() || is_built_in(name)
}

/// Asks the kernel, which tries to load the module; returns `None` where it cannot be asked. Creates nothing.
pub fn kernel_has(name: &str) -> Option<bool> {
    let kind = match name {
        "fou" => {
            let mut socket = KernelSocket::open(NETLINK_GENERIC).ok()?;
            return match family_id(&mut socket, "find family fou", "fou") {
                Ok(_) => Some(true),
                Err(error) => (error.errno() == Some(libc::ENOENT)).then_some(false),
            };
        }
        "nf_tables" => {
            return match nftables::is_there() {
                Ok(()) => Some(true),
                Err(error) => error.errno().map(|_| false),
            };
        }
        "ip_gre" => InfoKind::GreTun,
        "ip6_gre" => InfoKind::GreTun6,
        "ipip" => InfoKind::IpIp,
        "sit" => InfoKind::SitTun,
        "ip6_tunnel" => InfoKind::Ip6Tnl,
        _ => return None,
    };
    has_link_kind(kind)
}

/// Asks for a link of this kind without a single queue to send from. The kernel looks for the kind first and refuses the
/// number of queues then (`rtnl_create_link`, net/core/rtnetlink.c).
fn has_link_kind(kind: InfoKind) -> Option<bool> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::NumTxQueues(0),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
    ];
    let request = Ok((RouteNetlinkMessage::NewLink(message), ADD));
    let mut asked = RequestSocket::open()
        .ok()?
        .change(vec![request], |_| "ask for a kind of link".to_owned());
    match asked.pop()?.err()?.errno()? {
        libc::EINVAL => Some(true),
        libc::EOPNOTSUPP => Some(false),
        _ => None,
    }
}

fn is_built_in(name: &str) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let list = fs::read_to_string(format!("/lib/modules/{}/modules.builtin", release.trim()))
        .unwrap_or_default();
    list.lines().any(|line| {
        line.rsplit('/')
            .next()
            .and_then(|file| file.strip_suffix(".ko"))
            .is_some_and(|module| module.replace('-', "_") == name)
    })
}

/// A need that is not met.
#[derive(Debug, Error)]
pub enum PreflightError {
    /// The process may not do it.
    #[error("{capability} is missing: this needs the right to change the host's network")]
    Capability {
        /// Which.
        capability: Capability,
    },
    /// The kernel cannot do it.
    #[error("the kernel module {name} is not there{}", if said.is_empty() { String::new() } else { format!(" ({said})") })]
    Module {
        /// Which.
        name: &'static str,
        /// The message of modprobe.
        said: String,
    },
}

impl UserError for PreflightError {
    fn kind(&self) -> Kind {
        Kind::Environment
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            PreflightError::Capability { capability } => format!(
                "run as root, or grant it: `setcap cap_net_admin,cap_net_raw+ep $(command -v gretun)`, or under systemd AmbientCapabilities={capability}"
            ),
            PreflightError::Module { name, .. } => format!(
                "run `modprobe {name}` as root; on NixOS set boot.kernelModules = [ \"{name}\" ]; kernels for clouds and containers may lack it"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_no_kernel_has_is_named_with_the_way_out() {
        let error = check(&[Need::Module("gretun_no_such_module")]).unwrap_err();
        assert!(
            error.to_string().contains("gretun_no_such_module"),
            "{error}"
        );
        assert!(
            error
                .hint()
                .unwrap()
                .contains("modprobe gretun_no_such_module")
        );
        assert_eq!(error.kind().code(), 3);
    }
}
