//! Networks: what happens to a packet between two hosts.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

use gretun::proto::stun::{self, StunMessage};

use crate::clock::Event;
use crate::dice;
use crate::nat::Nat;
use crate::world::{HostId, World, parse};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetId(pub usize);
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterId(pub usize);

/// The public network.
pub const INTERNET: NetId = NetId(0);

/// The properties of a link, once for each direction.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub latency: Duration,
    /// Up to this much more, packet by packet: with it packets overtake each other.
    pub jitter: Duration,
    pub loss: f64,
    pub duplication: f64,
    /// Larger packets vanish, and no ICMP tells of it.
    pub mtu: u16,
    /// Whether an interface on it is another overlay's.
    pub is_overlay: bool,
}

/// Loss that comes in bursts, after Gilbert and Elliott: the link changes between a good state without loss and a bad one in
/// which everything is lost, each for a random time of this mean.
#[derive(Clone, Copy, Debug)]
pub struct Bursts {
    pub good: Duration,
    pub bad: Duration,
    until: Option<Instant>,
    is_bad: bool,
}

impl Bursts {
    pub const fn new(good: Duration, bad: Duration) -> Self {
        Bursts {
            good,
            bad,
            until: None,
            is_bad: false,
        }
    }

    /// Returns whether a packet is lost now.
    fn lose(&mut self, now: Instant, rng: &mut ChaCha8Rng) -> bool {
        loop {
            match self.until {
                Some(until) if now < until => return self.is_bad,
                Some(_) => self.is_bad = !self.is_bad,
                None => {}
            }
            let mean = if self.is_bad { self.bad } else { self.good };
            // Exponential, so that the state has no memory; never zero, so that time goes on.
            let uniform = f64::from(rng.next_u32().max(1)) / f64::from(u32::MAX);
            let time = mean.mul_f64(-uniform.ln()) + Duration::from_micros(1);
            self.until = Some(self.until.unwrap_or(now) + time);
        }
    }
}

impl Link {
    pub const fn millis(latency: u64) -> Self {
        Link::micros(latency * 1000)
    }

    pub const fn micros(latency: u64) -> Self {
        Link {
            latency: Duration::from_micros(latency),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplication: 0.0,
            mtu: 1500,
            is_overlay: false,
        }
    }
}

/// The access of every site: with it all round trips, to servers and between sites, take 20 ms.
pub const ACCESS: Link = Link::millis(5);
/// Inside a site.
pub const WIRE: Link = Link::micros(100);

#[derive(Clone, Debug)]
pub enum Payload {
    /// Disco or STUN.
    Datagram(Vec<u8>),
    /// GRE in FOU: the key, and what is inside.
    Data(u32, Frame),
}

#[derive(Clone, Debug)]
pub enum Frame {
    Probe(Vec<u8>),
    /// Somebody's traffic, in outer packets of this size.
    User(u16),
}

