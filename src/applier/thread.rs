//! The applier's thread: takes the latest desired state, looks at the kernel, carries out the machine's plans and sends its
//! reports. It has netlink sockets of its own, so that nobody else waits while the kernel is busy with it.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use super::desired::{DesiredTunnels, ListenPort};
use super::machine::{Applied, Config, Failure, Look, Machine, Observation, Plan};
use crate::error::chain;
use crate::kernel::host::lock::{Lock, LockError};
use crate::kernel::{Kernel, KernelError};
use crate::node::DesiredTunnel;
use crate::proto::keys::NodePublic;

/// How long the applier waits for a command that changes tunnels; the machine tries again later.
const PATIENCE: Duration = Duration::from_secs(1);

/// Notes the ports that the node has opened beside the data port.
pub type NotePorts = Box<dyn FnMut(&BTreeSet<ListenPort>) + Send>;

/// Events that the thread has not taken yet.
#[derive(Debug)]
struct Inbox {
    desired: DesiredTunnels,
    is_new: bool,
    link_changed: bool,
    begun: bool,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // Every field is whole at any time.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the first desired state; `None` when the thread is to end before it began.
    fn wait_for_begin(&self) -> Option<DesiredTunnels> {
        let inbox = self.inbox();
        let waits = |inbox: &mut Inbox| !inbox.begun && !inbox.closed;
        let inbox = self.changed.wait_while(inbox, waits);
        let inbox = inbox.unwrap_or_else(PoisonError::into_inner);
        (!inbox.closed).then(|| inbox.desired.clone())
    }

    fn is_closed(&self) -> bool {
        self.inbox().closed
    }
}

/// The daemon's end. The thread ends with it: a plan that has begun is finished first.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    ended: Option<oneshot::Receiver<()>>,
}

/// The word that no applier of this node runs: who removes tunnels must have it, for an applier would make them again.
#[derive(Debug)]
pub struct NoApplier(());

impl NoApplier {
    /// The promise of a caller that holds the lock of the node's state directory, as each daemon does.
    pub fn promised_by_lock_holder() -> Self {
        NoApplier(())
    }
}

/// Tells the thread that links, or gretun's table in nftables, changed.
#[derive(Clone, Debug)]
pub struct LinkChanges(Arc<Shared>);

impl LinkChanges {
    /// Some link of the host changed.
    pub fn notify(&self) {
        self.0.inbox().link_changed = true;
        self.0.changed.notify_one();
    }

    /// Notifies the thread of each item. Needs a tokio runtime.
    pub fn follow(
        self,
        changes: impl Stream<Item = ()> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        tokio::spawn(changes.for_each(move |()| {
            self.notify();
            std::future::ready(())
        }))
    }
}

impl Handle {
    /// Desires this tunnel to a peer, or none. The thread takes only the latest.
    pub fn set(&self, peer: NodePublic, tunnel: Option<DesiredTunnel>) {
        let mut inbox = self.shared.inbox();
        match tunnel {
            Some(tunnel) => inbox.desired.insert(peer, tunnel),
            None => inbox.desired.remove(&peer),
        };
        inbox.is_new = true;
        self.shared.changed.notify_one();
    }

    /// Lets the thread begin. Tunnels of this node that are not desired by now are removed.
    pub fn begin(&self) {
        self.shared.inbox().begun = true;
        self.shared.changed.notify_one();
    }

    /// For whoever watches the links.
    pub fn link_changes(&self) -> LinkChanges {
        LinkChanges(self.shared.clone())
    }

    /// Ends the thread, and returns when it has ended: it changes nothing any more.
    pub async fn stop(&mut self) -> NoApplier {
        self.close();
        if let Some(ended) = self.ended.take() {
            // The sender is dropped when the thread ends.
            let _ = ended.await;
        }
        self.join();
        NoApplier(())
    }

    fn close(&self) {
        self.shared.inbox().closed = true;
        self.shared.changed.notify_one();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the applier's thread panicked");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
        self.join();
    }
}

/// Starts the thread, in the network namespace of the caller. It does nothing before [`Handle::begin`]. `noted` are the ports
/// that an earlier run may have left open. Reports are few: one for each request, or each change of a link.
///
/// # Errors
/// When there are no sockets or no threads.
pub fn start(
    config: Config,
    noted: BTreeSet<ListenPort>,
    note_ports: NotePorts,
    reports: mpsc::UnboundedSender<Applied>,
) -> Result<Handle, KernelError> {
    let shared = Arc::new(Shared {
        inbox: Mutex::new(Inbox {
            desired: DesiredTunnels::new(),
            is_new: false,
            link_changed: false,
            begun: false,
            closed: false,
        }),
        changed: Condvar::new(),
    });
    let (ending, ended) = oneshot::channel();
    let (kernel, inbox) = (Kernel::open()?, shared.clone());
    let run = move || {
        let Some(found) = inbox.wait_for_begin() else {
            return;
        };
        let applier = Applier {
            kernel,
            machine: Machine::new(Instant::now(), config, found, noted),
            shared: inbox,
            note_ports,
            reports,
            has_lock: true,
            _ending: ending,
        };
        applier.run();
    };
    let thread = std::thread::Builder::new().name("applier".to_owned());
    let failed = |error: io::Error| KernelError::netlink("start the applier's thread", error);
    Ok(Handle {
        shared,
        thread: Some(thread.spawn(run).map_err(failed)?),
        ended: Some(ended),
    })
}

