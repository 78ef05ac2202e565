//! Random worlds with random faults, by seed. While things break, the invariants must hold; once nothing is broken any
//! more, every pair that can be connected must be.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use gretun::node::State;

use crate::clock::WorldTime;
use crate::dice::{self, between, chance, pick};
use crate::host::Interface;
use crate::nat::NatKind;
use crate::network::{Bursts, INTERNET, Link, NetId, RouterId, WIRE};
use crate::oracle::{
    Seen, depends_on_luck, direct_possible, joined_by_any_search, joined_through_all,
    joined_without_search, may_meet_by_chance,
};
use crate::world::{HostId, World};

/// Number of seeds, from 0 on, unless `GRETUN_SIM_SCHEDULES` names another.
const DEFAULT_RUNS: u64 = 250;
/// Seeds that once found a fault: run always, and first. Add a seed here when it has failed.
const REGRESSIONS: [u64; 12] = [
    2572,
    135,
    3491,
    2489,
    70_246_764_801_871,
    186_114_575_707_584,
    126_758_036_434_486,
    257_488_669_972_228,
    31_580_029_050_259,
    1850,
    1303,
    7_007_341,
];
/// Time for which things break.
const TROUBLE: Duration = Duration::from_secs(60);
/// Time in which everything must recover: a path that failed several times is held down for a minute.
const RECOVERY: Duration = Duration::from_secs(90);
/// Additional time for a pair that needs a port search: attempts that failed while things were broken are
/// repeated after ten minutes at the latest.
const SEARCH_RECOVERY: Duration = Duration::from_secs(660);
/// Time from the connection to the path MTU: a first MTU search whose answers came too late is repeated after 30 s.
const SETTLING: Duration = Duration::from_secs(45);

/// The pairs of all schedules, and those of which an oracle knew whether they must be connected.
static PAIRS: AtomicU64 = AtomicU64::new(0);
static JUDGED: AtomicU64 = AtomicU64::new(0);

/// The place of a host: its network, and the NAT in front of it.
#[derive(Clone, Copy, Debug)]
struct Site {
    net: NetId,
    nat: Option<(RouterId, NatKind)>,
    /// The carrier's, in front of that one.
    carrier: Option<(RouterId, NatKind)>,
}

impl Site {
    /// Every router that its packets go through, the innermost first.
    fn routers(&self) -> impl Iterator<Item = RouterId> + use<> {
        let nats = self.nat.into_iter().chain(self.carrier);
        nats.map(|(router, _)| router)
    }

    fn kinds(&self) -> Vec<NatKind> {
        let nats = self.nat.into_iter().chain(self.carrier);
        nats.map(|(_, kind)| kind).collect()
    }
}

struct Run {
    world: World,
    hosts: Vec<(HostId, Site)>,
    /// Distinguishes the addresses of the sites and routers made so far.
    number: u8,
}

