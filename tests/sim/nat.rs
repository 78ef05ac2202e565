//! NATs, in the words of RFC 4787: how they map (section 4), how they filter (section 5), and what time does to both.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;

use crate::dice;

/// On what the public port depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// On the inner socket alone.
    Independent,
    /// And on the address that is sent to.
    Address,
    /// And on the port that is sent to.
    AddressPort,
}

/// Who may answer to a public port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// Anyone.
    Independent,
    /// Whoever's address was sent to.
    Address,
    /// Whoever's address and port were sent to.
    AddressPort,
}

/// How a NAT behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NatKind {
    pub mapping: Mapping,
    pub filtering: Filtering,
    /// Whether the inner port is kept where it is free, as Linux does; else a public port is random.
    pub preserve: bool,
    /// Whether inner hosts reach each other by their public addresses.
    pub hairpin: bool,
    /// How long a mapping lives without a packet from inside.
    pub expiry: Duration,
}

impl NatKind {
    pub const fn new(mapping: Mapping, filtering: Filtering) -> Self {
        NatKind {
            mapping,
            filtering,
            preserve: false,
            hairpin: false,
            expiry: Duration::from_secs(30),
        }
    }

    /// What most homes have.
    pub const PORT_RESTRICTED: NatKind = NatKind::new(Mapping::Independent, Filtering::AddressPort);

    pub const SYMMETRIC: NatKind = NatKind::new(Mapping::AddressPort, Filtering::AddressPort);

    /// Linux' `masquerade`: a mapping per destination, which keeps the inner port all the same.
    pub const LINUX: NatKind = NatKind {
        preserve: true,
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
        if self.preserve {
            f.write_str("/preserve")?;
        }
        if self.hairpin {
            f.write_str("/hairpin")?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Entry {
    inner: SocketAddr,
    /// What of the destination the mapping depends on.
    scope: (Option<IpAddr>, Option<u16>),
    port: u16,
    used: Instant,
    /// Who was sent to, and when last.
    sent_to: Vec<(SocketAddr, Instant)>,
}

/// One NAT's state.
#[derive(Debug)]
pub struct Nat {
    pub kind: NatKind,
    /// The public address.
    pub ip: IpAddr,
    entries: Vec<Entry>,
}

impl Nat {
    pub fn new(kind: NatKind, ip: IpAddr) -> Self {
        Nat {
            kind,
            ip,
            entries: Vec::new(),
        }
    }

    /// Power off and on: all mappings are lost.
    pub fn forget(&mut self) {
        self.entries.clear();
    }

    /// A packet leaves: the public source it gets.
    pub fn outbound(
        &mut self,
        now: Instant,
        rng: &mut ChaCha8Rng,
        inner: SocketAddr,
        to: SocketAddr,
    ) -> SocketAddr {
        self.expire(now);
        let scope = match self.kind.mapping {
            Mapping::Independent => (None, None),
            Mapping::Address => (Some(to.ip()), None),
            Mapping::AddressPort => (Some(to.ip()), Some(to.port())),
        };
        let known = |it: &Entry| it.inner == inner && it.scope == scope;
        let index = self.entries.iter().position(known).unwrap_or_else(|| {
            let port = self.free_port(rng, inner, scope);
            self.entries.push(Entry {
                inner,
                scope,
                port,
                used: now,
                sent_to: Vec::new(),
            });
            self.entries.len() - 1
        });
        let entry = &mut self.entries[index];
        entry.used = now;
        entry.sent_to.retain(|(it, _)| *it != to);
        entry.sent_to.push((to, now));
        SocketAddr::new(self.ip, entry.port)
    }

    /// A packet comes to a public port: the inner socket it goes to, if it may.
    pub fn inbound(&mut self, now: Instant, from: SocketAddr, port: u16) -> Option<SocketAddr> {
        self.expire(now);
        let filtering = self.kind.filtering;
        let admitted = |it: &&Entry| match filtering {
            Filtering::Independent => true,
            Filtering::Address => it.sent_to.iter().any(|(to, _)| to.ip() == from.ip()),
            Filtering::AddressPort => it.sent_to.iter().any(|(to, _)| *to == from),
        };
        self.entries
            .iter()
            .filter(|it| it.port == port)
            .find(admitted)
            .map(|it| it.inner)
    }

    fn expire(&mut self, now: Instant) {
        let expiry = self.kind.expiry;
        for entry in &mut self.entries {
            entry.sent_to.retain(|(_, at)| now < *at + expiry);
        }
        self.entries.retain(|it| now < it.used + expiry);
    }

    fn free_port(
        &self,
        rng: &mut ChaCha8Rng,
        inner: SocketAddr,
        scope: (Option<IpAddr>, Option<u16>),
    ) -> u16 {
        // Connection tracking tells flows apart by their destination too, so that one port serves several.
        let taken = |port: u16| {
            let clashes =
                |it: &Entry| it.inner != inner && (it.scope == scope || scope.0.is_none());
            self.entries
                .iter()
                .any(|it| it.port == port && (!self.kind.preserve || clashes(it)))
        };
        if self.kind.preserve && !taken(inner.port()) {
            return inner.port();
        }
        loop {
            let port = dice::between(rng, 20_000, 60_000) as u16;
            if !taken(port) {
                return port;
            }
        }
    }
}
