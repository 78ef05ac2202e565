//! NATs, in the words of RFC 4787: how they map (section 4), how they filter (section 5), and what time does to both.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;

use crate::dice;

/// On what the public port depends; the stricter the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mapping {
    /// On the inner socket alone.
    Independent,
    /// The mapping also depends on the destination address.
    Address,
    /// The mapping also depends on the destination address and port.
    AddressPort,
}

/// The filtering behaviour (RFC 4787 section 5); the stricter the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filtering {
    /// Anyone.
    Independent,
    /// Admits any address that was sent to.
    Address,
    /// Admits any address and port that was sent to.
    AddressPort,
}

/// The allocation of public ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Any that is free, as Linux' `masquerade fully-random`.
    Random,
    /// The one after the last.
    Sequential,
    /// The inner port where it is free, else what another mapping of the same inner socket has, else any: Linux' `masquerade`
    /// (`find_appropriate_src`, net/netfilter/nf_nat_core.c).
    Preserve,
}

/// The behaviour of a NAT.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NatKind {
    pub mapping: Mapping,
    pub filtering: Filtering,
    pub ports: Ports,
    /// Whether inner hosts reach each other by their public addresses.
    pub hairpin: bool,
    /// Lifetime of a mapping without a packet from inside.
    pub expiry: Duration,
}

impl NatKind {
    pub const fn new(mapping: Mapping, filtering: Filtering) -> Self {
        NatKind {
            mapping,
            filtering,
            ports: Ports::Random,
            hairpin: false,
            expiry: Duration::from_secs(30),
        }
    }

    /// The NAT of most homes.
    pub const PORT_RESTRICTED: NatKind = NatKind::new(Mapping::Independent, Filtering::AddressPort);

    pub const SYMMETRIC: NatKind = NatKind::new(Mapping::AddressPort, Filtering::AddressPort);

    /// Linux' `masquerade`: a mapping per destination, which keeps the inner port all the same.
    pub const LINUX: NatKind = NatKind {
        ports: Ports::Preserve,
        ..NatKind::SYMMETRIC
    };

    /// A symmetric NAT that gives out ports in order.
    pub const SEQUENTIAL: NatKind = NatKind {
        ports: Ports::Sequential,
        ..NatKind::SYMMETRIC
    };

    pub const fn with_hairpin(self) -> Self {
        NatKind {
            hairpin: true,
            ..self
        }
    }

    /// All mappings times all filterings.
    pub fn all() -> impl Iterator<Item = NatKind> {
        let filterings = [
            Filtering::Independent,
            Filtering::Address,
            Filtering::AddressPort,
        ];
        [Mapping::Independent, Mapping::Address, Mapping::AddressPort]
            .into_iter()
            .flat_map(move |mapping| filterings.map(|filtering| NatKind::new(mapping, filtering)))
    }
}

impl fmt::Debug for NatKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NatKind {
            mapping, filtering, ..
        } = self;
        write!(f, "{mapping:?}/{filtering:?}")?;
        match self.ports {
            Ports::Random => {}
            Ports::Sequential => f.write_str("/sequential")?,
            Ports::Preserve => f.write_str("/preserve")?,
        }
        if self.hairpin {
            f.write_str("/hairpin")?;
        }
        Ok(())
    }
}

/// The key of a mapping: the inner socket, and the part of the destination that the mapping depends on.
type Flow = (SocketAddr, Option<IpAddr>, Option<u16>);

type Outside = (u16, Option<IpAddr>, Option<u16>);

#[derive(Debug)]
struct Entry {
    port: u16,
    used: Instant,
    /// The destinations that were sent to, and the last time.
    sent_to: BTreeMap<SocketAddr, Instant>,
}

