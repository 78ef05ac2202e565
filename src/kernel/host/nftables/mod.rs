//! The nftables table of gretun in the kernel: dumped, compared with what it is to be, and changed in one transaction over netlink,
//! without the program `nft`. The model is in [`crate::tunnel::nftables`].

mod answers;
mod messages;
mod watch;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;

use netlink_packet_core::{DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rustix::net::sockopt::set_socket_send_buffer_size_force;

use crate::kernel::netlink::socket::{KernelSocket, read_error};
use crate::kernel::{Kernel, KernelError};
use crate::tunnel::nftables::{Change, Element, Observed, Set, Table, difference};
use crate::tunnel::op::{KernelOp, Stage};
use crate::tunnel::snat::{self, SnatPair};
use crate::tunnel::sources::{self, Sources};

/// A transaction is refused where somebody changed nftables after the dump that it rests on. It is tried again so often, and then
/// without that condition: on a host whose rules change all the time it would never succeed.
const TRIES: usize = 4;

/// A message of some thousand elements and its copy in the kernel, bytes.
const SEND_BUFFER: usize = 8 << 20;

impl Kernel {
    /// All pairs that are masqueraded; none where the rules are missing, or where the kernel has no nftables.
    pub fn snat_pairs(&self) -> Vec<SnatPair> {
        let model = snat::table([]);
        match NfTables::open().and_then(|mut kernel| kernel.observe(&model)) {
            Ok((observed, _)) if observed.has_rules_of(&model) => {
                observed.elements(&model).into_iter().collect()
            }
            Ok(_) => Vec::new(),
            Err(error) => {
                tracing::debug!(%error, "no address translation of ours");
                Vec::new()
            }
        }
    }

    /// The sources that links let in; none where the rules are missing.
    ///
    /// # Errors
    /// When nftables cannot be asked.
    pub fn sources(&self) -> Result<Sources, KernelError> {
        let model = sources::table([]);
        let (observed, _) = NfTables::open()?.observe(&model)?;
        let mut found = Sources::new();
        if observed.has_rules_of(&model) {
            for (link, network) in observed.elements(&model) {
                found.entry(link).or_default().insert(network);
            }
        }
        Ok(found)
    }

    /// Adds and deletes elements of the sets of one model, all in one transaction.
    pub(in crate::kernel) fn apply_nftables(
        &self,
        ops: &[KernelOp],
    ) -> Vec<Result<(), KernelError>> {
        let model: fn(BTreeSet<Element>) -> Table = match ops.first().map(KernelOp::stage) {
            Some(Stage::Source) => |elements| sources::table(elements),
            _ => |elements| snat::table(elements),
        };
        let done = NfTables::open().and_then(|mut kernel| kernel.change(ops, model));
        let Err(error) = done else {
            return ops.iter().map(|_| Ok(())).collect();
        };
        let (errno, reason) = (error.errno(), error.to_string());
        let failed = |op: &KernelOp| KernelError::nftables(op.to_string(), errno, &reason);
        ops.iter().map(|op| Err(failed(op))).collect()
    }
}

/// Asks the kernel for its nftables, which it loads for that.
///
/// # Errors
/// When there is none, or it may not be asked.
pub(in crate::kernel) fn is_there() -> Result<(), KernelError> {
    let generation = messages::get_generation();
    NfTables::open()?.ask(NLM_F_ACK, generation, answers::read_generation)?;
    Ok(())
}

/// The kernel's nftables in the current network namespace.
struct NfTables(KernelSocket);

impl NfTables {
    fn open() -> Result<Self, KernelError> {
        let failed = |error: io::Error| KernelError::netlink("ask nftables", error);
        Ok(NfTables(
            KernelSocket::open(NETLINK_NETFILTER).map_err(failed)?,
        ))
    }

    /// Carries out the operations on the elements that are there.
    fn change(
        &mut self,
        ops: &[KernelOp],
        table: fn(BTreeSet<Element>) -> Table,
    ) -> Result<(), KernelError> {
        let model = table(BTreeSet::new());
        let mut attempt = 1;
        loop {
            let (observed, generation) = self.observe(&model)?;
            let mut elements = observed.elements(&model);
            for op in ops {
                match op {
                    KernelOp::AddSnat { link, network } | KernelOp::AddSource { link, network } => {
                        elements.insert((link.clone(), network.trunc()));
                    }
                    KernelOp::DeleteSnat { link, network }
                    | KernelOp::DeleteSource { link, network } => {
                        elements.remove(&(link.clone(), network.trunc()));
                    }
                    _ => {}
                }
            }
            let desired = table(elements);
            let changes = difference(&observed, &desired)
                .map_err(|error| KernelError::netlink("change nftables", error))?;
            let generation = (attempt <= TRIES).then_some(generation);
            match self.carry_out(&changes, generation) {
                Err(error) if error.errno() == Some(libc::ERESTART) && attempt <= TRIES => {
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    fn carry_out(
        &mut self,
        changes: &[Change],
        generation: Option<u32>,
    ) -> Result<(), KernelError> {
        let is_last = |change: &&Change| **change == Change::DeleteEmptyTable;
        let (last, changes): (Vec<&Change>, Vec<&Change>) = changes.iter().partition(is_last);
        if !changes.is_empty() {
            self.transact(&changes, generation)?;
        }
        // The kernel refuses it where the table has other contents. It is a transaction of its own, so that nothing else is refused
        // with it.
        if !last.is_empty()
            && let Err(error) = self.transact(&last, None)
        {
            tracing::debug!(%error, "the table stays");
        }
        Ok(())
    }

    /// Sends one transaction and waits for the kernel's word on it.
    fn transact(
        &mut self,
        changes: &[&Change],
        generation: Option<u32>,
    ) -> Result<(), KernelError> {
        let failed = |error: io::Error| KernelError::netlink("change nftables", error);
        let mut bytes = self.0.encode(&mut messages::begin(generation));
        let first = self.0.sequence;
        let mut messages: Vec<_> = changes.iter().flat_map(|it| messages::encode(it)).collect();
        // The kernel answers those that it refuses, and the last one in any case.
        if let Some(last) = messages.last_mut() {
            last.header.flags |= NLM_F_ACK;
        }
        for message in &mut messages {
            bytes.extend(self.0.encode(message));
        }
        let last = self.0.sequence;
        bytes.extend(self.0.encode(&mut messages::end()));
        if bytes.len() > 1 << 16 {
            let enlarged = set_socket_send_buffer_size_force(self.0.socket.as_fd(), SEND_BUFFER);
            enlarged.map_err(|error| failed(error.into()))?;
        }
        self.0.socket.send(&bytes, 0).map_err(failed)?;
        let mut refused = None;
        let mut answer = Vec::new();
        loop {
            self.0.receive(&mut answer).map_err(failed)?;
            let malformed = |error: DecodeError| failed(io::Error::other(error));
            let message = NetlinkBuffer::new_checked(&answer).map_err(malformed)?;
            let sequence = message.sequence_number();
            if !(first..=last).contains(&sequence) {
                continue;
            }
            let error = read_error(message.payload()).filter(|error| error.code.is_some());
            let error = error.map(|error| KernelError::refused("change nftables", &error));
            let is_over = sequence == last || (sequence == first && error.is_some());
            refused = refused.or(error);
            if is_over {
                return refused.map_or(Ok(()), Err);
            }
        }
    }

    /// Reads the table as far as the model names it, and the generation of the rules that was read first.
    fn observe(&mut self, model: &Table) -> Result<(Observed, u32), KernelError> {
        let generation = self.ask(
            NLM_F_ACK,
            messages::get_generation(),
            answers::read_generation,
        )?;
        let generation = generation.first().copied().unwrap_or_default();
        let mut observed = Observed::default();
        match self.ask(NLM_F_ACK, messages::get_table(), |_| Ok(Some(()))) {
            Ok(_) => observed.exists = true,
            Err(error) if error.errno() == Some(libc::ENOENT) => {
                return Ok((observed, generation));
            }
            Err(error) => return Err(error),
        }
        for (name, family) in self.ask(NLM_F_DUMP, messages::get_sets(), answers::read_set)? {
            let set = match family {
                Some(family) if model.sets.contains_key(&name) => {
                    let request = messages::get_elements(&name);
                    let read = |message: &[u8]| answers::read_elements(message, family);
                    let elements = self.ask(NLM_F_DUMP, request, read)?;
                    let elements = elements.into_iter().flatten().collect();
                    Some(Set { family, elements })
                }
                _ => None,
            };
            observed.sets.insert(name, set);
        }
        for (name, base) in self.ask(NLM_F_DUMP, messages::get_chains(), answers::read_chain)? {
            let chain = match base {
                Some(mut chain) if model.chains.contains_key(&name) => {
                    let rules =
                        self.ask(NLM_F_DUMP, messages::get_rules(&name), answers::read_rule)?;
                    let rules: Option<Vec<_>> = rules.into_iter().collect();
                    rules.map(|rules| {
                        chain.rules = rules;
                        chain
                    })
                }
                _ => None,
            };
            observed.chains.insert(name, chain);
        }
        Ok((observed, generation))
    }

    /// Asks one question, and returns what `read` finds in the answers; it returns `None` for an answer of no interest.
    fn ask<T>(
        &mut self,
        flags: u16,
        question: NfTablesMessage,
        read: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, KernelError> {
        let mut request = messages::message(question, NLM_F_REQUEST | flags);
        Ok(self.0.ask("list nftables", &mut request, read)?.found)
    }
}
