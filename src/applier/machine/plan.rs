//! A plan: operations that happen together or not at all, and what they are for.

use std::collections::BTreeMap;

use super::Link;
use crate::applier::desired::ListenPort;
use crate::node::DesiredTunnel;
use crate::proto::keys::NodePublic;
use crate::tunnel::op::KernelOp;
use crate::tunnel::sources::Sources;
use crate::tunnel::state::TunnelState;

/// Operations that happen together or not at all.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) job: Job,
    /// The operations.
    pub ops: Vec<KernelOp>,
    /// Links that a killed process left unfinished and whose names the plan needs: to be removed first.
    pub half_made: Vec<(u32, String)>,
    /// Afterwards, what comes in by the first link (by name) is handed to the second. A kernel that cannot do that delivers
    /// it by the first link, which is worse for firewalls and no failure.
    pub redirects: Vec<(String, String)>,
}

/// The purpose of a plan.
#[derive(Clone, Debug)]
pub(super) enum Job {
    /// The data port is open.
    DataPort,
    /// The ports of tunnels that have one of their own are open.
    OpenPort(ListenPort),
    /// Ports that no tunnel uses any more are closed.
    ClosePorts(Vec<ListenPort>),
    /// Tunnels of peers that left are gone, and of the sources those that they let in.
    Remove(BTreeMap<NodePublic, Vec<TunnelState>>, Sources),
    /// The links of several tunnels let in what is desired, in one transaction: each costs a look at the whole table, and a commit of it.
    /// By the peers, what was taken out of the plans of their tunnels.
    LetIn(BTreeMap<NodePublic, Vec<KernelOp>>),
    /// Links that receive for a tunnel are there, or are gone.
    Receive(NodePublic),
    /// The tunnel itself.
    Tunnel(Box<TunnelJob>),
}

#[derive(Clone, Debug)]
pub(super) struct TunnelJob {
    pub(super) peer: NodePublic,
    pub(super) desired: DesiredTunnel,
    /// As it will be; the index is the observed link's.
    pub(super) link: Link,
}

impl Job {
    /// The peer whose tunnel the plan changes.
    pub(super) fn peer(&self) -> Option<NodePublic> {
        match self {
            Job::Receive(peer) => Some(*peer),
            Job::Tunnel(job) => Some(job.peer),
            Job::DataPort
            | Job::OpenPort(_)
            | Job::ClosePorts(_)
            | Job::Remove(..)
            | Job::LetIn(_) => None,
        }
    }
}

impl Plan {
    pub(super) fn new(job: Job, ops: Vec<KernelOp>) -> Self {
        Plan {
            job,
            ops,
            half_made: Vec::new(),
            redirects: Vec::new(),
        }
    }

    /// The name of the link that the plan makes, where it makes one. Other processes must not change tunnels meanwhile:
    /// they would take a link that has no alias yet for one that was never finished.
    pub fn makes(&self) -> Option<&str> {
        self.ops.iter().find_map(|op| match op {
            KernelOp::AddLink(link) => Some(link.name.as_str()),
            _ => None,
        })
    }
}
