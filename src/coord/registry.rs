//! The nodes of the network: names, addresses, endpoints, online or not; and the list of peers that each node gets.
//!
//! Pure. [`NodeRecord`] holds the data that must survive a restart; the caller stores a record before it puts it here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::api_error::ApiError;
use super::clock::Now;
use super::pool::Pool;
use crate::proto::NatMapping;
use crate::proto::api::{Endpoint, EndpointsRequest, PeerList, PeerRecord};
use crate::proto::keys::{DiscoPublic, NodePublic};
use crate::proto::name::PeerName;

/// A node counts as online for this long after its last request: two long polls of the greatest length.
pub const ONLINE_FOR: Duration = Duration::from_secs(60);

/// An ephemeral node is removed after this long offline: a reboot or a coordinator's update is no goodbye.
pub const EPHEMERAL_FOR: Duration = Duration::from_secs(10 * 60);

/// The stored record of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Unique.
    pub name: PeerName,
    /// Its identity.
    pub node_key: NodePublic,
    /// Whom to seal disco messages to; unique.
    pub disco_key: DiscoPublic,
    /// One address of each pool.
    pub tunnel_ips: Vec<IpAddr>,
    /// The node's candidates (RFC 8445 section 4).
    pub endpoints: Vec<Endpoint>,
    /// The mapping behaviour of the node's NAT.
    #[serde(default)]
    pub nat_mapping: NatMapping,
    /// Networks behind it that it offers.
    #[serde(default)]
    pub routes: Vec<IpNet>,
    /// Its gretun version when it last registered.
    pub version: String,
    /// The id of the key that admitted it; none on an open coordinator.
    pub enrolled_with: Option<String>,
    /// To be removed when it stays away.
    pub ephemeral: bool,
    /// The labels of its key.
    pub tags: Vec<String>,
    /// Time of enrolment, Unix milliseconds.
    pub created_ms: u64,
}

/// The data of a registration.
#[derive(Clone, Debug)]
pub struct RegistrationData {
    /// The name that it would like.
    pub name: PeerName,
    /// Its disco key.
    pub disco_key: DiscoPublic,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The mapping behaviour of the node's NAT.
    pub nat_mapping: NatMapping,
    /// The networks that it offers.
    pub routes: Vec<IpNet>,
    /// Its version.
    pub version: String,
}

/// The terms on which a new node is admitted.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The id of its key.
    pub enrolled_with: Option<String>,
    /// Removed when it stays away.
    pub ephemeral: bool,
    /// Its labels.
    pub tags: Vec<String>,
}

#[derive(Debug)]
struct Node {
    record: NodeRecord,
    /// Uptime of the last request, or of the load.
    seen: Duration,
    online: bool,
    /// The stored record has older endpoints.
    unsaved: bool,
}

/// All nodes.
#[derive(Debug)]
pub struct Registry {
    pools: Vec<Pool>,
    nodes: BTreeMap<NodePublic, Node>,
    names: HashMap<PeerName, NodePublic>,
    disco_keys: HashMap<DiscoPublic, NodePublic>,
    addresses: BTreeSet<IpAddr>,
    generation: u64,
}

impl Registry {
    /// The registry of what was stored. Nodes with addresses of other pools than these get new ones: the second value
    /// has their changed records, to be stored. `generation` must be greater than that of any earlier run.
    pub fn load(
        pools: Vec<Pool>,
        records: Vec<NodeRecord>,
        generation: u64,
        now: Now,
    ) -> Result<(Registry, Vec<NodeRecord>), ApiError> {
        let mut registry = Registry {
            pools,
            nodes: BTreeMap::new(),
            names: HashMap::new(),
            disco_keys: HashMap::new(),
            addresses: BTreeSet::new(),
            generation,
        };
        let (fitting, mut misfits): (Vec<_>, Vec<_>) = records
            .into_iter()
            .partition(|record| registry.fits(record));
        for record in fitting {
            registry.put(record, now);
        }
        for record in &mut misfits {
            record.tunnel_ips = registry.allocate(&record.tunnel_ips)?;
            registry.put(record.clone(), now);
        }
        for node in registry.nodes.values_mut() {
            node.online = false;
        }
        Ok((registry, misfits))
    }

