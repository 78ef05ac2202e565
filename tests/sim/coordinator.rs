//! The coordinator as its nodes know it: a table of records, long polls, a relay of signals.

use std::collections::BTreeMap;
use std::time::Duration;

use gretun::proto::NodePublic;
use gretun::proto::api::PeerRecord;

use crate::clock::Event;
use crate::world::{HostId, World};

/// The coordinator: a table of records and a relay of signals.
pub struct Coordinator {
    pub up: bool,
    /// One way, between any host and it.
    pub latency: Duration,
    pub records: BTreeMap<NodePublic, PeerRecord>,
    pub removed: Vec<NodePublic>,
}

impl World {
    /// Restarts the coordinator's process: its table survives, connections and signals do not.
    pub fn set_coordinator(&mut self, up: bool) {
        self.coordinator.up = up;
        for host in &mut self.hosts {
            if let Some(node) = &mut host.node {
                node.handle_coordinator(up && host.registered);
            }
        }
        if up {
            for id in self.host_ids() {
                let incarnation = self.hosts[id.0].incarnation;
                self.at(Duration::from_secs(1), Event::Register(id, incarnation));
            }
        }
    }

    /// An operator removes a node from the network.
    pub fn expel(&mut self, id: HostId) {
        let key = self.hosts[id.0].node_key;
        self.coordinator.records.remove(&key);
        self.coordinator.removed.push(key);
        self.broadcast();
    }

    /// Changes the coordinator's record of a host, as after a long silence.
    pub fn set_online(&mut self, id: HostId, online: bool) {
        let key = self.hosts[id.0].node_key;
        if let Some(record) = self.coordinator.records.get_mut(&key) {
            record.online = online;
        }
        self.broadcast();
    }

    pub fn register(&mut self, id: HostId, incarnation: u64) {
        let host = &mut self.hosts[id.0];
        if host.node.is_none() || host.incarnation != incarnation {
            return;
        }
        if !self.coordinator.up || !self.has_network(id) {
            return self.at(Duration::from_secs(1), Event::Register(id, incarnation));
        }
        let record = self.hosts[id.0].record(true);
        let latency = self.coordinator.latency;
        self.at(latency, Event::Enrol(id, incarnation, record));
    }

    pub fn enrol(&mut self, id: HostId, incarnation: u64, record: PeerRecord) {
        if self.coordinator.removed.contains(&record.node_key) {
            return;
        }
        let latency = self.coordinator.latency;
        if !self.coordinator.up {
            return self.at(Duration::from_secs(1), Event::Register(id, incarnation));
        }
        self.coordinator.records.insert(record.node_key, record);
        self.at(latency, Event::Registered(id, incarnation));
        self.broadcast();
    }

    pub fn registered(&mut self, id: HostId, incarnation: u64) {
        let now = self.local_time(id);
        let servers = self.servers.clone();
        let is_there = self.has_network(id);
        let host = &mut self.hosts[id.0];
        if host.incarnation != incarnation || !is_there {
            return;
        }
        host.registered = true;
        if let Some(node) = &mut host.node {
            node.handle_coordinator(true);
            node.handle_stun_servers(now, servers);
        }
        self.drain(id);
        // Deliver the changes that happened during the registration.
        self.publish(id);
    }

    /// Everybody's long poll is answered.
    pub fn broadcast(&mut self) {
        for id in self.host_ids() {
            let own = self.hosts[id.0].node_key;
            let others = self.coordinator.records.values();
            let records = others.filter(|it| it.node_key != own).cloned().collect();
            self.at(self.coordinator.latency, Event::Peers(id, records));
        }
    }

    pub fn take_peers(&mut self, id: HostId, records: Vec<PeerRecord>) {
        let now = self.local_time(id);
        if !self.has_network(id) {
            return;
        }
        let host = &mut self.hosts[id.0];
        if let Some(node) = &mut host.node {
            node.handle_peers(now, &records);
            host.cache = records;
        }
        self.drain(id);
    }

    pub fn publish(&mut self, id: HostId) {
        if self.hosts[id.0].registered && self.has_network(id) {
            let record = self.hosts[id.0].record(true);
            self.at(self.coordinator.latency, Event::Publish(id, record));
        }
    }

    pub fn has_network(&self, id: HostId) -> bool {
        let host = &self.hosts[id.0];
        !host.clock.is_stopped() && host.has_route && host.interfaces.iter().any(|it| it.up)
    }
}