impl Packet {
    /// Bytes of the IP packet.
    pub fn size(&self) -> usize {
        let headers = if self.to.is_ipv4() { 28 } else { 48 };
        match &self.payload {
            Payload::Datagram(data) => headers + data.len(),
            Payload::Data(_, Frame::Probe(data)) => headers + 8 + data.len(),
            Payload::Data(_, Frame::User(size)) => usize::from(*size),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Packet {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub payload: Payload,
}

#[derive(Clone, Debug)]
pub enum Place {
    Host(HostId, usize),
    RouterOutside(RouterId),
    RouterInside(RouterId),
    Server(SocketAddr),
}

pub struct Router {
    pub nat: Nat,
    pub inside: NetId,
    pub outside: NetId,
    pub link: Link,
    /// Loss in bursts, of what goes through in either direction.
    pub bursts: Option<Bursts>,
    /// How long each packet keeps the line busy, in either direction; those that come meanwhile queue.
    pub spacing: Duration,
    /// When the line out and the line in are free again.
    pub free_at: [Option<Instant>; 2],
}

impl Router {
    /// How long a packet waits for the line out (0) or in (1), its own time included.
    fn queue(&mut self, now: Instant, direction: usize) -> Duration {
        let free_at = self.free_at[direction].unwrap_or(now).max(now) + self.spacing;
        self.free_at[direction] = Some(free_at);
        free_at - now
    }

    fn loses(&mut self, now: Instant, rng: &mut ChaCha8Rng) -> bool {
        self.bursts.as_mut().is_some_and(|it| it.lose(now, rng))
    }
}

impl World {
    pub fn place_on(&self, net: NetId, to: SocketAddr) -> Option<(Place, Link)> {
        for (id, host) in self.hosts.iter().enumerate() {
            for (index, interface) in host.interfaces.iter().enumerate() {
                if interface.up && interface.net == net && interface.ip == to.ip() {
                    return Some((Place::Host(HostId(id), index), interface.link));
                }
            }
        }
        for (id, host) in self.hosts.iter().enumerate() {
            let mut interfaces = host.interfaces.iter();
            if let Some(index) = interfaces.position(|it| it.up && it.net == net)
                && host.had(net, to.ip(), self.now)
            {
                return Some((Place::Host(HostId(id), index), host.interfaces[index].link));
            }
        }
        for (id, router) in self.routers.iter().enumerate() {
            if router.outside == net && router.nat.ip == to.ip() {
                return Some((Place::RouterOutside(RouterId(id)), router.link));
            }
        }
        if net == INTERNET && self.servers.contains(&to) {
            return Some((Place::Server(to), ACCESS));
        }
        None
    }

    pub fn transmit(&mut self, net: NetId, link: Link, packet: Packet) {
        if matches!(packet.payload, Payload::Data(..)) && self.is_blocked(&packet) {
            return;
        }
        let gateway = || {
            let index = self.routers.iter().position(|it| it.inside == net)?;
            let wire = Link {
                mtu: self.wire_mtu,
                ..WIRE
            };
            Some((Place::RouterInside(RouterId(index)), wire))
        };
        let Some((place, far)) = self.place_on(net, packet.to).or_else(gateway) else {
            return;
        };
        if packet.size() > usize::from(link.mtu.min(far.mtu)) {
            return;
        }
        let copies = 1 + usize::from(dice::chance(&mut self.rng, link.duplication));
        for _ in 0..copies {
            if dice::chance(&mut self.rng, link.loss) || dice::chance(&mut self.rng, far.loss) {
                continue;
            }
            let jitter = dice::duration(&mut self.rng, link.jitter + far.jitter);
            let delay = link.latency + far.latency + jitter;
            self.at(delay, Event::Arrive(place.clone(), packet.clone()));
        }
    }

    pub fn is_blocked(&self, packet: &Packet) -> bool {
        let (from, to) = (packet.from.ip(), packet.to.ip());
        self.blocked_data.iter().any(|(one, other)| {
            let (one, other) = (parse(one), parse(other));
            (from, to) == (one, other) || (from, to) == (other, one)
        })
    }

    pub fn arrive(&mut self, place: Place, mut packet: Packet) {
        let now = self.now;
        match place {
            Place::Host(id, interface) => self.arrive_at_host(id, interface, packet),
            Place::Server(addr) => {
                let Payload::Datagram(data) = &packet.payload else {
                    return;
                };
                let Ok(StunMessage::Request { tx_id, .. }) = stun::decode(data) else {
                    return;
                };
                if self.servers_answer {
                    let answer = Packet {
                        from: addr,
                        to: packet.from,
                        payload: Payload::Datagram(stun::binding_success(tx_id, packet.from)),
                    };
                    self.transmit(INTERNET, ACCESS, answer);
                }
            }
            Place::RouterInside(id) => {
                let router = &mut self.routers[id.0];
                if router.loses(now, &mut self.rng) {
                    return;
                }
                let hairpin = packet.to.ip() == router.nat.ip;
                if hairpin && !router.nat.kind.hairpin {
                    return;
                }
                packet.from = router
                    .nat
                    .outbound(now, &mut self.rng, packet.from, packet.to);
                if hairpin {
                    self.arrive(Place::RouterOutside(id), packet);
                } else {
                    let (outside, mut link) = (router.outside, router.link);
                    link.latency += router.queue(now, 0);
                    self.transmit(outside, link, packet);
                }
            }
            Place::RouterOutside(id) => {
                let router = &mut self.routers[id.0];
                if router.loses(now, &mut self.rng) {
                    return;
                }
                let inner = router.nat.inbound(now, packet.from, packet.to.port());
                if let Some(inner) = inner {
                    packet.to = inner;
                    let inside = router.inside;
                    let wire = Link {
                        mtu: self.wire_mtu,
                        latency: WIRE.latency + router.queue(now, 1),
                        ..WIRE
                    };
                    self.transmit(inside, wire, packet);
                }
            }
        }
    }
}
