//! FOU ports: the data port, and those of tunnels that port searches made. The kernel's ports carry no owner, so each port
//! beside the data port is noted before it is opened: a port that a killed daemon left open, the next one closes.

use std::collections::{BTreeSet, VecDeque};

use tracing::warn;

use super::{Job, Plan};
use crate::applier::desired::{ListenPort, fou_port};
use crate::tunnel::encap::FouPort;
use crate::tunnel::op::KernelOp;

/// The ports of one node.
#[derive(Debug)]
pub(super) struct Ports {
    /// Ports beside the data port that are open, or were when they were noted.
    own: BTreeSet<ListenPort>,
    is_noted: bool,
    last_error: String,
}

impl Ports {
    pub fn new(own: BTreeSet<ListenPort>) -> Self {
        Ports {
            own,
            is_noted: true,
            last_error: String::new(),
        }
    }

    /// Returns a plan for each of these ports that the kernel does not have.
    pub fn missing(
        &self,
        ports: impl Iterator<Item = ListenPort>,
        there: &[FouPort],
        job: Job,
    ) -> VecDeque<Plan> {
        let missing = ports.map(fou_port).filter(|it| !there.contains(it));
        let plan = |port| Plan::new(job.clone(), vec![KernelOp::AddFou(port)]);
        missing.map(plan).collect()
    }

    /// Plans for the ports of tunnels. A port that is open and was not opened by this node is somebody else's to close.
    pub fn open(&mut self, ports: BTreeSet<ListenPort>, there: &[FouPort]) -> Vec<Plan> {
        let missing = ports
            .into_iter()
            .filter(|it| !there.contains(&fou_port(*it)));
        let mut plans = Vec::new();
        for port in missing {
            if self.own.insert(port) {
                self.is_noted = false;
            }
            let ops = vec![KernelOp::AddFou(fou_port(port))];
            plans.push(Plan::new(Job::OpenPort(port), ops));
        }
        plans
    }

    /// The plan that closes what no tunnel uses any more. Ports of failed attempts are among them.
    pub fn close_unused(&self, used: &BTreeSet<ListenPort>) -> Option<Plan> {
        let unused: Vec<ListenPort> = self.own.difference(used).copied().collect();
        let ops = unused.iter().map(|it| KernelOp::DeleteFou(fou_port(*it)));
        let ops: Vec<KernelOp> = ops.collect();
        (!unused.is_empty()).then(|| Plan::new(Job::ClosePorts(unused), ops))
    }

    pub fn forget(&mut self, port: ListenPort) {
        if self.own.remove(&port) {
            self.is_noted = false;
        }
    }

    pub fn poll_note(&mut self) -> Option<BTreeSet<ListenPort>> {
        let was_noted = std::mem::replace(&mut self.is_noted, true);
        (!was_noted).then(|| self.own.clone())
    }

    pub fn warn_once(&mut self, error: &str) {
        if self.last_error != error {
            warn!(error, "a FOU port is not as it should be");
            error.clone_into(&mut self.last_error);
        }
    }
}
