//! What on this host keeps gretun from working: each finding with its evidence and the command that mends it.
//!
//! Nothing is changed. Each check is a function that returns findings; what judges is pure, what reads the host is thin.

mod coordinator;
mod firewall;
mod host;
mod port;
mod router;

use std::path::PathBuf;

use serde::Serialize;

use crate::daemon::local_api::DaemonNetView;
use crate::daemon::settings::CoordinatorUrl;
use crate::kernel::Kernel;
use crate::netcheck::{self, Udp};

/// How bad a finding is.
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

/// What one check found. Names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check, such as `modules` or `host-firewall`.
    pub check: &'static str,
    /// How bad.
    pub level: Level,
    /// What, in one sentence without a full stop.
    pub what: String,
    /// Where it was seen.
    pub evidence: String,
    /// The command that mends it.
    pub mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Finding {
        Finding {
            check,
            level: Level::Ok,
            what: what.into(),
            evidence: String::new(),
            mend: None,
        }
    }

    fn new(
        check: &'static str,
        level: Level,
        what: impl Into<String>,
        evidence: impl Into<String>,
        mend: impl Into<String>,
    ) -> Finding {
        Finding {
            check,
            level,
            what: what.into(),
            evidence: evidence.into(),
            mend: Some(mend.into()),
        }
    }
}

/// What to look at.
#[derive(Clone, Debug)]
pub struct Patient {
    /// What the running daemon knows of the network; `None` where none runs.
    pub daemon: Option<DaemonNetView>,
    /// The data port.
    pub port: u16,
    /// Where the daemon's keys are.
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
    match Kernel::open().await {
        Ok(kernel) => {
            findings.push(port::check(&kernel, patient).await);
            findings.extend(host::interfaces(&kernel).await);
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