/// One NAT's state. Entries that have expired are as good as gone; they are swept out now and then.
#[derive(Debug)]
pub struct Nat {
    pub kind: NatKind,
    /// The public address.
    pub ip: IpAddr,
    entries: BTreeMap<Flow, Entry>,
    /// Flows by public port and the part of the destination that the mapping depends on.
    outside: BTreeMap<Outside, Flow>,
    swept: Option<Instant>,
    /// The port that a sequential NAT gave out last.
    last_port: Option<u16>,
    /// Whether a port that was to be kept was another's already.
    pub collided: bool,
    /// Ports that inner hosts asked for (PCP and the like): whoever sends there reaches the inner socket.
    pub forwards: BTreeMap<u16, SocketAddr>,
    /// Flows that came in that way, by inner socket and sender: the port, and when it was last used.
    forwarded: BTreeMap<(SocketAddr, SocketAddr), (u16, Instant)>,
}

impl Nat {
    pub fn new(kind: NatKind, ip: IpAddr) -> Self {
        Nat {
            kind,
            ip,
            entries: BTreeMap::new(),
            outside: BTreeMap::new(),
            swept: None,
            last_port: None,
            collided: false,
            forwards: BTreeMap::new(),
            forwarded: BTreeMap::new(),
        }
    }

    /// Power off and on: all mappings are lost.
    pub fn forget(&mut self) {
        self.entries.clear();
        self.outside.clear();
        self.collided = false;
        self.forwards.clear();
        self.forwarded.clear();
    }

    /// A packet leaves: the public source it gets.
    pub fn outbound(
        &mut self,
        now: Instant,
        rng: &mut ChaCha8Rng,
        inner: SocketAddr,
        to: SocketAddr,
    ) -> SocketAddr {
        self.sweep(now);
        let expiry = self.kind.expiry;
        if let Some((port, used)) = self.forwarded.get_mut(&(inner, to))
            && now < *used + expiry
        {
            *used = now;
            return SocketAddr::new(self.ip, *port);
        }
        let flow = match self.kind.mapping {
            Mapping::Independent => (inner, None, None),
            Mapping::Address => (inner, Some(to.ip()), None),
            Mapping::AddressPort => (inner, Some(to.ip()), Some(to.port())),
        };
        let lives = |it: &Entry| now < it.used + self.kind.expiry;
        if !self.entries.get(&flow).is_some_and(lives) {
            self.remove(&flow);
            let port = self.free_port(now, rng, flow);
            self.collided |= self.kind.ports == Ports::Preserve && port != inner.port();
            self.outside.insert((port, flow.1, flow.2), flow);
            let sent_to = BTreeMap::new();
            let used = now;
            self.entries.insert(
                flow,
                Entry {
                    port,
                    used,
                    sent_to,
                },
            );
        }
        let entry = self.entries.get_mut(&flow).expect("it was there or made");
        entry.used = now;
        entry.sent_to.insert(to, now);
        SocketAddr::new(self.ip, entry.port)
    }

    /// A packet comes to a public port: the inner socket it goes to, if it may.
    pub fn inbound(&mut self, now: Instant, from: SocketAddr, port: u16) -> Option<SocketAddr> {
        let NatKind {
            filtering, expiry, ..
        } = self.kind;
        let recent = |at: &Instant| now < *at + expiry;
        let admitted = |entry: &Entry| match filtering {
            Filtering::Independent => true,
            Filtering::Address => {
                let mut sent_to = entry.sent_to.iter();
                sent_to.any(|(to, at)| to.ip() == from.ip() && recent(at))
            }
            Filtering::AddressPort => entry.sent_to.get(&from).is_some_and(recent),
        };
        let to_sender = (port, Some(from.ip()), Some(from.port()));
        let only = self.kind.mapping == Mapping::AddressPort && filtering == Filtering::AddressPort;
        let flows = if only {
            self.outside.range(to_sender..=to_sender)
        } else {
            self.outside.range(all_of(port))
        };
        let inner = flows
            .map(|(_, flow)| (flow, &self.entries[flow]))
            .find(|(_, entry)| now < entry.used + expiry && admitted(entry))
            .map(|((inner, ..), _)| *inner);
        inner.or_else(|| self.forward(now, from, port))
    }

