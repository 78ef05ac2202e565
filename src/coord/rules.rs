//! The rules of the API, joined: who may do what, and what it changes. Pure; the caller passes the time in, stores what
//! is to be stored before it is applied, and answers.

use std::collections::HashMap;

use super::api_error::ApiError;
use super::clock::Now;
use super::enrol::{KeyRecord, KeyRing};
use super::pool::Pool;
use super::registry::{NodeRecord, RegistrationData, Registry, Terms};
use super::replay::ReplayCache;
use super::signals::SignalQueues;
use super::token_bucket::{Bucket, Rate};
use crate::proto::address::is_sendable;
use crate::proto::api::{
    Endpoint, EndpointsRequest, MAX_ENDPOINTS, MAX_ROUTES, MAX_SEALED, RegisterRequest, Signal,
    SignalRequest, SignedHeaders,
};
use crate::proto::keys::NodePublic;
use crate::proto::name::PeerName;

/// Rate of requests of one node. A node that joins signals every peer at once: 500 is room for a full /24 twice.
const NODE_RATE: Rate = Rate {
    per_second: 50.0,
    burst: 500.0,
};

/// The longest version text, bytes.
const MAX_VERSION: usize = 64;

/// A change that must survive a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add or replace a node.
    PutNode(NodeRecord),
    /// Remove a node.
    RemoveNode(NodePublic),
    /// Add or replace an auth key.
    PutKey(KeyRecord),
    /// Remove an auth key.
    RemoveKey(String),
}

/// The stored data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// All nodes.
    pub nodes: Vec<NodeRecord>,
    /// All auth keys.
    pub keys: Vec<KeyRecord>,
}

/// The changes that time alone made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ticked {
    /// Peers see a difference.
    pub peers_changed: bool,
    /// Signals that became too old.
    pub signals_dropped: usize,
    /// To be stored, then applied with [`Core::apply`].
    pub lapsed: Vec<Change>,
}

/// All state of the coordinator.
#[derive(Debug)]
pub struct Core {
    registry: Registry,
    keys: KeyRing,
    signals: SignalQueues,
    replay: ReplayCache,
    rates: HashMap<NodePublic, Bucket>,
    open: bool,
}

impl Core {
    /// The coordinator as it was stored, on these pools; and the changes that the pools make necessary, to be stored.
    pub fn load(
        pools: Vec<Pool>,
        open: bool,
        stored: Snapshot,
        now: Now,
    ) -> Result<(Core, Vec<Change>), ApiError> {
        let mut keys = KeyRing::default();
        stored.keys.into_iter().for_each(|key| keys.put(key));
        // Later runs start at a later time, so a generation never comes back.
        let (registry, moved) = Registry::load(pools, stored.nodes, now.unix_ms, now)?;
        let core = Core {
            registry,
            keys,
            signals: SignalQueues::default(),
            replay: ReplayCache::new(now),
            rates: HashMap::new(),
            open,
        };
        Ok((core, moved.into_iter().map(Change::PutNode).collect()))
    }

    /// The nodes.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The auth keys.
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Returns whether anybody is let in.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Checks that a request with a valid signature was not seen before, and that its time is near the coordinator's. Records nothing.
    pub fn check_unseen(&self, headers: &SignedHeaders, now: Now) -> Result<(), ApiError> {
        Ok(self
            .replay
            .check(headers.node, headers.time_ms, headers.nonce, now)?)
    }

    /// Does [`Core::check_unseen`], and checks that a registered node keeps to its rate.
    pub fn check_fresh(&mut self, headers: &SignedHeaders, now: Now) -> Result<(), ApiError> {
        self.check_unseen(headers, now)?;
        if self.registry.get(&headers.node).is_none() {
            return Ok(());
        }
        let full = || Bucket::new(NODE_RATE, now.uptime);
        let bucket = self.rates.entry(headers.node).or_insert_with(full);
        let taken = bucket.take(NODE_RATE, now.uptime);
        taken.map_err(|retry_after| ApiError::TooFast { retry_after })
    }

    /// Checks a request other than a registration and records its nonce. Returns whether the request brought the node online.
    /// Refuses unregistered nodes without recording anything, because there can be any number of them.
    pub fn admit(&mut self, headers: &SignedHeaders, now: Now) -> Result<bool, ApiError> {
        self.check_fresh(headers, now)?;
        if self.registry.get(&headers.node).is_none() {
            return Err(ApiError::NotRegistered);
        }
        self.remember(headers, now);
        Ok(self.registry.touch(&headers.node, now))
    }

    /// Records the nonce of an accepted request.
    pub fn remember(&mut self, headers: &SignedHeaders, now: Now) {
        self.replay.remember(headers.node, headers.nonce, now);
    }