#[test]
fn every_seed_keeps_the_invariants_and_recovers() {
    if let Some(seed) = number("GRETUN_SIM_SEED") {
        let level = match number("GRETUN_SIM_TRACE") {
            Some(1) => tracing::Level::TRACE,
            _ => tracing::Level::DEBUG,
        };
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_timer(WorldTime)
            .with_test_writer()
            .init();
        return Run::new(seed).go();
    }
    let runs = number("GRETUN_SIM_SCHEDULES").unwrap_or(DEFAULT_RUNS);
    let from = number("GRETUN_SIM_FROM").unwrap_or(runs);
    let more = from..from.saturating_add(number("GRETUN_SIM_MORE").unwrap_or(0));
    println!("seeds: {REGRESSIONS:?}, 0..{runs} and {more:?}");
    let seeds = Mutex::new(REGRESSIONS.into_iter().chain(0..runs).chain(more));
    let failed = Mutex::new(Vec::new());
    let work = || {
        while lock(&failed).is_empty() {
            let Some(seed) = lock(&seeds).next() else {
                return;
            };
            if std::panic::catch_unwind(|| Run::new(seed).go()).is_err() {
                lock(&failed).push(seed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let failed = lock(&failed);
    assert!(
        failed.is_empty(),
        "failed: {failed:?}; to repeat one: GRETUN_SIM_SEED={}",
        failed[0]
    );
    let (judged, pairs) = (
        JUDGED.load(Ordering::Relaxed),
        PAIRS.load(Ordering::Relaxed),
    );
    println!("{judged} of {pairs} pairs judged");
    assert!(judged * 4 >= pairs * 3, "{judged} of {pairs} pairs judged");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding it")
}

pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut run = Run {
            world: World::new(seed),
            hosts: Vec::new(),
            number: 0,
        };
        let count = between(&mut run.world.rng, 2, 4);
        let mut keys = [1, 2, 3];
        if chance(&mut run.world.rng, 0.5) {
            keys.reverse();
        }
        for (index, key) in keys.into_iter().take(count as usize).enumerate() {
            let shares = index > 0 && chance(&mut run.world.rng, 0.25);
            let site = if shares {
                run.hosts[0].1
            } else {
                run.new_site()
            };
            let ip = run.new_ip(site);
            let host = run.world.host(&format!("h{index}"), key, site.net, &ip);
            let delay = dice::duration(&mut run.world.rng, Duration::from_millis(300));
            run.world.hosts[host.0].apply_delay = delay;
            let slow_ppm = between(&mut run.world.rng, 0, 300) as u32;
            let now = run.world.now;
            run.world.hosts[host.0].clock.begin(now, slow_ppm);
            run.hosts.push((host, site));
        }
        run
    }

    fn go(mut self) {
        for (host, _) in self.hosts.clone() {
            self.world.start(host);
            let pause = dice::duration(&mut self.world.rng, Duration::from_secs(3));
            self.pass(pause);
        }
        self.world.watch_user_data(Duration::from_millis(250));
        let end = self.world.now + TROUBLE;
        while self.world.now < end {
            self.trouble();
            let pause = dice::duration(&mut self.world.rng, Duration::from_secs(8));
            self.pass(pause);
        }
        self.heal();
        self.pass(RECOVERY);
        let end = self.world.now + SEARCH_RECOVERY;
        while self.world.now < end && self.searched_pairs().any(|(a, b)| !self.is_joined(a, b)) {
            self.pass(Duration::from_secs(5));
        }
        if self.searched_pairs().next().is_some() {
            self.pass(SETTLING);
        }
        self.judge();
    }

    /// Lets time pass, looking at the invariants all along.
    fn pass(&mut self, time: Duration) {
        let end = self.world.now + time;
        while self.world.now < end {
            let rest = end - self.world.now;
            self.world.run(rest.min(Duration::from_millis(500)));
            self.world.check();
        }
    }

    fn trouble(&mut self) {
        if self.has_slow_kernels() {
            self.stall_some_applier();
        }
        let rng = &mut self.world.rng;
        let (host, site) = pick(rng, &self.hosts);
        let what = between(rng, 0, 17);
        let routers: Vec<RouterId> = site.routers().collect();
        let router = match routers.len() {
            0 => None,
            count => Some(routers[between(rng, 0, count as u64) as usize]),
        };
        match what {
            0 | 1 => {
                if let Some(router) = router {
                    let ip = (what == 1).then(|| self.new_public_ip());
                    self.world.reboot_router(router, ip.as_deref());
                }
            }
            2 => self.roam(host),
            3 => self.world.stop(host),
            4 => self.world.start(host),
            5 => self.world.reboot(host),
            6 => {
                let up = chance(rng, 0.5);
                self.world.set_coordinator(up);
            }
            7 => self.world.servers_answer = chance(rng, 0.5),
            8 => {
                let drops = chance(rng, 0.5);
                self.world.hosts[host.0].firewall.drops_data = drops;
            }
            9 => {
                let refuses = chance(rng, 0.5).then(|| "Device or resource busy".to_owned());
                self.world.hosts[host.0].refuses = refuses;
            }
            10 => {
                let gone = chance(rng, 0.5);
                let loss = if gone { 1.0 } else { 0.0 };
                if let Some(router) = router {
                    self.world.link(router).loss = loss;
                }
            }
            11 => {
                let up = chance(rng, 0.5);
                self.world.rewire(host, |interfaces| interfaces[0].up = up);
            }
            12 => self.garbage(host),
            13 | 14 => {
                if self.world.hosts[host.0].clock.is_stopped() {
                    self.world.resume(host);
                } else {
                    self.world.suspend(host);
                }
            }
            15 => {
                let bad = Duration::from_millis(between(rng, 20, 2000));
                let bursts = Bursts::new(Duration::from_secs(2), bad);
                if let Some(router) = router {
                    self.world.routers[router.0].bursts = Some(bursts);
                }
            }
            _ => {
                let link = Link {
                    latency: dice::duration(rng, Duration::from_millis(150)),
                    jitter: dice::duration(rng, Duration::from_millis(40)),
                    loss: pick(rng, &[0.0, 0.02, 0.1]),
                    duplication: pick(rng, &[0.0, 0.05]),
                    mtu: pick(rng, &[1280, 1400, 1492, 1500]),
                    is_overlay: false,
                };
                if let Some(router) = router {
                    *self.world.link(router) = link;
                }
            }
        }
    }

    /// In every fourth schedule kernels leave appliers without an answer; all others are as they were before there was this fault.
    fn has_slow_kernels(&self) -> bool {
        self.world.seed % 4 == 2
    }

    fn stall_some_applier(&mut self) {
        let rng = &mut self.world.rng;
        let (host, _) = pick(rng, &self.hosts);
        let seconds = pick(rng, &[0, 0, 1, 5, 30]);
        self.world.stall_applier(host, Duration::from_secs(seconds));
    }

    /// Bytes of any kind, and a replay of something that was really sent.
    fn garbage(&mut self, to: HostId) {
        let from = "203.0.113.250:7777".parse().expect("an address");
        for _ in 0..20 {
            let rng = &mut self.world.rng;
            let mut data = match self.world.overheard.len() {
                0 => Vec::new(),
                count => self.world.overheard[between(rng, 0, count as u64) as usize].clone(),
            };
            if chance(rng, 0.7) && !data.is_empty() {
                let at = between(rng, 0, data.len() as u64) as usize;
                data[at] ^= between(rng, 1, 256) as u8;
            }
            if chance(rng, 0.3) {
                let len = between(rng, 0, data.len() as u64 + 1) as usize;
                data.truncate(len);
            }
            self.world.send_garbage(to, from, data);
        }
    }

    fn roam(&mut self, host: HostId) {
        let site = self.new_site();
        let ip = self.new_ip(site).parse().expect("an address");
        self.world.rewire(host, |interfaces| {
            *interfaces = vec![Interface {
                net: site.net,
                ip,
                up: true,
                link: WIRE,
            }];
        });
        for (id, at) in &mut self.hosts {
            if *id == host {
                *at = site;
            }
        }
    }

    /// Nothing is broken any more, and every daemon runs.
    fn heal(&mut self) {
        self.world.servers_answer = true;
        self.world.set_coordinator(true);
        for (host, site) in self.hosts.clone() {
            self.world.resume(host);
            self.world.hosts[host.0].firewall.drops_data = false;
            self.world.hosts[host.0].refuses = None;
            self.world.hosts[host.0].kernel_answers_at = None;
            self.world
                .rewire(host, |interfaces| interfaces[0].up = true);
            for router in site.routers() {
                self.world.routers[router.0].bursts = None;
                let link = self.world.link(router);
                link.loss = 0.0;
                link.duplication = 0.0;
            }
            if self.world.hosts[host.0].daemon.is_none() {
                self.world.start(host);
            }
        }
    }

    fn judge(&self) {
        for (a, one, b, other) in self.pairs() {
            PAIRS.fetch_add(1, Ordering::Relaxed);
            let Some(possible) = self.verdict(one, other) else {
                continue;
            };
            assert_eq!(
                self.is_joined(a, b),
                possible,
                "seed {}: {a:?} {one:?} and {b:?} {other:?}\n{:#?}\n{:#?}\n{}",
                self.world.seed,
                self.world.status(a, b),
                self.world.status(b, a),
                self.world.story()
            );
            JUDGED.fetch_add(1, Ordering::Relaxed);
            if !possible {
                for (at, of) in [(a, b), (b, a)] {
                    assert_ne!(self.world.state(at, of), State::Direct);
                }
            } else if one.net != other.net {
                self.judge_mtu(a, one, b, other);
            }
        }
    }

    /// Every pair of hosts once, with where they are.
    fn pairs(&self) -> impl Iterator<Item = (HostId, &Site, HostId, &Site)> {
        self.hosts.iter().enumerate().flat_map(|(index, (a, one))| {
            let others = self.hosts[index + 1..].iter();
            others.map(move |(b, other)| (*a, one, *b, other))
        })
    }

    fn is_joined(&self, a: HostId, b: HostId) -> bool {
        self.world.joined(a, b) && self.world.user_data_flows(a, b)
    }

    /// Returns whether two hosts at these sites must be connected, or must not be; `None` if no oracle knows.
    fn verdict(&self, one: &Site, other: &Site) -> Option<bool> {
        if one.net == other.net {
            return Some(true);
        }
        if self.is_unpredictable(one) || self.is_unpredictable(other) {
            return None;
        }
        if one.carrier.is_some() || other.carrier.is_some() {
            // For several NATs in a row, the oracle knows what is certainly possible, not what is impossible.
            return joined_through_all(&one.kinds(), &other.kinds()).then_some(true);
        }
        let kind = |site: &Site| site.nat.map(|(_, kind)| kind);
        let (one, other) = (kind(one), kind(other));
        // While STUN was silent, a host did not know its mapping and searched in both roles. A tunnel that was found then is kept.
        let while_unknown =
            joined_by_any_search(one, other) || depends_on_luck(Seen::FromOneServer, one, other);
        if !direct_possible(one, other) && (while_unknown || may_meet_by_chance(one, other)) {
            return None;
        }
        (!depends_on_luck(Seen::FromTwoPorts, one, other)).then(|| direct_possible(one, other))
    }

    /// The pairs that only a port search can connect.
    fn searched_pairs(&self) -> impl Iterator<Item = (HostId, HostId)> {
        let needs_search = |one: &Site, other: &Site| {
            one.net != other.net
                && self.verdict(one, other) == Some(true)
                && !joined_without_search(&one.kinds(), &other.kinds())
        };
        self.pairs()
            .filter(move |(_, one, _, other)| needs_search(one, other))
            .map(|(a, _, b, _)| (a, b))
    }

    /// A NAT that keeps ports gives one of two hosts with the same data port another one, and then perhaps one destination to the
    /// one and another to the other: both look as if they had a mapping per destination. A host that has just moved there may be
    /// both of them, for a packet from its former address.
    fn is_unpredictable(&self, site: &Site) -> bool {
        let mut routers = site.routers();
        routers.any(|router| self.world.routers[router.0].nat.collided)
    }

    /// Both tunnels are set to what the narrowest hop carries.
    fn judge_mtu(&self, a: HostId, one: &Site, b: HostId, other: &Site) {
        let hops = one.routers().chain(other.routers());
        let fits = hops.map(|it| self.world.routers[it.0].link.mtu).min();
        let fits = fits.unwrap_or(1500).min(1500);
        for (from, to) in [(a, b), (b, a)] {
            let peer = self.world.hosts[to.0].node_key;
            let set = self.world.hosts[from.0].tunnels[&peer].path_mtu;
            assert_eq!(
                set,
                fits,
                "seed {}: {from:?} {one:?} {to:?} {other:?}\n{}",
                self.world.seed,
                self.world.story()
            );
        }
    }

    fn new_site(&mut self) -> Site {
        let mut kinds: Vec<Option<NatKind>> = NatKind::all().map(Some).collect();
        kinds.extend([None, Some(NatKind::LINUX), Some(NatKind::PORT_RESTRICTED)]);
        let kind = pick(&mut self.world.rng, &kinds);
        let kind = kind.map(|kind| NatKind {
            hairpin: chance(&mut self.world.rng, 0.3),
            ..kind
        });
        match kind {
            None => Site {
                net: INTERNET,
                nat: None,
                carrier: None,
            },
            Some(kind) => {
                let carrier = chance(&mut self.world.rng, 0.2).then(|| self.new_carrier());
                let outside = carrier.map_or(INTERNET, |(net, ..)| net);
                let ip = self.new_public_ip();
                let net = self.world.net();
                let router = self.world.router(kind, outside, &ip, net);
                Site {
                    net,
                    nat: Some((router, kind)),
                    carrier: carrier.map(|(_, router, kind)| (router, kind)),
                }
            }
        }
    }

    /// A carrier with a NAT of its own: its network, router and kind.
    fn new_carrier(&mut self) -> (NetId, RouterId, NatKind) {
        let mut kinds: Vec<NatKind> = NatKind::all().collect();
        kinds.extend([NatKind::LINUX; 4]);
        let kind = pick(&mut self.world.rng, &kinds);
        let ip = self.new_public_ip();
        let net = self.world.net();
        let router = self.world.router(kind, INTERNET, &ip, net);
        (net, router, kind)
    }

    fn new_public_ip(&mut self) -> String {
        self.number += 1;
        format!("203.0.113.{}", self.number)
    }

    fn new_ip(&mut self, site: Site) -> String {
        match site.nat {
            None => self.new_public_ip(),
            Some(_) => {
                self.number += 1;
                // Few networks, so that sites use the same addresses now and then.
                let net = between(&mut self.world.rng, 0, 2);
                format!("192.168.{net}.{}", 10 + self.number)
            }
        }
    }
}
