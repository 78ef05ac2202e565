//! The virtual clock: events in order, and the daemons' timers among them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use gretun::coordinator::Event as FromCoordinator;
use gretun::proto::NodePublic;
use gretun::proto::api::PeerRecord;

use crate::network::{Frame, Packet, Payload, Place};
use crate::world::{HostId, World};

#[derive(Debug)]
pub enum Event {
    Arrive(Place, Packet),
    /// A host has a connection and sends its registration.
    Register(HostId, u64),
    /// It reaches the coordinator.
    Enrol(HostId, u64, PeerRecord),
    /// The answer reaches the host, with everybody else.
    Registered(HostId, u64, Vec<PeerRecord>),
    Publish(HostId, PeerRecord),
    Peers(HostId, Vec<PeerRecord>),
    SignalUp(NodePublic, NodePublic, Vec<u8>),
    SignalDown(HostId, NodePublic, Vec<u8>),
    ApplierLooks(HostId, u64),
    ApplierActs(HostId, u64),
    User(HostId),
    /// A stalled daemon goes on.
    GoOn(HostId, u64),
}

impl Event {
    /// The host whose daemon this is for.
    fn daemon(&self) -> Option<HostId> {
        match self {
            Event::Arrive(_, packet)
                if matches!(packet.payload, Payload::Data(_, Frame::User(_))) =>
            {
                None
            }
            Event::Arrive(Place::Host(id, _), _)
            | Event::Registered(id, ..)
            | Event::Peers(id, _)
            | Event::SignalDown(id, ..)
            | Event::ApplierActs(id, _) => Some(*id),
            _ => None,
        }
    }
}

/// The coming events, by time and then by the order in which they were scheduled.
pub type Queue = BTreeMap<(Instant, u64), Event>;

thread_local! {
    /// The time since the world's start, and the host that the event is for.
    static NOW: Cell<(Duration, Option<HostId>)> = const { Cell::new((Duration::ZERO, None)) };
}

/// Begins the lines of the log with the world's time and the host whose daemon speaks.
pub struct WorldTime;

impl FormatTime for WorldTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let (now, host) = NOW.get();
        write!(writer, "{:9.3} s", now.as_secs_f64())?;
        host.map_or(Ok(()), |HostId(number)| write!(writer, " h{number}"))
    }
}

impl World {
    fn set_log_time(&self, host: Option<HostId>) {
        NOW.set((self.now - self.start, host));
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Lets time pass until something holds; how long that took, if it came within the bound.
    pub fn run_until(
        &mut self,
        bound: Duration,
        holds: impl Fn(&World) -> bool,
    ) -> Option<Duration> {
        let begin = self.now;
        let end = self.now + bound;
        loop {
            if holds(self) {
                return Some(self.now - begin);
            }
            if !self.step(end) {
                self.now = end;
                return holds(self).then_some(bound);
            }
        }
    }

    pub fn at(&mut self, delay: Duration, event: Event) {
        self.order += 1;
        self.queue.insert((self.now + delay, self.order), event);
    }

    /// One event or one daemon's timer, if it comes before `end`.
    pub fn step(&mut self, end: Instant) -> bool {
        let timer = self
            .host_ids()
            .filter_map(|id| Some((self.hosts[id.0].next_timer?, id)))
            .min();
        let event = self.queue.first_key_value().map(|((at, _), _)| *at);
        match (timer, event) {
            (Some((at, id)), event) if at <= end && event.is_none_or(|event| at < event) => {
                // A timer in the past is one that was set to "now" by the last input.
                self.now = self.now.max(at);
                self.set_log_time(Some(id));
                let now = self.local_time(id);
                let daemon = self.hosts[id.0].daemon.as_mut();
                let daemon = daemon.expect("it has a timer");
                daemon.handle_timeout(now);
                let next = daemon.poll_timeout();
                if let Some((next, reason)) = next.filter(|(next, _)| *next <= now) {
                    let late = now - next;
                    panic!(
                        "{id:?} spins on `{reason}`, late by {late:?}\n{}",
                        self.story()
                    );
                }
                self.drain(id);
                true
            }
            (_, Some(at)) if at <= end => {
                let (_, event) = self.queue.pop_first().expect("it was looked at");
                self.now = at;
                self.set_log_time(event.daemon());
                self.handle(event);
                true
            }
            _ => false,
        }
    }

    pub fn handle(&mut self, event: Event) {
        let stalled_until = event.daemon().and_then(|id| self.hosts[id.0].stalled_until);
        if let Some(until) = stalled_until {
            return self.at(until - self.now, event);
        }
        match event {
            Event::GoOn(id, incarnation) => {
                let now = self.local_time(id);
                let host = &mut self.hosts[id.0];
                host.stalled_until = None;
                if let Some(daemon) = host
                    .daemon
                    .as_mut()
                    .filter(|_| host.incarnation == incarnation)
                {
                    daemon.handle_timeout(now);
                }
                self.drain(id);
            }
            Event::Arrive(place, packet) => self.arrive(place, packet),
            Event::Register(id, incarnation) => self.register(id, incarnation),
            Event::Enrol(id, incarnation, record) => self.enrol(id, incarnation, record),
            Event::Registered(id, incarnation, records) => {
                self.registered(id, incarnation, records);
            }
            Event::Publish(id, record) => {
                if self.coordinator.up && !self.coordinator.removed.contains(&record.node_key) {
                    debug_assert_eq!(self.hosts[id.0].node_key, record.node_key);
                    self.coordinator.records.insert(record.node_key, record);
                    self.broadcast();
                }
            }
            Event::Peers(id, records) => self.take_peers(id, records),
            Event::SignalUp(from, to, sealed) => {
                let recipient = self.host_ids().find(|id| self.hosts[id.0].node_key == to);
                if let Some(id) = recipient.filter(|_| self.coordinator.up) {
                    self.at(
                        self.coordinator.latency,
                        Event::SignalDown(id, from, sealed),
                    );
                }
            }
            Event::SignalDown(id, from, sealed) => {
                let now = self.local_time(id);
                if !self.has_network(id) || !self.hosts[id.0].registered {
                    return;
                }
                if let Some(daemon) = &mut self.hosts[id.0].daemon {
                    daemon.handle_coordinator(now, FromCoordinator::Signal { from, sealed });
                }
                self.drain(id);
            }
            Event::ApplierLooks(id, incarnation) => self.applier_looks(id, incarnation),
            Event::ApplierActs(id, incarnation) => self.applier_acts(id, incarnation),
            Event::User(id) => {
                let peers: Vec<NodePublic> = self.hosts[id.0].tunnels.keys().copied().collect();
                for peer in peers {
                    self.send_user_data(id, peer);
                }
                if !self.user_gap.is_zero() {
                    self.at(self.user_gap, Event::User(id));
                }
            }
        }
    }
}