    /// Plans the registration of `node`. The first change is the node's record; if it is the only change and equals the stored
    /// record, nothing needs to be stored.
    pub fn plan_registration(
        &self,
        node: NodePublic,
        request: RegisterRequest,
        now: Now,
    ) -> Result<Vec<Change>, ApiError> {
        let name = PeerName::parse(&request.name)?;
        check_endpoints(&request.endpoints)?;
        if request.routes.len() > MAX_ROUTES {
            return Err(ApiError::TooManyRoutes {
                count: request.routes.len(),
            });
        }
        if request.version.len() > MAX_VERSION {
            return Err(ApiError::FieldTooLong {
                field: "version",
                max: MAX_VERSION,
            });
        }
        let key = match (self.registry.get(&node), request.auth_key) {
            (Some(_), _) => None,
            (None, Some(text)) => {
                Some(self.keys.admit(&text, now))
                    .transpose()
                    .or_else(|error| {
                        // An open coordinator takes a valid key's terms, and needs none.
                        if self.open { Ok(None) } else { Err(error) }
                    })?
            }
            (None, None) if self.open => None,
            (None, None) => return Err(ApiError::KeyNeeded),
        };
        let terms = key.as_ref().map_or_else(Terms::default, |key| Terms {
            enrolled_with: Some(key.id.clone()),
            ephemeral: key.policy.ephemeral,
            tags: key.policy.tags.clone(),
        });
        let wanted = RegistrationData {
            name,
            disco_key: request.disco_key,
            endpoints: request.endpoints,
            nat_mapping: request.nat_mapping,
            routes: request.routes,
            version: request.version,
        };
        let record = self.registry.plan(node, wanted, terms, now)?;
        let mut changes = vec![Change::PutNode(record)];
        changes.extend(key.map(Change::PutKey));
        Ok(changes)
    }

    /// Returns whether a change is stored already, as far as can be told from here.
    pub fn is_stored(&self, change: &Change) -> bool {
        matches!(change, Change::PutNode(record) if self.registry.get(&record.node_key) == Some(record))
    }

    /// Makes changes that are stored. Says whether peers see a difference.
    pub fn apply(&mut self, changes: Vec<Change>, now: Now) -> bool {
        let mut peers_changed = false;
        for change in changes {
            match change {
                Change::PutNode(record) => peers_changed |= self.registry.put(record, now),
                Change::RemoveNode(node) => {
                    self.signals.forget(&node);
                    peers_changed |= self.registry.remove(&node);
                }
                Change::PutKey(key) => self.keys.put(key),
                Change::RemoveKey(id) => self.keys.remove(&id),
            }
        }
        peers_changed
    }

    /// Replaces a node's endpoints and the kind of its NAT. Says whether peers see a difference.
    pub fn set_endpoints(
        &mut self,
        node: &NodePublic,
        wanted: EndpointsRequest,
    ) -> Result<bool, ApiError> {
        check_endpoints(&wanted.endpoints)?;
        Ok(self.registry.set_endpoints(node, wanted))
    }

    /// Takes the records whose endpoints changed since they were stored; the caller stores them.
    pub fn take_unsaved(&mut self) -> Vec<Change> {
        self.registry
            .take_unsaved()
            .into_iter()
            .map(Change::PutNode)
            .collect()
    }

    /// Queues a signal; says how many older ones it pushed out.
    pub fn push_signal(
        &mut self,
        from: NodePublic,
        request: SignalRequest,
        now: Now,
    ) -> Result<usize, ApiError> {
        let length = request.envelope().map_or(0, |envelope| envelope.len());
        if !(1..=MAX_SEALED).contains(&length) {
            return Err(ApiError::Sealed);
        }
        if self.registry.get(&request.to).is_none() {
            return Err(ApiError::NoRecipient { to: request.to });
        }
        let signal = Signal {
            from,
            sealed: request.sealed,
        };
        Ok(self.signals.push(request.to, signal, now))
    }

    /// Hands out the signals that wait for `node`.
    pub fn take_signals(&mut self, node: &NodePublic, now: Now) -> Vec<Signal> {
        self.signals.take(node, now)
    }

    /// Expires nonces, rate buckets and signals, marks silent nodes offline and returns the lapsed ephemeral nodes. Call at least
    /// once per second.
    pub fn tick(&mut self, now: Now) -> Ticked {
        self.replay.expire(now);
        self.rates
            .retain(|_, bucket| !bucket.is_full(NODE_RATE, now.uptime));
        Ticked {
            peers_changed: self.registry.mark_offline(now),
            signals_dropped: self.signals.expire(now),
            lapsed: self
                .registry
                .lapsed(now)
                .into_iter()
                .map(Change::RemoveNode)
                .collect(),
        }
    }
}

/// Peers will send to whatever a node publishes: nothing that reaches more than one host.
fn check_endpoints(endpoints: &[Endpoint]) -> Result<(), ApiError> {
    if endpoints.len() > MAX_ENDPOINTS {
        return Err(ApiError::TooManyEndpoints {
            count: endpoints.len(),
        });
    }
    match endpoints
        .iter()
        .find(|endpoint| !is_sendable(endpoint.addr))
    {
        Some(endpoint) => Err(ApiError::Endpoint {
            addr: endpoint.addr,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
