//! The coordinator as its nodes know it: a table of records, long polls, a relay of signals.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use gretun::coordinator::Event as FromCoordinator;
use gretun::proto::NodePublic;
use gretun::proto::api::{PeerList, PeerRecord, RegisterResponse};

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
        if !up {
            for id in self.host_ids() {
                self.tell_daemon(id, FromCoordinator::Lost);
            }
        } else {
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
        if host.daemon.is_none() || host.incarnation != incarnation {
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
        let own = record.node_key;
        self.coordinator.records.insert(own, record);
        let others = self.everybody_but(own);
        self.at(latency, Event::Registered(id, incarnation, others));
        self.broadcast();
    }

    pub fn registered(&mut self, id: HostId, incarnation: u64, peers: Vec<PeerRecord>) {
        let now = self.local_time(id);
        let servers = self.servers.clone();
        let is_there = self.has_network(id);
        let host = &mut self.hosts[id.0];
        if host.incarnation != incarnation || !is_there {
            return;
        }
        host.registered = true;
        let answer = RegisterResponse {
            name: host.name.clone(),
            tunnel_ips: Vec::new(),
            networks: Vec::new(),
            stun_ports: servers.iter().map(SocketAddr::port).collect(),
            peers: list(peers),
        };
        if let Some(daemon) = &mut host.daemon {
            daemon.handle_coordinator(now, FromCoordinator::Registered(answer));
            daemon.handle_stun_servers(now, servers);
        }
        self.drain(id);
        // Deliver the changes that happened during the registration.
        self.publish(id);
    }

    /// Everybody's long poll is answered.
    pub fn broadcast(&mut self) {
        for id in self.host_ids() {
            let records = self.everybody_but(self.hosts[id.0].node_key);
            self.at(self.coordinator.latency, Event::Peers(id, records));
        }
    }

    pub fn take_peers(&mut self, id: HostId, records: Vec<PeerRecord>) {
        if !self.has_network(id) {
            return;
        }
        let is_removed = self
            .coordinator
            .removed
            .contains(&self.hosts[id.0].node_key);
        let event = match is_removed {
            true => FromCoordinator::Lost,
            false => FromCoordinator::Peers(list(records)),
        };
        self.tell_daemon(id, event);
    }

    fn tell_daemon(&mut self, id: HostId, event: FromCoordinator) {
        let now = self.local_time(id);
        if let Some(daemon) = &mut self.hosts[id.0].daemon {
            daemon.handle_coordinator(now, event);
        }
        self.drain(id);
    }

    fn everybody_but(&self, own: NodePublic) -> Vec<PeerRecord> {
        let records = self.coordinator.records.values();
        records.filter(|it| it.node_key != own).cloned().collect()
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

fn list(peers: Vec<PeerRecord>) -> PeerList {
    let generation = 0;
    PeerList { generation, peers }
}