    /// A packet comes to a port that an inner host asked for. Connection tracking knows a flow by both ends: where the inner host
    /// has sent to this very place before, by another port, what comes in by this one has no place of its own. Linux then gives
    /// it another source port (the null binding of `nf_nat_alloc_null_binding`); pf drops it, and so does this NAT.
    fn forward(&mut self, now: Instant, from: SocketAddr, port: u16) -> Option<SocketAddr> {
        let inner = *self.forwards.get(&port)?;
        let expiry = self.kind.expiry;
        let sent_there = |(flow, entry): (&Flow, &Entry)| {
            let sent = entry
                .sent_to
                .get(&from)
                .is_some_and(|at| now < *at + expiry);
            flow.0 == inner && entry.port != port && now < entry.used + expiry && sent
        };
        if self.entries.iter().any(sent_there) {
            return None;
        }
        self.forwarded.insert((inner, from), (port, now));
        Some(inner)
    }

    /// Returns whether a new mapping must not have this port. Connection tracking tells flows apart by their destination too, so that
    /// where ports are kept one serves several.
    fn is_taken(&self, now: Instant, outside: Outside) -> bool {
        let flows = match self.kind.ports {
            Ports::Preserve => self.outside.range(outside..=outside),
            Ports::Random | Ports::Sequential => self.outside.range(all_of(outside.0)),
        };
        flows
            .map(|(_, flow)| &self.entries[flow])
            .any(|entry| now < entry.used + self.kind.expiry)
    }

    fn remove(&mut self, flow: &Flow) {
        let Some(entry) = self.entries.remove(flow) else {
            return;
        };
        let outside = (entry.port, flow.1, flow.2);
        if self.outside.get(&outside) == Some(flow) {
            self.outside.remove(&outside);
        }
    }

    fn sweep(&mut self, now: Instant) {
        let expiry = self.kind.expiry;
        if self.swept.is_some_and(|at| now < at + expiry) {
            return;
        }
        self.swept = Some(now);
        let expired = |(_, it): &(&Flow, &Entry)| now >= it.used + expiry;
        let expired: Vec<Flow> = self
            .entries
            .iter()
            .filter(expired)
            .map(|it| *it.0)
            .collect();
        for flow in &expired {
            self.remove(flow);
        }
        for entry in self.entries.values_mut() {
            entry.sent_to.retain(|_, at| now < *at + expiry);
        }
    }

    fn free_port(&mut self, now: Instant, rng: &mut ChaCha8Rng, flow: Flow) -> u16 {
        let (inner, address, port) = flow;
        let taken = |it: u16| self.is_taken(now, (it, address, port));
        match self.kind.ports {
            Ports::Random => {}
            Ports::Sequential => {
                let last = self.last_port.unwrap_or_else(|| random_port(rng));
                let next = |port: u16| port.checked_add(1).unwrap_or(LOWEST_PORT);
                let mut port = next(last);
                while taken(port) {
                    port = next(port);
                }
                self.last_port = Some(port);
                return port;
            }
            Ports::Preserve => {
                let of_inner =
                    (inner, None, None)..=(inner, Some([255; 16].into()), Some(u16::MAX));
                let used = self.entries.range(of_inner).map(|(_, it)| it.port);
                let known = used.chain([inner.port()]).find(|it| !taken(*it));
                if let Some(port) = known {
                    return port;
                }
            }
        }
        loop {
            let port = random_port(rng);
            if !taken(port) {
                return port;
            }
        }
    }
}

/// All mappings of one public port.
fn all_of(port: u16) -> std::ops::RangeInclusive<Outside> {
    (port, None, None)..=(port, Some([255; 16].into()), Some(u16::MAX))
}

const LOWEST_PORT: u16 = 1024;

/// Draws a port from the range that Linux uses for source ports above the well-known ones.
fn random_port(rng: &mut ChaCha8Rng) -> u16 {
    dice::between(rng, LOWEST_PORT.into(), 65_536) as u16
}
