//! Whose disco key is whose. A member could register another member's disco key as its own; packets go to whoever had it first.

use std::collections::{BTreeMap, BTreeSet};

use tracing::warn;

use crate::proto::api::PeerRecord;
use crate::proto::{DiscoPublic, NodePublic};

/// The disco keys of all peers, each with its owner.
#[derive(Debug, Default)]
pub(super) struct DiscoKeys {
    owners: BTreeMap<DiscoPublic, NodePublic>,
    /// The peers that claim a key of another peer, and which: each is logged once.
    conflicts: BTreeSet<(NodePublic, DiscoPublic)>,
}

impl DiscoKeys {
    /// The peer whose key it is.
    pub(super) fn owner(&self, key: &DiscoPublic) -> Option<NodePublic> {
        self.owners.get(key).copied()
    }

    /// Makes the record's key its peer's, in the place of the key that the peer had `before`. False if another peer holds the key:
    /// whoever copies a peer's key must not get its packets.
    pub(super) fn claim(&mut self, record: &PeerRecord, before: Option<DiscoPublic>) -> bool {
        let (peer, key) = (record.node_key, record.disco_key);
        if *self.owners.entry(key).or_insert(peer) != peer {
            if self.conflicts.insert((peer, key)) {
                warn!(name = %record.name, %key, "ignored: another peer has this disco key");
            }
            return false;
        }
        if let Some(before) = before.filter(|it| *it != key) {
            self.owners.remove(&before);
        }
        true
    }

    /// Frees the key of a peer that is gone.
    pub(super) fn free(&mut self, key: &DiscoPublic) {
        self.owners.remove(key);
    }

    /// Forgets the conflicts of peers that are gone, so that they are logged again should they return.
    pub(super) fn retain_conflicts(&mut self, listed: &BTreeSet<NodePublic>) {
        self.conflicts.retain(|(peer, _)| listed.contains(peer));
    }
}
