//! Carries a plan out, and takes it back when a step fails: what succeeded is undone in reverse, so that the kernel is as
//! it was. Neighbouring steps of one stage do not depend on each other and go to the kernel together.

use std::collections::HashMap;
use std::fmt;

use thiserror::Error;
use tracing::{debug, warn};

use crate::error::{Kind, UserError};
use crate::kernel::{Kernel, KernelError};
use crate::tunnel::op::KernelOp;

/// Carries operations out: the kernel, or a test's stand-in.
pub trait Backend {
    /// Does these operations, all of one stage, and says how each went. Those behind one that failed may still be done.
    fn apply(&self, ops: &[KernelOp]) -> Vec<Result<(), KernelError>>;
}

impl Backend for Kernel {
    fn apply(&self, ops: &[KernelOp]) -> Vec<Result<(), KernelError>> {
        self.apply_stage(ops, &HashMap::new())
    }
}

/// The kernel, and the indices of devices that a plan makes anew. A device of another kind takes the place of the one
/// before under its name and its index, so that what refers to it by index (routes of others, sockets, firewalls) still means it.
struct Keeping<'a> {
    kernel: &'a Kernel,
    indices: HashMap<String, u32>,
}

impl Backend for Keeping<'_> {
    fn apply(&self, ops: &[KernelOp]) -> Vec<Result<(), KernelError>> {
        self.kernel.apply_stage(ops, &self.indices)
    }
}

impl Kernel {
    /// Carries out a plan, or nothing.
    ///
    /// # Errors
    /// The step that failed, with the kernel's words, and what could not be undone.
    pub fn execute(&self, ops: &[KernelOp]) -> Result<(), StepError> {
        let mut indices = HashMap::new();
        for name in made_anew(ops) {
            // One that cannot be told is not kept; a device that is missing is the removal's own affair.
            if let Ok(index) = self.link_index(name) {
                indices.insert(name.to_owned(), index);
            }
        }
        let kernel = self;
        execute(&Keeping { kernel, indices }, ops)
    }
}

/// The devices that a plan removes and makes again.
fn made_anew(ops: &[KernelOp]) -> impl Iterator<Item = &str> {
    let is_removed = |name: &str| {
        let mut ops = ops.iter();
        ops.any(|op| matches!(op, KernelOp::DeleteLink(old) if old.link.name == name))
    };
    ops.iter().filter_map(move |op| match op {
        KernelOp::AddLink(link) if is_removed(&link.name) => Some(link.name.as_str()),
        _ => None,
    })
}

/// Carries out a plan on any backend, or nothing.
///
/// # Errors
/// The step that failed, with the kernel's words, and what could not be undone.
pub fn execute(backend: &impl Backend, ops: &[KernelOp]) -> Result<(), StepError> {
    let mut done: Vec<&KernelOp> = Vec::new();
    for stage in ops.chunk_by(|a, b| a.stage() == b.stage()) {
        let mut failed = None;
        let first = done.len();
        for (i, (op, result)) in stage.iter().zip(backend.apply(stage)).enumerate() {
            match result {
                Ok(()) => {
                    debug!(%op, "done");
                    done.push(op);
                }
                Err(error) if failed.is_none() => failed = Some((first + i, op, error)),
                Err(error) => debug!(%op, %error, "failed too"),
            }
        }
        if let Some((index, op, source)) = failed {
            return Err(StepError {
                index,
                step: op.to_string().into(),
                hint: way_out(op, &source)
                    .or_else(|| source.hint())
                    .map(Into::into),
                source,
                left: undo(backend, &done).into(),
            });
        }
    }
    Ok(())
}

/// Undoes operations, the last one first; gives what stays.
fn undo(backend: &impl Backend, done: &[&KernelOp]) -> Vec<Left> {
    let undoing: Vec<KernelOp> = done.iter().rev().flat_map(|op| op.undo()).collect();
    let mut left = Vec::new();
    for stage in undoing.chunk_by(|a, b| a.stage() == b.stage()) {
        for (op, result) in stage.iter().zip(backend.apply(stage)) {
            if let Err(error) = result {
                warn!(%op, %error, "cannot be undone");
                left.push(Left {
                    step: op.to_string(),
                    error: error.to_string(),
                });
            }
        }
    }
    left
}

/// A step back that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The operation that should have undone a step.
    pub step: String,
    /// Why it did not work.
    pub error: String,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "; could not {} again: {}", self.step, self.error)
    }
}

/// A plan that could not be carried out. The kernel is as it was before, but for what is `left`.
#[derive(Debug, Error)]
#[error("{source}{}", left.iter().map(ToString::to_string).collect::<String>())]
pub struct StepError {
    /// Which step of the plan, counted from zero.
    pub index: usize,
    /// The step, in words; what the kernel said names it too.
    pub step: Box<str>,
    /// The kernel's refusal.
    #[source]
    pub source: KernelError,
    /// Steps that could not be undone.
    pub left: Box<[Left]>,
    /// The advice for the user.
    hint: Option<Box<str>>,
}

impl UserError for StepError {
    fn kind(&self) -> Kind {
        self.source.kind()
    }

    fn hint(&self) -> Option<String> {
        self.hint.as_deref().map(str::to_owned)
    }
}

/// Returns advice for a step that an existing object of the kernel is in the way of.
fn way_out(op: &KernelOp, error: &KernelError) -> Option<String> {
    let errno = error.errno()?;
    let is_there = errno == libc::EEXIST;
    Some(match op {
        KernelOp::AddLink(link) | KernelOp::ChangeLink { to: link, .. } if is_there => {
            let keys = if link.mode.is_gre() {
                "; --key tells several tunnels between the same ends apart"
            } else {
                ""
            };
            let name = &link.name;
            format!(
                "there is a device named {name}, or a tunnel with the same ends{keys}: `gretun list` and `ip -d link` show them"
            )
        }
        KernelOp::AddLink(link) | KernelOp::ChangeLink { to: link, .. }
            if errno == libc::ENODEV && link.dev.is_some() =>
        {
            "`ip link` shows the interfaces that --dev can name".to_owned()
        }
        KernelOp::AddRoute { route, .. } if is_there => {
            let network = route.network;
            format!("there is a route to {network} already: `ip route show {network}` shows it")
        }
        KernelOp::AddAltName { name, .. } if is_there => {
            format!("`ip link show dev {name}` shows the device that has the name")
        }
        KernelOp::AddAddress { address, .. } if errno == libc::EACCES && address.net.addr().is_ipv6() => {
            "IPv6 is off on this host: `sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0` turns it on"
                .to_owned()
        }
        KernelOp::AddFou(port) if errno == libc::EADDRINUSE => format!(
            "another program has UDP port {0}: `ss -lunp sport = :{0}` shows it; or choose another --encap-dport or --encap-sport",
            port.port
        ),
        _ => return None,
    })
}