    /// A node's record.
    pub fn get(&self, node: &NodePublic) -> Option<&NodeRecord> {
        self.nodes.get(node).map(|it| &it.record)
    }

    /// All records with whether they are online, by node key.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeRecord, bool)> {
        self.nodes.values().map(|it| (&it.record, it.online))
    }

    /// The record that `node` would have; the registry is not changed. `terms` counts for a new node only.
    pub fn plan(
        &self,
        node: NodePublic,
        wanted: RegistrationData,
        terms: Terms,
        now: Now,
    ) -> Result<NodeRecord, ApiError> {
        if self
            .disco_keys
            .get(&wanted.disco_key)
            .is_some_and(|owner| *owner != node)
        {
            return Err(ApiError::DiscoKeyTaken);
        }
        let current = self.get(&node);
        let name = match current {
            Some(current) if current.name.stems_from(&wanted.name) => current.name.clone(),
            _ => wanted
                .name
                .first_free(|name| self.names.get(name).is_some_and(|owner| *owner != node)),
        };
        let fresh = NodeRecord {
            name,
            node_key: node,
            disco_key: wanted.disco_key,
            tunnel_ips: Vec::new(),
            endpoints: wanted.endpoints,
            nat_mapping: wanted.nat_mapping,
            routes: wanted.routes,
            version: wanted.version,
            enrolled_with: terms.enrolled_with,
            ephemeral: terms.ephemeral,
            tags: terms.tags,
            created_ms: now.unix_ms,
        };
        match current.cloned() {
            Some(current) => Ok(NodeRecord {
                name: fresh.name,
                disco_key: fresh.disco_key,
                endpoints: fresh.endpoints,
                nat_mapping: fresh.nat_mapping,
                routes: fresh.routes,
                version: fresh.version,
                ..current
            }),
            None => Ok(NodeRecord {
                tunnel_ips: self.allocate(&[])?,
                ..fresh
            }),
        }
    }

    /// Adds or replaces a record that is stored (or equals the one here); the node counts as seen. Says whether peers
    /// see a difference.
    pub fn put(&mut self, record: NodeRecord, now: Now) -> bool {
        let key = record.node_key;
        let before = self.nodes.remove(&key);
        if let Some(before) = &before {
            self.unindex(&before.record);
        }
        self.names.insert(record.name.clone(), key);
        self.disco_keys.insert(record.disco_key, key);
        self.addresses.extend(&record.tunnel_ips);
        let seen_by_peers = before.as_ref().map(|it| public(&it.record, it.online));
        let changed = seen_by_peers.as_ref() != Some(&public(&record, true));
        let unsaved = before.is_some_and(|it| it.unsaved && it.record == record);
        self.nodes.insert(
            key,
            Node {
                record,
                seen: now.uptime,
                online: true,
                unsaved,
            },
        );
        self.bump(changed)
    }

    /// Replaces a node's endpoints and the kind of its NAT, to be stored later. Says whether peers see a difference.
    pub fn set_endpoints(&mut self, node: &NodePublic, wanted: EndpointsRequest) -> bool {
        let Some(node) = self.nodes.get_mut(node) else {
            return false;
        };
        let EndpointsRequest {
            endpoints,
            nat_mapping,
        } = wanted;
        let record = &mut node.record;
        let changed = (&record.endpoints, record.nat_mapping) != (&endpoints, nat_mapping);
        record.endpoints = endpoints;
        record.nat_mapping = nat_mapping;
        node.unsaved |= changed;
        self.bump(changed)
    }

    /// A node made a request. Says whether that brought it online.
    pub fn touch(&mut self, node: &NodePublic, now: Now) -> bool {
        let Some(node) = self.nodes.get_mut(node) else {
            return false;
        };
        node.seen = now.uptime;
        let back = !std::mem::replace(&mut node.online, true);
        self.bump(back)
    }

    /// Marks who has not been heard of as offline. Says whether there was anybody.
    pub fn mark_offline(&mut self, now: Now) -> bool {
        let mut changed = false;
        for node in self.nodes.values_mut() {
            let gone = node.online && now.uptime.saturating_sub(node.seen) > ONLINE_FOR;
            node.online &= !gone;
            changed |= gone;
        }
        self.bump(changed)
    }

    /// The ephemeral nodes that stayed away too long, to be removed.
    pub fn lapsed(&self, now: Now) -> Vec<NodePublic> {
        self.nodes
            .values()
            .filter(|node| {
                node.record.ephemeral && now.uptime.saturating_sub(node.seen) > EPHEMERAL_FOR
            })
            .map(|node| node.record.node_key)
            .collect()
    }

    /// Removes a node; its name and addresses are free again. Says whether it was there.
    pub fn remove(&mut self, node: &NodePublic) -> bool {
        let removed = self.nodes.remove(node);
        if let Some(removed) = &removed {
            self.unindex(&removed.record);
        }
        self.bump(removed.is_some())
    }

    /// Takes the records whose endpoints changed since they were stored. They count as stored from now on.
    pub fn take_unsaved(&mut self) -> Vec<NodeRecord> {
        self.nodes
            .values_mut()
            .filter_map(|node| std::mem::take(&mut node.unsaved).then(|| node.record.clone()))
            .collect()
    }

    /// Rises with each change that peers see.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Everybody but `node`.
    pub fn peers_of(&self, node: &NodePublic) -> PeerList {
        PeerList {
            generation: self.generation,
            peers: self
                .nodes
                .values()
                .filter(|it| it.record.node_key != *node)
                .map(|it| public(&it.record, it.online))
                .collect(),
        }
    }

    /// Returns the number of nodes that are online, and the number of all nodes.
    pub fn count(&self) -> (usize, usize) {
        (
            self.nodes.values().filter(|it| it.online).count(),
            self.nodes.len(),
        )
    }

    /// The pools.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// One address of each pool: at the same offset in all where that is free; those of `keep` where they fit.
    fn allocate(&self, keep: &[IpAddr]) -> Result<Vec<IpAddr>, ApiError> {
        let taken = |address| self.addresses.contains(&address);
        let mut offset = None;
        self.pools
            .iter()
            .map(|pool| {
                let kept = keep
                    .iter()
                    .copied()
                    .find(|it| pool.gives(*it) && !taken(*it));
                let address = kept.or_else(|| pool.allocate(offset, taken));
                let address = address.ok_or(ApiError::PoolExhausted {
                    network: pool.network(),
                })?;
                offset = Some(pool.offset(address));
                Ok(address)
            })
            .collect()
    }

    fn fits(&self, record: &NodeRecord) -> bool {
        record.tunnel_ips.len() == self.pools.len()
            && self
                .pools
                .iter()
                .zip(&record.tunnel_ips)
                .all(|(pool, address)| pool.gives(*address))
    }

    fn unindex(&mut self, record: &NodeRecord) {
        self.names.remove(&record.name);
        self.disco_keys.remove(&record.disco_key);
        for address in &record.tunnel_ips {
            self.addresses.remove(address);
        }
    }

    fn bump(&mut self, changed: bool) -> bool {
        self.generation += u64::from(changed);
        changed
    }
}

fn public(record: &NodeRecord, online: bool) -> PeerRecord {
    PeerRecord {
        name: record.name.to_string(),
        node_key: record.node_key,
        disco_key: record.disco_key,
        tunnel_ips: record.tunnel_ips.clone(),
        endpoints: record.endpoints.clone(),
        nat_mapping: record.nat_mapping,
        routes: record.routes.clone(),
        online,
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