struct Applier {
    kernel: Kernel,
    machine: Machine,
    shared: Arc<Shared>,
    note_ports: NotePorts,
    reports: mpsc::UnboundedSender<Applied>,
    /// Whether the lock file could be had the last time.
    has_lock: bool,
    /// Dropped when the thread ends.
    _ending: oneshot::Sender<()>,
}

impl Applier {
    fn run(mut self) {
        loop {
            self.pass();
            if !self.wait() {
                return;
            }
        }
    }

    /// Waits until there is something to do; false when the thread is to end.
    fn wait(&mut self) -> bool {
        let mut inbox = self.shared.inbox();
        loop {
            if inbox.closed {
                return false;
            }
            let now = Instant::now();
            if std::mem::take(&mut inbox.link_changed) {
                self.machine.handle_link_change(now);
            }
            if std::mem::take(&mut inbox.is_new) {
                self.machine.handle_desired(inbox.desired.clone());
            }
            let timeout = match self.machine.poll_timeout(now) {
                Some(at) if at <= now => return true,
                Some(at) => at - now,
                None => Duration::MAX,
            };
            let waited = self.shared.changed.wait_timeout(inbox, timeout);
            inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn pass(&mut self) {
        let Some(look) = self.machine.begin(Instant::now()) else {
            return;
        };
        match self.look(&look) {
            Ok(observation) => self
                .machine
                .handle_observation(Instant::now(), &observation),
            Err(error) => self
                .machine
                .handle_failed_look(Instant::now(), &chain(&error)),
        }
        while let Some(plan) = self.machine.next_plan() {
            if self.shared.is_closed() {
                return;
            }
            self.tell();
            let result = self.carry_out(&plan);
            self.machine.handle_result(Instant::now(), plan, result);
        }
        self.tell();
    }

    fn look(&self, look: &Look) -> Result<Observation, KernelError> {
        let mut links = if look.routes {
            let mut links = self.kernel.links()?;
            self.kernel.add_snat(&mut links);
            links
        } else {
            self.kernel.links_without_routes()?
        };
        links.sources = self.kernel.sources()?;
        let paths = look.paths.iter();
        let mtus = paths.map(|&(peer, local, remote)| {
            let route = self.kernel.route_to(local, remote);
            (peer, route.map(|it| it.mtu).map_err(|error| chain(&error)))
        });
        Ok(Observation {
            links,
            mtus: mtus.collect(),
            fou_ports: self.kernel.fou_ports()?,
        })
    }

    /// Passes on what the machine has to say.
    fn tell(&mut self) {
        if let Some(ports) = self.machine.poll_note() {
            (self.note_ports)(&ports);
        }
        while let Some(report) = self.machine.poll_report() {
            if self.reports.send(report).is_err() {
                debug!("nobody waits for the applier any more");
            }
        }
    }

    fn carry_out(&mut self, plan: &Plan) -> Result<Option<u32>, Failure> {
        let other = |error: &dyn std::error::Error| Failure {
            step: None,
            error: chain(error),
        };
        let _lock = match plan.makes() {
            Some(_) => self.lock().map_err(|error| other(&error))?,
            None => None,
        };
        for (index, name) in &plan.half_made {
            let removed = self.kernel.delete_link(*index, name);
            removed.map_err(|error| other(&error))?;
        }
        let done = self.kernel.execute(&plan.ops);
        done.map_err(|error| Failure {
            step: Some(error.index),
            error: chain(&error),
        })?;
        let made = plan.makes().map(|name| self.kernel.link_index(name));
        let made = made.transpose().map_err(|error| other(&error))?;
        for (from, to) in &plan.redirects {
            if let Err(error) = self.redirect(from, to) {
                debug!(from, to, error = %chain(&error), "its packets come in by a link of their own");
            }
        }
        Ok(made)
    }

    fn redirect(&self, from: &str, to: &str) -> Result<(), KernelError> {
        let (from, to) = (self.kernel.link_index(from)?, self.kernel.link_index(to)?);
        self.kernel.redirect_received(from, to)
    }

    /// Takes the lock that commands take as well. Where the file cannot be had at all, a tunnel is worth more than the lock: a
    /// command may then remove a link in the moment before it is marked, and the link is made again.
    fn lock(&mut self) -> Result<Option<Lock>, LockError> {
        match Lock::take(PATIENCE) {
            Ok(lock) => {
                self.has_lock = true;
                Ok(Some(lock))
            }
            Err(LockError::System(error)) => {
                if std::mem::replace(&mut self.has_lock, false) {
                    warn!(%error, "tunnels are made without the lock that commands take");
                }
                Ok(None)
            }
            Err(busy) => Err(busy),
        }
    }
}
