//! Finds faults of this host that keep gretun from working: each finding has its observation and the command that fixes it.
//!
//! Nothing is changed. Each check is a function that returns findings: a thin part reads the host, a pure part judges.

mod command;
mod coordinator;
mod firewall;
mod host;
mod port;
mod router;
mod sources;

use std::path::PathBuf;

use serde::Serialize;

use crate::coordinator::CoordinatorUrl;
use crate::kernel::Kernel;
use crate::local_api::DaemonNetView;
use crate::netcheck::{self, Udp};

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know; wrong only in some setups.
    Note,
    /// Keeps gretun from working.
    Problem,
}

/// A finding of one check. The names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check, such as `modules` or `host-firewall`.
    pub check: &'static str,
    /// The severity.
    pub level: Level,
    /// The fault, in one sentence without a full stop.
    pub what: String,
    /// The place and text of the observation.
    pub evidence: String,
    /// The command that fixes it.
    pub fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Finding {
        Finding {
            check,
            level: Level::Ok,
            what: what.into(),
            evidence: String::new(),
            fix: None,
        }
    }

    fn new(
        check: &'static str,
        level: Level,
        what: impl Into<String>,
        evidence: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding {
            check,
            level,
            what: what.into(),
            evidence: evidence.into(),
            fix: Some(fix.into()),
        }
    }
}

/// The host to check.
#[derive(Clone, Debug)]
pub struct Patient {
    /// The running daemon's view of the network; `None` if no daemon runs.
    pub daemon: Option<DaemonNetView>,
    /// The data port.
    pub port: u16,
    /// The directory of the daemon's keys.
    pub state_dir: PathBuf,
    /// The coordinator, where one is named.
    pub coordinator: Option<CoordinatorUrl>,
    /// STUN servers, `host:port`.
    pub stun_servers: Vec<String>,
}

/// Runs all checks, in the order in which things are needed. Needs a tokio runtime.
pub async fn run(patient: &Patient) -> Vec<Finding> {
    let mut findings = Vec::new();
    if patient.daemon.is_none() {
        findings.extend(host::capabilities());
    }
    findings.extend(host::modules());
    findings.push(host::pptp());
    match Kernel::open() {
        Ok(kernel) => {
            findings.push(port::check(&kernel, patient).await);
            findings.extend(host::interfaces(&kernel).await);
            findings.extend(sources::check(&kernel));
        }
        Err(error) => findings.push(Finding::new(
            "kernel",
            Level::Problem,
            "the kernel's networking cannot be asked",
            error.to_string(),
            "gretun --verbose doctor",
        )),
    }
    findings.extend(firewall::check(patient.port));
    findings.extend(host::state_dir(&patient.state_dir));
    let (reached, udp) = tokio::join!(coordinator::check(patient), stun(patient));
    findings.extend(reached);
    findings.extend(udp);
    findings.extend(patient.daemon.as_ref().and_then(router::check));
    findings
}

async fn stun(patient: &Patient) -> Option<Finding> {
    const CHECK: &str = "stun";
    let mut servers = Vec::new();
    for name in &patient.stun_servers {
        servers.extend(tokio::net::lookup_host(name).await.into_iter().flatten());
    }
    if servers.is_empty() {
        return None;
    }
    let checked = netcheck::run(&servers).await.ok()?;
    let works = checked.families.iter().any(|it| it.udp == Udp::Works);
    let asked: Vec<String> = servers.iter().map(ToString::to_string).collect();
    Some(if works {
        Finding::ok(CHECK, "STUN answers")
    } else {
        Finding::new(
            CHECK,
            Level::Problem,
            "no STUN server answers: UDP is blocked on the way, or the coordinator's STUN ports are closed",
            format!("asked: {}", asked.join(", ")),
            "gretun netcheck; on the coordinator: open UDP 3478 and 3479 in its firewall",
        )
    })
}
